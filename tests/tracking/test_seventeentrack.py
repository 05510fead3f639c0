from typing import Any

import pytest
from tests.tracking.deliveries import at, only, read, said

from shared.errors import Unusable
from tracking.adapters import reading, seventeentrack

EVENT: dict[str, Any] = {
    "time_iso": "2026-11-23T08:00:00+01:00",
    "time_utc": "2026-11-23T07:00:00Z",
    "time_raw": {"date": "2026-11-23", "time": "08:00:00", "timezone": "+01:00"},
    "description": "Ana Novak, Slovenska cesta 1",
    "location": "Leipzig, DE",
    "stage": "Arrival",
    "sub_status": "InTransit_Arrival",
    "address": {"country": "DE", "state": None, "city": "Leipzig", "street": "Poststrasse 1"},
}
OLDER = EVENT | {
    "time_iso": "2026-11-22T08:00:00+01:00",
    "sub_status": "InTransit_PickedUp",
    "stage": "PickedUp",
}
INFO: dict[str, Any] = {
    "latest_status": {"status": "InTransit", "sub_status": "InTransit_Arrival"},
    "latest_event": EVENT,
    "time_metrics": {"estimated_delivery_date": {"source": "Official", "from": None, "to": None}},
    "tracking": {
        "providers": [
            {
                "provider": {"key": 7041, "name": "DHL Paket"},
                "latest_sync_time": "2026-11-23T09:00:00Z",
                "events": [EVENT, OLDER],
            }
        ]
    },
}

# The table of states, whole: every sub status; a main status alone is named without one.
STATES = {
    "unknown": "NotFound_Other NotFound_InvalidCode NotFound",
    "label_created": "InfoReceived",
    "in_transit": """InTransit_PickedUp InTransit_Other InTransit_Departure InTransit_Arrival
        InTransit_CustomsProcessing InTransit_CustomsReleased InTransit""",
    "out_for_delivery": "OutForDelivery_Other OutForDelivery",
    "ready_for_pickup": "AvailableForPickup_Other AvailableForPickup",
    "delivery_attempted": "DeliveryFailure_Other DeliveryFailure_NoBody DeliveryFailure",
    "delayed": "Exception_Delayed",
    "exception": """Exception_Other Exception_NoBody Exception_Security Exception_Damage
        Exception_Rejected Exception_Lost Exception_Destroyed DeliveryFailure_Security
        DeliveryFailure_Rejected DeliveryFailure_InvalidAddress
        InTransit_CustomsRequiringInformation Exception""",
    "delivered": "Delivered_Other Delivered",
    "returning": "Exception_Returning",
    "returned": "Exception_Returned",
    "cancelled": "Exception_Cancel",
    "expired": "Expired_Other Expired",
}
WORDS = [(state, word) for state, words in STATES.items() for word in words.split()]


def pushed(**changes: Any) -> dict[str, Any]:
    data = {"number": "AB123456789SI", "carrier": 7041, "param": None, "tag": "1042"}
    return {"event": "TRACKING_UPDATED", "data": data | {"track_info": INFO | changes}}


def without_events(status: str, sub: str | None) -> dict[str, Any]:
    providers = [{"latest_sync_time": "2026-11-23T09:00:00Z", "events": []}]
    return pushed(
        latest_status={"status": status, "sub_status": sub},
        latest_event=None,
        tracking={"providers": providers},
    )


@pytest.mark.parametrize(("state", "word"), WORDS)
def test_every_status_and_sub_status_has_its_state(state: str, word: str) -> None:
    main, mark, _ = word.partition("_")
    scan = only(read(seventeentrack, without_events(main, word if mark else None)))
    assert scan.state == state
    assert scan.reason != "unmapped"
    assert scan.occurred_at == at("2026-11-23T09:00")


@pytest.mark.parametrize(
    ("sub", "reason", "action"),
    [
        ("DeliveryFailure_NoBody", "consignee_not_available", False),
        ("DeliveryFailure_InvalidAddress", "consignee_incorrect_address", True),
        ("Exception_Damage", "carrier_damaged_parcel", False),
        ("Exception_Lost", "carrier_parcel_lost", False),
        ("Exception_Rejected", "consignee_refused", False),
        ("Exception_Security", "security_issue", False),
        ("InTransit_CustomsRequiringInformation", "customs_documentation", True),
    ],
)
def test_a_sub_status_tells_the_reason(sub: str, reason: str, *, action: bool) -> None:
    main = sub.partition("_")[0]
    assert said(only(read(seventeentrack, without_events(main, sub))))[1:] == (reason, action)


def test_an_unheard_of_word_is_unknown_and_says_so() -> None:
    scan = only(read(seventeentrack, without_events("Teleported", "Teleported_Other")))
    assert said(scan) == ("unknown", "unmapped", False)
    scan = only(read(seventeentrack, without_events("Exception", "Exception_Brandnew")))
    assert said(scan) == ("exception", None, False)


def test_events_of_all_providers_become_scans_in_order_of_time() -> None:
    older, newer = read(seventeentrack, pushed()).scans
    assert (older.raw_status, newer.raw_status) == (
        "PickedUp/InTransit_PickedUp",
        "Arrival/InTransit_Arrival",
    )
    assert newer.occurred_at == at("2026-11-23T07:00")
    assert (newer.place, newer.carrier, newer.order_id) == ("Leipzig", "dhl-paket", "1042")
    written = newer.model_dump_json() + older.model_dump_json()
    assert "Novak" not in written
    assert "Poststrasse" not in written


@pytest.mark.parametrize(
    ("times", "when", "precision"),
    [
        ({"time_iso": None}, "2026-11-23T07:00", "second"),
        ({"time_iso": "2026-11-23T08:00:00"}, "2026-11-23T07:00", "second"),
        ({"time_iso": None, "time_utc": None}, "2026-11-22T23:00", "day"),
    ],
)
def test_the_most_exact_time_of_an_event_is_taken(
    times: dict[str, None], when: str, precision: str
) -> None:
    providers = [{"events": [EVENT | times]}]
    report = read(seventeentrack, pushed(tracking={"providers": providers}), "Europe/Ljubljana")
    scan = only(report)
    assert (scan.occurred_at, scan.precision) == (at(when), precision)


def test_the_expected_delivery_may_be_a_window() -> None:
    window = {"from": "2026-11-27T00:00:00-05:00", "to": "2026-11-28T00:00:00-05:00"}
    metrics = {"estimated_delivery_date": window}
    eta = read(seventeentrack, pushed(time_metrics=metrics)).scans[-1].eta
    assert eta is not None
    assert (eta.from_, eta.to) == (at("2026-11-27"), at("2026-11-28T23:59:59"))


def test_an_event_without_any_word_is_seen_but_says_no_state() -> None:
    silent = EVENT | {"stage": None, "sub_status": None, "time_iso": "2026-11-21T08:00:00+01:00"}
    providers = [{"events": [EVENT, silent]}]
    first = read(seventeentrack, pushed(tracking={"providers": providers})).scans[0]
    assert said(first) == ("unknown", None, False)


def test_a_stopped_tracking_is_ignored() -> None:
    assert read(seventeentrack, {"event": "TRACKING_STOPPED", "data": {"number": "1"}}).ignored


def test_one_delivery_may_tell_of_several_parcels() -> None:
    rows = [pushed()["data"] | {"number": number} for number in ("A1", "B2")]
    report = read(seventeentrack, {"event": "TRACKING_UPDATED", "data": rows})
    assert {scan.tracking_number for scan in report.scans} == {"A1", "B2"}


def test_a_parcel_that_cannot_be_read_withholds_no_other() -> None:
    rows = [{"number": None}, pushed()["data"]]
    assert read(seventeentrack, {"event": "TRACKING_UPDATED", "data": rows}).scans


def test_no_parcel_crowds_out_another() -> None:
    events = [EVENT | {"time_iso": f"2026-11-20T08:{n // 60:02}:{n % 60:02}Z"} for n in range(300)]
    row = pushed(tracking={"providers": [{"events": events}]})["data"]
    rows = [row | {"number": f"A{n}"} for n in range(40)]
    report = read(seventeentrack, {"event": "TRACKING_UPDATED", "data": rows})
    assert len({scan.tracking_number for scan in report.scans}) == 40
    assert len(report.scans) <= reading.SCANS_MAX


def test_an_unknown_number_that_was_never_looked_for_tells_nothing() -> None:
    nothing = without_events("NotFound", "NotFound_Other")
    nothing["data"]["track_info"]["tracking"] = {"providers": []}
    assert read(seventeentrack, nothing).ignored


def test_the_older_shape_may_write_its_numbers_as_texts() -> None:
    newest = {"z": "5", "s": "50", "a": "Austin", "d": "2026-11-23T14:22:00Z"}
    data = {"number": "1Z", "carrier": "100003", "track": {"z0": newest, "z1": []}}
    scan = only(read(seventeentrack, {"event": "TRACKING_UPDATED", "data": data}))
    assert (scan.state, scan.raw_status) == ("delivered", "5/50")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, "event"),
        ({"event": "SOMETHING"}, "event"),
        ({"event": "TRACKING_UPDATED", "data": []}, "data"),
        ({"event": "TRACKING_UPDATED", "data": {"track_info": INFO}}, "number"),
        (pushed(latest_status=None), "latest_status"),
        ({"event": "TRACKING_UPDATED", "data": {"number": "1", "track": {"z1": []}}}, "z0"),
    ],
)
def test_what_is_missing_is_named(value: object, field: str) -> None:
    with pytest.raises(Unusable, match=field):
        read(seventeentrack, value)
