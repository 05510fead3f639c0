"""Settings of the notifier."""

from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from shared import settings


class Settings(settings.Settings):
    """The shared settings, and how mail is sent."""

    http_port: int = Field(default=8004, ge=0, le=65535)
    internal_port: int = Field(default=9004, ge=0, le=65535)

    smtp_url: SecretStr
    smtp_connections: int = Field(default=16, ge=1, le=200)
    smtp_rate_per_second: float | None = Field(default=None, gt=0)
    smtp_messages_per_connection: int = Field(default=1000, ge=1, le=100_000)
    smtp_reply_seconds: float = Field(default=600, ge=1, le=3600)
    message_id_domain: str = Field(default="afterglow.invalid", pattern=r"^[a-z0-9.-]{1,200}$")

    dispatcher_lease_seconds: float = Field(default=15, ge=1, le=600)
    unknown_resend_kinds: Annotated[frozenset[str], NoDecode] = frozenset(
        {"order_confirmed", "order_cancelled"}
    )
    unknown_resend_after_seconds: float = Field(default=900, ge=1, le=86_400)

    @field_validator("unknown_resend_kinds", mode="before")
    @classmethod
    def _kinds(cls, value: Any) -> Any:
        """Kinds stand in one variable, separated by commas; "none" means that no kind is resent."""
        if isinstance(value, str):
            return {v.strip() for v in value.split(",")} - {"", "none"}
        return value
