from typing import Any

import pytest
from tests.tracking.deliveries import at, only, read, said

from shared.errors import Unusable
from tracking.adapters import shippo

STATUS: dict[str, Any] = {
    "status": "TRANSIT",
    "substatus": {"code": "package_departed", "text": "…", "action_required": False},
    "status_date": "2026-11-23T07:00:00Z",
    "object_created": "2026-11-23T09:00:00Z",
    "location": {"city": "Berkeley", "state": "CA", "zip": "94705", "country": "US"},
}
TRACK: dict[str, Any] = {
    "carrier": "usps",
    "tracking_number": "9205590164917312751089",
    "metadata": "1042",
    "tracking_status": STATUS,
    "tracking_history": [STATUS],
    "address_to": {"city": "Oakland"},
}

# The table of states, whole: (status, substatus); with * somebody has to act.
STATES = {
    "unknown": "UNKNOWN/other UNKNOWN/",
    "label_created": "PRE_TRANSIT/information_received PRE_TRANSIT/",
    "in_transit": """TRANSIT/package_accepted TRANSIT/package_arrived TRANSIT/package_departed
        TRANSIT/package_processed TRANSIT/package_processing TRANSIT/package_forwarded
        TRANSIT/delivery_scheduled TRANSIT/""",
    "out_for_delivery": "TRANSIT/out_for_delivery",
    "ready_for_pickup": "TRANSIT/pickup_available*",
    "delivery_attempted": """TRANSIT/delivery_attempted* TRANSIT/notice_left*
        TRANSIT/reschedule_delivery* TRANSIT/location_inaccessible*""",
    "delayed": "TRANSIT/delayed TRANSIT/delivery_rescheduled",
    "exception": """TRANSIT/address_issue* TRANSIT/contact_carrier* TRANSIT/package_damaged*
        TRANSIT/package_held* FAILURE/package_undeliverable* FAILURE/package_disposed
        FAILURE/package_lost* FAILURE/""",
    "delivered": "DELIVERED/delivered DELIVERED/",
    "returning": "RETURNED/return_to_sender RETURNED/package_unclaimed* RETURNED/",
}
WORDS = [(state, word) for state, words in STATES.items() for word in words.split()]


def updated(status: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    data = TRACK | changes
    if status is not None:
        data |= {"tracking_status": STATUS | status, "tracking_history": []}
    return {"event": "track_updated", "test": False, "data": data}


@pytest.mark.parametrize(("state", "word"), WORDS)
def test_every_status_and_substatus_has_its_state(state: str, word: str) -> None:
    status, code = word.removesuffix("*").split("/")
    substatus = {"code": code} if code else None
    scan = only(read(shippo, updated({"status": status, "substatus": substatus})))
    assert (scan.state, scan.action_required) == (state, word.endswith("*"))
    assert scan.reason != "unmapped"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("address_issue", "consignee_incorrect_address"),
        ("location_inaccessible", "consignee_access_restricted"),
        ("notice_left", "consignee_not_home"),
        ("package_damaged", "carrier_damaged_parcel"),
        ("package_lost", "carrier_parcel_lost"),
        ("package_unclaimed", "consignee_not_available"),
    ],
)
def test_a_substatus_tells_the_reason(code: str, reason: str) -> None:
    assert only(read(shippo, updated({"substatus": {"code": code}}))).reason == reason


def test_shippo_itself_says_best_whether_somebody_has_to_act() -> None:
    for stated in (True, False):
        substatus = {"code": "delivery_attempted", "action_required": stated}
        assert only(read(shippo, updated({"substatus": substatus}))).action_required is stated


def test_an_unheard_of_word_is_unknown_and_says_so() -> None:
    scan = only(read(shippo, updated({"status": "VANISHED", "substatus": None})))
    assert said(scan) == ("unknown", "unmapped", False)


def test_the_status_is_one_of_the_history_and_told_once_at_the_time_of_the_scan() -> None:
    report = read(shippo, updated(eta="2026-11-27T00:00:00Z", original_eta="2026-11-25T00:00:00Z"))
    scan = only(report)
    assert scan.occurred_at == at("2026-11-23T07:00")
    assert (scan.place, scan.order_id, scan.carrier) == ("Berkeley, CA, US", "1042", "usps")
    assert scan.raw_status == "TRANSIT/package_departed"
    assert scan.eta is not None
    assert (scan.eta.from_, scan.eta.to) == (at("2026-11-27"), at("2026-11-27T23:59:59"))


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("DELIVERED/information_received", "delivered"),  # so in the vendor's own example
        ("DELIVERED/other", "delivered"),
        ("DELIVERED/package_arrived", "delivered"),
        ("RETURNED/package_departed", "returning"),
        ("FAILURE/other", "exception"),
        ("FAILURE/package_departed", "exception"),
        ("FAILURE/delivery_attempted", "delivery_attempted"),
        ("TRANSIT/other", "in_transit"),
        ("TRANSIT/a_new_word", "in_transit"),
        ("UNKNOWN/out_for_delivery", "out_for_delivery"),
        ("PRE_TRANSIT/package_accepted", "in_transit"),
    ],
)
def test_a_substatus_that_says_less_than_its_status_changes_nothing(word: str, state: str) -> None:
    status, code = word.split("/")
    scan = only(read(shippo, updated({"status": status, "substatus": {"code": code}})))
    assert scan.state == state


def test_a_parcel_that_the_carrier_has_not_seen_tells_nothing() -> None:
    assert read(shippo, updated(tracking_status=None, tracking_history=[])).ignored


def test_metadata_that_is_no_order_id_is_left_alone() -> None:
    for metadata in ("Order 000123", "", None, {"order": 1}, "x" * 200):
        assert only(read(shippo, updated(metadata=metadata))).order_id is None


def test_what_is_not_about_a_parcel_is_ignored() -> None:
    assert read(shippo, {"event": "transaction_created", "data": {}}).ignored


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (updated(tracking_number=None), "tracking_number"),
        (updated(tracking_status={}, tracking_history=[]), "tracking_status"),
        (updated({"status_date": None, "object_created": None}), "time"),
        ({"event": "track_updated"}, "tracking_number"),
    ],
)
def test_what_is_missing_is_named(value: object, field: str) -> None:
    with pytest.raises(Unusable, match=field):
        read(shippo, value)
