"""What is told of an order's parcels, once: new states, deliveries, and that the last one arrived.

Everything is the difference between what the facts add up to and `order.told`, so a fact that comes
late, twice or out of order is told once, and what was overtaken before it could be told never is.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, cast
from zoneinfo import ZoneInfo

from shared.calendars import WorkingDays, day_expected
from shared.events import (
    Eta,
    OrderDelivered,
    ParcelDelivered,
    ParcelDeliveryRevoked,
    ShipmentState,
    ShipmentStatusChanged,
    parse_instant,
    place_of_order,
    rfc3339,
)
from tracking.domain.fold import Shipment
from tracking.domain.model import News, Order
from tracking.domain.orders import OrderState
from tracking.domain.situation import Situation

LAST_PARCEL_DAYS: Final = 5
"""Working days after a delivery without a new parcel until it counts as the last one."""

_DAY: Final = timedelta(days=1)
_QUARTER: Final = timedelta(minutes=15)
_NEXT: Final = timedelta(microseconds=1)
_DATED: Final = "handed_over"

_SILENT: Final[Mapping[str, Any]] = {"state": "unknown", "action": False}
"""What is noted of a parcel of which nothing was ever told."""

How = Literal["hand", "neighbour", "locker", "safe_place", "signed", "assumed"]


@dataclass(frozen=True, slots=True)
class _Delivery:
    at: datetime
    day: bool
    how: How | None


def tell(here: Situation) -> list[News]:
    """Return what is new about the parcels, and note it in `order.told`.

    States come first, then deliveries, then that the order is delivered. A cancelled order has states
    only, an erased one is not spoken of.
    """
    order, state = here.order, here.state
    if state.erased:
        return []
    there = _there(here)
    told: dict[str, dict[str, Any]] = order.told.get("parcels", {})
    states, handed_over = [], []
    for shipment_id, shipment in there.items():
        known = told.get(shipment_id, _SILENT)
        entry = _entry(shipment, here.order.zone(here.shop.zone))
        if entry != {name: known.get(name) for name in entry}:
            states.append(_status(here, shipment, known, entry))
        if state.cancelled or _sent_back(state, shipment):
            entry |= {name: known[name] for name in ("delivered", "how") if name in known}
        else:
            delivery = _arrived(here, shipment)
            handed_over += _handed_over(here, shipment, known, delivery)
            entry |= {"delivered": rfc3339(delivery.at), "how": delivery.how} if delivery else {}
        entry = {name: value for name, value in entry.items() if value is not None}
        if entry != known:
            order.told["parcels"] = told = {**told, shipment_id: entry}
            order.changed = True
    return [*states, *handed_over, *_order_delivered(here, there)]


def check(here: Situation) -> datetime | None:
    """Return the next moment (clock time) at which `tell` may have something to say by itself."""
    if here.state.erased or here.state.cancelled:
        return None
    there = _there(here)
    moments = [_assumed_at(here, shipment) for shipment in there.values()]
    if "delivered" not in here.order.told:
        moments.append(_complete_at(here, there, _deliveries(here, there)))
    return min((moment for moment in moments if moment and moment > here.now), default=None)


def promise_kept(state: OrderState, shipment: Shipment, zone: ZoneInfo) -> bool | None:
    """Tell whether a delivered parcel came by the last promised day; None without promise or delivery."""
    if state.promise is None or shipment.delivered_at is None:
        return None
    at = shipment.delivered_at
    day = day_expected(at, zone) if shipment.delivered_day else at.astimezone(zone).date()
    return day <= state.promise.to


def _there(here: Situation) -> dict[str, Shipment]:
    return {id_: one for id_, one in sorted(here.shipments.items()) if not one.parcel.withdrawn}


def _entry(shipment: Shipment, zone: ZoneInfo) -> dict[str, Any]:
    """Return that of a parcel whose change is news; a further attempt is, in the same words."""
    attempted = shipment.state == "delivery_attempted"
    return {
        "state": shipment.state,
        "reason": shipment.reason,
        "action": shipment.action_required,
        "eta": _window(shipment.eta, zone) if shipment.eta else None,
        "attempts": shipment.attempts if attempted else None,
    }


def _window(eta: Eta, zone: ZoneInfo) -> str | None:
    """Return the days of an ETA, with the window where it lies in one day: to a quarter of an hour."""
    first, last = eta.from_ or eta.to, eta.to or eta.from_
    if first is None or last is None:
        return None
    begins, ends = first.astimezone(zone), last.astimezone(zone)
    if begins == ends or begins.date() != ends.date():
        return f"{begins.date()}/{ends.date()}"
    return f"{begins.date()} {_quarter(begins)}-{_quarter(ends)}"


def _quarter(local: datetime) -> str:
    since_midnight = timedelta(hours=local.hour, minutes=local.minute, seconds=local.second)
    return str((since_midnight + _QUARTER / 2) // _QUARTER)


def _status(
    here: Situation, shipment: Shipment, known: Mapping[str, Any], entry: Mapping[str, Any]
) -> News:
    previous: ShipmentState = known.get("state", "unknown")
    same = previous == shipment.state and known.get("attempts") == entry["attempts"]
    agreed = (shipment.as_of or shipment.since) if same else shipment.since
    only_eta = all(entry[name] == known.get(name) for name in entry if name != "eta")
    at = shipment.eta_said_at if only_eta and shipment.eta_said_at else agreed
    body = shipment.parcel.body
    data = ShipmentStatusChanged(
        order_id=here.order.order_id,
        shipment_id=shipment.parcel.shipment_id,
        carrier=body.carrier,
        tracking_number=body.tracking_number,
        tracking_url=body.tracking_url,
        state=shipment.state,
        previous=previous,
        reason=shipment.reason,
        action_required=shipment.action_required,
        eta=shipment.eta,
        place=shipment.place,
        at=at,
        precision="day" if shipment.since_day and at == shipment.since else "second",
        detected_at=here.now,
    )
    return News(data, at)


def _arrived(here: Situation, shipment: Shipment) -> _Delivery | None:
    """Return the delivery of a parcel, seen or assumed; None while it has not arrived."""
    if shipment.delivered_at is not None:
        return _Delivery(
            shipment.delivered_at, shipment.delivered_day, cast("How | None", shipment.how)
        )
    assumed = _assumed_at(here, shipment)
    return _Delivery(assumed, day=False, how="assumed") if assumed and assumed <= here.now else None


def _assumed_at(here: Situation, shipment: Shipment) -> datetime | None:
    """Return when a parcel of which no carrier ever spoke counts as delivered, where the shop wants that."""
    shop, pace = here.shop, here.pace
    if shop.assume_delivered_days is None or shipment.state != "unknown":
        return None
    left = shipment.parcel.shipped_at or shipment.parcel.stated[0]
    if shop.live_from is not None and left < shop.live_from:
        return None  # nobody knows any more what became of what was sent before
    return pace.clock(pace.calendar(left) + shop.assume_delivered_days * _DAY)


def _handed_over(
    here: Situation, shipment: Shipment, known: Mapping[str, Any], delivery: _Delivery | None
) -> list[News]:
    """Return that a delivery was revoked, that there is one, or both: it was revoked and came again.

    Who hears it folds by time, but a slower source may show that an earlier delivery stood, or that it did
    not: so each such word is dated after the one before it, whatever the scans' own times.
    """
    told_at = parse_instant(known["delivered"]) if "delivered" in known else None
    assumed, news = known.get("how") == "assumed", []
    if told_at and _is_over(shipment, delivery, told_at, assumed=assumed):
        news.append(_revoked(here, shipment))
    if delivery and (_is_new(delivery, told_at, assumed=assumed) or news):
        news.append(_delivered(here, shipment, delivery))
    return [_in_turn(here.order, shipment.parcel.shipment_id, one) for one in news]


def _in_turn(order: Order, shipment_id: str, one: News) -> News:
    """Date a word about a delivery after the last one, and note it."""
    dated: dict[str, str] = order.told.get(_DATED, {})
    last = parse_instant(dated[shipment_id]) if shipment_id in dated else None
    at = max(one.at, last + _NEXT) if last else one.at
    order.told[_DATED] = {**dated, shipment_id: rfc3339(at)}
    return News(one.data, at)


def _sent_back(state: OrderState, shipment: Shipment) -> bool:
    """Tell whether it turned back because the customer returns it: it had been delivered all the same."""
    return state.return_requested_at is not None and shipment.state in {"returning", "returned"}


def _is_over(
    shipment: Shipment, delivery: _Delivery | None, told_at: datetime, *, assumed: bool
) -> bool:
    if delivery is None:
        return True
    revoked = shipment.revoked_at
    return not assumed and revoked is not None and told_at < revoked < delivery.at


def _is_new(delivery: _Delivery, told_at: datetime | None, *, assumed: bool) -> bool:
    return told_at is None or (assumed and delivery.how != "assumed")


def _revoked(here: Situation, shipment: Shipment) -> News:
    at = shipment.revoked_at or shipment.since
    data = ParcelDeliveryRevoked(
        order_id=here.order.order_id,
        shipment_id=shipment.parcel.shipment_id,
        reason=shipment.revoked_reason,
        at=at,
        detected_at=here.now,
    )
    return News(data, at)


def _delivered(here: Situation, shipment: Shipment, delivery: _Delivery) -> News:
    body = shipment.parcel.body
    data = ParcelDelivered(
        order_id=here.order.order_id,
        shipment_id=shipment.parcel.shipment_id,
        delivered_at=delivery.at,
        precision="day" if delivery.day else "second",
        how=delivery.how,
        carrier=body.carrier,
        tracking_number=body.tracking_number,
        detected_at=here.now,
    )
    return News(data, delivery.at)


def _deliveries(here: Situation, there: Mapping[str, Shipment]) -> dict[str, _Delivery]:
    found = {id_: _arrived(here, one) for id_, one in there.items()}
    return {id_: delivery for id_, delivery in found.items() if delivery}


def _order_delivered(here: Situation, there: Mapping[str, Shipment]) -> list[News]:
    order = here.order
    if "delivered" in order.told or here.state.cancelled:
        return []
    deliveries = _deliveries(here, there)
    complete = _complete_at(here, there, deliveries)
    if complete is None or complete > here.now:
        return []
    last = max(deliveries.values(), key=lambda one: one.at)
    order.told["delivered"] = rfc3339(last.at)
    order.changed = True
    assumed = any(one.how == "assumed" for one in deliveries.values())
    data = OrderDelivered(
        order_id=order.order_id,
        delivered_at=last.at,
        precision="day" if last.day else "second",
        how="assumed" if assumed else "scanned",
        shipment_ids=tuple(deliveries)[:200],
        detected_at=here.now,
    )
    return [News(data, last.at)]


def _complete_at(
    here: Situation, there: Mapping[str, Shipment], deliveries: Mapping[str, _Delivery]
) -> datetime | None:
    """Return from when on the deliveries are all that come; None while something else must happen first."""
    if not deliveries:
        return None
    last = max(delivery.at for delivery in deliveries.values())
    if _covers(here.state, there, deliveries):
        return last
    if not all(one.terminal or id_ in deliveries for id_, one in there.items()):
        return None
    if any(one.parcel.body.final == "yes" for one in there.values()) and _all_known(here.order):
        return last
    newest = max(there.values(), key=lambda one: one.parcel.stated)
    if newest.parcel.body.final == "no":
        return None
    days, zone = _working_days(here, newest.parcel.body.carrier), here.order.zone(here.shop.zone)
    local = here.pace.calendar(last).astimezone(zone)
    # a delivery on a Saturday waits as many whole working days as one on the Friday before
    day = days.forward(local.date() + _DAY, LAST_PARCEL_DAYS - 1)
    due = datetime.combine(day, local.time(), zone)
    return here.pace.clock(due.astimezone(UTC))


def _covers(state: OrderState, there: Mapping[str, Shipment], delivered: Container[str]) -> bool:
    """Tell whether delivered quantities cover what was ordered and neither cancelled nor refunded.

    A platform that does not know which box holds what states the whole fulfilment for each of its
    boxes (`/1`, `/2`, sent together): it counts once, and only when all of them are there.
    """
    if not state.open:
        return False
    stated = _quantities(there.values())
    repeated = any(stated[line_id] > quantity for line_id, quantity in state.open.items())
    boxes: dict[object, list[str]] = {}
    for id_, shipment in there.items():
        base, _, n = id_.rpartition("/")
        parcel = shipment.parcel
        one = (base, parcel.shipped_at, parcel.body.items) if repeated and n.isdecimal() else id_
        boxes.setdefault(one, []).append(id_)
    whole = [there[ids[0]] for ids in boxes.values() if all(id_ in delivered for id_ in ids)]
    arrived = _quantities(whole)
    return all(arrived[line_id] >= quantity for line_id, quantity in state.open.items())


def _quantities(shipments: Iterable[Shipment]) -> defaultdict[str, Decimal]:
    found: defaultdict[str, Decimal] = defaultdict(Decimal)
    for shipment in shipments:
        for item in shipment.parcel.body.items or ():
            found[item.line_id] += Decimal(item.quantity)
    return found


def _all_known(order: Order) -> bool:
    """Tell whether as many parcels are known as the shop counts ("2 of 3"): events overtake one another."""
    totals = (place_of_order(one.body.number_of_order)[1] for one in order.parcels.values())
    return len(order.parcels) >= max(totals, default=0)


def _working_days(here: Situation, carrier: str | None) -> WorkingDays:
    """Return the carrier's calendar, else that by which the order's promise was counted."""
    about, shop = here.order.about, here.shop
    country = about.country if about else None
    promise = shop.promise(about.method, country) if about else None
    name = shop.delays.of(carrier).calendar or (promise.calendar if promise else "default")
    return shop.calendar(name).working_days(country)
