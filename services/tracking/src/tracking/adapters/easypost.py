"""EasyPost: its webhooks, and the calls that register and ask about a parcel.

Signature v1: header `X-Hmac-Signature: hmac-sha256-hex=<hex>`, HMAC-SHA256 of the raw body, the secret
normalised to NFKD, as the official client libraries do it; their published test case is one of ours.
v2 (with a timestamp) is in no official library and is not taken. Nothing signed is a time, so a
repeated delivery is told by its event id and by what it says. Words: the Tracker object's reference.
"""

import base64
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Final

from shared.errors import Unusable
from shared.events import ScanReported
from shared.reading import Json, ident, obj, parse, rows, slug, text, word
from shared.shops import Shop
from tracking.adapters import reading, signing
from tracking.adapters.reading import Call, Meaning, Moment, Outcome, Status, Told, moment
from tracking.domain.model import Report

SOURCE: Final = "easypost"
BASE_URL = "https://api.easypost.com/v2"

STATUSES: Final = {
    "unknown": reading.UNKNOWN,
    "error": reading.UNKNOWN,
    "pre_transit": Meaning("label_created"),
    "in_transit": Meaning("in_transit"),
    "out_for_delivery": Meaning("out_for_delivery"),
    "delivered": Meaning("delivered"),
    "available_for_pickup": Meaning("ready_for_pickup"),
    "return_to_sender": Meaning("returning"),
    "failure": Meaning("exception"),
    "cancelled": Meaning("cancelled"),
}
# Details that say more than the status they come with.
DETAILS: Final = {
    "address_correction": Meaning("exception", "consignee_incorrect_address", action=True),
    "arrived_at_pickup_location": Meaning("ready_for_pickup"),
    "awaiting_information": Meaning("exception", action=True),
    "cancelled": Meaning("cancelled"),
    "damaged": Meaning("exception", "carrier_damaged_parcel"),
    "delayed": Meaning("delayed"),
    "delivery_exception": Meaning("delivery_attempted"),
    "expired": Meaning("expired"),
    "held": Meaning("exception"),
    "label_created": Meaning("label_created"),
    "lost": Meaning("exception", "carrier_parcel_lost"),
    "missorted": Meaning("delayed", "carrier_sorting_error"),
    "out_for_delivery": Meaning("out_for_delivery"),
    "refused": Meaning("exception", "consignee_refused"),
    "return": Meaning("returning"),
    "transit_exception": Meaning("exception"),
    "weather_delay": Meaning("delayed", "weather_delay"),
}
# Details that only say that it moves: they count where the status says nothing.
MOVING: Final = dict.fromkeys(
    """
    arrived_at_destination arrived_at_facility departed_facility departed_origin_facility in_transit
    received_at_destination_facility received_at_origin_facility transferred_to_destination_carrier
    """.split(),
    Meaning("in_transit"),
)
_FINAL: Final = frozenset({"delivered", "cancelled", "return_to_sender"})
# EasyPost's own spelling; of any other carrier it finds out itself.
_CARRIERS: Final = {"usps": "USPS", "ups": "UPS", "fedex": "FedEx", "dhl-express": "DHLExpress"}
_PREFIX: Final = "hmac-sha256-hex="
_SUCCESS: Final = range(200, 300)


def _matches(body: bytes, signature: str, secrets: Sequence[bytes]) -> bool:
    return signature.startswith(_PREFIX) and signing.hex_matches(
        body, signature.removeprefix(_PREFIX), (_nfkd(secret) for secret in secrets)
    )


verify: Final = signing.by_header("x-hmac-signature", _matches)


def _nfkd(secret: bytes) -> bytes:
    try:
        return unicodedata.normalize("NFKD", secret.decode()).encode()
    except UnicodeDecodeError:
        return secret


def read(body: bytes, _headers: Mapping[str, str], shop: Shop) -> Report:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    value = obj(parse(body))
    if value.get("object") == "Tracker":
        return reading.report("tracker", None, _scans(value, _updated_at(value), shop.zone))
    topic, delivery_id = word(value.get("description")), ident(value.get("id"))
    tracker = obj(value.get("result"))
    if not topic and tracker.get("object") != "Tracker":
        raise Unusable("description: missing")
    if topic and not topic.startswith("tracker."):
        return reading.ignored(topic, delivery_id, "not about a parcel")
    if not tracker:
        return reading.ignored(topic, delivery_id, "no tracker in it")
    said = _updated_at(tracker) or _updated_at(value)
    return reading.report(topic or "tracker", delivery_id, _scans(tracker, said, shop.zone))


def _updated_at(fields: Json) -> Moment | None:
    found = moment(fields.get("updated_at"), UTC) or moment(fields.get("created_at"), UTC)
    return None if found is None or found.day else found


def _scans(tracker: Json, said: Moment | None, zone: tzinfo) -> tuple[ScanReported, ...]:
    told = Told(SOURCE, reading.number(tracker.get("tracking_code")), slug(tracker.get("carrier")))
    if told.number is None:
        raise Unusable("tracking_code: missing")
    raw = _raw(tracker)
    if not raw:
        raise Unusable("status: missing")
    back = tracker.get("is_return") is True
    scans = [
        told.scan(_means(row, back=back), when, words, _place(row))
        for row in reading.events(tracker.get("tracking_details"))
        if (when := moment(row.get("datetime"), zone)) and (words := _raw(row))
    ]
    date = tracker.get("est_delivery_date")
    local = obj(tracker.get("carrier_detail")).get("est_delivery_date_local")
    eta = reading.expected(date, date) or reading.expected(local, local)
    return reading.history(told, scans, Status(_means(tracker, back=back), raw, said, eta))


def _raw(fields: Json) -> tuple[str, ...]:
    return tuple(f for key in ("status", "status_detail") if (f := text(fields.get(key))))


def _means(fields: Json, *, back: bool) -> Meaning:
    """Judge a status with its detail. `back`: the parcel's way is to the sender, whatever is said of it."""
    status, detail = word(fields.get("status")) or "unknown", word(fields.get("status_detail"))
    known, special = STATUSES.get(status), DETAILS.get(detail)
    if known is not None and status in _FINAL:
        if status == "delivered" and back:
            return Meaning("returned")
        reason = special.reason if special and known.state == "returning" else None
        return Meaning(known.state, reason)
    if known == reading.UNKNOWN:
        return reading.meaning(special, MOVING.get(detail), known)
    return reading.meaning(special if known else None, known)


def _place(row: Json) -> str | None:
    where = obj(row.get("tracking_location"))
    return reading.place(where.get("city"), where.get("state"), where.get("country"))


# ------------------------------------------------------------ calls


def headers(key: str) -> dict[str, str]:
    """What every call carries: the key as the user name of Basic authentication."""
    credentials = base64.b64encode(f"{key}:".encode()).decode()
    return {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}


def registration(number: str, carrier: str | None, order_id: str) -> Call:  # noqa: ARG001 - it has no field for it
    """Ask to follow a parcel; for a number that is followed already EasyPost answers with its tracker."""
    return Call("POST", "/trackers", json={"tracker": _named(number, carrier)})


def question(number: str, carrier: str | None) -> Call:
    """Ask how a registered parcel is."""
    return Call("GET", "/trackers", params=_named(number, carrier))


def _named(number: str, carrier: str | None) -> dict[str, str]:
    known = _CARRIERS.get(slug(carrier) or "")
    return {"tracking_code": number} | ({"carrier": known} if known else {})


def read_answer(status: int, body: bytes, zone: tzinfo = UTC) -> Outcome:
    """Judge the answer to one of the calls above, and read the scans that came with it."""
    try:
        value = obj(parse(body))
        if status not in _SUCCESS:
            return reading.refusal(status, obj(value.get("error")).get("code"))
        listed = rows(value.get("trackers"))
        tracker = listed[0] if listed else value
        if "tracking_code" not in tracker:
            return Outcome("ok")
        # `updated_at` may move with every look at the carrier: it is no time at which anything happened.
        details = rows(tracker.get("tracking_details"))
        if not details and _means(tracker, back=False) == reading.UNKNOWN:
            return Outcome("ok")
        said = None if details else moment(tracker.get("created_at"), UTC)
        return Outcome("ok", scans=_scans(tracker, said, zone))
    except Unusable:
        if status in _SUCCESS:
            return Outcome("retry", "unreadable")
        return reading.refusal(status, None)
