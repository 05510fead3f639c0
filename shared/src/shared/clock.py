"""The one place that asks this machine what time it is.

What is due, leased or expired is decided by the database clock only; this one dates log lines and
checks that a sender's timestamp is not absurd.
"""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, aware and in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the one permitted call
