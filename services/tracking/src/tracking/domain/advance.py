"""One step of an order: what its facts, its scans and the passing of time add up to, and what is news."""

from datetime import datetime, timedelta
from typing import Final

from shared.events import (
    OrderDelivered,
    ParcelDelivered,
    ParcelDeliveryRevoked,
    ShipmentStatusChanged,
)
from shared.shops import Shop
from tracking.domain import episodes, lessons, news
from tracking.domain.fold import Shipment, fold
from tracking.domain.model import News, Order
from tracking.domain.orders import OrderState, fold_order
from tracking.domain.pace import Pace
from tracking.domain.situation import Profiles, Situation

SOONEST: Final = timedelta(minutes=15)
"""A check whose time has passed and that said nothing is asked again after so much calendar time."""

_STEPS: Final = {
    ShipmentStatusChanged.type: 0,
    ParcelDelivered.type: 2,
    ParcelDeliveryRevoked.type: 2,
    OrderDelivered.type: 3,
}


def advance(
    order: Order,
    shop: Shop,
    now: datetime,
    pace: Pace,
    profiles: Profiles,
    *,
    only_heard: bool = False,
) -> list[News]:
    """Return what is to be told of an order now, in the order of publishing; note that it is told.

    `profiles` are the shop's, by carrier. Sets `check_at` to the next moment at which something may have
    to be told without further news. Of an order that is not placed yet, or forgotten, nothing is told.

    `only_heard`: nothing but scans came since the last step. One that is no news makes nothing urgent that
    was not, so a check that was set before it stays, and looks again.
    """
    state, shipments = look(order)
    if order.about is None:
        order.changed = order.check_at is not None
        order.check_at, order.open, order.learn = None, (), False
        return []
    order.changed = False
    here = Situation(order, state, shipments, shop, now, pace, profiles)
    told = news.tell(here) + episodes.tell(here)
    told.sort(key=lambda one: _STEPS.get(one.data.type, 1))
    if told:
        order.told["n"] = order.told.get("n", 0) + len(told)
    elif only_heard and not order.changed and order.check_at and order.check_at > now:
        return told
    checks = (news.check(here), episodes.check(here))
    check_at = min((at for at in checks if at is not None), default=None)
    due = check_at is not None and check_at <= now
    order.check_at = pace.clock(here.calendar + SOONEST) if due else check_at
    if due or any(one.state == "delivered" for one in shipments.values()):
        order.learn = lessons.concluded(here)
    order.open = tuple(f"{one.cause}/{one.carrier or ''}" for one in episodes.open_(order))
    order.changed = True
    return told


def look(order: Order) -> tuple[OrderState, dict[str, Shipment]]:
    """Return the state of an order and of its parcels; note the latter for those who count parcels."""
    shipments = {}
    for shipment_id, parcel in order.parcels.items():
        shipments[shipment_id] = shipment = fold(parcel, order.scans(parcel))
        if parcel.state != shipment.state:
            parcel.state, parcel.changed = shipment.state, True
    return fold_order(order), shipments
