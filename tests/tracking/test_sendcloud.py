from typing import Any

import pytest
from tests.tracking.deliveries import at, only, read, said

from shared.errors import Unusable
from tracking.adapters import sendcloud

PARCEL: dict[str, Any] = {
    "id": 3,
    "name": "Ana Novak",
    "address": "Slovenska cesta 1",
    "city": "Ljubljana",
    "date_updated": "23-11-2026 08:00:00",
    "status": {"id": 3, "message": "En route to sorting center"},
    "carrier": {"code": "dhl_express"},
    "order_number": "1042",
    "external_order_id": "",
    "tracking_number": "S0M3TR4Ck1NgNumB3r",
    "is_return": False,
}
SENT = 1_795_424_400_123  # 2026-11-23T09:00:00.123Z


def changed(status: Any = 3, **changes: Any) -> dict[str, Any]:
    stated = {"id": status, "message": "as told"}
    parcel = PARCEL | {"status": stated} | changes
    return {"action": "parcel_status_changed", "timestamp": SENT, "parcel": parcel}


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (1000, ("label_created", None, False)),
        (3, ("in_transit", None, False)),
        (92, ("out_for_delivery", None, False)),
        (12, ("ready_for_pickup", None, False)),
        (8, ("delivery_attempted", None, False)),
        (4, ("delayed", None, False)),
        (62991, ("exception", "consignee_refused", False)),
        (62997, ("exception", "consignee_incorrect_address", True)),
        (11, ("delivered", None, False)),
        (93, ("delivered", "hand", False)),
        (62992, ("returned", None, False)),
        (2000, ("cancelled", None, False)),
        (1337, ("unknown", None, False)),
        (77777, ("unknown", "unmapped", False)),
    ],
)
def test_a_number_is_a_state(status: int, meaning: tuple[str, str | None, bool]) -> None:
    assert said(only(read(sendcloud, changed(status)))) == meaning


def test_the_scan_happened_when_the_carrier_said_so() -> None:
    scan = only(read(sendcloud, changed()))
    assert scan.occurred_at == at("2026-11-23T09:00:00.123000")
    told = changed() | {"carrier_status_change_timestamp": SENT - 3_600_000}
    assert only(read(sendcloud, told)).occurred_at == at("2026-11-23T08:00:00.123000")


@pytest.mark.parametrize(
    "stamp", [1_795_424_400, " 1795424400 ", "1795424400000", "2026-11-23T10:00:00+01:00"]
)
def test_a_stamp_is_read_however_it_is_written(stamp: Any) -> None:
    scan = only(read(sendcloud, changed() | {"timestamp": stamp}))
    assert (scan.occurred_at, scan.precision) == (at("2026-11-23T09:00"), "second")


def test_a_stamp_that_is_none_leaves_the_date() -> None:
    scan = only(read(sendcloud, changed() | {"timestamp": 123}))
    assert (scan.occurred_at, scan.precision) == (at("2026-11-23"), "day")


@pytest.mark.parametrize(
    ("number", "state"), [("11", "delivered"), ("0", "label_created"), (8.0, "delivery_attempted")]
)
def test_a_status_may_be_a_text(number: Any, state: str) -> None:
    assert only(read(sendcloud, changed(number))).state == state


def test_a_carrier_may_be_a_text() -> None:
    assert only(read(sendcloud, changed(carrier="PostNL"))).carrier == "postnl"


def test_a_local_time_of_an_unnamed_zone_is_a_date() -> None:
    scan = only(read(sendcloud, {"parcel": PARCEL}, "Europe/Ljubljana"))
    assert (scan.occurred_at, scan.precision) == (at("2026-11-22T23:00"), "day")
    newer = {"parcel": PARCEL | {"date_updated": "2026-11-23T08:00:00"}}
    assert only(read(sendcloud, newer)).precision == "day"


def test_a_scan_names_parcel_carrier_and_order_but_no_person() -> None:
    report = read(sendcloud, changed())
    scan = only(report)
    assert report.delivery_id == f"3:3:{SENT}"
    assert (scan.tracking_number, scan.shipment_id) == ("S0M3TR4Ck1NgNumB3r", None)
    assert (scan.carrier, scan.order_id, scan.place) == ("dhl-express", "1042", None)
    assert scan.raw_status == "3/as told"


def test_a_parcel_without_a_number_goes_by_sendclouds_own_id() -> None:
    for number in (False, None, ""):
        scan = only(read(sendcloud, changed(1000, tracking_number=number)))
        assert (scan.tracking_number, scan.shipment_id) == (None, "3")
        assert scan.order_id is None  # the order's printed number is no id
        scan = only(read(sendcloud, changed(1000, tracking_number=number, external_order_id="77")))
        assert (scan.shipment_id, scan.order_id) == ("3", "77")


def test_what_changes_no_parcel_of_an_order_is_ignored() -> None:
    assert read(sendcloud, {"action": "integration_updated", "integration": {}}).ignored
    assert read(sendcloud, changed(11, is_return=True)).ignored
    for status in (1999, 2001):
        assert read(sendcloud, changed(status)).ignored


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "status"),
        ({"parcel": PARCEL | {"status": {"id": 1.5}}}, "status"),
        ({"parcel": PARCEL | {"status": {"id": True}}}, "status"),
        ({"action": "parcel_status_changed"}, "status"),
        (changed(tracking_number=None, id=None), "tracking_number"),
        ({"parcel": PARCEL | {"date_updated": None}}, "time"),
    ],
)
def test_what_is_missing_is_named(value: object, field: str) -> None:
    with pytest.raises(Unusable, match=field):
        read(sendcloud, value)
