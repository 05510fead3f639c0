"""Shippo's track_updated webhooks.

Signature (docs.goshippo.com, "Webhook security"): `Shippo-Auth-Signature: t=<unix>,v1=<hex>`,
HMAC-SHA256 of `<t>.<raw body>`, taken within five minutes of now. Shippo turns it on when asked by
e-mail; until then a shop states a secret `token:<at least 16 characters>` and gives Shippo the address
with `?token=<the same characters>`. A key never opens as a token, a token never signs.
Words: the Track object's status and substatus; `metadata` is where a shop puts the order's id.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Final

from shared.errors import Unusable
from shared.events import ScanReported
from shared.reading import Json, obj, parse, slug, text, word
from shared.shops import Shop
from tracking.adapters import reading, signing
from tracking.adapters.reading import Meaning, Status, Told, moment
from tracking.domain.model import Report

SOURCE: Final = "shippo"

STATUSES: Final = {
    "unknown": reading.UNKNOWN,
    "pre_transit": Meaning("label_created"),
    "transit": Meaning("in_transit"),
    "delivered": Meaning("delivered"),
    # Shippo says so both of a parcel on its way back and of one that is back.
    "returned": Meaning("returning"),
    "failure": Meaning("exception"),
}
# Substatuses that say more than the status they come with.
SUBSTATUSES: Final = {
    "out_for_delivery": Meaning("out_for_delivery"),
    "pickup_available": Meaning("ready_for_pickup", action=True),
    "delivery_attempted": Meaning("delivery_attempted", action=True),
    "notice_left": Meaning("delivery_attempted", "consignee_not_home", action=True),
    "reschedule_delivery": Meaning("delivery_attempted", action=True),
    "location_inaccessible": Meaning(
        "delivery_attempted", "consignee_access_restricted", action=True
    ),
    "delayed": Meaning("delayed"),
    "delivery_rescheduled": Meaning("delayed"),
    "address_issue": Meaning("exception", "consignee_incorrect_address", action=True),
    "contact_carrier": Meaning("exception", action=True),
    "package_damaged": Meaning("exception", "carrier_damaged_parcel", action=True),
    "package_held": Meaning("exception", action=True),
    "package_undeliverable": Meaning("exception", action=True),
    "package_disposed": Meaning("exception", "carrier_parcel_lost"),
    "package_lost": Meaning("exception", "carrier_parcel_lost", action=True),
    "delivered": Meaning("delivered"),
    "return_to_sender": Meaning("returning"),
    "package_unclaimed": Meaning("returning", "consignee_not_available", action=True),
}
# Substatuses that only say that it is known, or that it moves: they count where the status says less.
MOVING: Final = {
    "other": reading.UNKNOWN,
    "information_received": Meaning("label_created"),
    **dict.fromkeys(
        """
        package_accepted package_arrived package_departed package_forwarded package_processed
        package_processing delivery_scheduled
        """.split(),
        Meaning("in_transit"),
    ),
}
_SAYS_LESS: Final = frozenset({"", "unknown", "pre_transit"})
_FINAL: Final = frozenset({"delivered", "returned"})
_SIGNATURE: Final = re.compile(r"t=(\d{1,12}),v1=([0-9a-f]{64})", re.ASCII)


def verify(
    body: bytes,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    secrets: Sequence[bytes],
    now: datetime,
) -> str | None:
    """Return None for a signed body, or one sent to the address with the token; else why not."""
    signature, signers = headers.get("shippo-auth-signature"), signing.keys(secrets)
    if not signature or not signers:
        return signing.check_token(query, signing.tokens(secrets))
    found = _SIGNATURE.fullmatch(signature)
    if not found or not signing.hex_matches(f"{found[1]}.".encode() + body, found[2], signers):
        return signing.BAD_SIGNATURE
    near = abs(now.timestamp() - int(found[1])) <= signing.WINDOW.total_seconds()
    return None if near else signing.STALE


def read(body: bytes, _headers: Mapping[str, str], shop: Shop) -> Report:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    value = obj(parse(body))
    topic = word(value.get("event"))
    if topic and topic != "track_updated":
        return reading.ignored(topic, None, "not about a parcel")
    track = obj(value.get("data")) if topic else value
    return reading.report(topic or "track", None, _scans(track, shop.zone))


def _scans(track: Json, zone: tzinfo) -> tuple[ScanReported, ...]:
    told = Told(
        SOURCE,
        reading.number(track.get("tracking_number")),
        slug(track.get("carrier")),
        reading.order_id(track.get("metadata")),
    )
    if told.number is None:
        raise Unusable("tracking_number: missing")
    status, past = obj(track.get("tracking_status")), reading.events(track.get("tracking_history"))
    if not _raw(status):
        if not past and track.get("tracking_status", "") is None:
            return ()  # so Shippo writes of a parcel that the carrier has not seen
        if not past:
            raise Unusable("tracking_status: missing")
        status = past[-1]
    scans = [
        told.scan(_means(row), when, words, _place(row))
        for row in (*past, status)
        if (when := moment(row.get("status_date"), zone)) and (words := _raw(row))
    ]
    eta = reading.expected(track.get("eta"), track.get("eta"))
    # Its own time is that of the scan; when Shippo heard of it is another.
    said = moment(status.get("status_date"), zone) or moment(status.get("object_created"), zone)
    return reading.history(told, scans, Status(_means(status), _raw(status), said, eta))


def _raw(row: Json) -> tuple[str, ...]:
    return tuple(f for w in (row.get("status"), _code(row)) if (f := text(w)))


def _code(row: Json) -> str:
    value = row.get("substatus")
    return word(obj(value).get("code") if isinstance(value, dict) else value)


def _means(row: Json) -> Meaning:
    status, code = word(row.get("status")), _code(row)
    known, special = STATUSES.get(status), SUBSTATUSES.get(code)
    if known and special and status in _FINAL and special.state != known.state:
        special = None  # the two contradict each other, as in the vendor's own example
    found = reading.meaning(special, MOVING.get(code) if status in _SAYS_LESS else None, known)
    stated = obj(row.get("substatus")).get("action_required")
    return Meaning(found.state, found.reason, stated) if isinstance(stated, bool) else found


def _place(row: Json) -> str | None:
    where = obj(row.get("location"))
    return reading.place(where.get("city"), where.get("state"), where.get("country"))
