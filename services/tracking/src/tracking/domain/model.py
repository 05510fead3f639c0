"""What tracking knows: orders, the parcels a shop states, and what carriers say under a number."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field

from shared import errors, facts
from shared.events import (
    MAX_ITEMS,
    Eta,
    EventData,
    OrderPlaced,
    OrderShipped,
    Promise,
    ScanReported,
    ShipmentWithdrawn,
    event_id,
    rfc3339,
)
from shared.events.orders import Value
from shared.events.values import Country, Instant, Line, Locale, Quantity, Ref, ShortLine, Url
from shared.facts import Fact

SCAN: Final = ScanReported.type
FUTURE_MAX: Final = timedelta(minutes=10)
Unusable = errors.Unusable


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
    )


@lru_cache(8192)  # it is asked several times for each scan
def number_ref(tracking_number: str | None) -> str | None:
    """Return the name under which scans of a tracking number meet, however it is spelt; None for none."""
    return "".join(c for c in tracking_number or "" if c.isalnum()).upper() or None


def shipment_ref(shipment_id: str) -> str:
    """Return the name under which scans meet that name the shop's shipment, not a number."""
    return f"#{shipment_id}"


def stated_refs(shipment_id: str, tracking_number: str | None) -> tuple[str, ...]:
    """Return under which refs scans of a parcel stand."""
    own, number = shipment_ref(shipment_id), number_ref(tracking_number)
    return (number, own) if number else (own,)


def scan_ref(data: ScanReported) -> str:
    """Return under which name this scan is kept: its number, else the shipment that it names."""
    return number_ref(data.tracking_number) or shipment_ref(str(data.shipment_id))


def scan_id(shop: str, data: ScanReported) -> UUID:
    """Return a scan's id, made of what it says: told again, by whichever way, it is the same scan."""
    eta = data.eta or Eta()
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
        eta.from_ and eta.from_.isoformat(),
        eta.to and eta.to.isoformat(),
    )
    return event_id(shop, "scan", *("" if one is None else str(one) for one in said))


def clamp(at: datetime, now: datetime) -> datetime:
    """Take a time more than ten minutes in the future for a wrong clock: it becomes now."""
    return now if at > now + FUTURE_MAX else at


def scan_fact(data: ScanReported, said: object, now: datetime) -> Fact:
    """Make the fact that a scan received now is.

    `eta_from`, `eta_to`, `received` and, where its own time lies in the future, `raw_at` are RFC 3339
    texts.
    """
    eta = data.eta
    at = clamp(data.occurred_at, now)
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
        source=data.source,
        raw=data.raw_status,
        received=rfc3339(now),
        raw_at=rfc3339(data.occurred_at) if at is not data.occurred_at else None,
    )


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

    def add(self, scan: Fact, now: datetime) -> bool:
        """Take one scan in; False when it is known already."""
        if any(known.id == scan.id for known in self.scans):
            return False
        self.scans = facts.add(self.scans, (scan,))
        self.heard_at = now
        self.changed = True
        return True


@dataclass(slots=True)
class Parcel:
    """The shop's shipment as it last stated it. `stated` orders the statements: (time, rank, event id)."""

    shipment_id: str
    body: OrderShipped
    stated: tuple[datetime, int, str]
    shipped_at: datetime | None = None  # of the order.shipped fact itself
    withdrawn: bool = False
    state: str = "unknown"  # what its scans add up to, for those who count parcels
    is_new: bool = True
    changed: bool = False

    @property
    def number_ref(self) -> str | None:
        """The name of its number, None while it has none."""
        return number_ref(self.body.tracking_number)

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

    def scans(self, parcel: Parcel) -> tuple[Fact, ...]:
        """Return what was said about a parcel under all its refs, in order of happening."""
        said = [self.tracks[ref].scans for ref in parcel.refs if ref in self.tracks]
        if len(said) == 1:
            return said[0]
        return facts.add((), (scan for track in said for scan in track))


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
