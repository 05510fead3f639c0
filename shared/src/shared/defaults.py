"""Words that are no secrets: a process or a shop that uses one as its secret does not start."""

from typing import Final

DEFAULT_SECRETS: Final = frozenset(
    {"changeme", "change-me", "secret", "password", "default", "example"}
)
