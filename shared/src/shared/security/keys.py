"""Who may call, who signed, and links nobody can guess: everything that needs a secret."""

import base64
import hashlib
import hmac
import re
import secrets as random
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import SecretStr
from starlette.types import Scope

from shared.errors import Refused

SIGNATURE_CHARS_MAX = 256
BEARER_CHARS_MAX = 256
KEY_CHARS_MIN = 16
API_KEY_PREFIX = "agk_"

Purpose = Literal["track", "survey", "case", "preferences", "unsubscribe"]

_LINK_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_LINK_CONTEXT = b"afterglow/link/v1"


def verify_hmac(
    signed: bytes,
    signature: bytes | str | None,
    secrets: Iterable[bytes],
    *,
    encoding: Literal["base64", "hex"] = "base64",
) -> bool:
    """Whether `signature` is the HMAC-SHA256 (RFC 2104) of `signed` under one of `secrets`.

    `signed` is the raw body, or what the scheme puts together from it, never re-serialised JSON.
    `signature` is the header value without its prefix, as raw bytes or as the latin-1 text that
    ASGI frameworks make of it. Two secrets are active while one is rotated. Never raises.
    """
    if isinstance(signature, str):
        signature = signature.encode("latin-1", "replace")
    if not signature or len(signature) > SIGNATURE_CHARS_MAX:
        return False
    if encoding == "hex":
        signature = signature.lower()
    matched = False
    for secret in secrets:
        digest = hmac.digest(secret, signed, "sha256")
        wanted = base64.b64encode(digest) if encoding == "base64" else digest.hex().encode()
        # On bytes: compare_digest raises for a str with a non-ASCII character. An empty secret is
        # a gap in the configuration that anybody could sign with.
        matched |= hmac.compare_digest(wanted, signature) and bool(secret)
    return matched


def new_api_key() -> tuple[str, str]:
    """Make an API key of 256 random bits: (the key to hand out once, the SHA-256 hex to store)."""
    key = API_KEY_PREFIX + random.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def unauthorized() -> Refused:
    """The one answer to a missing, malformed, unknown or revoked key, so that it tells nothing."""
    headers = {"WWW-Authenticate": "Bearer"}
    return Refused(401, "unauthorized", "a valid key is needed", headers=headers)


def bearer_token(scope: Scope) -> str:
    """The token of `Authorization: Bearer` (RFC 6750) of an ASGI request; raises `Refused` 401."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    found = [value for name, value in headers if name == b"authorization"]
    if len(found) != 1 or len(found[0]) > BEARER_CHARS_MAX or not found[0].isascii():
        raise unauthorized()
    scheme, _, token = found[0].decode("ascii").partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not token or not token.isprintable() or " " in token:
        raise unauthorized()
    return token


class OperatorKeys:
    """The keys that open the operator API; several may be active while one is rotated."""

    def __init__(self, keys: Iterable[SecretStr | str]) -> None:
        self._digests = [hashlib.sha256(_strong(key)).digest() for key in keys]

    def check(self, scope: Scope) -> None:
        """Raise `Refused` 401 unless the request carries one of the keys."""
        digest = hashlib.sha256(bearer_token(scope).encode()).digest()
        # All are compared: the time must not tell which of them was nearly right.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise unauthorized()

    def __repr__(self) -> str:
        return f"OperatorKeys({len(self._digests)})"


def _strong(key: SecretStr | str) -> bytes:
    text = key.get_secret_value() if isinstance(key, SecretStr) else key
    if len(text) < KEY_CHARS_MIN:
        message = f"a key needs at least {KEY_CHARS_MIN} characters"
        raise ValueError(message)
    return text.encode()


class Links:
    """Makes the tokens of customer links, the same in every service that knows the key.

    A token is the first 128 bits of HMAC-SHA256(key, purpose, shop, subject) as 22 characters of
    base64url (RFC 4648 §5). The first key is the current one; the others are still accepted,
    because the owner of a page stores the hash under each of them. Raises `ValueError` for no key
    or one under 16 characters.
    """

    def __init__(self, keys: Sequence[SecretStr | str]) -> None:
        self._keys = [_strong(key) for key in keys]
        if not self._keys:
            message = "at least one link key is needed"
            raise ValueError(message)

    def token(self, purpose: Purpose, shop: str, subject: str) -> str:
        """The token to put into a link now."""
        return _token(self._keys[0], purpose, shop, subject)

    def hashes(self, purpose: Purpose, shop: str, subject: str) -> list[bytes]:
        """The hashes under which a page is stored: one for each key, the current one first."""
        return [token_hash(_token(key, purpose, shop, subject)) for key in self._keys]

    def __repr__(self) -> str:
        return f"Links({len(self._keys)})"


def _token(key: bytes, purpose: Purpose, shop: str, subject: str) -> str:
    parts = (purpose.encode(), shop.encode(), subject.encode())
    # Each part goes in with its length, so ("a", "bc") and ("ab", "c") differ.
    signed = _LINK_CONTEXT + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    digest = hmac.digest(key, signed, "sha256")[:16]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_link_token(text: str) -> bool:
    """Whether a path part can be a token at all; asked before the database is."""
    return _LINK_TOKEN.fullmatch(text) is not None


def token_hash(token: str) -> bytes:
    """What is stored of a token: its SHA-256 (32 bytes), which opens nothing when it leaks."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
