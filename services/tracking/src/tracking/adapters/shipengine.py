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
from tracking.adapters.reading import Meaning, Status, Told, moment
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
_DOCUMENTS: Final = Meaning("exception", "customs_documentation", action=True)
# Only those that say more than the status codes they come with.
DETAILS: Final = {
    "collection_failed": Meaning("label_created", "retailer_not_ready"),
    "collection_made": Meaning("in_transit"),
    "despatched": Meaning("in_transit"),
    "picked_up": Meaning("in_transit"),
    "dropped_off": Meaning("in_transit"),
    "recd_by_carrier_no_elec_advice": Meaning("in_transit"),
    "received_by_carrier": Meaning("in_transit"),
    "out_for_delivery": Meaning("out_for_delivery"),
    "cod_amount_not_paid": Meaning("delivery_attempted", action=True),
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
    "incorrect_declaration": _DOCUMENTS,
    "missorted": Meaning("delayed", "carrier_sorting_error"),
    "routing_error": Meaning("delayed", "carrier_sorting_error"),
    "parcel_repacked": Meaning("delayed", "retailer_packaging_issue"),
}
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


def read(body: bytes, _headers: Mapping[str, str], shop: Shop) -> Report:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    value = obj(parse(body))
    topic = word(value.get("resource_type"))
    if topic and "track" not in topic:
        return reading.ignored(topic, None, "not about a parcel's course")
    data = obj(value.get("data")) if topic else value
    return Report(topic or "track", None, _scans(data, value.get("resource_url"), shop.zone))


def _scans(data: Json, url: Any, zone: tzinfo) -> tuple[ScanReported, ...]:
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
    scans = []
    for row, when in events:
        # An event that names no state is the one that made the parcel's, if it is the newest. Its
        # `event_code` is the carrier's own: DE is a delivery here and a failed one at FedEx.
        words = _raw(row) or (raw if when.at == newest else ())
        means = _means(row if _raw(row) else data) if words else reading.UNKNOWN
        scans.append(told.scan(means, when, words or (text(row.get("event_code")),), _place(row)))
    delivered = moment(data.get("actual_delivery_date"), zone)
    said = delivered or moment(data.get("ship_date"), zone)
    date = data.get("estimated_delivery_date")
    status = Status(_means(data), raw, None if scans else said, reading.expected(date, date, zone))
    return reading.history(told, scans, status)


def _when(row: Json, zone: tzinfo) -> reading.Moment | None:
    return moment(row.get("occurred_at"), zone) or moment(row.get("carrier_occurred_at"), zone)


def _raw(fields: Json) -> tuple[str, ...]:
    return tuple(f for k in ("status_code", "status_detail_code") if (f := text(fields.get(k))))


def _means(fields: Json) -> Meaning:
    return reading.meaning(
        DETAILS.get(word(fields.get("status_detail_code"))),
        STATUSES.get(word(fields.get("status_code"))),
    )


def _carrier(url: Any) -> str | None:
    """The carrier's code in the address under which the parcel can be asked about."""
    written = url if isinstance(url, str) else ""
    try:
        asked = parse_qs(urlsplit(written[:2000]).query, max_num_fields=20)
    except ValueError:
        return None
    return slug(asked.get("carrier_code", [""])[0])


def _place(row: Json) -> str | None:
    return reading.place(
        row.get("city_locality"), row.get("state_province"), row.get("country_code")
    )
