"""Settings of tracking."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from shared import settings


class Settings(settings.Settings):
    """The shared settings, with this service's ports and limits."""

    http_port: int = Field(default=8002, ge=0, le=65535)
    internal_port: int = Field(default=9002, ge=0, le=65535)

    aftership_url: str | None = None
    easypost_url: str | None = None

    @field_validator("aftership_url", "easypost_url")
    @classmethod
    def _encrypted(cls, value: str | None) -> str | None:
        """The shop's key goes there with every call: over TLS, or not beyond this machine."""
        if value is not None and not _is_safe(value):
            message = "must start with https:// (or http:// for this machine itself, as 127.0.0.1)"
            raise ValueError(message)
        return value


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(host))


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
