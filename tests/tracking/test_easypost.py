import json
from typing import Any

import pytest
from tests.tracking.deliveries import at, only, read, said

from shared.errors import Unusable
from tracking.adapters import easypost
from tracking.adapters.reading import Call, Outcome

DETAIL = {
    "status": "in_transit",
    "status_detail": "arrived_at_facility",
    "datetime": "2026-11-23T07:00:00Z",
    "tracking_location": {"city": "LEIPZIG", "state": None, "country": "DE", "zip": "04158"},
}
TRACKER: dict[str, Any] = {
    "object": "Tracker",
    "id": "trk_1",
    "tracking_code": "AB123456789SI",
    "status": "in_transit",
    "status_detail": "arrived_at_facility",
    "carrier": "DHLExpress",
    "created_at": "2026-11-20T07:00:00Z",
    "updated_at": "2026-11-23T08:00:00Z",
    "tracking_details": [DETAIL],
}

# The table of states, whole: (status, detail). None: any that says no more than the status.
STATES: dict[str, list[tuple[str, str | None]]] = {
    "unknown": [("unknown", "unknown"), ("error", None), ("unknown", "status_update")],
    "label_created": [("pre_transit", "label_created"), ("pre_transit", "status_update")],
    "in_transit": [
        ("in_transit", detail)
        for detail in (
            "arrived_at_destination",
            "arrived_at_facility",
            "departed_facility",
            "departed_origin_facility",
            "in_transit",
            "received_at_destination_facility",
            "received_at_origin_facility",
            "status_update",
            "transferred_to_destination_carrier",
            "unknown",
            None,
        )
    ]
    + [("unknown", "departed_facility")],
    "out_for_delivery": [("out_for_delivery", "out_for_delivery"), ("out_for_delivery", None)],
    "ready_for_pickup": [
        ("available_for_pickup", None),
        ("in_transit", "arrived_at_pickup_location"),
    ],
    "delivery_attempted": [
        ("in_transit", "delivery_exception"),
        ("failure", "delivery_exception"),
    ],
    "delayed": [
        (status, detail)
        for status in ("in_transit", "out_for_delivery", "pre_transit", "failure", "unknown")
        for detail in ("delayed", "weather_delay", "missorted")
    ],
    "exception": [
        ("failure", detail)
        for detail in (
            "address_correction",
            "awaiting_information",
            "damaged",
            "failure",
            "held",
            "lost",
            "refused",
            "transit_exception",
            None,
        )
    ],
    "delivered": [("delivered", "arrived_at_destination"), ("delivered", None)],
    "returning": [("return_to_sender", "return"), ("return_to_sender", None)],
    "cancelled": [("cancelled", "cancelled"), ("cancelled", None), ("unknown", "cancelled")],
    "expired": [("unknown", "expired"), ("in_transit", "expired")],
}
WORDS = [(state, *pair) for state, pairs in STATES.items() for pair in pairs]


def event(description: str = "tracker.updated", **changes: Any) -> dict[str, Any]:
    return {"object": "Event", "id": "evt_1", "description": description} | {
        "result": TRACKER | changes
    }


@pytest.mark.parametrize(("state", "status", "detail"), WORDS)
def test_every_status_and_detail_has_its_state(state: str, status: str, detail: str | None) -> None:
    scan = only(read(easypost, event(status=status, status_detail=detail, tracking_details=[])))
    assert scan.state == state
    assert scan.reason != "unmapped"
    assert scan.raw_status == (f"{status}/{detail}" if detail else status)


@pytest.mark.parametrize(
    ("status", "detail", "reason", "action"),
    [
        ("failure", "address_correction", "consignee_incorrect_address", True),
        ("failure", "awaiting_information", None, True),
        ("failure", "damaged", "carrier_damaged_parcel", False),
        ("failure", "lost", "carrier_parcel_lost", False),
        ("failure", "refused", "consignee_refused", False),
        ("in_transit", "missorted", "carrier_sorting_error", False),
        ("in_transit", "weather_delay", "weather_delay", False),
        ("return_to_sender", "refused", "consignee_refused", False),
    ],
)
def test_a_detail_tells_the_reason(
    status: str, detail: str, reason: str | None, *, action: bool
) -> None:
    scan = only(read(easypost, event(status=status, status_detail=detail, tracking_details=[])))
    assert said(scan)[1:] == (reason, action)


def test_an_unheard_of_status_is_unknown_and_says_so() -> None:
    for detail in ("vanished", "delayed"):
        changes = {"status": "vanished", "status_detail": detail, "tracking_details": []}
        assert said(only(read(easypost, event(**changes)))) == ("unknown", "unmapped", False)


def test_a_parcel_on_its_way_back_is_never_delivered() -> None:
    scan = only(read(easypost, event(status="delivered", is_return=True, tracking_details=[])))
    assert scan.state == "returned"


def test_each_detail_is_a_scan_with_town_but_no_postcode() -> None:
    report = read(easypost, event())
    scan = only(report)
    assert (report.topic, report.delivery_id) == ("tracker.updated", "evt_1")
    assert scan.occurred_at == at("2026-11-23T07:00")
    assert (scan.place, scan.carrier) == ("LEIPZIG, DE", "dhlexpress")


def test_a_bare_midnight_is_a_day_wherever_the_shop_is() -> None:
    report = read(easypost, event(est_delivery_date="2026-11-27T00:00:00Z"), "America/New_York")
    eta = only(report).eta
    assert eta is not None
    assert (eta.from_, eta.to) == (at("2026-11-27"), at("2026-11-27T23:59:59"))


def test_a_new_date_long_after_the_last_scan_is_told_at_its_own_time() -> None:
    changed = event(est_delivery_date="2026-11-29T00:00:00Z", updated_at="2026-11-25T07:00:00Z")
    scan, news = read(easypost, changed).scans
    assert scan.eta is None
    assert news.eta is not None
    assert news.occurred_at == at("2026-11-25T07:00")


def test_what_is_not_about_a_parcel_is_ignored() -> None:
    assert read(easypost, {"id": "evt_1", "description": "batch.created", "result": {}}).ignored
    assert read(easypost, {"id": "evt_1", "description": "tracker.updated"}).ignored


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "description"),
        (event(tracking_code=None), "tracking_code"),
        (event(status=None, status_detail=None), "status"),
    ],
)
def test_what_is_missing_is_named(value: object, field: str) -> None:
    with pytest.raises(Unusable, match=field):
        read(easypost, value)


def test_a_detail_counts_where_the_status_is_missing() -> None:
    bare = event(status=None, status_detail="out_for_delivery", tracking_details=[])
    assert only(read(easypost, bare)).state == "out_for_delivery"


def test_an_event_without_its_name_is_known_by_its_tracker() -> None:
    named = event()
    unnamed = {key: value for key, value in named.items() if key != "description"}
    assert read(easypost, unnamed).scans == read(easypost, named).scans


# -- calls ---------------------------------------------------------------------------------------


def answer(status: int, value: object) -> Outcome:
    return easypost.read_answer(status, json.dumps(value).encode())


def test_the_calls_name_the_number_and_only_carriers_that_easypost_spells_so() -> None:
    asked = {"tracker": {"tracking_code": "AB1", "carrier": "UPS"}}
    assert easypost.registration("AB1", "ups", "1042") == Call("POST", "/trackers", json=asked)
    assert easypost.registration("AB1", "UPS", "1042").json == asked
    unnamed = easypost.registration("AB1", "posta-slovenije", "1042").json
    assert unnamed == {"tracker": {"tracking_code": "AB1"}}
    assert easypost.question("AB1", None) == Call(
        "GET", "/trackers", params={"tracking_code": "AB1"}
    )
    assert easypost.headers("k")["Authorization"] == "Basic azo="


@pytest.mark.parametrize("value", [TRACKER, {"trackers": [TRACKER], "has_more": False}])
def test_an_answer_brings_the_same_scans_as_the_webhook(value: object) -> None:
    assert answer(200, value).scans == read(easypost, event()).scans


def test_asking_twice_without_news_brings_the_same_scans() -> None:
    again = TRACKER | {"updated_at": "2026-11-29T08:30:00Z"}
    for changes in ({}, {"status": "delivered"}, {"est_delivery_date": "2026-11-30T00:00:00Z"}):
        assert answer(200, TRACKER | changes).scans == answer(200, again | changes).scans


def test_a_tracker_that_knows_nothing_yet_tells_nothing() -> None:
    new = TRACKER | {"status": "unknown", "status_detail": "unknown", "tracking_details": []}
    assert answer(201, new) == Outcome("ok")
    assert answer(200, {"trackers": []}) == Outcome("ok")


@pytest.mark.parametrize(
    ("status", "verdict", "reason"),
    [
        (401, "retry", "key_refused"),
        (402, "retry", "account_refused"),
        (422, "give_up", "TRACKER.CREATE.ERROR"),
        (429, "retry", "rate_limited"),
        (500, "retry", "http_500"),
    ],
)
def test_a_refusal_is_for_later_or_for_good(status: int, verdict: str, reason: str) -> None:
    refused = answer(status, {"error": {"code": "TRACKER.CREATE.ERROR", "message": "AB1 …"}})
    assert (refused.verdict, refused.reason) == (verdict, reason)


def test_an_unreadable_answer_is_asked_again() -> None:
    assert easypost.read_answer(200, b"<html>") == Outcome("retry", "unreadable")
    assert easypost.read_answer(404, b"") == Outcome("give_up", "http_404")
