"""The gate in front of every address: body limit, strict JSON, signatures, keys, derived links.

Nothing here knows a route or a service. Whatever a stranger sends ends as a value or as `Refused`,
never as another exception, and no answer repeats what was sent.
"""

from shared.security.keys import (
    Links,
    OperatorKeys,
    Purpose,
    bearer_token,
    is_link_token,
    new_api_key,
    token_hash,
    unauthorized,
    verify_hmac,
)
from shared.security.limits import BodyLimit, SecurityHeaders, refusal_body
from shared.security.strict_json import media_type, read_json

__all__ = [
    "BodyLimit",
    "Links",
    "OperatorKeys",
    "Purpose",
    "SecurityHeaders",
    "bearer_token",
    "is_link_token",
    "media_type",
    "new_api_key",
    "read_json",
    "refusal_body",
    "token_hash",
    "unauthorized",
    "verify_hmac",
]
