"""What a delivery said, and what that makes of an order: pure rules, no I/O."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import orjson

from shared.calendars import WorkingDays
from shared.events import (
    EventData,
    OrderDelayed,
    OrderPlaced,
    OrderShipped,
    OrderUpdated,
    Promise,
    ScanReported,
    ShipmentUpdated,
    ShipmentWithdrawn,
    email_hash,
    parse_instant,
    rfc3339,
)
from shared.facts import Fact
from shared.shops import Shop

FUTURE_MAX: Final = timedelta(minutes=10)
WITHDRAWN: Final = "withdrawn"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the order looks now. The first placed one becomes order.placed, a changed one order.updated.

    `placed` is False for an unpaid basket or a draft: nothing is told yet. `history` says why an
    order is only history (a test order, cancelled already, no contact): state only, never a message.
    """

    data: OrderPlaced
    placed: bool
    history: str | None = None


@dataclass(frozen=True, slots=True)
class Shipment:
    """One parcel: new → order.shipped, changed → shipment.updated, withdrawn → shipment.withdrawn."""

    data: OrderShipped
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Once:
    """Any other order event, told once per type and subject (refund id, return id, …)."""

    data: EventData
    at: datetime
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """A carrier scan that came through the shop platform; passed on to tracking."""

    data: ScanReported


@dataclass(frozen=True, slots=True)
class Erase:
    """A privacy request: these orders, all orders of this address, or the whole shop."""

    order_ids: tuple[str, ...]
    email: str | None
    whole_shop: bool = False
    email_hash: str | None = None


Statement = Snapshot | Shipment | Once | Scan | Erase


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one webhook delivery said; `ignored` is the reason when there is nothing to do."""

    topic: str
    delivery_id: str | None
    order_id: str | None
    statements: tuple[Statement, ...]
    ignored: str | None = None


# ---------------------------------------------------------------- what an order has been told


@dataclass(slots=True)
class Order:
    """One order's row: its facts, how it looks now, and what was told of it already.

    `told` maps a subject ("placed", "shipment:255/1", "order.refunded.v1:88") to what was last said about
    it (a parcel's body, else a fingerprint), so that the same news told five times is one event.
    """

    shop: str
    order_id: str
    facts: tuple[Fact, ...] = ()
    snapshot: bytes | None = None  # JSON as it travels
    revision: datetime | None = None
    email_hash: str | None = None
    told: dict[str, str] = field(default_factory=dict)
    history: str | None = None
    erased_at: datetime | None = None
    changed: bool = False
    is_new: bool = True
    _kept: OrderPlaced | None = None

    @property
    def looks(self) -> dict[str, Any]:
        """The snapshot's fields; none while there is no snapshot."""
        found: dict[str, Any] = orjson.loads(self.snapshot) if self.snapshot else {}
        return found

    def keep(self, data: OrderPlaced, revision: datetime, body: bytes | None = None) -> None:
        """Let the order look like this from now on; `body` is `data` as JSON where that was made already."""
        address = data.customer.email
        self.snapshot = body or data.model_dump_json().encode()
        self.revision = revision
        self.email_hash = email_hash(address) if address else None
        self._kept = data

    def body_of(self, data: EventData) -> bytes | None:
        """Return the JSON of a body that `keep` encoded, so that nobody has to do it again."""
        return self.snapshot if data is self._kept else None

    def forget(self, now: datetime) -> None:
        """Drop what is personal."""
        self.snapshot = self.email_hash = self._kept = None
        self.told, self.erased_at, self.changed = {}, now, True


def fingerprint(data: EventData, body: bytes | None = None) -> str:
    """Hash what a body says; its revision is left out, because a platform re-dates unchanged orders."""
    if getattr(data, "revision", None) is not None:
        data, body = data.model_copy(update={"revision": None}), None
    return hashlib.sha256(body or data.model_dump_json().encode()).hexdigest()[:32]


def clamp(at: datetime, now: datetime) -> datetime:
    """Take a time more than ten minutes in the future for a wrong clock: it becomes now."""
    return now if at > now + FUTURE_MAX else at


def overstated(said: datetime | None, now: datetime) -> str | None:
    """Return, as it was said, a time that `clamp` changes: an order's facts keep it."""
    return rfc3339(said) if said is not None and said > now + FUTURE_MAX else None


def _is_stale(order: Order, revision: datetime) -> bool:
    """Tell whether a snapshot is older than the one we have."""
    return order.revision is not None and revision < order.revision


def decide(
    order: Order, statement: Snapshot | Shipment | Once, shop: Shop, now: datetime
) -> list[tuple[EventData, datetime]]:
    """Return the events that this statement makes of the order, and note on it that they were told."""
    match statement:
        case Snapshot():
            return _snapshot(order, statement, shop, now)
        case Shipment(data=data):
            return _shipment(order, data, now, withdrawn=statement.withdrawn)
        case Once(data=data):
            subject = f"{data.type}:{statement.subject}"
            if subject in order.told:
                return []
            _note(order, subject, fingerprint(data))
            return [(data, clamp(_at_of(order, statement, shop), now))]


def _at_of(order: Order, statement: Once, shop: Shop) -> datetime:
    """Return when it happened; platforms that date it by the last change cannot be believed on imports.

    An order that we hear of for the first time and that is older than the shop's `live_from` brings its
    whole past along: it is dated with the order, so that it updates state and tells nobody.
    """
    placed = order.looks.get("placed_at") if order.is_new else None
    if placed and shop.live_from and parse_instant(placed) < shop.live_from:
        return min(statement.at, parse_instant(placed))
    return statement.at


def _snapshot(
    order: Order, statement: Snapshot, shop: Shop, now: datetime
) -> list[tuple[EventData, datetime]]:
    data = statement.data
    revision = clamp(data.revision or now, now)
    if _is_stale(order, revision):
        return []
    print_ = fingerprint(data)
    if order.told.get("placed") == print_:
        return []
    data = with_promise(order, data, shop, now)
    first = "placed" not in order.told
    if data.revision is not None:  # a wrong clock must not outdate everything that follows
        data = data.model_copy(update={"revision": revision})
    order.keep(data, revision)
    order.history = statement.history if first else None
    order.changed = True
    if first and (statement.history or not statement.placed):
        return []
    order.told["placed"] = print_
    if first:
        return [(data, clamp(data.placed_at, now))]
    return [(_as(OrderUpdated, data), revision)]


def _shipment(
    order: Order, data: OrderShipped, now: datetime, *, withdrawn: bool
) -> list[tuple[EventData, datetime]]:
    """Tell a parcel's news. What a delivery leaves open never overwrites what another one said."""
    subject = f"shipment:{data.shipment_id}"
    known = order.told.get(subject)
    if withdrawn:
        if known in {None, WITHDRAWN}:
            return []
        _note(order, subject, WITHDRAWN)
        gone = ShipmentWithdrawn(order_id=data.order_id, shipment_id=data.shipment_id, at=now)
        return [(gone, now)]
    if known is not None and known != WITHDRAWN:
        data = _filled(data, OrderShipped.model_validate_json(known))
    if known == (said := data.model_dump_json()):
        return []
    _note(order, subject, said)
    if known is None:
        return [(data, clamp(data.happened_at or now, now))]
    return [(_as(ShipmentUpdated, data), now)]


def _filled(data: OrderShipped, known: OrderShipped) -> OrderShipped:
    """Fill what this delivery leaves open with what is known of the parcel."""
    open_fields = {name for name, value in data if value is None}
    if data.final == "unknown":
        open_fields.add("final")
    return data.model_copy(update={name: getattr(known, name) for name in open_fields})


def _note(order: Order, subject: str, said: str) -> None:
    order.told[subject] = said
    order.changed = True


def _as(kind: type[EventData], data: EventData) -> EventData:
    """Give the same body another type's name."""
    return kind.model_construct(data.model_fields_set, **dict(data))


def record(
    order: Order,
    data: EventData,
    time: datetime,
    shop: Shop,
    now: datetime,
    body: bytes | None = None,
) -> tuple[EventData, datetime]:
    """Take an event exactly as a shop states it over the API or the bus; `told` learns of it.

    `time` is the envelope's: what the body says of when it happened goes before it. `body` is `data`
    as JSON where that was made already.
    """
    at = clamp(data.happened_at or time, now)
    order.changed = True
    if isinstance(data, OrderPlaced):  # OrderUpdated has the same body
        if data.type == OrderPlaced.type:
            order.told.setdefault("placed", fingerprint(data, body))
        stated = data
        if data.revision is not None and clamp(data.revision, now) != data.revision:
            data = data.model_copy(update={"revision": now})
        data = with_promise(order, data, shop, now)
        if not _is_stale(order, data.revision or at):
            order.keep(data, data.revision or at, body if data is stated else None)
    elif isinstance(data, OrderDelayed) and data.promise and order.snapshot:
        moved = {"promise": data.promise.model_dump(mode="json")}
        order.snapshot = orjson.dumps(order.looks | moved)
    elif isinstance(data, OrderShipped):
        order.told[f"shipment:{data.shipment_id}"] = _as(OrderShipped, data).model_dump_json()
    return data, at


# ---------------------------------------------------------------- the promise


def with_promise(order: Order, data: OrderPlaced, shop: Shop, now: datetime) -> OrderPlaced:
    """Fill in the promised days, once: the shop's own statement, else the one known, else computed."""
    if data.promise is not None:
        return data
    if known := order.looks.get("promise"):
        promise: Promise | None = Promise.model_validate(known)
    else:  # days counted from a wrong clock would stand in the mail
        promise = promised_days(data, shop, clamp(data.placed_at, now))
    return data.model_copy(update={"promise": promise}) if promise else data


def promised_days(
    data: OrderPlaced, shop: Shop, placed_at: datetime | None = None
) -> Promise | None:
    """Compute the promised days from shipping method, destination, cut-off hour and calendars.

    `placed_at` goes before the order's own. None when the shop promises nothing for that method and
    country.
    """
    country = data.ship_to.country if data.ship_to else None
    stated = shop.promise(data.shipping_method, country)
    if stated is None:
        return None
    calendar = shop.calendar(stated.calendar)
    placed = (placed_at or data.placed_at).astimezone(shop.zone)
    late = calendar.cut_off is not None and placed.time() >= calendar.cut_off
    return _span(
        placed.date() + timedelta(days=1 if late else 0),
        (calendar.handling_days, *stated.days),
        calendar.working_days(country),
    )


@lru_cache(4096)  # the orders of a day have few destinations and methods
def _span(day: date, counts: tuple[int, int, int], working: WorkingDays) -> Promise:
    """Return the promise of an order of this day: `counts` are working days until it leaves, under way."""
    handling, *under_way = counts
    leaves = working.forward(working.forward(day), handling)
    first, last = (working.forward(leaves, days) for days in under_way)
    return Promise.model_validate({"from": first, "to": last, "source": "method"})


# ---------------------------------------------------------------- the fold


def fold(facts: Sequence[Fact]) -> dict[str, Any]:
    """Return the order's state: the same for any order and any duplication of its facts."""
    state: dict[str, Any] = {
        "stage": "unknown",
        "cancelled": False,
        "shipments": {},
        "refunds": 0,
        "returns": {},
    }
    for fact in facts:
        _apply(state, fact)
    return state


def _apply(state: dict[str, Any], fact: Fact) -> None:
    subject = fact.get("subject")
    match fact.type:
        case "order.placed.v1":
            state["stage"] = "placed" if state["stage"] == "unknown" else state["stage"]
        case "order.preparing.v1":
            state["stage"] = (
                "preparing" if state["stage"] in {"unknown", "placed"} else state["stage"]
            )
        case "order.shipped.v1" | "shipment.updated.v1":
            state["stage"] = "shipped"
            state["shipments"][subject] = "shipped"
        case "shipment.withdrawn.v1":
            state["shipments"][subject] = "withdrawn"
        case "order.cancelled.v1":
            partly = fact.get("partial") and state["cancelled"] is not True
            state["cancelled"] = "partly" if partly else True
        case "order.refunded.v1":
            state["refunds"] += 1
        case "order.return_requested.v1" | "order.return_received.v1":
            state["returns"][subject] = fact.type.split(".")[1]
        case _:
            pass
