"""AfterShip Tracking: its webhooks, and the calls that register and ask about a parcel.

Signature: header `aftership-hmac-sha256`, the base64 HMAC-SHA256 of the raw body under the webhook
secret (aftership.com/docs/tracking/webhook/webhook-signature). Nothing in it is a time, so a repeated
delivery is told by its `event_id` and by what it says. Words: AfterShip's tags and subtags, from its
page "Delivery Sub-statuses". Calls: Tracking API 2025-01 with its codes from the page "Request Errors".
"""

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from shared.errors import Unusable
from shared.events import Eta, ScanReported
from shared.reading import Json, ident, obj, parse, rows, slug, text, word
from shared.security import verify_hmac
from shared.shops import Shop
from tracking.adapters import reading, signing
from tracking.adapters.reading import Call, Meaning, Moment, Outcome, Status, Told, moment
from tracking.domain.model import Report

SOURCE: Final = "aftership"
BASE_URL = "https://api.aftership.com/tracking/2025-01"

TAGS: Final = {
    "pending": reading.UNKNOWN,
    "inforeceived": Meaning("label_created"),
    "intransit": Meaning("in_transit"),
    "outfordelivery": Meaning("out_for_delivery"),
    "attemptfail": Meaning("delivery_attempted"),
    "delivered": Meaning("delivered"),
    "availableforpickup": Meaning("ready_for_pickup"),
    "exception": Meaning("exception"),
    "expired": Meaning("expired"),
}
# Only those that say more than their tag.
SUBTAGS: Final = {
    "attemptfail_002": Meaning("delivery_attempted", "consignee_not_available"),
    "attemptfail_003": Meaning("delivery_attempted", "consignee_business_closed"),
    "delivered_002": Meaning("delivered", "hand"),
    "delivered_003": Meaning("delivered", "signed"),
    "delivered_004": Meaning("delivered", "hand"),
    "delivered_005": Meaning("delivered", "neighbour"),
    "exception_002": Meaning("exception", "consignee_incorrect_address", action=True),
    "exception_003": Meaning("exception", "consignee_refused"),
    "exception_004": Meaning("delayed", "customs_delay"),
    "exception_005": Meaning("delayed"),
    "exception_006": Meaning("exception", action=True),
    "exception_007": Meaning("exception", "consignee_incorrect_address", action=True),
    "exception_008": Meaning("exception", "consignee_not_available", action=True),
    "exception_009": Meaning("exception", "retailer_incorrect_parcel"),
    "exception_010": Meaning("returning"),
    "exception_011": Meaning("returned"),
    "exception_012": Meaning("exception", "carrier_damaged_parcel"),
    "exception_013": Meaning("exception", "carrier_parcel_lost"),
    "exception_016": Meaning("delayed"),
    "exception_017": Meaning("delayed", "weather_delay"),
    "exception_018": Meaning("exception", "customs_documentation", action=True),
}
_TELLING: Final = frozenset({"tracking_update", "edd_revise"})
_ALREADY: Final = 4003
# The carrier is not known under this name, or was not recognised.
_NO_CARRIER: Final = frozenset({4010, 4012})
# What AfterShip calls the carriers that shops name in several ways (its page "Supported Couriers"). A
# family of carriers is none of them: of a DHL Paket number, AfterShip's `dhl` (DHL Express) knows nothing.
_SAME: Final = """
    bpost ceska-posta colissimo dpd fedex gls hrvatska-posta omniva poczta-polska poste-italiane posti
    postnl postnord royal-mail swiss-post tnt ups usps
""".split()
_SLUGS: Final[Mapping[str, str | None]] = {
    **{name: name for name in _SAME},
    "correos": "spain-correos-es",
    "deutsche-post": "deutsch-post",
    "dhl": None,
    "dhl-express": "dhl",
    "dhl-paket": "dhl-germany",
    "evri": "myhermes-uk",
    "hermes": None,
    "inpost": "inpost-paczkomaty",
    "parcelforce": "parcel-force",
    "posta-slovenije": "post-slovenia",
    "posta-srbije": "post-serbia",
    "slovenia-post": "post-slovenia",
    "slovenska-posta": "sk-posta",
}
_SUCCESS: Final = range(200, 300)


verify: Final = signing.by_header("aftership-hmac-sha256", verify_hmac)


def read(body: bytes, _headers: Mapping[str, str], shop: Shop) -> Report:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    value = obj(parse(body))
    topic = word(value.get("event"))
    delivery_id = ident(value.get("event_id"))
    tracking = obj(value.get("msg"))
    if topic == "tracking_pending_time":
        return reading.ignored(topic, delivery_id, "the carrier still knows nothing")
    if topic and topic not in _TELLING and "tracking_number" not in tracking:
        return reading.ignored(topic, delivery_id, "not about a parcel")
    if not topic:
        topic, tracking = "tracking", _tracking(value)
    said = _said(value.get("ts"), tracking.get("updated_at"), tracking.get("created_at"))
    moved = topic == "edd_revise"
    return reading.report(topic, delivery_id, _scans(tracking, said, shop.zone, moved=moved))


def _tracking(value: Json) -> Json:
    """The tracking in an answer of the API, or in a webhook that lost its envelope."""
    data = obj(value.get("data", value))
    listed = rows(data.get("trackings"))
    if listed:  # one for each carrier that the number was registered with; the right one knows most
        return max(listed, key=lambda tracking: len(rows(tracking.get("checkpoints"))))
    return obj(data.get("tracking", data))


def _said(*values: Any) -> datetime | None:
    found = (moment(value, UTC) for value in values)
    return next((when.at for when in found if when and not when.day), None)


def _scans(
    tracking: Json, said: datetime | None, zone: tzinfo, *, moved: bool = False
) -> tuple[ScanReported, ...]:
    """Read a tracking. With `moved` it was sent because the expected date did."""
    told = Told(
        SOURCE,
        reading.number(tracking.get("tracking_number")),
        slug(tracking.get("slug")),
        reading.order_id(
            tracking.get("order_id"),
            obj(tracking.get("custom_fields")).get("order_id"),
            tracking.get("order_number"),
        ),
    )
    if told.number is None:
        raise Unusable("tracking_number: missing")
    raw = _raw(tracking)
    if not raw:
        raise Unusable("tag: missing")
    eta = _eta(tracking)
    scans = [
        s for c in reading.events(tracking.get("checkpoints")) if (s := _checkpoint(c, told, zone))
    ]
    means = _means(tracking)
    if means.state == "delivered" and tracking.get("return_to_sender") is True:
        means = Meaning("returned")  # to the shop's door
    status = Status(means, raw, Moment(said) if said else None, eta, news=moved)
    return reading.history(told, scans, status)


def _checkpoint(checkpoint: Json, told: Told, zone: tzinfo) -> ScanReported | None:
    # Its zone is the checkpoint's own, and not every carrier names it.
    when = moment(checkpoint.get("checkpoint_time"), zone)
    raw = _raw(checkpoint)
    if when is None or not raw:
        return None
    where = reading.place(
        checkpoint.get("city"),
        checkpoint.get("state"),
        checkpoint.get("country_region_name") or checkpoint.get("country_name"),
    )
    only_country = not (text(checkpoint.get("city")) or text(checkpoint.get("state")))
    if only_country:
        where = reading.place(whole=checkpoint.get("location")) or where
    return told.scan(_means(checkpoint), when, raw, where)


def _raw(fields: Json) -> tuple[str, ...]:
    return tuple(found for key in ("tag", "subtag") if (found := text(fields.get(key))))


def _means(fields: Json) -> Meaning:
    subtag = word(fields.get("subtag"))
    main = TAGS.get(word(fields.get("tag"))) or TAGS.get(subtag.partition("_")[0])
    return reading.meaning(SUBTAGS.get(subtag), main)


def _eta(tracking: Json) -> Eta | None:
    """The carrier's date before AfterShip's own guess; the shop's own (`custom`) is no news to it."""
    latest = obj(tracking.get("latest_estimated_delivery"))
    if word(latest.get("source")).startswith("custom"):
        latest = {}
    for value in (
        latest,
        tracking.get("courier_estimated_delivery_date"),
        tracking.get("expected_delivery"),
        tracking.get("aftership_estimated_delivery_date"),
    ):
        fields = obj(value)
        exact = fields.get("datetime") or fields.get("estimated_delivery_date")
        first = fields.get("datetime_min") or fields.get("estimated_delivery_date_min") or exact
        last = fields.get("datetime_max") or fields.get("estimated_delivery_date_max") or exact
        found = reading.expected(first or value, last or value)
        if found:
            return found
    return None


# ------------------------------------------------------------ calls


def headers(key: str) -> dict[str, str]:
    """What every call carries."""
    return {"as-api-key": key, "Content-Type": "application/json"}


def registration(number: str, carrier: str | None, order_id: str) -> Call:
    """Ask to follow a parcel. The order's id comes back in every webhook; nothing else is told."""
    body = {"tracking_number": number, "order_id": order_id}
    named = _slug(carrier or "")
    return Call("POST", "/trackings", json=body | ({"slug": named} if named else {}))


def _slug(carrier: str) -> str | None:
    """Return AfterShip's name of a carrier; None when it is not sure, and AfterShip is to find out."""
    letters = unicodedata.normalize("NFKD", carrier)
    plain = slug("".join(letter for letter in letters if not unicodedata.combining(letter))) or ""
    return _SLUGS.get(plain, plain if carrier == plain else None)


def question(number: str, carrier: str | None) -> Call:  # noqa: ARG001 - it may be registered under another
    """Ask how a registered parcel is, whatever carrier AfterShip found for it."""
    return Call("GET", "/trackings", params={"tracking_numbers": number})


def read_answer(status: int, body: bytes, zone: tzinfo = UTC) -> Outcome:
    """Judge the answer to one of the calls above, and read the scans that came with it."""
    try:
        value = obj(parse(body))
        code = obj(value.get("meta")).get("code")
        if code == _ALREADY:
            return Outcome("already")
        if status not in _SUCCESS:
            return reading.refusal(status, reading.CARRIER_UNKNOWN if code in _NO_CARRIER else code)
        tracking = _tracking(value)
        if "tracking_number" not in tracking:
            return Outcome("ok")
        # `updated_at` moves whenever AfterShip looks, so it is no time at which anything happened.
        created = moment(tracking.get("created_at"), UTC)
        known = bool(rows(tracking.get("checkpoints"))) or _means(tracking) != reading.UNKNOWN
        said = created.at if created and not rows(tracking.get("checkpoints")) else None
        return Outcome("ok", scans=_scans(tracking, said, zone) if known else ())
    except Unusable:
        if status in _SUCCESS:
            return Outcome("retry", "unreadable")
        return reading.refusal(status, None)
