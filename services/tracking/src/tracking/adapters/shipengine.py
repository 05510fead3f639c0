"""ShipEngine's (ShipStation API's) track webhooks.

Signature (docs.shipstation.com, "Webhook Validation"): headers `x-shipengine-rsa-sha256-signature`
(base64), `x-shipengine-rsa-sha256-key-id` and `x-shipengine-timestamp` (ISO 8601, within five minutes
of now); RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017) over `<timestamp>.<raw body>`. The public key is
stated by the shop as `file:` reference to what the vendor publishes: a JWK Set (RFC 7517), of which the
key with that id counts, or one PEM public key. Nothing is fetched when a webhook comes in.
A secret that is neither is a token: the webhook's address then ends in `?token=` and that token.
Words: status codes and detail codes of the vendor's TypeScript definitions (@shipengine, public).
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shared.errors import Unusable
from shared.events import ScanReported
from shared.reading import Json, obj, parse, rows, slug, text, word
from shared.shops import Shop
from tracking.adapters import reading, signing
from tracking.adapters.reading import Meaning, Moment, Status, Told, moment
from tracking.domain.model import Report

SOURCE: Final = "shipengine"

STATUSES: Final = {
    "un": reading.UNKNOWN,
    "ny": Meaning("label_created"),
    # The carrier knows of it; whether it has it only a detail or the next scan says.
    "ac": Meaning("label_created"),
    "it": Meaning("in_transit"),
    "de": Meaning("delivered"),
    "ex": Meaning("exception"),
    "at": Meaning("delivery_attempted"),
    "sp": Meaning("ready_for_pickup"),
}
_HELD: Final = Meaning("delayed", "customs_delay")
# Only those that say more than the status codes they come with.
DETAILS: Final = {
    "collection_failed": Meaning("label_created", "retailer_not_ready"),
    "not_yet_received_by_carrier": Meaning("label_created", "retailer_not_ready"),
    "out_for_delivery": Meaning("out_for_delivery"),
    **dict.fromkeys(
        ("attempted_delivery", "attempted_delivery_2nd", "attempted_delivery_3rd"),
        Meaning("delivery_attempted"),
    ),
    "cod_amount_not_paid": Meaning("delivery_attempted", action=True),
    "invalid_method_of_payment": Meaning("delivery_attempted", action=True),
    "customer_carded": Meaning("delivery_attempted", "consignee_not_home"),
    "customer_identification_failed": Meaning(
        "delivery_attempted", "consignee_verification_failed"
    ),
    "no_access_to_recipients_address": Meaning(
        "delivery_attempted", "consignee_access_restricted", action=True
    ),
    "delivered_specified_safe_place": Meaning("delivered", "safe_place"),
    "delivered_to_neighbour": Meaning("delivered", "neighbour"),
    "parcel_collected_from_pickup_point": Meaning("delivered", "hand"),
    "proof_of_delivery": Meaning("delivered", "signed"),
    "delivered_to_locker_collection_point": Meaning("ready_for_pickup"),
    "awaiting_collection_from_pickup_point": Meaning("ready_for_pickup"),
    "collect_at_local_po": Meaning("ready_for_pickup"),
    "customer_to_collect_from_carrier": Meaning("ready_for_pickup"),
    "cancelled": Meaning("cancelled"),
    "cancelled_before_despatch": Meaning("cancelled"),
    "customer_moved": Meaning("returning", "consignee_incorrect_address"),
    "hazardous_prohibited": Meaning("returning", "security_issue"),
    "not_collected_from_pickup_point": Meaning("returning", "consignee_not_available"),
    "not_delivered": Meaning("returning"),
    "return_to_sender": Meaning("returning"),
    "refused_by_customer": Meaning("returning", "consignee_refused"),
    "parcel_outside_of_service_capability": Meaning("returning", "retailer_incorrect_dimensions"),
    "parcel_damaged": Meaning("exception", "carrier_damaged_parcel"),
    "parcel_disposed": Meaning("exception", "carrier_parcel_lost"),
    "parcel_lost": Meaning("exception", "carrier_parcel_lost"),
    "address_query": Meaning("exception", "consignee_incorrect_address", action=True),
    "carrier_delays": Meaning("delayed"),
    "delayed_not_carrier": Meaning("delayed"),
    "delivery_rescheduled": Meaning("delayed"),
    "held_by_carrier": Meaning("delayed"),
    "held_by_carrier_for_clearance_pre_processing": _HELD,
    "held_by_customs": _HELD,
    "held_by_export_customs": _HELD,
    "held_by_import_customs": _HELD,
    # The vendor explains it as wrong dimensions, not as wrong papers.
    "incorrect_declaration": Meaning("exception", "retailer_incorrect_dimensions"),
    "missorted": Meaning("delayed", "carrier_sorting_error"),
    "routing_error": Meaning("delayed", "carrier_sorting_error"),
    "parcel_repacked": Meaning("delayed", "retailer_packaging_issue"),
}
# Details that say where it is, or nothing: they count where the status says less.
MOVING: Final = {
    **dict.fromkeys(
        """
        awaiting_despatch awaiting_electronic_advice collection_requested
        elec_advice_recd_by_carrier
        """.split(),
        Meaning("label_created"),
    ),
    **dict.fromkeys(
        """
        collection_made customs_cleared customs_processing delivery_arranged_with_recipient
        despatched dropped_off hub_scan_out in_transit parcel_over_labelled picked_up
        recd_by_carrier_no_elec_advice received_by_carrier received_local_delivery_depot
        sub_contractor_event sub_contractor_received
        """.split(),
        Meaning("in_transit"),
    ),
    **dict.fromkeys(
        """
        cod_amount_paid delivered delivered_damaged delivered_in_part delivered_to_po_box
        delivered_to_alternative_delivery_location post_transit_status
        """.split(),
        Meaning("delivered"),
    ),
    **dict.fromkeys(
        """
        carrier_status_not_mapped information parcel_update_notification_via_email
        parcel_update_notification_via_sms
        """.split(),
        reading.UNKNOWN,
    ),
}
_SAYS_LESS: Final = frozenset({"", "un", "ny", "ac"})
_DELIVERED: Final = frozenset({"delivered", "ready_for_pickup"})
_SIGNATURE_CHARS: Final = 1024
_KEY_BITS_MIN: Final = 2048
_KEYS_MAX: Final = 16

Keys = tuple[tuple[str | None, RSAPublicKey], ...]


def verify(
    body: bytes,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    secrets: Sequence[bytes],
    now: datetime,
) -> str | None:
    """Return None for a signed body, or one sent to the address with the token; else why not."""
    signature = headers.get("x-shipengine-rsa-sha256-signature")
    known = [pair for secret in secrets if _is_public(secret) for pair in _public_keys(secret)]
    if not signature or not known:
        tokens = [s.removeprefix(signing.TOKEN_PREFIX) for s in secrets if not _is_public(s)]
        return signing.check_token(query, tokens)
    stamp = headers.get("x-shipengine-timestamp", "")
    key_id = headers.get("x-shipengine-rsa-sha256-key-id")
    signed = stamp.encode("utf-8", "surrogatepass") + b"." + body
    right = _decode(signature)
    fitting = (key for name, key in known if name is None or name == key_id)
    if not right or not any(_signed(key, right, signed) for key in fitting):
        return signing.BAD_SIGNATURE
    at = moment(stamp, UTC)
    exact = at is not None and not at.day and signing.is_fresh(at.at, now)
    return None if exact else signing.STALE


def _decode(signature: str) -> bytes | None:
    """The signature's bytes, where it is written in the one way that base64 writes them."""
    try:
        found = base64.b64decode(signature[:_SIGNATURE_CHARS], validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if base64.b64encode(found).decode() == signature else None


def _signed(key: RSAPublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def _is_public(secret: bytes) -> bool:
    return secret.lstrip().startswith((b"{", b"-----"))


@lru_cache(64)
def _public_keys(secret: bytes) -> Keys:
    """The RSA keys, of 2048 bits or more, of a PEM or a JWK Set; none where it cannot be read."""
    if not secret.lstrip().startswith(b"{"):
        try:
            key = load_pem_public_key(secret)
        except (ValueError, UnsupportedAlgorithm):
            return ()
        fits = isinstance(key, RSAPublicKey) and key.key_size >= _KEY_BITS_MIN
        return ((None, key),) if fits and isinstance(key, RSAPublicKey) else ()
    try:
        value = obj(parse(secret))
    except Unusable:
        return ()
    return tuple(_jwks(rows(value.get("keys")) or [value]))


def _jwks(keys: Sequence[Json]) -> Iterator[tuple[str | None, RSAPublicKey]]:
    for row in keys[:_KEYS_MAX]:
        try:
            numbers = RSAPublicNumbers(_integer(row.get("e")), _integer(row.get("n")))
            key = numbers.public_key()
        except ValueError:
            continue
        if key.key_size >= _KEY_BITS_MIN and isinstance(row.get("kid"), str):
            yield row["kid"], key


def _integer(value: Any) -> int:
    """Read base64url without padding (RFC 7515); raises `ValueError`."""
    written = value if isinstance(value, str) else ""
    padded = written + "=" * (-len(written) % 4)
    return int.from_bytes(base64.urlsafe_b64decode(padded.encode("ascii")), "big")


def read(body: bytes, headers: Mapping[str, str], shop: Shop) -> Report:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    value = obj(parse(body))
    topic = word(value.get("resource_type"))
    if topic and "track" not in topic:
        return reading.ignored(topic, None, "not about a parcel's course")
    data = obj(value.get("data")) if topic else value
    # Of a parcel without a scan nothing else has a time.
    sent = moment(headers.get("x-shipengine-timestamp"), UTC)
    scans = _scans(data, value.get("resource_url"), sent, shop.zone)
    return reading.report(topic or "track", None, scans)


def _scans(data: Json, url: Any, sent: Moment | None, zone: tzinfo) -> tuple[ScanReported, ...]:
    told = Told(
        SOURCE,
        reading.number(data.get("tracking_number")),
        slug(data.get("carrier_code")) or _carrier(url),
    )
    if told.number is None:
        raise Unusable("data.tracking_number: missing")
    raw = _raw(data)
    if not raw:
        raise Unusable("data.status_code: missing")
    events = [
        (row, when) for row in reading.events(data.get("events")) if (when := _when(row, zone))
    ]
    newest = max((when.at for _, when in events), default=None)
    delivered = moment(data.get("actual_delivery_date"), zone)
    if delivered and newest and delivered.at > newest:
        newest = None  # then none of them is the delivery
    scans = []
    for row, when in events:
        # An event that names no state is the one that made the parcel's, if it is the newest. Its
        # `event_code` is the carrier's own: DE is a delivery here and a failed one at FedEx.
        words = _raw(row) or (raw if when.at == newest else ())
        means = _means(row if _raw(row) else data) if words else reading.UNKNOWN
        scans.append(told.scan(means, when, words or (text(row.get("event_code")),), _place(row)))
    shipped = moment(data.get("ship_date"), zone) or moment(data.get("shipped_date"), zone)
    said = delivered or (None if scans else shipped or sent)
    date = data.get("estimated_delivery_date")
    status = Status(_means(data), raw, said, reading.expected(date, date))
    return reading.history(told, scans, status)


def _when(row: Json, zone: tzinfo) -> Moment | None:
    times = (moment(row.get(k), zone) for k in ("occurred_at", "event_date", "carrier_occurred_at"))
    return next((found for found in times if found), None)


def _raw(fields: Json) -> tuple[str, ...]:
    return tuple(f for k in ("status_code", "status_detail_code") if (f := text(fields.get(k))))


def _means(fields: Json) -> Meaning:
    code, detail = word(fields.get("status_code")), word(fields.get("status_detail_code"))
    known, special = STATUSES.get(code), DETAILS.get(detail)
    if code == "de" and special and special.state not in _DELIVERED:
        special = Meaning("returned") if special.state == "returning" else None
    return reading.meaning(special, MOVING.get(detail) if code in _SAYS_LESS else None, known)


def _carrier(url: Any) -> str | None:
    """The carrier's code in the address under which the parcel can be asked about, new or old."""
    written = url if isinstance(url, str) else ""
    try:
        address = urlsplit(written[:2000])
        asked = parse_qs(address.query, max_num_fields=20)
    except ValueError:
        return None
    _, _, named = address.path.partition("/tracking/")
    return slug(asked.get("carrier_code", [named.partition("/")[0]])[0])


def _place(row: Json) -> str | None:
    return reading.place(
        row.get("city_locality"), row.get("state_province"), row.get("country_code")
    )
