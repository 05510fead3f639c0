"""What the signature schemes of the aggregators have in common.

Whatever a stranger puts into a header ends as "not right", never as an error. Signatures are compared
as they are written: another spelling of the same bytes is refused, so each has exactly one.
"""

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from shared.security import verify_hmac

WINDOW: Final = timedelta(minutes=5)
NO_SIGNATURE: Final = "no_signature"
BAD_SIGNATURE: Final = "bad_signature"
STALE: Final = "stale"

TOKEN_PREFIX: Final = b"token:"
_TOKEN_BYTES: Final = range(16, 257)


Verify = Callable[
    [bytes, Mapping[str, str], Mapping[str, str], Sequence[bytes], datetime], str | None
]
"""Takes raw body, headers, address parameters, secrets and the time; returns why it is refused, or None."""


def by_header(name: str, matches: Callable[[bytes, str, Sequence[bytes]], bool]) -> Verify:
    """Return the check of a scheme that signs the raw body alone, in one header, with any of the secrets."""

    def verify(
        body: bytes,
        headers: Mapping[str, str],
        _query: Mapping[str, str],
        secrets: Sequence[bytes],
        _now: datetime,
    ) -> str | None:
        signature = headers.get(name)
        if not signature:
            return NO_SIGNATURE
        return None if matches(body, signature, secrets) else BAD_SIGNATURE

    return verify


def hex_matches(signed: bytes, signature: str, secrets: Iterable[bytes]) -> bool:
    """Whether `signature` is the lower-case hex HMAC-SHA256 of `signed` under one of the secrets."""
    right = verify_hmac(signed, signature, secrets, encoding="hex")
    return right and signature == signature.lower()


def equal(wanted: str, given: str) -> bool:
    """Compare in constant time, whatever characters a stranger sent."""
    return hmac.compare_digest(wanted.encode(), given.encode("utf-8", "surrogatepass"))


def is_fresh(at: datetime, now: datetime) -> bool:
    """Whether a signed time lies within five minutes of now, before or after."""
    return abs(now - at) <= WINDOW


def tokens(secrets: Sequence[bytes]) -> list[bytes]:
    """Return those secrets that a shop wrote as `token:…`: they stand in the webhook's address."""
    return [s.removeprefix(TOKEN_PREFIX) for s in secrets if s.startswith(TOKEN_PREFIX)]


def keys(secrets: Sequence[bytes]) -> list[bytes]:
    """Return those secrets that sign."""
    return [s for s in secrets if not s.startswith(TOKEN_PREFIX)]


def check_token(query: Mapping[str, str], known: Iterable[bytes]) -> str | None:
    """Check `?token=` of the webhook's address; None means that it is right.

    A token under 16 bytes opens nothing: it could be guessed.
    """
    given = query.get("token", "").encode("utf-8", "surrogatepass")
    if not given:
        return NO_SIGNATURE
    matched = False
    for token in known:
        matched |= hmac.compare_digest(token, given) and len(token) in _TOKEN_BYTES
    return None if matched else BAD_SIGNATURE
