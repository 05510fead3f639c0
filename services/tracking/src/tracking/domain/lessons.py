"""What parcels teach: which of them have come to an end, and their stories for the profiles of carriers."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Final

from shared.events import Eta, parse_instant
from shared.facts import Fact
from tracking.domain.delays import Rules, eta_day, rules_for
from tracking.domain.fold import Shipment, fold
from tracking.domain.model import Order, Parcel
from tracking.domain.orders import OrderState
from tracking.domain.pace import Pace
from tracking.domain.profile import Story
from tracking.domain.situation import Situation
from tracking.domain.standing import DONE, Route, View, grid

_BETWEEN_WORDS: Final = re.compile(r"[\s_-]+")
ALL: Final = "*"  # the profile of all carriers of a shop together
_LEARNED: Final = "learned"
_INSTANT: Final = timedelta(microseconds=1)
_CONCLUDED_DAYS: Final = 8
"""Working days without a word after the promise: it will not be heard of again."""


def concluded(here: Situation) -> bool:
    """Tell whether a parcel was delivered, or has been silent so long, that profiles can learn from it."""
    calendar = here.calendar
    return any(at is None or at <= calendar for _, _, at in _to_learn(here))


def next_lesson(here: Situation) -> datetime | None:
    """Return the calendar time from which on a parcel that goes on being silent teaches; None for none."""
    return min((at for _, _, at in _to_learn(here) if at is not None), default=None)


def stories(here: Situation) -> list[tuple[str, Story]]:
    """Return by profile (a carrier, and `ALL`) what is to be learned of this order now, each parcel once.

    A parcel teaches when it is delivered, or when nothing was heard for long after its promise; that it did
    is noted in `order.told`.
    """
    found = []
    order, calendar = here.order, here.calendar
    for carrier, shipment, at in list(_to_learn(here)):
        if at is not None and at > calendar:
            continue
        order.told[_LEARNED] = [*order.told.get(_LEARNED, ()), shipment.parcel.shipment_id]
        order.changed = True
        if (story := _story(here, shipment)) is not None:
            found += [(carrier, story), (ALL, story)]
    return found


def is_done(state: OrderState) -> bool:
    return state.cancelled or state.erased or state.nothing_open


def is_untracked(shipment: Shipment) -> bool:
    """Tell whether nobody can ever scan it: it has no number, and nothing was said of it."""
    return not shipment.scans and not shipment.parcel.body.tracking_number


def carrier_of(order: Order, parcel: Parcel) -> str | None:
    """Return the carrier's name: as the shop states it, else as it was scanned."""
    if parcel.body.carrier:
        return parcel.body.carrier
    return next((order.tracks[ref].carrier for ref in parcel.refs if ref in order.tracks), None)


def carrier_key(carrier: str) -> str:
    """Return the name of a carrier's profile: its name however it is spelt."""
    return "-".join(_BETWEEN_WORDS.split(carrier.casefold())).strip("-")


def sent_at(parcel: Parcel) -> datetime:
    return parcel.shipped_at or parcel.body.shipped_at or parcel.stated[0]


def fact_at(shipment: Shipment) -> datetime:
    """Return the time of the newest that is known about a parcel."""
    sent = sent_at(shipment.parcel)
    return max(shipment.heard_at, sent) if shipment.heard_at else sent


def received_at(scan: Fact) -> datetime:
    said = scan.get("received")
    return datetime.fromisoformat(said) if isinstance(said, str) else scan.at


def updated_at(scan: Fact) -> datetime:
    """Return when we last heard of a scan: it came in, or another expected time on it."""
    eta = scan.get("eta_received")
    received = received_at(scan)
    return max(received, parse_instant(eta)) if eta else received


def view_of(shipment: Shipment, known_at: datetime, pace: Pace) -> View:
    heard = shipment.heard_at
    return View(
        known_at,
        shipment.state,
        pace.calendar(shipment.since),
        pace.calendar(heard) if heard else None,
    )


def _to_learn(here: Situation) -> Iterator[tuple[str, Shipment, datetime | None]]:
    """Yield parcels not learned yet: carrier, parcel, and from when (calendar; None: now)."""
    order, state = here.order, here.state
    learned = order.told.get(_LEARNED, ())
    if order.about is None or is_done(state):
        return
    for shipment in here.shipments.values():
        parcel = shipment.parcel
        if parcel.shipment_id in learned or parcel.withdrawn or is_untracked(shipment):
            continue
        if shipment.state in {"returning", "returned", "cancelled"}:
            continue
        carrier = carrier_of(order, parcel)
        if not carrier:
            continue
        key = carrier_key(carrier)
        if shipment.state == "delivered":
            yield key, shipment, None
            continue
        route = rules_for(here.shop, carrier, order.about.country).route
        heard = route.local(here.pace.calendar(fact_at(shipment))).date()
        if state.promise is not None:
            day = route.working.forward(max(heard, state.promise.to), _CONCLUDED_DAYS)
        else:
            day = route.working.forward(heard, 2 * _CONCLUDED_DAYS)
        yield key, shipment, route.at(day, 10)


def _story(here: Situation, shipment: Shipment) -> Story | None:
    about, pace = here.order.about, here.pace
    if about is None:
        return None
    parcel, promise = shipment.parcel, here.state.promise
    rules = rules_for(here.shop, carrier_of(here.order, parcel), about.country)
    delivered = pace.calendar(shipment.delivered_at) if shipment.delivered_at else None
    return Story(
        placed_at=pace.calendar(about.placed_at),
        shipped_at=pace.calendar(sent_at(parcel)),
        promise=promise.to if promise else None,
        route=rules.route,
        views=_views(shipment, delivered, rules.route, pace),
        delivered_at=delivered,
        toured=any(scan.get("state") == "out_for_delivery" for scan in shipment.scans),
        late_eta=promise is not None and _had_late_eta(shipment.scans, promise.to, rules),
    )


def _views(
    shipment: Shipment, delivered_at: datetime | None, route: Route, pace: Pace
) -> Sequence[View]:
    """Return what was known of a parcel at the moments that profiles ask about, and at last.

    What came in between two of them is one piece of news: so there are few, however many scans it has. The
    last before its end stands for itself.
    """
    heard = [(pace.calendar(received_at(scan)), scan) for scan in shipment.scans]
    ends = [at for at, scan in heard if scan.get("state") in DONE]
    moments = (
        [at for _, at in grid(route.local(delivered_at).date(), route)] if delivered_at else []
    )
    if ends:
        moments = sorted([*moments, min(ends) - _INSTANT])
    newest: dict[int, datetime] = {}
    for at, _ in heard:
        between = bisect_left(moments, at)
        newest[between] = max(at, newest.get(between, at))
    found = []
    for known_at in sorted(newest.values()):
        known = fold(shipment.parcel, [scan for at, scan in heard if at <= known_at])
        found.append(view_of(known, known_at, pace))
    return found


def _had_late_eta(scans: Sequence[Fact], promise: date, rules: Rules) -> bool:
    for scan in scans:
        said = scan.get("eta_to") or scan.get("eta_from")
        if isinstance(said, str):
            day = eta_day(Eta.model_construct(from_=None, to=parse_instant(said)), rules.route)
            if day is not None and day > promise:
                return True
    return False
