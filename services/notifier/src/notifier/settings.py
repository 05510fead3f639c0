"""Settings of the notifier."""

from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, field_validator, model_validator
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

    dispatcher_lease_seconds: float = Field(default=15, ge=1, le=600)
    unknown_resend_kinds: Annotated[frozenset[str], NoDecode] = frozenset(
        {"order_confirmed", "order_cancelled"}
    )
    unknown_resend_after_seconds: float = Field(default=900, ge=1, le=86_400)

    @model_validator(mode="after")
    def _resend_after_everybody_gave_up(self) -> Self:
        """A resend before the first attempt's server gave up could overtake it: two mails."""
        if self.unknown_resend_kinds and (
            self.unknown_resend_after_seconds
            <= self.smtp_reply_seconds + self.dispatcher_lease_seconds
        ):
            message = "UNKNOWN_RESEND_AFTER_SECONDS must be over SMTP_REPLY_SECONDS + DISPATCHER_LEASE_SECONDS"
            raise ValueError(message)
        return self

    @field_validator("unknown_resend_kinds", mode="before")
    @classmethod
    def _kinds(cls, value: Any) -> Any:
        """Kinds stand in one variable, separated by commas; "none" means that no kind is resent."""
        if isinstance(value, str):
            return {v.strip() for v in value.split(",")} - {"", "none"}
        return value
