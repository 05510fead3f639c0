import json
from typing import Any

import pytest
from tests.tracking.deliveries import at, only, read, said, shop

from shared.errors import Unusable
from tracking.adapters import shipengine

EVENT: dict[str, Any] = {
    "occurred_at": "2026-11-23T07:00:00Z",
    "carrier_occurred_at": "2026-11-23T08:00:00",
    "description": "Delivered to Ana Novak",
    "city_locality": "Oakland",
    "state_province": "CA",
    "postal_code": "94602",
    "country_code": "US",
    "signer": "Ana Novak",
    "event_code": "DE",
    "status_code": "IT",
    "status_detail_code": "HUB_SCAN_OUT",
}
DATA: dict[str, Any] = {
    "tracking_number": "1Z9634841399247181",
    "status_code": "IT",
    "estimated_delivery_date": "2026-11-27T00:00:00",
    "ship_date": "2026-11-20T00:00:00Z",
    "events": [EVENT],
}
URL = "https://api.shipengine.com/v1/tracking?carrier_code=stamps_com&tracking_number=1Z"


def tracked(resource: str = "API_TRACK", **changes: Any) -> dict[str, Any]:
    return {"resource_url": URL, "resource_type": resource, "data": DATA | changes}


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("UN", "unknown"),
        ("NY", "label_created"),
        ("AC", "label_created"),
        ("IT", "in_transit"),
        ("DE", "delivered"),
        ("EX", "exception"),
        ("AT", "delivery_attempted"),
        ("SP", "ready_for_pickup"),
    ],
)
def test_every_status_code_has_its_state(code: str, state: str) -> None:
    scan = only(read(shipengine, tracked(status_code=code, events=[])))
    assert said(scan) == (state, None, False)


@pytest.mark.parametrize(
    ("code", "detail", "meaning"),
    [
        ("AC", "COLLECTION_MADE", ("in_transit", None, False)),
        ("AC", "COLLECTION_REQUESTED", ("label_created", None, False)),
        ("AT", "OUT_FOR_DELIVERY", ("out_for_delivery", None, False)),
        ("AT", "CUSTOMER_CARDED", ("delivery_attempted", "consignee_not_home", False)),
        ("DE", "DELIVERED_TO_NEIGHBOUR", ("delivered", "neighbour", False)),
        ("DE", "DELIVERED_SPECIFIED_SAFE_PLACE", ("delivered", "safe_place", False)),
        ("EX", "PARCEL_LOST", ("exception", "carrier_parcel_lost", False)),
        ("EX", "RETURN_TO_SENDER", ("returning", None, False)),
        ("EX", "CANCELLED", ("cancelled", None, False)),
        ("IT", "HELD_BY_IMPORT_CUSTOMS", ("delayed", "customs_delay", False)),
        ("IT", "ADDRESS_QUERY", ("exception", "consignee_incorrect_address", True)),
        ("SP", "DELIVERED_TO_LOCKER_COLLECTION_POINT", ("ready_for_pickup", None, False)),
        ("EX", "ATTEMPTED_DELIVERY_2ND", ("delivery_attempted", None, False)),
        ("EX", "INVALID_METHOD_OF_PAYMENT", ("delivery_attempted", None, True)),
        ("EX", "INCORRECT_DECLARATION", ("exception", "retailer_incorrect_dimensions", False)),
        ("AC", "HUB_SCAN_OUT", ("in_transit", None, False)),
        ("NY", "NOT_YET_RECEIVED_BY_CARRIER", ("label_created", "retailer_not_ready", False)),
        ("UN", "DELIVERED_TO_PO_BOX", ("delivered", None, False)),
        ("UN", "CARRIER_STATUS_NOT_MAPPED", ("unknown", None, False)),
        ("", "CUSTOMS_CLEARED", ("in_transit", None, False)),
        ("EX", "CUSTOMS_PROCESSING", ("exception", None, False)),
        ("DE", "DELIVERED_DAMAGED", ("delivered", None, False)),
        ("DE", "ATTEMPTED_DELIVERY", ("delivered", None, False)),
        ("DE", "RETURN_TO_SENDER", ("returned", None, False)),
        ("XX", "", ("unknown", "unmapped", False)),
    ],
)
def test_a_detail_says_more_than_its_status(
    code: str, detail: str, meaning: tuple[str, str | None, bool]
) -> None:
    value = tracked(status_code=code, status_detail_code=detail, events=[])
    assert said(only(read(shipengine, value))) == meaning


def test_an_event_is_a_scan_at_its_time_in_utc() -> None:
    scan = only(read(shipengine, tracked()))
    assert scan.occurred_at == at("2026-11-23T07:00")
    assert (scan.place, scan.carrier) == ("Oakland, CA, US", "stamps-com")
    assert scan.raw_status == "IT/HUB_SCAN_OUT"
    assert "Novak" not in scan.model_dump_json()
    assert scan.eta is not None
    assert scan.eta.to == at("2026-11-27T23:59:59")


def test_a_carriers_own_code_is_never_taken_for_a_status() -> None:
    older = EVENT | {"status_code": None, "status_detail_code": None}
    newer = older | {"occurred_at": "2026-11-23T09:00:00Z"}
    first, last = read(shipengine, tracked(events=[newer, older])).scans
    assert said(first) == ("unknown", None, False)  # DE is FedEx's failed delivery
    assert said(last) == ("in_transit", None, False)  # the newest is what the parcel's state is of
    assert last.occurred_at == at("2026-11-23T09:00")


def test_the_older_shape_names_date_and_carrier_otherwise() -> None:
    older = {k: v for k, v in EVENT.items() if "occurred" not in k} | {
        "event_date": "2026-11-23T07:00:00Z"
    }
    value = tracked(events=[older]) | {
        "resource_url": "https://api.shipengine.com/v1/tracking/usps/1Z"
    }
    scan = only(read(shipengine, value))
    assert (scan.occurred_at, scan.carrier) == (at("2026-11-23T07:00"), "usps")


def test_a_parcel_without_any_scan_is_told_when_it_was_sent() -> None:
    body = json.dumps(tracked(status_code="NY", events=[], ship_date=None)).encode()
    stamp = {"x-shipengine-timestamp": "2026-11-23T07:00:00Z"}
    scan = only(shipengine.read(body, stamp, shop()))
    assert (scan.state, scan.occurred_at) == ("label_created", at("2026-11-23T07:00"))
    assert scan.eta is not None
    assert shipengine.read(body, {}, shop()).ignored


def test_the_delivery_happened_when_shipengine_says_so_not_at_the_last_event() -> None:
    silent = EVENT | {"status_code": "", "status_detail_code": None, "event_code": "OF"}
    stated = {"status_code": "DE", "actual_delivery_date": "2026-11-23T15:00:00Z"}
    first, last = read(shipengine, tracked(events=[silent], **stated)).scans
    assert (first.state, last.state) == ("unknown", "delivered")
    assert (last.occurred_at, last.precision) == (at("2026-11-23T15:00"), "second")


def test_a_delivery_whose_day_only_is_known_has_a_date() -> None:
    stated = {"status_code": "DE", "actual_delivery_date": "2026-11-24T15:00:00"}
    _, last = read(shipengine, tracked(**stated)).scans
    assert (last.state, last.occurred_at, last.precision) == ("delivered", at("2026-11-24"), "day")


def test_a_delivery_that_is_an_event_is_told_once() -> None:
    event = EVENT | {"status_code": "DE", "status_detail_code": None}
    stated = {"status_code": "DE", "actual_delivery_date": "2026-11-23T07:00:00Z"}
    assert only(read(shipengine, tracked(events=[event], **stated))).state == "delivered"


def test_an_event_with_a_local_time_only_has_a_date() -> None:
    local = EVENT | {"occurred_at": None}
    scan = only(read(shipengine, tracked(events=[local])))
    assert (scan.occurred_at, scan.precision) == (at("2026-11-23"), "day")


def test_what_is_not_about_a_parcels_course_is_ignored() -> None:
    assert read(shipengine, tracked("API_BATCH")).ignored
    assert not read(shipengine, tracked("API_TRACK_EVENT_V2")).ignored


@pytest.mark.parametrize("url", [None, 7, "https://[", "carrier_code", "?" + "a=1&" * 99])
def test_an_address_without_a_carrier_is_no_error(url: object) -> None:
    value = tracked() | {"resource_url": url}
    assert only(read(shipengine, value)).carrier is None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"resource_type": "API_TRACK"}, "tracking_number"),
        (tracked(tracking_number=""), "tracking_number"),
        (tracked(status_code=None), "status_code"),
        (tracked(events=[], ship_date=None), "time"),
    ],
)
def test_what_is_missing_is_named(value: object, field: str) -> None:
    with pytest.raises(Unusable, match=field):
        read(shipengine, value)
