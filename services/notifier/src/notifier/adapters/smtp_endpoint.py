"""Reaching a mail server: SMTP_URL, TLS, EHLO and AUTH, all by aiosmtplib and never in silent plaintext."""

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Literal, Self, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import aiosmtplib
from pydantic import SecretStr

from notifier.replies import FaultKind, RouteFault, one_line

Tls = Literal["none", "starttls", "implicit"]

_DEFAULT_PORTS: Mapping[str, int] = {"none": 25, "starttls": 587, "implicit": 465}
_WEAK_MECHANISM = frozenset({504, 534})
_FIRST_PERMANENT = 500
_HOSTNAME = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each part may take, in seconds.

    `connect` covers everything from the name look-up to the last AUTH reply, `command` one group of
    commands before the body, `dot` is RFC 5321 §4.5.3.2.6's ten minutes for the final reply.
    """

    connect_seconds: float = 15.0
    command_seconds: float = 45.0
    body_seconds: float = 120.0
    dot_seconds: float = 600.0
    quit_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One mail server and how to reach it."""

    host: str
    port: int
    tls: Tls
    username: str | None = field(default=None, repr=False)
    password: SecretStr | None = field(default=None, repr=False)
    ca_file: str | None = None
    local_hostname: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `smtp://user:password@host:587?tls=starttls&ca_file=…` or `smtps://…`.

        Without `tls`, a loopback host is plain and any other must offer STARTTLS; plaintext to a
        remote host needs `tls=none`. Raises ValueError, whose text never repeats the address.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise ValueError("SMTP_URL must look like smtp://host:port or smtps://host:port")
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        tls = options.pop("tls", None) or _default_tls(parts.scheme, parts.hostname)
        ca_file, local_hostname = options.pop("ca_file", None), options.pop("local_hostname", None)
        if options:
            raise ValueError(f"SMTP_URL has an unknown option: {', '.join(sorted(options))}")
        if tls not in _DEFAULT_PORTS or (parts.scheme == "smtps") != (tls == "implicit"):
            raise ValueError(
                "SMTP_URL: tls is none or starttls with smtp://, implicit with smtps://"
            )
        if local_hostname is not None and not _HOSTNAME.fullmatch(local_hostname):
            raise ValueError("SMTP_URL: local_hostname is no host name")
        if (parts.username is None) != (parts.password is None):
            raise ValueError("SMTP_URL needs a user and a password, or neither")
        return cls(
            host=parts.hostname,
            port=parts.port or _DEFAULT_PORTS[tls],
            tls=cast("Tls", tls),
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else SecretStr(unquote(parts.password)),
            ca_file=ca_file,
            local_hostname=local_hostname,
        )


def _default_tls(scheme: str, host: str) -> Tls:
    if scheme == "smtps":
        return "implicit"
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return "none" if loopback else "starttls"


async def connect(
    endpoint: Endpoint, timeouts: Timeouts
) -> tuple[asyncio.Transport, dict[str, str]]:
    """Connect, secure, greet and authenticate; returns the transport and the EHLO extensions.

    The transport is the caller's from then on. Raises RouteFault.
    """
    client = aiosmtplib.SMTP(
        hostname=endpoint.host,
        port=endpoint.port,
        timeout=None,
        use_tls=endpoint.tls == "implicit",
        start_tls=False,
        tls_context=_tls_context(endpoint),
        local_hostname=endpoint.local_hostname or _local_hostname(),
    )
    stage = _Stage()
    try:
        async with asyncio.timeout(timeouts.connect_seconds):
            await _open(client, endpoint, stage)
        return _transport(client), dict(client.esmtp_extensions)
    except (OSError, aiosmtplib.SMTPException, UnicodeError) as error:
        client.close()
        raise _route_fault(stage.kind, error) from error
    except BaseException:
        client.close()
        raise


@dataclass(slots=True)
class _Stage:
    kind: FaultKind = "connect"


async def _open(client: aiosmtplib.SMTP, endpoint: Endpoint, stage: _Stage) -> None:
    await client.connect()
    stage.kind = "ehlo"
    await _greet(client)
    if endpoint.tls == "starttls":
        stage.kind = "tls"
        if not client.supports_extension("starttls"):
            raise RouteFault("tls", "the server does not offer STARTTLS", retryable=False)
        await client.starttls()
        stage.kind = "ehlo"
        await _greet(client)
    if endpoint.username is not None and endpoint.password is not None:
        stage.kind = "auth"
        await _authenticate(client, endpoint.username, endpoint.password.get_secret_value())


def _transport(client: aiosmtplib.SMTP) -> asyncio.Transport:
    transport = client.transport
    if transport is None or transport.is_closing():
        raise aiosmtplib.SMTPServerDisconnected("server closed the connection")
    return cast("asyncio.Transport", transport)


async def _greet(client: aiosmtplib.SMTP) -> None:
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError:
        if not client.is_connected:
            raise
        await client.helo()


async def _authenticate(client: aiosmtplib.SMTP, username: str, password: str) -> None:
    """Try one mechanism; another only when the server says the first is not to be used.

    A refused password is not tried again in another mechanism: servers lock accounts for that.
    """
    mechanisms = {
        "cram-md5": client.auth_crammd5,
        "plain": client.auth_plain,
        "login": client.auth_login,
    }
    offered = [name for name in mechanisms if name in client.server_auth_methods]
    if not offered:
        raise RouteFault("auth", "the server offers no AUTH mechanism we know", retryable=False)
    for name in offered:
        try:
            await mechanisms[name](username, password)
        except aiosmtplib.SMTPAuthenticationError as error:
            if error.code not in _WEAK_MECHANISM or name == offered[-1]:
                raise
        else:
            return


def _route_fault(kind: FaultKind, error: Exception) -> RouteFault:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            verified = not isinstance(cause, ssl.SSLCertVerificationError)
            return RouteFault("tls", one_line(str(cause.reason or cause)), retryable=verified)
        cause = cause.__cause__
    if isinstance(error, aiosmtplib.SMTPResponseException):
        if isinstance(error, aiosmtplib.SMTPConnectResponseError):
            kind = "greeting"
        text = one_line(error.message)
        permanent = kind == "auth" and error.code >= _FIRST_PERMANENT
        return RouteFault(kind, f"{error.code} {text}", retryable=not permanent, code=error.code)
    text = "timed out" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return RouteFault(kind, one_line(text), retryable=True)


def _tls_context(endpoint: Endpoint) -> ssl.SSLContext | None:
    if endpoint.tls == "none":
        return None
    try:
        return _verifying_context(endpoint.ca_file)
    except OSError as error:
        raise RouteFault("tls", "the CA file cannot be read", retryable=False) from error


@lru_cache(maxsize=8)
def _verifying_context(ca_file: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


def _local_hostname() -> str:
    # socket.getfqdn would ask the DNS, which is slow exactly when things are bad.
    name = socket.gethostname()
    return name if _HOSTNAME.fullmatch(name) else "localhost"
