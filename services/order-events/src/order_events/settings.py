"""Settings of order-events."""

from pydantic import Field

from shared import settings


class Settings(settings.Settings):
    """The shared settings, with this service's ports and limits."""

    http_port: int = Field(default=8001, ge=0, le=65535)
    internal_port: int = Field(default=9001, ge=0, le=65535)
