"""17TRACK's pushed updates (API v2).

Signature v2: header `sign`, the SHA-256 hex of `<raw body>/<API key>`; not an HMAC and without a time.
Five independent public repositories agree on it, and on the words; the vendor's own page is not public.
v1 signs re-serialised JSON inside the body itself: that cannot be checked on raw bytes and is not taken.
A body with v1's letter keys under a v2 signature is read as far as its two known states go.
`param`, `tag` and `order_no` come back as the shop registered them: the order's id belongs there.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo
from typing import Any, Final

from shared.errors import Unusable
from shared.events import ScanReported
from shared.reading import Json, ident, obj, parse, rows, slug, text, word
from shared.shops import Shop
from tracking.adapters import reading, signing
from tracking.adapters.reading import Meaning, Moment, Status, Told, moment
from tracking.domain.model import Report

SOURCE: Final = "seventeentrack"

STATUSES: Final = {
    "notfound": reading.UNKNOWN,
    "inforeceived": Meaning("label_created"),
    "intransit": Meaning("in_transit"),
    "expired": Meaning("expired"),
    "availableforpickup": Meaning("ready_for_pickup"),
    "outfordelivery": Meaning("out_for_delivery"),
    "deliveryfailure": Meaning("delivery_attempted"),
    "delivered": Meaning("delivered"),
    "exception": Meaning("exception"),
}
# Only those that say more than the status in front of their underscore.
SUBSTATUSES: Final = {
    "intransit_customsrequiringinformation": Meaning(
        "exception", "customs_documentation", action=True
    ),
    "deliveryfailure_nobody": Meaning("delivery_attempted", "consignee_not_available"),
    "deliveryfailure_security": Meaning("exception", "security_issue"),
    "deliveryfailure_rejected": Meaning("exception", "consignee_refused"),
    "deliveryfailure_invalidaddress": Meaning(
        "exception", "consignee_incorrect_address", action=True
    ),
    "exception_returning": Meaning("returning"),
    "exception_returned": Meaning("returned"),
    "exception_nobody": Meaning("exception", "consignee_not_available"),
    "exception_security": Meaning("exception", "security_issue"),
    "exception_damage": Meaning("exception", "carrier_damaged_parcel"),
    "exception_rejected": Meaning("exception", "consignee_refused"),
    "exception_delayed": Meaning("delayed"),
    "exception_lost": Meaning("exception", "carrier_parcel_lost"),
    "exception_destroyed": Meaning("exception", "carrier_parcel_lost"),
    "exception_cancel": Meaning("cancelled"),
}
# What an event's `stage` may be besides a status.
STAGES: Final = {
    "pickedup": Meaning("in_transit"),
    "departure": Meaning("in_transit"),
    "arrival": Meaning("in_transit"),
    "returning": Meaning("returning"),
    "returned": Meaning("returned"),
}
LETTERS: Final = {("4", "41"): Meaning("out_for_delivery"), ("5", "50"): Meaning("delivered")}
_PARCELS_MAX: Final = 40
_PROVIDERS_MAX: Final = 10


def _matches(body: bytes, signature: str, keys: Sequence[bytes]) -> bool:
    matched = False
    for key in keys:
        digest = hashlib.sha256(body + b"/" + key).hexdigest()
        matched |= signing.equal(digest, signature) and bool(key)
    return matched


verify: Final = signing.by_header("sign", _matches)


def read(body: bytes, _headers: Mapping[str, str], shop: Shop) -> Report:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    value = obj(parse(body))
    topic, data = word(value.get("event")), value.get("data")
    if topic == "tracking_stopped":
        return reading.ignored(topic, None, "17TRACK no longer follows it")
    if topic != "tracking_updated":
        raise Unusable("event: not known" if topic else "event: missing")
    parcels = rows(data) if isinstance(data, list) else [obj(data)]
    if not any(parcels):
        raise Unusable("data: missing")
    return reading.report(topic, None, _all(parcels[:_PARCELS_MAX], shop.zone))


def _all(parcels: Sequence[Json], zone: tzinfo) -> tuple[ScanReported, ...]:
    """Read several parcels; one that cannot be read withholds no other, and none crowds out another."""
    each = reading.SCANS_MAX // len(parcels)
    found: list[ScanReported] = []
    fault: Unusable | None = None
    for row in parcels:
        try:
            found += _scans(row, zone)[-each:]
        except Unusable as unusable:
            fault = unusable
    if fault and not found:
        raise fault
    return tuple(found)


def _scans(row: Json, zone: tzinfo) -> tuple[ScanReported, ...]:
    info, letters = obj(row.get("track_info")), obj(row.get("track"))
    providers = rows(obj(info.get("tracking")).get("providers"))[:_PROVIDERS_MAX]
    names = (obj(p.get("provider")).get("name") for p in providers)
    told = Told(
        SOURCE,
        reading.number(row.get("number")),
        next((found for name in names if (found := slug(name))), ident(row.get("carrier"))),
        reading.order_id(row.get("order_no"), row.get("param"), row.get("tag")),
    )
    if told.number is None:
        raise Unusable("number: missing")
    return (
        _read_letters(letters, told, zone) if letters else _read_info(info, providers, told, zone)
    )


def _read_info(
    info: Json, providers: Sequence[Json], told: Told, zone: tzinfo
) -> tuple[ScanReported, ...]:
    latest = obj(info.get("latest_status"))
    raw = _raw(latest)
    if not raw:
        raise Unusable("latest_status: missing")
    events = [event for provider in providers for event in reading.events(provider.get("events"))]
    newest = obj(info.get("latest_event"))
    scans = list(_read_events(events or [newest], told, zone))
    looked = (moment(p.get("latest_sync_time"), zone) for p in providers)
    said = None if scans else next((found for found in looked if found), None)
    days = obj(obj(info.get("time_metrics")).get("estimated_delivery_date"))
    eta = reading.expected(days.get("from"), days.get("to"))
    return reading.history(told, scans, Status(_means(latest), raw, said, eta))


def _read_events(events: Sequence[Json], told: Told, zone: tzinfo) -> Iterator[ScanReported]:
    for event in events:
        when = _when(event, zone)
        if when is None:
            continue
        where = obj(event.get("address"))
        town = reading.place(where.get("city"), where.get("state"))
        # An event without any word of 17TRACK's is seen, but says no state.
        means = _means(event) if _raw(event) else reading.UNKNOWN
        whole = reading.place(whole=event.get("location"))
        yield told.scan(means, when, _raw(event), town or whole or text(where.get("country")))


def _when(event: Json, zone: tzinfo) -> Moment | None:
    times = [moment(event.get(key), zone) for key in ("time_iso", "time_utc")]
    times.append(moment(obj(event.get("time_raw")).get("date"), zone))
    known = [found for found in times if found]
    return next((found for found in known if not found.day), known[0] if known else None)


def _raw(fields: Json) -> tuple[str, ...]:
    words = (fields.get("status") or fields.get("stage"), fields.get("sub_status"))
    return tuple(found for w in words if (found := text(w)))


def _means(fields: Json) -> Meaning:
    sub = word(fields.get("sub_status"))
    main = word(fields.get("status") or fields.get("stage"))
    return reading.meaning(
        SUBSTATUSES.get(sub),
        STATUSES.get(sub.partition("_")[0]),
        STATUSES.get(main),
        STAGES.get(main),
    )


def _read_letters(track: Json, told: Told, zone: tzinfo) -> tuple[ScanReported, ...]:
    """The older shape: `z0` is the newest event, `z1`, `z2` and `z9` are lists of all of them."""
    newest = obj(track.get("z0"))
    if not newest:
        raise Unusable("track.z0: missing")
    events = [event for key in ("z1", "z2", "z9") for event in reading.events(track.get(key))]
    scans = [
        told.scan(_letters_mean(event), when, _letters(event), reading.place(whole=event.get("a")))
        for event in (*events, newest)
        if (when := moment(event.get("d"), zone))
    ]
    return reading.history(told, scans, Status(_letters_mean(newest), _letters(newest)))


def _letters(event: Json) -> tuple[str, ...]:
    return tuple(found for key in ("z", "s") if (found := _letter(event.get(key))))


def _letter(value: Any) -> str | None:
    digits = ident(value) or ""
    return digits if digits.isdecimal() else None


def _letters_mean(event: Json) -> Meaning:
    words = _letters(event)
    pair = (words[0], words[1]) if len(words) > 1 else ("", "")
    return reading.meaning(LETTERS.get(pair))
