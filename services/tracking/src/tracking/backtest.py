"""What the delay rules would have said of past parcels: a history is replayed in time.

All parcels of a history are replayed together, so habits of carriers are learned only from what was
received before. A rule sees a scan when it was received, never what happened to the parcel in the end.
The rules are those of the service (`domain.episodes`), with the shop's thresholds.

A history is JSON lines, one object per parcel: `id, placed_at, shipped_at, promise {from, to}, carrier,
ship_from_country, ship_to_country, scans, delivered_at` (null: never). Scans are bodies of scan.reported,
each with `received_at`. Other keys are ignored.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from heapq import heappop, heappush
from statistics import median, quantiles
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from shared.calendars import day_zone_of, holidays_of
from shared.errors import AfterglowError
from shared.events import (
    DateRange,
    Eta,
    OrderShipped,
    Promise,
    ScanReported,
    ShipmentDelayed,
    ShipmentRecovered,
    rfc3339,
)
from shared.events.orders import ShipmentState, Value
from shared.events.values import Country, Instant, Line, Precision, ShortLine
from shared.shops import Shop
from tracking.domain import episodes, lessons
from tracking.domain.fold import fold
from tracking.domain.model import About, Order, Parcel, Track, scan_fact, shipment_ref
from tracking.domain.orders import OrderState
from tracking.domain.pace import Pace
from tracking.domain.profile import Profile
from tracking.domain.situation import Situation

Text = Annotated[str, BeforeValidator(lambda said: str(said) if isinstance(said, int) else said)]
_SILENT: Final = frozenset({"silence", "not_collected"})
_SUNDAY: Final = 6
_SHIPMENT: Final = "parcel"
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PLACED, _SHIPPED, _SCAN, _CHECK = range(4)


class HistoryInvalid(AfterglowError):
    """A history with a line that cannot be read; says which, and which field."""


class PastScan(Value):
    """One scan of a history, in the words of scan.reported."""

    state: ShipmentState
    reason: Line | None = None
    action_required: bool = False
    occurred_at: Instant
    precision: Precision = "second"
    eta: Eta | None = None
    place: ShortLine | None = None
    source: ShortLine | None = None
    raw_status: Line | None = None
    received_at: Instant | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_date(cls, said: Any) -> Any:
        """Read a bare date as the service's own writers state it: its midnight, known to the day."""
        at = said.get("occurred_at") if isinstance(said, dict) else None
        if not isinstance(at, str) or not _DATE.fullmatch(at):
            return said
        return {**said, "occurred_at": f"{at}T00:00:00Z", "precision": "day"}


class PastParcel(Value):
    """One line of a history."""

    id: Text = Field(min_length=1, max_length=200)
    placed_at: Instant
    shipped_at: Instant | None = None
    promise: DateRange | None = None
    carrier: ShortLine | None = None
    method: Line | None = None
    ship_from_country: Country | None = None
    ship_to_country: Country | None = None
    scans: tuple[PastScan, ...] = ()
    delivered_at: Instant | None = None

    @field_validator("scans", mode="before")
    @classmethod
    def _none(cls, said: object) -> object:
        return () if said is None else said

    @field_validator("ship_from_country", "ship_to_country", mode="before")
    @classmethod
    def _written_anyhow(cls, said: object) -> object:
        return (said.strip().upper() or None) if isinstance(said, str) else said

    @field_validator("promise", mode="before")
    @classmethod
    def _until(cls, said: object) -> object:
        """Read a promise of one day, which names only its last one."""
        if isinstance(said, dict) and said.get("from") is None:
            return {**said, "from": said.get("to")} if said.get("to") else None
        return said

    @property
    def zone(self) -> ZoneInfo:
        """The destination's time zone, in which its promised day ends."""
        return day_zone_of(self.ship_to_country) or ZoneInfo("UTC")

    @property
    def promised_until(self) -> datetime | None:
        """When the last promised day ends."""
        if self.promise is None:
            return None
        return datetime.combine(self.promise.to + timedelta(days=1), time(), self.zone)

    @property
    def is_late(self) -> bool | None:
        """Whether it came after the promised day, or never; None where nothing was promised."""
        ends = self.promised_until
        return None if ends is None else self.delivered_at is None or self.delivered_at >= ends


@dataclass(frozen=True, slots=True)
class Warned:
    """One notice that a customer would have got."""

    at: datetime
    cause: str
    new_date: date | None


@dataclass(slots=True)
class Verdict:
    """What would have been said of one parcel, beside what became of it."""

    id: str
    carrier: str | None
    is_late: bool | None
    promised_until: datetime | None
    ends: tuple[str | None, str | None]  # the countries whence and whither it goes
    warnings: list[Warned] = field(default_factory=list)
    recovered_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the line that `--json` prints."""
        return {
            "id": self.id,
            "warnings": [
                {
                    "at": rfc3339(one.at),
                    "cause": one.cause,
                    "new_date": one.new_date.isoformat() if one.new_date else None,
                }
                for one in self.warnings
            ],
            "recovered_at": rfc3339(self.recovered_at) if self.recovered_at else None,
        }


def read(lines: Iterable[bytes | str]) -> Iterator[PastParcel]:
    """Read a history. Raises `HistoryInvalid`, which names the line and the field."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield PastParcel.model_validate_json(line)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in found["loc"]) or "the line"
            reason = found["msg"].removeprefix("Value error, ")
            raise HistoryInvalid(f"line {number}: {where}: {reason}") from None


# ---------------------------------------------------------------- the replay


@dataclass(slots=True)
class _Running:
    """A parcel while its time passes."""

    past: PastParcel
    verdict: Verdict
    order: Order
    state: OrderState
    shop: Shop
    profiles: dict[str, Profile]
    check_at: datetime | None = None


class Replay:
    """Replays parcels for one shop, and learns habits of carriers on the way."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop.model_copy(update={"live_from": None})
        self._pace = Pace(datetime.max.replace(tzinfo=ZoneInfo("UTC")))
        self._queue: list[tuple[datetime, int, int, int]] = []
        self._of_origin = lru_cache(maxsize=None)(self._make_of_origin)
        self._running: dict[int, _Running] = {}
        self.profiles: dict[str, Profile] = {}

    def run(self, parcels: Iterable[PastParcel]) -> list[Verdict]:
        """Return what would have been said of each parcel, in their order."""
        past = list(parcels)
        verdicts = [
            Verdict(
                one.id,
                one.carrier,
                one.is_late,
                one.promised_until,
                (one.ship_from_country, one.ship_to_country),
            )
            for one in past
        ]
        for place, one in enumerate(past):
            if one.promise is not None:
                heappush(self._queue, (one.placed_at, _PLACED, place, 0))
        while self._queue:
            now, kind, place, number = heappop(self._queue)
            if kind == _PLACED:
                self._start(place, past[place], verdicts[place])
            running = self._running.get(place)
            if running is None or (kind == _CHECK and running.check_at != now):
                continue
            if kind == _SHIPPED:
                _ship(running)
            elif kind == _SCAN:
                _scan(running, running.past.scans[number], number)
            self._step(place, running, now, only_heard=kind == _SCAN)
        return verdicts

    def _start(self, place: int, past: PastParcel, verdict: Verdict) -> None:
        said = past.promise
        assert said is not None
        promise = Promise.model_construct(from_=said.from_, to=said.to, source=None)
        about = About.model_construct(
            placed_at=past.placed_at, country=past.ship_to_country, method=past.method,
            promise=promise, lines=(), locale=None, number=None, status_url=None,
            payment="paid",
        )  # fmt: skip
        order = Order(self._shop.id, past.id, past.placed_at, about=about)
        order.tracks[shipment_ref(_SHIPMENT)] = Track(self._shop.id, shipment_ref(_SHIPMENT))
        state = OrderState(placed_at=past.placed_at, promise=promise)
        shop = self._of_origin(past.ship_from_country)
        self._running[place] = _Running(past, verdict, order, state, shop, self.profiles)
        if past.shipped_at is not None:
            at = max(past.shipped_at, past.placed_at)
            heappush(self._queue, (at, _SHIPPED, place, 0))
        for number, scan in enumerate(past.scans):
            at = max(scan.received_at or scan.occurred_at, past.placed_at)
            heappush(self._queue, (at, _SCAN, place, number))

    def _make_of_origin(self, country: str | None) -> Shop:
        if country is None:
            return self._shop
        delays = self._shop.delays.model_copy(update={"ship_from": country})
        return self._shop.model_copy(update={"delays": delays})

    def _step(self, place: int, running: _Running, now: datetime, *, only_heard: bool) -> None:
        order, state, shop = running.order, running.state, running.shop
        shipments = {
            name: fold(parcel, order.scans(parcel)) for name, parcel in order.parcels.items()
        }
        here = Situation(order, state, shipments, shop, now, self._pace, self.profiles)
        told = episodes.tell(here)
        for news in told:
            data = news.data
            if isinstance(data, ShipmentDelayed):
                new = data.new.to if data.new else None
                running.verdict.warnings.append(Warned(now, data.cause, new))
                running.verdict.recovered_at = None
            elif isinstance(data, ShipmentRecovered):
                running.verdict.recovered_at = now
        learned = lessons.stories(here)
        for carrier, story in learned:
            self.profiles.setdefault(carrier, Profile()).learn(story)
        if learned and all(one.terminal for one in shipments.values()):
            del self._running[place]
            return
        if only_heard and not told and running.check_at is not None and running.check_at > now:
            return  # as in the service: a scan makes nothing urgent that was not, and the check looks again
        running.check_at = episodes.check(here)
        if running.check_at is not None:
            running.check_at = max(running.check_at, now + timedelta(minutes=1))
            heappush(self._queue, (running.check_at, _CHECK, place, 0))


def _ship(running: _Running) -> None:
    past = running.past
    body = OrderShipped.model_construct(
        order_id="", shipment_id=_SHIPMENT, carrier=past.carrier, tracking_number=_SHIPMENT,
        shipped_at=past.shipped_at, items=None, final="unknown", tracking_url=None,
        number_of_order=None, precision="second",
    )  # fmt: skip
    sent = past.shipped_at or past.placed_at
    running.order.parcels[_SHIPMENT] = Parcel(
        _SHIPMENT, body, (sent, 0, ""), shipped_at=past.shipped_at
    )


def _scan(running: _Running, scan: PastScan, number: int) -> None:
    if _SHIPMENT not in running.order.parcels:
        _ship(running)  # the carrier has it, whatever the shop forgot to say
    data = ScanReported.model_construct(
        order_id=None, shipment_id=_SHIPMENT, carrier=None, tracking_number=None,
        state=scan.state, reason=scan.reason, action_required=scan.action_required,
        occurred_at=scan.occurred_at, precision=scan.precision, eta=scan.eta, place=scan.place,
        source=scan.source, raw_status=scan.raw_status,
    )  # fmt: skip
    received = scan.received_at or scan.occurred_at
    running.order.tracks[shipment_ref(_SHIPMENT)].add(scan_fact(data, number, received), received)


# ---------------------------------------------------------------- what it is worth


DEFINITIONS: Final = {
    "parcels": "lines with a promise; without one nothing can be late",
    "late": "delivered after the end of the last promised day where it goes, or never",
    "warned": "parcels with at least one warning",
    "precision": "share of warned parcels that were late",
    "recall": "share of late parcels warned before their promised day ended",
    "false_alarms_per_1000": "of 1,000 parcels in time, how many had a warning",
    "lead_hours": "from the first warning to the end of the promised day, late parcels warned in time",
    "silent_on_free_days": "warnings of silence or no collection on a Sunday or public holiday of either end",
    "recovered": "warned parcels of which we said at last that the delay is over",
}


def summary(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Return the figures that `DEFINITIONS` explains."""
    counts: Counter[str] = Counter()
    leads: list[float] = []
    causes: dict[str, Counter[str]] = {}
    for one in verdicts:
        if one.is_late is None or one.promised_until is None:
            counts["without_promise"] += 1
            continue
        counts["parcels"] += 1
        counts["late" if one.is_late else "on_time"] += 1
        counts["recovered"] += one.recovered_at is not None
        counts["silent_on_free_days"] += sum(_is_free(one, said) for said in one.warnings)
        if not one.warnings:
            continue
        counts["warned"] += 1
        first = one.warnings[0]
        by_cause = causes.setdefault(first.cause, Counter())
        if not one.is_late:
            counts["false"] += 1
            by_cause["false"] += 1
            continue
        by_cause["right"] += 1
        if first.at < one.promised_until:
            by_cause["in_time"] += 1
            leads.append((one.promised_until - first.at).total_seconds() / 3600)
    return {
        **{name: counts[name] for name in ("parcels", "on_time", "late", "warned", "recovered")},
        "without_promise": counts["without_promise"],
        "false_alarms": counts["false"],
        "late_warned_in_time": len(leads),
        "precision": _share(counts["warned"] - counts["false"], counts["warned"]),
        "recall": _share(len(leads), counts["late"]),
        "false_alarms_per_1000": _share(1000 * counts["false"], counts["on_time"]),
        "lead_hours": {
            "median": round(median(leads), 1) if leads else None,
            "p10": round(_p10(leads), 1) if leads else None,
        },
        "silent_on_free_days": counts["silent_on_free_days"],
        "causes": {
            cause: {name: found[name] for name in ("right", "in_time", "false")}
            for cause, found in sorted(causes.items())
        },
    }


def _share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _p10(values: list[float]) -> float:
    return quantiles(values, n=10, method="inclusive")[0] if len(values) > 1 else values[0]


def _is_free(one: Verdict, said: Warned) -> bool:
    return said.cause in _SILENT and any(_rests(country, said.at) for country in one.ends)


def _rests(country: str | None, at: datetime) -> bool:
    if country is None:
        return False
    day = at.astimezone(day_zone_of(country) or ZoneInfo("UTC")).date()
    return day.weekday() == _SUNDAY or any(day in free for free in holidays_of(country))
