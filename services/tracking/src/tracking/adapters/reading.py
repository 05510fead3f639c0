"""What the adapters of all aggregators have in common: from their words, times and lists to scans.

A scan must come out the same however often its delivery repeats it, because its id is derived from
what it says: nothing here depends on when or in whose company it is told.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from shared.events import Eta, ScanReported, ShipmentState, number_ref
from shared.events.values import OrderId
from shared.reading import Json, build, ident, instant, midnight, rows, text, unix_time
from tracking.domain.model import Report, Unusable

SCANS_MAX: Final = 200
UNMAPPED: Final = "unmapped"  # the reason of a scan whose word we do not know
_PLACE_CHARS: Final = 80
_AFTER: Final = timedelta(microseconds=1)
_OWN_NEWS: Final = timedelta(hours=12)
_OVER: Final = frozenset({"delivered", "returning", "returned", "cancelled", "expired"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS: Final = range(946_684_800_000, 4_102_444_800_000)
_OFFSET: Final = re.compile(r"(?:[Zz]|[+-]\d\d:?\d\d)$", re.ASCII)
_NO_SECONDS: Final = re.compile(r"(?<=[Tt ]\d\d:\d\d)(?=\s?[Zz+-])", re.ASCII)
_MIDNIGHT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]00:00(?::00(?:\.0+)?)?(?!\d)", re.ASCII)
_ORDER_ID: Final = TypeAdapter[str](OrderId)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a carrier's word means here. Reasons are Karrio's words; of `delivered` they say how."""

    state: ShipmentState
    reason: str | None = None
    action: bool = False


UNKNOWN: Final = Meaning("unknown")
NOT_MAPPED: Final = Meaning("unknown", UNMAPPED)
_UNSEEN: Final = frozenset({UNKNOWN, Meaning("label_created")})
Words = Mapping[str, Meaning]


def meaning(*found: Meaning | None) -> Meaning:
    """Return the first that was found, most specific first; else that the word is not mapped."""
    return next((m for m in found if m is not None), NOT_MAPPED)


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happened; with `day` only the date is known, and `at` is its start."""

    at: datetime
    day: bool = False


def moment(value: Any, zone: tzinfo) -> Moment | None:
    """Read a time. One without an offset is somebody's local time, we do not know whose: a date."""
    at = _exact(value)
    if at:
        return Moment(at)
    start = midnight(value.strip()[:10], zone) if isinstance(value, str) else None
    return Moment(start, day=True) if start else None


def _exact(value: Any) -> datetime | None:
    """Read a time that names its offset, or counts seconds or milliseconds since 1970."""
    written = value.strip() if isinstance(value, str) else ""
    if _OFFSET.search(written):
        return instant(_NO_SECONDS.sub(":00", written), UTC)
    digits = ident(value) or ""
    if digits.isdecimal() and int(digits) in _MILLISECONDS:
        return _EPOCH + timedelta(milliseconds=int(digits))
    return unix_time(value)


def expected(first: Any, last: Any) -> Eta | None:
    """Read an expected delivery: exact times stay, a date or a bare midnight is the whole of that day.

    A day is written in UTC, as `shared.calendars.day_expected` reads it: it is the customer's, wherever
    she lives, and not the shop's.
    """
    begin = _edge(first, "00:00:00") or _edge(last, "00:00:00")
    end = _edge(last, "23:59:59") or _edge(first, "23:59:59")
    if begin is None or end is None:
        return None
    return Eta(from_=min(begin, end), to=max(begin, end))


def _edge(value: Any, clock: str) -> datetime | None:
    written = value.strip() if isinstance(value, str) else ""
    at = None if _MIDNIGHT.match(written) else _exact(value)
    return at or instant(f"{written[:10]} {clock}", UTC)


def place(*parts: Any, whole: Any = None) -> str | None:
    """Name a city from its parts; from one text only where no digit in it may be a street's."""
    named = [found for part in parts if (found := text(part, max_chars=_PLACE_CHARS))]
    if not named:
        one = text(whole, max_chars=_PLACE_CHARS) or ""
        named = [] if any(c.isdigit() for c in one) else [one]
    return text(", ".join(dict.fromkeys(named)), max_chars=_PLACE_CHARS)


def events(value: Any) -> list[Json]:
    """Return the objects of a list of scans; of an endless one both ends, for the newest stand at one."""
    found = rows(value)
    return found if len(found) <= 2 * SCANS_MAX else found[:SCANS_MAX] + found[-SCANS_MAX:]


def number(value: Any) -> str | None:
    """Read a tracking number, which some send as a number; None for what has no letter or digit."""
    written = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = text(written, max_chars=100)
    return found if number_ref(found) else None


def order_id(*values: Any) -> str | None:
    """Return the first value that can be an order's id."""
    for value in values:
        try:
            return _ORDER_ID.validate_python(ident(value))
        except ValidationError:
            continue
    return None


@dataclass(frozen=True, slots=True)
class Told:
    """Of which parcel one delivery tells, and who does."""

    source: str
    number: str | None
    carrier: str | None = None
    order_id: str | None = None
    shipment_id: str | None = None

    def scan(
        self, means: Meaning, when: Moment, raw: tuple[Any, ...], where: str | None = None
    ) -> ScanReported:
        """Make one scan; `raw` are the source's own words, from coarse to fine."""
        words = (text(str(w) if isinstance(w, int) else w, max_chars=80) for w in raw)
        return build(
            ScanReported,
            order_id=self.order_id,
            shipment_id=self.shipment_id,
            carrier=self.carrier,
            tracking_number=self.number,
            state=means.state,
            reason=means.reason,
            action_required=means.action,
            occurred_at=when.at,
            precision="day" if when.day else "second",
            place=where,
            source=self.source,
            raw_status="/".join(w for w in words if w) or None,
        )


@dataclass(frozen=True, slots=True)
class Status:
    """What a source says of the parcel as a whole, when it said so, and when the parcel will come.

    `news`: it was said for its own sake (the expected day moved), whatever the scans say.
    """

    means: Meaning
    raw: tuple[Any, ...]
    said: Moment | None = None
    eta: Eta | None = None
    news: bool = False


def history(told: Told, scans: Iterable[ScanReported], status: Status) -> tuple[ScanReported, ...]:
    """Put the scans in order, oldest first, and add the status where they do not say the same already.

    The status then stands after all of them: it was said in the knowledge of them, whatever their
    clocks show. Otherwise the expected time goes to the newest scan. Without any time there is nothing
    to tell of a parcel that no carrier has seen; of any other, raises `Unusable`.
    """
    known = list(dict.fromkeys(scans))
    if known and known[0].occurred_at > known[-1].occurred_at:
        known.reverse()  # those of the same second keep their order
    known = sorted(known, key=lambda scan: scan.occurred_at)[-SCANS_MAX:]
    if not known:
        if status.said is None and status.means in _UNSEEN:
            return ()
        if status.said is None:
            raise Unusable("neither the parcel nor a scan has a readable time")
        return (_with_eta(told.scan(status.means, status.said, status.raw), status),)
    if _is_told(known[-1], status):
        known[-1] = _with_eta(known[-1], status)
        return tuple(known)
    last = told.scan(status.means, _after(known[-1], status.said), status.raw)
    return (*known, _with_eta(last, status))[-SCANS_MAX:]


def _is_told(newest: ScanReported, status: Status) -> bool:
    said, means = status.said, status.means
    exact = said is not None and not said.day
    if status.news or (newest.precision == "day" and exact and means != UNKNOWN):
        return False
    late = said is not None and said.at - newest.occurred_at > _OWN_NEWS
    if late and status.eta and means.state not in _OVER:
        return False  # the scan is old, so it is the expected time that is new
    # "Unknown" adds nothing to what was seen.
    fits = newest.state == means.state and means.reason in {None, newest.reason}
    return fits or means == UNKNOWN


def _after(newest: ScanReported, said: Moment | None) -> Moment:
    if said is None and newest.precision == "day":
        return Moment(newest.occurred_at, day=True)
    later = newest.occurred_at + _AFTER
    return said if said and said.at >= later else Moment(later)


def _with_eta(scan: ScanReported, status: Status) -> ScanReported:
    """Give a scan the expected time, which may have been told long after it: that is no part of the scan."""
    if status.eta is None or scan.eta is not None:
        return scan
    said = status.said
    later = said is not None and not said.day and said.at > scan.occurred_at
    return scan.model_copy(
        update={"eta": status.eta, "eta_said_at": said.at if said and later else None}
    )


def report(topic: str, delivery_id: str | None, scans: tuple[ScanReported, ...]) -> Report:
    """Say what a delivery tells; one without a scan is of a parcel that no carrier has seen."""
    return Report(topic, delivery_id, scans, None if scans else "no carrier has seen it yet")


def ignored(topic: str, delivery_id: str | None, why: str) -> Report:
    """Say that a delivery is understood and tells nothing of a parcel."""
    return Report(topic, delivery_id, (), why)


# ------------------------------------------------------------ what we ask of an aggregator


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to an aggregator, without its address and keys."""

    method: Literal["GET", "POST"]
    path: str
    json: Mapping[str, Any] | None = None
    params: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an answer means. `already`: done before; `retry`: may work later; `give_up`: never will.

    `reason` is a word of ours or the aggregator's error code, never its text: it may repeat what we sent.
    `scans` is what the answer told of the parcel.
    """

    verdict: Literal["ok", "already", "retry", "give_up"]
    reason: str | None = None
    scans: tuple[ScanReported, ...] = ()


CARRIER_UNKNOWN: Final = (
    "carrier_unknown"  # the reason when the aggregator does not know the carrier
)
# A refused key and an empty account are the shop's to put right: the parcels wait for that.
_WAITING: Final = {
    401: "key_refused",
    402: "account_refused",
    403: "key_refused",
    408: "timeout",
    429: "rate_limited",
}
_SERVER_ERRORS: Final = 500
_CODE: Final = re.compile(r"[A-Za-z0-9_.]{1,64}", re.ASCII)


def refusal(status: int, code: Any) -> Outcome:
    """Judge an answer that is no success by its HTTP status; `code` is the aggregator's own."""
    if status in _WAITING or status >= _SERVER_ERRORS:
        return Outcome("retry", _WAITING.get(status, f"http_{status}"))
    named = ident(code) or ""
    return Outcome("give_up", named if _CODE.fullmatch(named) else f"http_{status}")
