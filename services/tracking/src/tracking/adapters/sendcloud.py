"""Sendcloud's parcel_status_changed webhooks.

Signature (sendcloud.dev, "Webhooks overview"): header `Sendcloud-Signature`, the hex HMAC-SHA256 of the
raw body under the integration's secret or webhook signature key. Nothing signed is checked for its age,
so a repeated delivery is told by parcel, status and time. Words: the numbers of `GET parcels/statuses`,
never their texts, which are translated. The parcel carries no scans, only how it is now.
"""

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any, Final

from shared.errors import Unusable
from shared.events import ScanReported
from shared.reading import Json, decimal, ident, instant, midnight, obj, parse, slug, text, word
from shared.shops import Shop
from tracking.adapters import reading, signing
from tracking.adapters.reading import Meaning, Moment, Status, Told, moment
from tracking.domain.model import Report

SOURCE: Final = "sendcloud"

_LABEL: Final = Meaning("label_created")
_MOVING: Final = Meaning("in_transit")
# A cancellation that was only asked for changes nothing of the parcel (1999, 2001): see ASKED.
STATUSES: Final = {
    0: _LABEL,
    1: _LABEL,
    3: _MOVING,
    4: Meaning("delayed"),
    5: _MOVING,
    6: _MOVING,
    7: _MOVING,
    8: Meaning("delivery_attempted"),
    11: Meaning("delivered"),
    12: Meaning("ready_for_pickup"),
    13: _LABEL,
    15: Meaning("exception", "retailer_not_ready"),
    22: _MOVING,
    80: Meaning("exception"),
    91: _MOVING,
    92: Meaning("out_for_delivery"),
    93: Meaning("delivered", "hand"),
    999: _LABEL,
    1000: _LABEL,
    1001: _LABEL,
    1002: Meaning("exception", "retailer_incorrect_data"),
    1337: reading.UNKNOWN,
    1998: Meaning("cancelled"),
    2000: Meaning("cancelled"),
    62989: _MOVING,
    62990: _MOVING,
    62991: Meaning("exception", "consignee_refused"),
    62992: Meaning("returned"),
    62993: _MOVING,
    62994: Meaning("delayed"),
    62995: _MOVING,
    62996: Meaning("exception"),
    62997: Meaning("exception", "consignee_incorrect_address", action=True),
}
ASKED: Final = frozenset({1999, 2001})


verify: Final = signing.by_header("sendcloud-signature", signing.hex_matches)


def read(body: bytes, _headers: Mapping[str, str], shop: Shop) -> Report:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    value = obj(parse(body))
    topic = word(value.get("action"))
    if topic and topic != "parcel_status_changed":
        return reading.ignored(topic, None, "not about a parcel's course")
    parcel = obj(value.get("parcel"))
    number = decimal(obj(parcel.get("status")).get("id"))
    if number is None or number != int(number):
        raise Unusable("parcel.status.id: missing")
    status = int(number)
    parcel_id, stamp = ident(parcel.get("id")), ident(value.get("timestamp"))
    delivery_id = f"{parcel_id}:{status}:{stamp}" if parcel_id and stamp else None
    if status in ASKED:
        return reading.ignored(topic, delivery_id, "a cancellation is only asked for")
    if parcel.get("is_return") is True:
        return reading.ignored(topic, delivery_id, "a return, not a parcel to the customer")
    when = _when(value, parcel, shop.zone)
    return reading.report(topic or "parcel", delivery_id, _scans(parcel, status, when))


def _scans(parcel: Json, status: int, when: Moment | None) -> tuple[ScanReported, ...]:
    number = reading.number(parcel.get("tracking_number"))
    told = Told(
        SOURCE,
        number,
        slug(obj(parcel.get("carrier")).get("code")) or slug(parcel.get("carrier")),
        # Beside Sendcloud's own name of a parcel only the shop's own id of its order: what is printed on
        # it may be another one, and such a scan would find no parcel.
        reading.order_id(parcel.get("external_order_id"), number and parcel.get("order_number")),
        # Before the carrier gave it a number a parcel has Sendcloud's own name only.
        None if number else ident(parcel.get("id")),
    )
    if told.number is None and told.shipment_id is None:
        raise Unusable("parcel.tracking_number: missing")
    date = parcel.get("expected_delivery_date")
    raw = (status, text(obj(parcel.get("status")).get("message")))
    means = reading.meaning(STATUSES.get(status))
    return reading.history(told, (), Status(means, raw, when, reading.expected(date, date)))


def _when(value: Json, parcel: Json, zone: tzinfo) -> Moment | None:
    """When the carrier said so, else when Sendcloud sent this, counted since 1970; else a local date."""
    stamps = ("carrier_status_change_timestamp", "timestamp")
    times = [moment(value.get(key), zone) for key in stamps]
    times += [_local(parcel.get(key), zone) for key in ("date_updated", "date_created")]
    return next((found for found in times if found), None)


def _local(value: Any, zone: tzinfo) -> Moment | None:
    """Read `DD-MM-YYYY HH:MM:SS` of an unnamed zone: a date."""
    written = value.strip() if isinstance(value, str) else ""
    day = f"{written[6:10]}-{written[3:5]}-{written[:2]}"
    start = midnight(day, zone) if instant(f"{day} {written[11:19]}", zone) else None
    return Moment(start, day=True) if start else moment(value, zone)
