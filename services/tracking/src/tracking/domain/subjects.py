"""What of an order is watched, by which day each is due, and why the rest is not watched.

A subject is a parcel, or (`ORDER`) what was not sent yet. It is due on the last promised day. Without
a promise a parcel is due when nearly all parcels of its carrier have long arrived: that day is only
looked at by the rules and never told to anybody.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

from shared.events import DateRange
from shared.shops import Shop
from tracking.domain.delays import History, Rules, eta_day, rules_for
from tracking.domain.fold import Shipment
from tracking.domain.habits import Habits
from tracking.domain.lessons import (
    ALL,
    carrier_key,
    carrier_of,
    fact_at,
    is_done,
    is_untracked,
    sent_at,
    updated_at,
    view_of,
)
from tracking.domain.profile import Profile
from tracking.domain.situation import Profiles, Situation

ORDER: Final = ""  # the subject that is what was not sent yet
FIRST_ETAS: Final = "first_etas"

_EMPTY: Final = Profile()
_NEARLY_ALL: Final = 0.97
_SPARE_DAYS: Final = 2  # what is slower than usual is no delay where no day was promised
_QUIET_DAYS: Final = 3  # working days after its newest scan before which such a parcel is not due
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Subject:
    """One parcel, or (`name` is `ORDER`) what is not sent yet. `promise` is what its customer was promised."""

    name: str
    history: History
    rules: Rules
    habits: Habits
    promise: DateRange | None
    fact_at: datetime
    scanned: bool = True  # False: nobody will ever scan it, so only a word given is kept

    @property
    def base(self) -> str:
        """The promise that what is told of it counts from; "" for none."""
        return base_of(self.promise)


def base_of(promise: DateRange | None) -> str:
    """Return under which name it is noted what promise a notice counts from."""
    return promise.to.isoformat() if promise else ""


def subjects(here: Situation) -> Iterator[Subject]:
    """Yield what is watched."""
    order, state, shop, profiles = here.order, here.state, here.shop, here.profiles
    about = order.about
    if about is None or is_done(state):
        return
    known_since = here.pace.calendar(max(order.known_since, about.placed_at))
    if state.promise is not None and _why_not_order(here) is None:
        rules = rules_for(shop, None, about.country)
        history = History(known_since, state.promise.to)
        habits = _habits(profiles, ALL)  # which carrier it will go with is not known
        yield Subject(ORDER, history, rules, habits, state.promise, about.placed_at)
    for shipment in here.shipments.values():
        why_not = _why_not_parcel(shipment, shop)
        if why_not not in {None, "no_number"}:
            continue
        carrier = carrier_of(order, shipment.parcel)
        rules = rules_for(shop, carrier, about.country)
        habits = _habits(profiles, carrier_key(carrier) if carrier else ALL)
        history = _history(here, shipment, rules, habits, known_since)
        yield Subject(
            shipment.parcel.shipment_id, history, rules, habits, state.promise,
            fact_at(shipment), scanned=why_not is None,
        )  # fmt: skip


def unwatched(here: Situation) -> Iterator[tuple[str, str]]:
    """Yield of what is not watched its name and why: a word for operators."""
    order, state = here.order, here.state
    if order.about is None or is_done(state):
        done = "cancelled" if state.cancelled else "nothing_open"
        yield ORDER, "not_placed" if order.about is None else done
        return
    why_not = _why_not_order(here)
    if why_not not in {None, "sent"}:
        yield ORDER, str(why_not)
    for shipment in here.shipments.values():
        if (why_not := _why_not_parcel(shipment, here.shop)) is not None:
            yield shipment.parcel.shipment_id, why_not


def is_unsent(here: Situation) -> bool:
    """Tell whether nothing was sent yet, or a rest that is known not to be in any parcel."""
    live = [one.parcel.body for one in here.shipments.values() if not one.parcel.withdrawn]
    if not live:
        return True
    if any(body.final == "yes" or body.items is None for body in live):
        return False
    sent: dict[str, Decimal] = {}
    for body in live:
        for item in body.items or ():
            sent[item.line_id] = sent.get(item.line_id, Decimal()) + Decimal(item.quantity)
    return any(left > sent.get(line_id, Decimal()) for line_id, left in here.state.open.items())


def is_over(shipment: Shipment) -> bool:
    """Tell whether nothing more is to be said of a parcel; one that is only given up is not over."""
    return shipment.parcel.withdrawn or (shipment.terminal and shipment.state != "expired")


def _why_not_order(here: Situation) -> str | None:
    about = here.order.about
    if about is None:
        return "not_placed"
    if not is_unsent(here):
        return "sent"
    if here.state.promise is None:
        return "no_promise"
    if about.payment == "awaiting":
        return "not_paid"
    return None if _is_live(here.shop, about.placed_at) else "history"


def _why_not_parcel(shipment: Shipment, shop: Shop) -> str | None:
    if is_over(shipment):
        return "withdrawn" if shipment.parcel.withdrawn else shipment.state
    if not _is_live(shop, fact_at(shipment)):
        return "history"
    return "no_number" if is_untracked(shipment) else None


def _is_live(shop: Shop, at: datetime) -> bool:
    return shop.live_from is None or at >= shop.live_from


def _habits(profiles: Profiles, carrier: str) -> Habits:
    """Return what is known of a carrier; the same object while the profiles are the same, for its cache."""
    return _pair(profiles.get(carrier, _EMPTY), profiles.get(ALL, _EMPTY))


@lru_cache(256)
def _pair(own: Profile, pool: Profile) -> Habits:
    return Habits(own, pool)


def _history(
    here: Situation,
    shipment: Shipment,
    rules: Rules,
    habits: Habits,
    known_since: datetime,
) -> History:
    parcel, promise, pace = shipment.parcel, here.state.promise, here.pace
    sent = pace.calendar(sent_at(parcel))
    if parcel.body.precision == "day":  # its midnight is no hour: it left some time that day
        day = sent if sent.time() == time() else rules.route.local(sent)
        sent = rules.route.at(day.date() + _DAY, 0)
    known_at = max(pace.calendar(sent_at(parcel)), known_since)
    view = None
    if shipment.scans:
        received = pace.calendar(max(updated_at(scan) for scan in shipment.scans))
        known_at = max(known_at, received)
        view = view_of(shipment, received, pace)
    first_eta = None
    if promise is None:
        noted = here.order.told.get(FIRST_ETAS, {}).get(parcel.shipment_id)
        first_eta = date.fromisoformat(noted) if noted else None
        due = _due(sent, view.heard_at if view else None, first_eta, rules, habits)
    else:
        due = promise.to
    return History(
        known_at=known_at,
        promise=due,
        shipped_at=sent,
        view=view,
        reason=shipment.reason,
        eta=_eta(shipment, rules),
        eta_since=pace.calendar(shipment.eta_said_at) if shipment.eta_said_at else None,
        first_eta=first_eta,
        implied=promise is None,
    )


def _due(
    sent: datetime,
    heard_at: datetime | None,
    first_eta: date | None,
    rules: Rules,
    habits: Habits,
) -> date:
    """Return the day by which a parcel without a promise should have come."""
    route = rules.route
    days = habits.under_way(_NEARLY_ALL, route) + _SPARE_DAYS
    due = route.delivery.forward(route.local(sent).date() + _DAY, days - 1)
    if heard_at is not None:
        heard = route.local(heard_at).date()
        due = max(due, route.working.forward(heard + _DAY, _QUIET_DAYS - 1))
    return max(due, first_eta) if first_eta else due


def _eta(shipment: Shipment, rules: Rules) -> date | None:
    """Return the carrier's date, unless what went wrong since has made it worthless."""
    said_at, trouble = shipment.eta_said_at, shipment.state in {"delayed", "exception"}
    if shipment.eta is None or (trouble and said_at is not None and said_at < shipment.since):
        return None
    return eta_day(shipment.eta, rules.route)
