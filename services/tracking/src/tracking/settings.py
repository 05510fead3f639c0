"""Settings of tracking."""

from pydantic import Field

from shared import settings


class Settings(settings.Settings):
    """The shared settings, with this service's ports and limits."""

    http_port: int = Field(default=8002, ge=0, le=65535)
    internal_port: int = Field(default=9002, ge=0, le=65535)

    aftership_url: str | None = None
    easypost_url: str | None = None
