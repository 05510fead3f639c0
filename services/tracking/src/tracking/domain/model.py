"""What tracking knows: orders, the parcels a shop states, and what carriers say under a number."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import Field

from shared import errors, facts
from shared.calendars import customer_zone
from shared.events import (
    MAX_ITEMS,
    EventData,
    OrderPlaced,
    OrderShipped,
    Payment,
    Promise,
    ScanReported,
    ShipmentWithdrawn,
    event_id,
    number_ref,
    parse_instant,
    rfc3339,
)
from shared.events.orders import Value
from shared.events.values import Country, Instant, Line, Locale, Quantity, Ref, ShortLine, Url
from shared.facts import Fact

SCAN: Final = ScanReported.type
FUTURE_MAX: Final = timedelta(minutes=10)
Unusable = errors.Unusable
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OWN: Final = "#"
FORMER_MAX: Final = 20


class OrderLine(Value):
    """One line of the order, as the page shows it: no price."""

    line_id: Ref
    name: Line
    quantity: Quantity


class About(Value):
    """What tracking keeps of an order's snapshot: nothing that says who bought or where she lives."""

    number: ShortLine | None = None
    placed_at: Instant
    locale: Locale | None = None
    country: Country | None = None
    method: Line | None = None
    promise: Promise | None = None
    lines: Annotated[tuple[OrderLine, ...], Field(max_length=MAX_ITEMS)] = ()
    status_url: Url | None = None
    payment: Payment = "paid"


def about(data: OrderPlaced) -> About:
    """Take from a snapshot what tracking needs."""
    lines = (
        OrderLine.model_construct(line_id=i.line_id, name=i.name, quantity=i.quantity)
        for i in data.items
    )
    return About.model_construct(
        number=data.number,
        placed_at=data.placed_at,
        locale=data.customer.locale,
        country=data.ship_to.country if data.ship_to else None,
        method=data.shipping_method,
        promise=data.promise,
        lines=tuple(lines),
        status_url=data.status_url,
        payment=data.payment,
    )


@lru_cache(8192)  # it is asked several times for each scan
def shipment_ref(shipment_id: str) -> str:
    """Return the name under which scans meet that name the shop's shipment, not a number."""
    return f"{_OWN}{shipment_id}"


def is_own(ref: str) -> bool:
    """Tell whether a ref names a shipment of the shop, not a number."""
    return ref.startswith(_OWN)


def stated_refs(shipment_id: str, tracking_number: str | None) -> tuple[str, ...]:
    """Return under which refs scans of a parcel stand."""
    own, number = shipment_ref(shipment_id), number_ref(tracking_number)
    return (number, own) if number else (own,)


def scan_ref(data: ScanReported) -> str:
    """Return under which name this scan is kept: its number, else the shipment that it names."""
    return number_ref(data.tracking_number) or shipment_ref(str(data.shipment_id))


class Named(NamedTuple):
    """The one parcel that a scan names whatever number it bears."""

    shop: str
    order_id: str
    shipment_id: str


def names(shop: str, data: ScanReported) -> Named | None:
    """Return the parcel that a scan names beside a number; None for a scan that goes by one of them.

    Only with its order: a shop may count the parcels of each of its orders from one.
    """
    if data.order_id is None or data.shipment_id is None or not number_ref(data.tracking_number):
        return None
    return Named(shop, data.order_id, data.shipment_id)


def _only_of(data: ScanReported) -> tuple[str, ...]:
    """Return the one order that a scan is of although others may have a parcel of its name: () for none."""
    own = not number_ref(data.tracking_number)
    return (data.order_id,) if own and data.order_id is not None else ()


def scan_id(shop: str, data: ScanReported) -> UUID:
    """Return a scan's id, made of what it says: told again, by whichever way, it is the same scan.

    When the parcel is expected is no part of it: aggregators hang what they expect now on the newest scan.
    """
    said = (
        scan_ref(data),
        data.source,
        data.state,
        data.occurred_at.isoformat(),
        data.precision,
        data.reason,
        data.action_required or None,
        data.place,
        data.raw_status,
        *_only_of(data),
    )
    return event_id(shop, "scan", *("" if one is None else str(one) for one in said))


def clamp(at: datetime, now: datetime) -> datetime:
    """Take a time more than ten minutes in the future for a wrong clock: it becomes now."""
    return now if at > now + FUTURE_MAX else at


def scan_fact(data: ScanReported, said: object, now: datetime) -> Fact:
    """Make the fact that a scan received now is.

    `eta_from`, `eta_to`, `eta_said`, `received` and, where its own time lies in the future, `raw_at` are
    RFC 3339 texts; `eta_said` only where that was said at another time than the scan's.
    """
    eta = data.eta
    at = clamp(data.occurred_at, now)
    eta_said = data.eta_said_at if eta else None
    return facts.fact(
        SCAN,
        at,
        said,
        day=data.precision == "day",
        state=data.state,
        reason=data.reason,
        action=data.action_required or None,
        place=data.place,
        eta_from=rfc3339(eta.from_) if eta and eta.from_ else None,
        eta_to=rfc3339(eta.to) if eta and eta.to else None,
        eta_said=rfc3339(clamp(eta_said, now)) if eta_said else None,
        source=data.source,
        order=data.order_id if data.shipment_id is not None else None,
        raw=data.raw_status,
        received=rfc3339(now),
        raw_at=rfc3339(data.occurred_at) if at is not data.occurred_at else None,
    )


_ETA: Final = ("eta_from", "eta_to", "eta_said", "eta_received")


def merge_scans(known: Fact, told: Fact) -> Fact:
    """Return what two tellings of one scan say: of two expected times the one that was said last holds.

    When that is not known, it counts as said when it was received first; of two of the same moment the later
    one holds. So the order in which tellings come in does not matter. `eta_received`: when we heard of an
    expected time that came after the scan.
    """
    said, new = dict(known.extra), dict(told.extra)
    again = is_same_eta(known, told)
    if (again and "eta_said" not in new) or _eta_key(new) <= _eta_key(said):
        return known
    if again:
        said["eta_said"] = new["eta_said"]
    else:
        said = {name: value for name, value in said.items() if name not in _ETA}
        said |= {name: new[name] for name in _ETA if name in new}
        said.setdefault("eta_received", new.get("received"))
    return known._replace(extra=tuple(sorted((n, v) for n, v in said.items() if v is not None)))


def is_same_eta(one: Fact, other: Fact) -> bool:
    """Tell whether two scans expect the parcel at the same time, or both say nothing of it."""
    return all(one.get(name) == other.get(name) for name in ("eta_from", "eta_to"))


def _eta_key(said: Mapping[str, Any]) -> tuple[datetime | None, ...]:
    if "eta_from" not in said and "eta_to" not in said:
        return ()
    when = said.get("eta_said") or said.get("eta_received") or said.get("received")
    texts = (when, said.get("eta_to") or said.get("eta_from"), said.get("eta_from"))
    return tuple(parse_instant(text) if text else _EPOCH for text in texts)


Heard = Literal["new", "eta", "known"]
"""What a scan brings: itself, another expected time for one that is known, or nothing."""


@dataclass(slots=True)
class Track:
    """Everything said under one ref (see `number_ref`, `shipment_ref`), whosever order it is."""

    shop: str
    ref: str
    scans: tuple[Fact, ...] = ()
    carrier: str | None = None
    heard_at: datetime | None = None  # when we last heard something new
    is_new: bool = True
    changed: bool = False

    def add(self, scan: Fact, now: datetime) -> Heard:
        """Take one scan in and tell what it brings; one too old to be kept brings nothing."""
        place = next((n for n, known in enumerate(self.scans) if known.id == scan.id), None)
        if place is None:
            scans = facts.add(self.scans, (scan,))
            if not any(kept is scan for kept in scans):
                return "known"
            self.scans, self.heard_at, self.changed = scans, now, True
            return "new"
        known = self.scans[place]
        merged = merge_scans(known, scan)
        if merged is known:
            return "known"
        self.scans = (*self.scans[:place], merged, *self.scans[place + 1 :])
        self.changed = True
        if is_same_eta(known, merged):
            return "known"  # the same was said once more
        self.heard_at = now
        return "eta"


@dataclass(slots=True)
class Parcel:
    """The shop's shipment as it last stated it. `stated` orders the statements: (time, rank, event id)."""

    shipment_id: str
    body: OrderShipped
    stated: tuple[datetime, int, str]
    shipped_at: datetime | None = None  # of the order.shipped fact itself
    withdrawn: bool = False
    state: str = "unknown"  # what its scans add up to, for those who count parcels
    former: tuple[str, ...] = ()  # refs of numbers that it had, for whoever must forget them
    is_new: bool = True
    changed: bool = False

    @property
    def number_ref(self) -> str | None:
        """The name of its number, None while it has none."""
        return number_ref(self.body.tracking_number)

    def restate(self, body: OrderShipped, stated: tuple[datetime, int, str]) -> None:
        """Take in one of the shop's statements: the latest counts, whichever came last."""
        before, other = self.number_ref, number_ref(body.tracking_number)
        if stated > self.stated:
            self.body, self.stated = body, stated
            before, other = other, before
        if other and other != before and other not in self.former:
            self.former = (*self.former, other)[-FORMER_MAX:]
        self.changed = True

    @property
    def refs(self) -> tuple[str, ...]:
        """Under which refs scans of this parcel stand; those of a number it had before do not count."""
        return stated_refs(self.shipment_id, self.body.tracking_number)


@dataclass(slots=True)
class Order:
    """One order with its parcels and their tracks, locked together.

    `told` is what was published already, so that the same news is told once: each module of this
    package owns one key of it. `n` counts everything that was told.
    """

    shop: str
    order_id: str
    known_since: datetime  # the database's time of the first transaction about it
    facts: tuple[Fact, ...] = ()
    about: About | None = None
    revision: datetime | None = None
    parcels: dict[str, Parcel] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)  # by ref, of all its parcels
    told: dict[str, Any] = field(default_factory=dict)
    check_at: datetime | None = None  # when a rule may have something to say without further news
    open: tuple[str, ...] = ()  # `cause/carrier` of its delays that are not over
    learn: bool = False  # its deliveries are not in the carriers' profiles yet
    erased_at: datetime | None = None
    is_new: bool = True
    changed: bool = False  # what is noted of it: `told`, `check_at`, `open`, `learn`

    def zone(self, shop: ZoneInfo) -> ZoneInfo:
        """Return the clock by which its customer's days are counted; `shop` is the shop's own."""
        return customer_zone(self.about.country if self.about else None, shop)

    def settle(self, shipment_id: str) -> None:
        """Let the shop's last word about a parcel say whether it exists."""
        parcel = self.parcels.get(shipment_id)
        if parcel is None:
            return
        parcel.changed = True
        parcel.withdrawn = any(
            one.type == ShipmentWithdrawn.type
            and one.get("subject") == shipment_id
            and (one.at, one.rank, one.id) > parcel.stated
            for one in self.facts
        )

    def forget(self, at: datetime) -> None:
        """Keep nothing but later facts, and the count of what was told, so that no event's id is used again."""
        self.erased_at = at
        self.facts = tuple(fact for fact in self.facts if fact.at >= at)
        self.about = self.revision = None
        self.parcels, self.tracks = {}, {}
        self.told = {"n": self.told.get("n", 0)}
        self.learn = False

    def scans(self, parcel: Parcel) -> tuple[Fact, ...]:
        """Return what was said about a parcel under all its refs, in order of happening."""
        said = [
            self._about_this(ref)
            for ref in parcel.refs
            if ref in self.tracks and self.tracks[ref].scans
        ]
        if len(said) == 1:
            return said[0]
        merged: dict[str, Fact] = {}
        for scan in chain.from_iterable(said):
            known = merged.get(scan.id)
            merged[scan.id] = merge_scans(known, scan) if known else scan
        return facts.add((), merged.values())

    def _about_this(self, ref: str) -> tuple[Fact, ...]:
        """Return what was said under a ref and names no other order: shipments may share an id."""
        scans = self.tracks[ref].scans
        if not is_own(ref):
            return scans
        return tuple(one for one in scans if one.get("order") in {None, self.order_id})


@dataclass(frozen=True, slots=True)
class News:
    """Something to publish: `at` is the time of the fact that caused it."""

    data: EventData
    at: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """What one delivery of a carrier or aggregator said; `ignored` is the reason when that is nothing."""

    topic: str
    delivery_id: str | None
    scans: tuple[ScanReported, ...]
    ignored: str | None = None
