"""What every service reads from its environment; nothing else reads it.

With SECRETS_DIR set, a setting may also stand in a file of that folder, named like the setting in lower
case (`database_url`), as Docker and Kubernetes hand over secrets. The environment wins over a file.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.defaults import DEFAULT_SECRETS

SECRET_CHARS_MIN = 16


class Settings(BaseSettings):
    """Settings shared by all services. Names are the upper-case field names, without a prefix."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr
    bus_url: str = "kafka://127.0.0.1:9092"
    shops_file: Path = Path("shops.toml")
    products_file: Path | None = None

    public_url: str = "http://127.0.0.1:8001"
    track_url: str | None = None
    survey_url: str | None = None
    preferences_url: str | None = None

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535)
    internal_host: str = "127.0.0.1"
    internal_port: int = Field(default=0, ge=0, le=65535)
    operator_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(min_length=1)
    link_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(min_length=1)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    database_pool_size: int = Field(default=8, ge=2, le=100)
    drain_seconds: float = Field(default=60, ge=0, le=600)

    kafka_partitions: int = Field(default=12, ge=1, le=1000)
    kafka_replication: int = Field(default=1, ge=1, le=9)
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_tls: bool = False
    kafka_tls_ca_file: Path | None = None
    kafka_tls_cert_file: Path | None = None
    kafka_tls_key_file: Path | None = None

    day_seconds: float = Field(default=86_400, gt=0, le=86_400)
    failpoints: str = ""

    @field_validator("operator_keys", "link_keys", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Several keys stand in one variable, separated by commas; the first is the current one."""
        return tuple(v.strip() for v in value.split(",")) if isinstance(value, str) else value

    @field_validator("operator_keys", "link_keys")
    @classmethod
    def _strong(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            text = key.get_secret_value()
            if text.lower() in DEFAULT_SECRETS or len(text) < SECRET_CHARS_MIN:
                message = f"needs a secret of at least {SECRET_CHARS_MIN} random characters"
                raise ValueError(message)
        return value

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            message = "must start with postgresql://"
            raise ValueError(message)
        return value

    @field_validator("public_url", "track_url", "survey_url", "preferences_url")
    @classmethod
    def _base(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            message = "must start with https:// (or http:// on a test machine)"
            raise ValueError(message)
        return value.rstrip("/") if value else value

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> Self:
        if self.kafka_sasl_mechanism and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            message = "KAFKA_SASL_MECHANISM needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            raise ValueError(message)
        return self


def environment() -> Mapping[str, str]:
    """Return the environment, for secrets that shops.toml names by variable."""
    return dict(os.environ)


S = TypeVar("S", bound=Settings)


def load(kind: type[S]) -> S:
    """Build the settings from the environment or end the process with one clear line."""
    secrets_dir = os.environ.get("SECRETS_DIR") or None
    if secrets_dir and not Path(secrets_dir).is_dir():
        end_misconfigured("SECRETS_DIR is not a folder")
    try:
        return kind(_secrets_dir=secrets_dir)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper() or "settings"
        rule = first["msg"].removeprefix("Value error, ")
        what = "is not set" if first["type"] == "missing" else rule
        end_misconfigured(f"{name} {what} ({error.error_count()} problem(s) in the settings)")


def end_misconfigured(why: str) -> NoReturn:
    """End the process with one line, and the exit code that says that no further start will help."""
    sys.stderr.write(f"{why}\n")
    raise SystemExit(os.EX_CONFIG) from None
