"""Who gets a message, by whose clock, whether the shop lets it leave, how long it is worth it. Pure rules."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

from notifier.domain import Role
from shared.calendars import customer_zone
from shared.shops import Shop

_DAY: Final = timedelta(hours=24)
LIVES: Final[dict[str, timedelta]] = {
    "order_confirmed": _DAY,
    "order_delayed": _DAY,
    "order_shipped": timedelta(hours=72),
    "out_for_delivery": _DAY,  # and only until the evening of the day it speaks of
    "shipment_delayed": _DAY,
    "delay_update": _DAY,
    "delay_over": _DAY,
    "delivered": timedelta(days=7),
}
"""How long a message of a kind is worth sending, counted from the fact's own time."""

EVENING: Final = time(21)
"""When "today" is over: a parcel that was to come today is not announced any more."""
_TO_RECEIVER: Final = frozenset({"order_shipped", "out_for_delivery", "delivered"})


def zone_for(shop: Shop, order: Mapping[str, Any]) -> ZoneInfo:
    """Return the customer's clock, the same as on her page and for the alarms."""
    return customer_zone((order.get("ship_to") or {}).get("country"), shop.zone)


def role_of(kind: str, order: Mapping[str, Any]) -> Role:
    """Return who gets a kind: the receiver what concerns the delivery, the buyer everything else.

    A receiver whose address we do not know, or who is the buyer, is none.
    """
    address = (order.get("recipient") or {}).get("email")
    other = address and address != (order.get("customer") or {}).get("email")
    return "recipient" if other and kind in _TO_RECEIVER else "buyer"


def reader(order: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    """Return the person behind a role, as the order names her; the buyer where there is no receiver."""
    recipient = order.get("recipient") or {}
    if role == "recipient" and recipient.get("email"):
        return cast(Mapping[str, Any], recipient)
    return order.get("customer") or {}


def admit(shop: Shop, kind: str, contact: str | None) -> str | None:
    """Return why this shop or this contact does not get a message of a kind, None when it does."""
    if kind in shop.kinds_off:
        return "kind_off"
    if contact is None:
        return "no_contact"
    if shop.mode == "shadow":
        return "shadow"
    return None if shop.may_reach(contact) else "not_on_allowlist"


def is_history(shop: Shop, at: datetime) -> bool:
    """Tell whether a fact is older than the shop's `live_from`: it updates state, nothing else."""
    return shop.live_from is not None and at < shop.live_from


def expires_at(kind: str, at: datetime, zone: tzinfo = UTC, *, evening: bool = True) -> datetime:
    """Return when a message is old news: its life runs from the fact, not from our hearing of it.

    What is to come today is old in the `evening` (where a day lasts a day).
    """
    ends = at + LIVES[kind]
    if kind == "out_for_delivery" and evening:
        ends = min(ends, datetime.combine(at.astimezone(zone).date(), EVENING, zone))
    return ends


def message_id(key: str, sender: str, secret: bytes) -> str:
    """Return the Message-ID of a message, in the sender's domain, telling nothing about the order.

    Made once, with the row: keys rotate and senders change, a message's name does not.
    """
    digest = hashlib.blake2b(key.encode(), key=secret[:64], digest_size=20).hexdigest()
    return f"<{digest}@{sender.rpartition('@')[2]}>"
