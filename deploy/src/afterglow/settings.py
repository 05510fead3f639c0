"""What the runner and its commands read from the environment; nothing else in the package does."""

import os
from collections.abc import Mapping

HOST = "127.0.0.1"
"""Where all that the runner starts listens: on this machine only."""

_DEFAULT_INTERNAL = (
    "order-events=http://127.0.0.1:9001,"
    "tracking=http://127.0.0.1:9002,"
    "notifier=http://127.0.0.1:9004"
)


def environment() -> dict[str, str]:
    """Return a copy of this process' environment, for the children; empty values count as unset."""
    return {name: value for name, value in os.environ.items() if value}


def operator_key(env: Mapping[str, str]) -> str | None:
    """Return the current operator key of OPERATOR_KEYS, the first one."""
    return env.get("OPERATOR_KEYS", "").split(",")[0].strip() or None


def internal_urls(env: Mapping[str, str]) -> dict[str, str]:
    """Return the operator API of each service from INTERNAL_URLS: `name=url,name=url`."""
    pairs = env.get("INTERNAL_URLS", _DEFAULT_INTERNAL).split(",")
    return {
        name.strip(): url.strip().rstrip("/")
        for name, _, url in (pair.partition("=") for pair in pairs)
        if url
    }
