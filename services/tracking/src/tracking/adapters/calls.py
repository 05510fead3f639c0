"""Asking an aggregator over HTTP: one call, its failures told apart, nothing of the key given away."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
import orjson
import structlog

from shared.clock import now
from tracking.adapters.reading import Call, Outcome

ANSWER_BYTES_MAX: Final = 2 * 1024 * 1024
RETRY_AFTER_MAX: Final = 86_400.0
_REDIRECTS: Final = range(300, 400)
_FAILS_FOR_ALL: Final = frozenset({401, 402, 403, 408, 429})
_SERVER_ERRORS: Final = 500
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to.

    `account`: nothing is wrong with this number, whatever is asked now would fail. Then nothing is to be
    asked for `after_seconds`, where the other side said so (Retry-After).
    """

    outcome: Outcome
    account: bool = False
    after_seconds: float | None = None


def session(seconds: float, connections: int) -> aiohttp.ClientSession:
    """Make the client of all calls: each takes at most so many seconds, and no cookie is kept."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=connections),
    )


async def ask(
    http: aiohttp.ClientSession,
    call: Call,
    *,
    base_url: str,
    headers: Mapping[str, str],
    read: Callable[[int, bytes], Outcome],
) -> Answer:
    """Make one call and have its status and body read.

    Redirects are not followed: they would carry the key elsewhere.
    """
    try:
        async with http.request(
            call.method,
            base_url + call.path,
            params=call.params,
            data=None if call.json is None else orjson.dumps(call.json),
            headers=headers,
            allow_redirects=False,
        ) as answer:
            body = await _body(answer)
    except TimeoutError:
        return _failed("timeout")
    except aiohttp.ClientSSLError:
        return _failed("certificate")
    except (aiohttp.ClientError, OSError):
        return _failed("unreachable")
    if body is None:
        return Answer(Outcome("retry", "answer_too_large"))
    status, after = answer.status, _retry_after(answer.headers.get("Retry-After"))
    if status in _REDIRECTS:
        return _failed("redirected")
    account = status in _FAILS_FOR_ALL or status >= _SERVER_ERRORS
    return Answer(_judged(read, status, body), account=account, after_seconds=after)


def _failed(reason: str) -> Answer:
    return Answer(Outcome("retry", reason), account=True)


async def _body(answer: aiohttp.ClientResponse) -> bytes | None:
    """Return the body, None when it is too large once unpacked."""
    parts, size = [], 0
    async for part in answer.content.iter_chunked(65_536):
        parts.append(part)
        if (size := size + len(part)) > ANSWER_BYTES_MAX:
            return None
    return b"".join(parts)


def _retry_after(value: str | None) -> float | None:
    """Read Retry-After (RFC 9110 section 10.2.3) as seconds from now."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), RETRY_AFTER_MAX)
    try:
        seconds = (parsedate_to_datetime(value) - now()).total_seconds()
    except (ValueError, TypeError):  # no date; a date without a zone
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_MAX)


def _judged(read: Callable[[int, bytes], Outcome], status: int, body: bytes) -> Outcome:
    try:
        return read(status, body)
    except Exception as error:  # noqa: BLE001 - no answer of a provider may end the process
        log.error("answer_not_read", status=status, error=type(error).__name__)  # noqa: TRY400 - its message may quote the body
        return Outcome("retry", "answer_not_read")
