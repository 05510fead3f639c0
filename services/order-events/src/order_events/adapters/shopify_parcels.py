"""Shopify's fulfilments as parcels, and its fulfilment events as carrier scans.

A fulfilment is one handing over of some lines. It may carry several tracking numbers, so each parcel
is `fulfilment id/n`, n from 1 in the order of the numbers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

from order_events.adapters import reading
from order_events.domain import Scan, Shipment, Statement
from shared.errors import Unusable
from shared.events import (
    Eta,
    ItemQuantity,
    OrderShipped,
    ScanReported,
    ShipmentState,
    url_or_none,
)
from shared.reading import Json, build, ident, instant, rows, slug, text, word

_GID: Final = re.compile(r"gid://shopify/([A-Za-z]+)/(\d{1,30})", re.ASCII)

# pending and open are older words for "handed to the fulfilment service"; with a tracking number the
# parcel exists, without one nothing has left yet.
_LEAVING: Final = frozenset({"pending", "open"})
_GONE: Final = frozenset({"cancelled", "error", "failure"})
_KNOWN: Final = frozenset({"success"}) | _LEAVING | _GONE

_STATES: Final[dict[str, ShipmentState]] = {
    "label_purchased": "label_created",
    "label_printed": "label_created",
    "confirmed": "label_created",
    "carrier_picked_up": "in_transit",
    "in_transit": "in_transit",
    "out_for_delivery": "out_for_delivery",
    "ready_for_pickup": "ready_for_pickup",
    "ready_for_recipient_pickup": "ready_for_pickup",
    "attempted_delivery": "delivery_attempted",
    "delayed": "delayed",
    "failure": "exception",
    "buyer_action_required": "exception",
    "delivered": "delivered",
    "picked_up": "delivered",
    "returning_to_sender": "returning",
}
_PLACE_CHARS: Final = 80


def gid_number(fields: Json, kind: str) -> str | None:
    """The exact id from `admin_graphql_api_id`.

    Ids of 18 digits lose their last ones in any tool that reads JSON numbers as doubles; the gid is
    text and survives.
    """
    gid = fields.get("admin_graphql_api_id")
    found = _GID.fullmatch(gid) if isinstance(gid, str) else None
    return found[2] if found and found[1] == kind and found[2] != "0" else None


@dataclass(frozen=True, slots=True)
class _Fulfilment:
    """One fulfilment as read: what all of its parcels share."""

    id: str
    status: str
    at: datetime
    updated_at: datetime
    carrier: str | None
    numbers: tuple[str | None, ...]
    urls: tuple[str | None, ...]
    items: tuple[ItemQuantity, ...] | None
    scanned: str

    @property
    def gone(self) -> bool:
        return self.status in _GONE

    def shipment_id(self, n: int) -> str:
        return f"{self.id}/{n}"


def fulfilment_statements(fulfilment: Json, order_id: str, zone: tzinfo) -> list[Statement]:
    """What one fulfilment says by itself: its parcels, and its last scan where it names one.

    Empty when nothing travels. How many parcels the order has is not known from here.
    """
    found = _read(fulfilment, zone)
    return [*_shipments(found, order_id), *_scans(found, order_id)] if found else []


def fulfilments_of(order: Json, order_id: str, zone: tzinfo) -> list[Statement]:
    """The parcels of a whole order, oldest first; numbered once the shop says that it is complete."""
    found = [f for row in rows(order.get("fulfillments")) if (f := _read(row, zone))]
    found.sort(key=lambda f: (f.at, len(f.id), f.id))
    complete = word(order.get("fulfillment_status")) == "fulfilled"
    total = sum(len(f.numbers) for f in found if not f.gone) if complete else None
    statements: list[Statement] = []
    before = 0
    for fulfilment in found:
        statements += _shipments(fulfilment, order_id, before, total)
        statements += _scans(fulfilment, order_id)
        before += 0 if fulfilment.gone else len(fulfilment.numbers)
    return statements


def _read(fulfilment: Json, zone: tzinfo) -> _Fulfilment | None:
    """One fulfilment, or None when nothing of it travels (yet)."""
    fulfilment_id = gid_number(fulfilment, "Fulfillment") or ident(fulfilment.get("id"))
    at = instant(fulfilment.get("created_at"), zone)
    status = word(fulfilment.get("status"))
    if fulfilment_id is None or at is None:
        raise Unusable("the fulfilment has no id or no readable time")
    if status not in _KNOWN:
        raise Unusable("the fulfilment's status is not known")
    numbers = _numbers(fulfilment)
    lines = rows(fulfilment.get("line_items"))
    digital = bool(lines) and all(line.get("requires_shipping") is False for line in lines)
    if not numbers and (digital or status in _LEAVING):
        return None
    quantities = ((_line_id(line), line.get("quantity")) for line in lines)
    return _Fulfilment(
        id=fulfilment_id,
        status=status,
        at=at,
        updated_at=instant(fulfilment.get("updated_at"), zone) or at,
        carrier=slug(fulfilment.get("tracking_company")),
        numbers=numbers or (None,),
        urls=_urls(fulfilment),
        # Which line lies in which of several parcels is not said.
        items=reading.item_quantities(quantities) if len(numbers) < 2 else None,  # noqa: PLR2004 - one or none
        scanned=word(fulfilment.get("shipment_status")),
    )


def _line_id(line: Json) -> str | None:
    return gid_number(line, "LineItem") or ident(line.get("id"))


def _numbers(fulfilment: Json) -> tuple[str, ...]:
    listed = fulfilment.get("tracking_numbers")
    values: Sequence[object] = listed if isinstance(listed, list) and listed else ()
    values = values or [fulfilment.get("tracking_number")]
    written = (str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values)
    return tuple(dict.fromkeys(n for v in written if (n := text(v, max_chars=100))))


def _urls(fulfilment: Json) -> tuple[str | None, ...]:
    listed = fulfilment.get("tracking_urls")
    values: Sequence[object] = listed if isinstance(listed, list) and listed else ()
    return tuple(url_or_none(value) for value in values or [fulfilment.get("tracking_url")])


def _shipments(
    found: _Fulfilment, order_id: str, before: int = 0, total: int | None = None
) -> list[Shipment]:
    shipments = []
    for n, number in enumerate(found.numbers, 1):
        place = before + n
        counted = total is not None and not found.gone
        data = build(
            OrderShipped,
            order_id=order_id,
            shipment_id=found.shipment_id(n),
            number_of_order=f"{place} of {total}" if counted else None,
            carrier=found.carrier,
            tracking_number=number,
            tracking_url=found.urls[n - 1] if n <= len(found.urls) else None,
            items=found.items,
            final=("yes" if place == total else "no") if counted else "unknown",
            shipped_at=found.at,
        )
        shipments.append(Shipment(data, withdrawn=found.gone))
    return shipments


def _scans(found: _Fulfilment, order_id: str) -> list[Scan]:
    # The word belongs to the fulfilment: with several parcels it is not known which one it means.
    if not found.scanned or found.gone or len(found.numbers) > 1:
        return []
    data = build(
        ScanReported,
        order_id=order_id,
        shipment_id=found.shipment_id(1),
        carrier=found.carrier,
        tracking_number=found.numbers[0],
        state=_STATES.get(found.scanned, "unknown"),
        action_required=found.scanned == "buyer_action_required",
        occurred_at=found.updated_at,
        source="shopify",
        raw_status=found.scanned,
    )
    return [Scan(data)]


def scan_statements(event: Json, zone: tzinfo) -> list[Statement]:
    """A fulfilment event. It names no tracking number, so it is taken for the first parcel's."""
    fulfilment_id = ident(event.get("fulfillment_id"))
    status = word(event.get("status"))
    at = instant(event.get("happened_at"), zone) or instant(event.get("created_at"), zone)
    if fulfilment_id is None or at is None or not status:
        raise Unusable("the fulfilment event has no fulfilment id, status or readable time")
    expected = instant(event.get("estimated_delivery_at"), zone)
    where = (
        text(event.get(key), max_chars=_PLACE_CHARS) for key in ("city", "province", "country")
    )
    data = build(
        ScanReported,
        order_id=ident(event.get("order_id")),
        shipment_id=f"{fulfilment_id}/1",
        state=_STATES.get(status, "unknown"),
        action_required=status == "buyer_action_required",
        occurred_at=at,
        eta=Eta(from_=expected, to=expected) if expected else None,
        place=text(", ".join(part for part in where if part), max_chars=_PLACE_CHARS),
        source="shopify",
        raw_status=status,
    )
    return [Scan(data)]
