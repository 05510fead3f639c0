"""Parcels of a WooCommerce order, as tracking plugins leave them in its metadata.

Read are Shipment Tracking and Advanced Shipment Tracking (`_wc_shipment_tracking_items`), AfterShip
(`_aftership_tracking_items` and its older single keys) and YITH (`ywot_*`). A status alone ships
nothing: "completed" is pressed for downloads, for pick-ups and at the end of a day, and the customer
would get a dispatch message without anything to follow. Only a plugin's own "shipped" is the shop's
word for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Final

from order_events.adapters import reading
from order_events.domain import Shipment
from shared.events import ItemQuantity, OrderShipped, url_or_none
from shared.reading import (
    Json,
    build,
    ident,
    instant,
    midnight,
    obj,
    rows,
    slug,
    text,
    unix_time,
    word,
)

_COMPLETE: Final = frozenset({"completed", "shipped", "delivered"})
_PART: Final = frozenset({"partial-shipped"})
_SECONDS_PER_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class _Tracking:
    id: str
    number: str | None
    carrier: str | None = None
    url: str | None = None
    shipped_at: datetime | None = None
    day_only: bool = False
    items: tuple[ItemQuantity, ...] | None = None


def meta_of(fields: Json) -> Mapping[str, Any]:
    """The metadata by key; of a repeated key the last one counts, as in WordPress."""
    entries = rows(fields.get("meta_data"))
    return {
        entry["key"]: entry.get("value") for entry in entries if isinstance(entry.get("key"), str)
    }


def parcels_of(order: Json, order_id: str, status: str, zone: tzinfo) -> list[Shipment]:
    """The parcels that a whole order notes, numbered once the shop says that it is complete."""
    found = _unique(_noted(meta_of(order), zone))
    if not found and status == "shipped":
        found = [_Tracking(order_id, None)]
    total = len(found) if status in _COMPLETE else None
    return [
        _shipment(tracking, order_id, place, total, last=False if status in _PART else None)
        for place, tracking in enumerate(found, 1)
    ]


def trackings_of(listed: Sequence[Json], order_id: str, zone: tzinfo) -> list[Shipment]:
    """The parcels of the Shipment Tracking plugin's own list."""
    found = _unique(_shipment_tracking(listed, zone))
    return [_shipment(tracking, order_id, 1, None, last=None) for tracking in found]


def _shipment(
    tracking: _Tracking, order_id: str, place: int, total: int | None, *, last: bool | None
) -> Shipment:
    last = place == total if total else last
    data = build(
        OrderShipped,
        order_id=order_id,
        shipment_id=f"{tracking.id}/1",
        number_of_order=f"{place} of {total}" if total else None,
        carrier=tracking.carrier,
        tracking_number=tracking.number,
        tracking_url=tracking.url,
        items=tracking.items,
        final="unknown" if last is None else "yes" if last else "no",
        shipped_at=tracking.shipped_at,
        precision="day" if tracking.day_only else "second",
    )
    return Shipment(data)


def _unique(trackings: Iterable[_Tracking]) -> list[_Tracking]:
    """Two plugins may note the same parcel: the first one speaks."""
    found: dict[str, _Tracking] = {}
    for tracking in trackings:
        found.setdefault(_bare(tracking.number or "") or tracking.id, tracking)
    return list(found.values())


def _bare(number: str) -> str:
    return "".join(letter for letter in number if letter.isalnum() and letter.isascii()).upper()


def _noted(meta: Mapping[str, Any], zone: tzinfo) -> Iterable[_Tracking]:
    yield from _shipment_tracking(rows(meta.get("_wc_shipment_tracking_items")), zone)
    yield from _aftership(meta, zone)
    yield from _yith(meta, zone)


def _id_of(tracking_id: Any, number: str) -> str:
    return ident(tracking_id) or _bare(number) or "parcel"


def _number(value: Any) -> str | None:
    return text(value, ident(value), max_chars=100)


def _shipment_tracking(listed: Sequence[Json], zone: tzinfo) -> Iterable[_Tracking]:
    for row in listed:
        number = _number(row.get("tracking_number"))
        if number is None:
            continue
        shipped_at, day_only = _shipped_at(row.get("date_shipped"), zone)
        names = (row.get("tracking_provider"), row.get("custom_tracking_provider"))
        links = (row.get(f"{kind}tracking_link") for kind in ("custom_", "formatted_", ""))
        products = ((ident(p.get("item_id")), p.get("qty")) for p in rows(row.get("products_list")))
        yield _Tracking(
            id=_id_of(row.get("tracking_id"), number),
            number=number,
            carrier=slug(text(*names, row.get("formatted_tracking_provider"))),
            url=next((url for link in links if (url := url_or_none(link))), None),
            shipped_at=shipped_at,
            day_only=day_only,
            items=reading.item_quantities(products),
        )


def _aftership(meta: Mapping[str, Any], zone: tzinfo) -> Iterable[_Tracking]:
    for row in rows(meta.get("_aftership_tracking_items")):
        number = _number(row.get("tracking_number"))
        if number is None:
            continue
        stated = obj(row.get("metrics")).get("created_at")
        lines = (
            (ident(line.get("id")), line.get("quantity")) for line in rows(row.get("line_items"))
        )
        yield _Tracking(
            id=_id_of(row.get("tracking_id"), number),
            number=number,
            carrier=slug(row.get("slug")),
            shipped_at=unix_time(stated) or instant(stated, zone),
            items=reading.item_quantities(lines),
        )
    if number := _number(meta.get("_aftership_tracking_number")):
        names = ("_aftership_tracking_provider", "_aftership_tracking_provider_name")
        carrier = slug(text(*(meta.get(name) for name in names)))
        yield _Tracking(id=_id_of(None, number), number=number, carrier=carrier)


def _yith(meta: Mapping[str, Any], zone: tzinfo) -> Iterable[_Tracking]:
    number = _number(meta.get("ywot_tracking_code"))
    # The box "picked up by the carrier" may still be empty while the number is typed in.
    picked_up = meta.get("ywot_picked_up", "on")
    if number is None or not picked_up or word(picked_up) in {"no", "off", "0"}:
        return
    shipped_at, day_only = _shipped_at(meta.get("ywot_pick_up_date"), zone)
    carrier = slug(text(meta.get("ywot_carrier_name"), meta.get("ywot_carrier_id")))
    yield _Tracking(_id_of(None, number), number, carrier, None, shipped_at, day_only)


def _shipped_at(value: Any, zone: tzinfo) -> tuple[datetime | None, bool]:
    """When a parcel left, and whether only its day is known: a date, or a Unix time at midnight."""
    if day := midnight(value, zone):
        return day, True
    if moment := unix_time(value):
        return moment, moment.timestamp() % _SECONDS_PER_DAY == 0
    return instant(value, zone), False
