"""What a parcel looks like to its customer: when it comes, who brings it, what is in it, what went wrong.

An order's facts and what is known of its parcels become one plain dictionary (`news`), and that becomes
values for the templates, in words.
"""

from collections.abc import Mapping
from datetime import (
    UTC,
    date as Date,  # noqa: N812 - `date` is a value here
    datetime,
    timedelta,
)
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from notifier import domain, policy
from shared import facts
from shared.calendars import day_expected, zone_of
from shared.errors import GiveUp
from shared.events import place_of_order
from shared.languages import Language, local_day
from shared.languages.brand import carrier_name, clean, safe_url
from shared.languages.parcels import CAUSE, HANDED
from shared.shops import Shop

Values = dict[str, Any]

DELAYS: Final = frozenset({"shipment_delayed", "order_delayed", "delay_update", "delay_over"})
_WINDOW_MAX: Final = timedelta(hours=12)  # a longer one is a day, not a window

_FOLLOW, _CHOOSE = "Follow the parcel", "Wait, change or cancel"
_CHOOSE_LOST = "Choose what comes next"  # there is nothing to wait for
_BUTTONS: Final[Mapping[str, str]] = {
    "delivered": "Tell us what is wrong",
    **dict.fromkeys(("shipment_delayed", "order_delayed", "delay_update"), _CHOOSE),
}
# What this module itself puts into words; every catalogue must know them.
SENTENCES = ("Today", _FOLLOW, _CHOOSE_LOST, *_BUTTONS.values(), *CAUSE.values(), *HANDED.values())


def news(row: domain.Identity, known: str, parcels: str | None, zone: ZoneInfo) -> dict[str, Any]:
    """Return what a row tells, as `render` takes it, from the order's facts and parcels as stored.

    Raises `GiveUp` when the facts behind it are gone.
    """
    wanted = domain.find(domain.fold(facts.load(known), zone), row)
    if wanted is None or wanted.fact is None:
        raise GiveUp("the facts behind it are gone")
    fact, looks = wanted.fact, orjson.loads(parcels or "{}")
    several = len(wanted.parcels) > 1
    parcel = {} if several else looks.get(fact.get("subject") or "", {})
    handed = parcel.get("handed") or {}
    return {
        "at": fact.at.isoformat(),
        "day": fact.day,
        "old": wanted.old,
        "new": wanted.new,
        "cause": wanted.cause,
        "late_parcels": len(wanted.parcels),
        "next_contact_at": fact.get("next"),
        "how": fact.get("how"),
        "handed_to": handed.get("to") if handed.get("how") == fact.get("how") else None,
        "eta": parcel.get("eta"),
        "parcel": _merged(parcel),
        "alone": len(looks) <= 1,
    }


def _merged(parcel: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shop's statement; where it has none, what the carrier's news say."""
    carried, stated = parcel.get("carried") or {}, parcel.get("stated") or {}
    return carried | {name: value for name, value in stated.items() if value is not None}


def as_parcel(
    kind: str, order: Mapping[str, Any], told: Mapping[str, Any], shop: Shop
) -> dict[str, Any]:
    """Return the order as a message about one parcel sees it: its contents, its date, no price."""
    first, last = _expected(kind, order, told, policy.zone_for(shop, order))
    promise = {"from": first, "to": last} if last else None
    return {**order, "promise": promise, "items": _contents(order, told), "totals": {}}


def _contents(order: Mapping[str, Any], told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the lines in the parcel; none where nobody said what is in which."""
    parcel, items = told.get("parcel"), order.get("items") or ()
    if not parcel:
        return []
    stated = parcel.get("items")
    if stated is None:
        _, total = _counted(parcel)
        return list(items) if told.get("alone") and total <= 1 else []
    known = {item["line_id"]: item for item in items if "line_id" in item}
    return [
        {**known[part["line_id"]], "quantity": part["quantity"]}
        for part in stated
        if part["line_id"] in known
    ]


def _counted(parcel: Mapping[str, Any]) -> tuple[int, int]:
    """Return which parcel of how many it is; zeros where that says nothing."""
    number, total = place_of_order(parcel.get("number_of_order"))
    return (number, total) if total > 1 else (0, 0)


def _expected(
    kind: str, order: Mapping[str, Any], told: Mapping[str, Any], zone: ZoneInfo
) -> tuple[str | None, str | None]:
    """Return the first and last ISO day on which it should come; None where nobody knows."""
    eta, promise = told.get("eta") or {}, order.get("promise") or {}
    at = local_day(told["at"], zone) if told.get("at") else ""
    if kind == "out_for_delivery" and at:
        return at, at  # whatever was expected before
    if kind in DELAYS:
        first, _, last = (told.get("new") or "").partition("/")
    elif eta.get("to") or eta.get("from"):
        said = (eta.get("from") or eta["to"], eta.get("to") or eta["from"])
        first, last = (day_expected(_moment(one), zone).isoformat() for one in said)
    else:
        first, last = promise.get("from") or "", promise.get("to") or ""
        if (_last_day(told.get("new")) or "") > last:  # she was told so since
            first, _, last = told["new"].partition("/")
    if not last:
        return None, None
    first, last = local_day(first or last, zone), local_day(last, zone)
    return (first, last) if last >= at else (None, None)  # a date that has passed is no answer


def parcel_values(
    kind: str, order: Mapping[str, Any], told: Mapping[str, Any], language: Language, shop: Shop
) -> Values:
    """Return what the templates say about one parcel, beside `order_values` of `as_parcel`."""
    parcel, zone = told.get("parcel") or {}, policy.zone_for(shop, order)
    known = zone_of((order.get("ship_to") or {}).get("country")) is not None
    whose = "" if known else f" ({language.clock(zone)})"  # it may not be the customer's clock
    number, total = _counted(parcel)
    hours = _hours(told, zone, _expected(kind, order, told, zone)[1])
    hours += whose if hours else ""
    at, how = told.get("at"), told.get("how") or ""
    old, new = (_last_day(told.get(name)) for name in ("old", "new"))
    promised = (order.get("promise") or {}).get("to") or old
    first = min(old, promised) if old else ""  # a second notice too says how late it is in all
    late = (Date.fromisoformat(new) - Date.fromisoformat(first)).days if first and new else 0
    lost = told.get("cause") == "returning"
    time = "" if at is None or told.get("day") else _time(at, zone) + whose
    return {
        "parcel_number": number,
        "parcel_total": total,
        "more_follow": total > number or parcel.get("final") == "no",
        "carrier": carrier_name(parcel.get("carrier")),
        "tracking_number": clean(parcel.get("tracking_number")),
        "carrier_url": safe_url(parcel.get("tracking_url")),
        "hours": hours,
        "today": language.text("Today") + (f", {hours}" if hours else ""),
        "delivered_time": time,
        "delivered_when": ", ".join(
            part for part in (language.day(local_day(at, zone)) if at else "", time) if part
        ),
        "handed": language.text(HANDED[how]) if how in HANDED else "",
        "left_with": clean(told.get("handed_to")),
        "old_until": language.until(old) if old else "",
        "days_late": max(late, 0),
        "late_parcels": told.get("late_parcels") or 1,
        "cause": _cause(told.get("cause"), language),
        "lost": lost,
        "cash_due": _cash(order, told, language) if kind == "out_for_delivery" else "",
        "to_receiver": told.get("role") == "recipient",
        "button": language.text(_CHOOSE_LOST if lost else _BUTTONS.get(kind, _FOLLOW)),
    }


def return_by(told: Mapping[str, Any], order: Mapping[str, Any], shop: Shop) -> str | None:
    """Return the ISO day until which a delivered parcel can be returned."""
    days = shop.support.returns.days if shop.support.returns else None
    if not days or not told.get("at"):
        return None
    delivered = Date.fromisoformat(local_day(told["at"], policy.zone_for(shop, order)))
    return (delivered + timedelta(days=days)).isoformat()


def _last_day(days: str | None) -> str:
    return days.rpartition("/")[2] if days else ""


def _moment(written: str) -> datetime:
    at = datetime.fromisoformat(written)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _local(written: str, zone: ZoneInfo) -> datetime:
    return _moment(written).astimezone(zone)


def _time(moment: str, zone: ZoneInfo) -> str:
    return f"{_local(moment, zone):%H:%M}"


def _hours(told: Mapping[str, Any], zone: ZoneInfo, day: str | None) -> str:
    """Return the window in which the carrier expects to come on this day; nothing where it names none."""
    eta = told.get("eta") or {}
    if not eta.get("from") or not eta.get("to"):
        return ""
    first, last = _local(eta["from"], zone), _local(eta["to"], zone)
    if not (f"{first.date()}" == f"{last.date()}" == day):
        return ""
    if not timedelta() < last - first <= _WINDOW_MAX:
        return ""
    return f"{first:%H:%M}–{last:%H:%M}"


def _cause(cause: Any, language: Language) -> str:
    return language.text(CAUSE[cause]) if cause in CAUSE else ""


def _cash(order: Mapping[str, Any], told: Mapping[str, Any], language: Language) -> str:
    """Return what is paid at the door: only to the buyer, and only where one parcel is all of it."""
    totals, parcel = order.get("totals") or {}, told.get("parcel") or {}
    hidden = order.get("hide_prices") or told.get("role") == "recipient"
    whole = told.get("alone", True) and _counted(parcel) == (0, 0) and parcel.get("final") != "no"
    if order.get("payment") != "on_delivery" or hidden or not whole or not totals.get("total"):
        return ""
    return language.money(totals["total"], totals["currency"])
