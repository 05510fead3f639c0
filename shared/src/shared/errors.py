"""Every error of the platform on one page.

AfterglowError
├── Retry            transient: the same call may work later
│   └── BusUnavailable
├── GiveUp           permanent: the same call never works
│   └── Unusable     a signed delivery that nobody understands: quarantine it
├── UnknownType      an event type this version does not know: count it, skip it
├── Malformed        bytes that are no event of ours: keep them as a dead event
└── Refused          an HTTP answer to a caller who sent something wrong
"""

from collections.abc import Mapping


class AfterglowError(Exception):
    """Base of every error raised on purpose."""


class Retry(AfterglowError):
    """The other side cannot do this now; ask again after `after_seconds` (None: the caller decides)."""

    def __init__(self, reason: str, *, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class BusUnavailable(Retry):
    """The bus did not confirm in time; nothing may be taken as stored."""


class GiveUp(AfterglowError):
    """The other side will never do this; the message says why."""


class Unusable(GiveUp):
    """A signed delivery that cannot be understood; it is quarantined with this reason."""


class UnknownType(AfterglowError):
    """An event type or version this process does not know."""


class Malformed(AfterglowError):
    """A record whose headers or body are not the event they claim to be."""


class Refused(AfterglowError):
    """A request that is answered with an HTTP error: `status`, a stable `code`, a sentence for a person.

    `field` is the dotted path of the field at fault and `index` its place in a batch; the offending
    value itself is never echoed.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        index: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.index = index
        self.headers = dict(headers or {})
