import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import reduce
from typing import Any
from uuid import uuid4

from hypothesis import given, strategies as st

from shared import shops
from shared.clock import now
from shared.events import OrderShipped, ScanReported, ShipmentDelayed, rfc3339
from shared.facts import Fact
from shared.shops import Shop
from tracking.adapters import easypost
from tracking.domain.advance import advance, look
from tracking.domain.model import (
    News,
    Order,
    Parcel,
    Track,
    about,
    merge_scans,
    scan_fact,
    scan_id,
)
from tracking.domain.orders import order_fact
from tracking.domain.pace import Pace

from .conftest import NUMBER, SHOPS, order_events, scan

SHOP: Shop = next(iter(shops.parse(SHOPS)))


def make(*scans: ScanReported, **changes: Any) -> Order:
    placed, parcel = order_events(**changes)
    known = (order_fact(placed), order_fact(parcel))
    order = Order("demo", "1001", now() - timedelta(hours=30), facts=known)
    order.about = about(placed.data)  # type: ignore[arg-type]
    assert isinstance(parcel.data, OrderShipped)
    stated = (parcel.time, 40, str(parcel.id))
    order.parcels["1001/1"] = Parcel("1001/1", parcel.data, stated, shipped_at=parcel.time)
    order.tracks = {NUMBER: Track("demo", NUMBER)}
    hear(order, *scans)
    return order


def hear(order: Order, *scans: ScanReported, at: datetime | None = None) -> None:
    received = at or now()
    for one in scans:
        order.tracks[NUMBER].add(scan_fact(one, scan_id("demo", one), received), received)


def step(order: Order, at: datetime | None = None, *, only_heard: bool = False) -> list[News]:
    pace = Pace(order.known_since)
    return advance(order, SHOP, at or now(), pace, {}, only_heard=only_heard)


def kinds(told: Sequence[News]) -> list[str]:
    return [one.data.type for one in told]


def test_one_step_tells_states_before_deliveries_before_the_whole_order() -> None:
    told = step(make(scan("in_transit", ago=4), scan("delivered")))
    assert kinds(told) == [
        "shipment.status_changed.v1", "parcel.delivered.v1", "order.delivered.v1",
    ]  # fmt: skip


def test_what_was_told_is_not_told_again_and_everything_told_is_counted() -> None:
    order = make(scan("delivered"))
    first = step(order)
    assert step(order) == []
    assert order.told["n"] == len(first) == 3


def test_of_an_order_that_is_not_placed_or_forgotten_nothing_is_told() -> None:
    order = make(scan("out_for_delivery"))
    order.about, order.check_at = None, now()
    assert step(order) == []
    assert order.check_at is None
    assert order.changed
    assert order.parcels["1001/1"].state == "out_for_delivery"


def test_a_scan_that_is_no_news_leaves_the_check_that_is_set() -> None:
    order = make(scan("in_transit", ago=5))
    step(order)
    before = order.check_at
    assert before is not None
    order.changed = False
    hear(order, scan("in_transit", ago=0.1))
    assert step(order, only_heard=True) == []
    assert order.check_at == before
    assert not order.changed
    step(order)
    assert order.check_at is not None
    assert order.check_at >= before


def test_a_scan_that_is_news_sets_the_check_anew() -> None:
    order = make(scan("in_transit", ago=5))
    step(order)
    hear(order, scan("delivered"))
    assert step(order, only_heard=True)
    assert order.check_at is None
    assert order.changed


def test_a_check_that_has_come_and_says_nothing_is_put_off() -> None:
    order = make(scan("in_transit", ago=5))
    step(order)
    assert order.check_at is not None
    at = order.check_at
    while not step(order, at):  # the first of them that says something is the delay
        assert order.check_at is not None
        assert order.check_at > at
        at = order.check_at


def test_an_order_is_learned_from_once_its_parcel_is_delivered() -> None:
    order = make(scan("in_transit", ago=5))
    step(order)
    assert not order.learn
    hear(order, scan("delivered"))
    step(order)
    assert order.learn


def test_open_delays_are_noted_with_cause_and_carrier() -> None:
    past = str(now().date() - timedelta(days=4))
    order = make(scan("in_transit", ago=2), promise={"from": past, "to": past})
    assert "shipment.delayed.v1" in kinds(step(order))
    assert len(order.open) == 1
    assert order.open[0].endswith("/posta-slovenije")
    hear(order, scan("delivered", ago=0))
    step(order)
    assert order.open == ()


SCANS = [
    scan("label_created", ago=30), scan("in_transit", ago=20), scan("out_for_delivery", ago=9),
    scan("delivery_attempted", ago=8), scan("out_for_delivery", ago=4), scan("delivered", ago=1),
]  # fmt: skip


@given(st.permutations([*SCANS, *SCANS[2:5]]), st.integers(1, 9))
def test_scans_in_any_order_and_doubled_end_in_the_same_state_and_deliver_once(
    said: list[ScanReported], at_once: int
) -> None:
    order = make()
    told = step(order)
    for start in range(0, len(said), at_once):
        hear(order, *said[start : start + at_once])
        told += step(order, only_heard=True)
    found = kinds(told)
    assert found.count("order.delivered.v1") == 1
    assert found.count("parcel.delivered.v1") == 1
    straight = make(*SCANS)
    assert look(order)[1]["1001/1"].state == look(straight)[1]["1001/1"].state == "delivered"


# ---------------------------------------------------------------- expected times


def tracker(scans: int, days: int, said: float, **changes: Any) -> tuple[ScanReported, ...]:
    """What EasyPost's webhook says after so many scans: expected in so many days, said hours ago."""
    known = (("pre_transit", 20), ("in_transit", 12), ("in_transit", 9), ("in_transit", 6))
    body = {
        "description": "tracker.updated",
        "id": uuid4().hex,
        "result": {
            "tracking_code": NUMBER,
            "carrier": "USPS",
            "status": known[scans - 1][0],
            "updated_at": rfc3339(NOW - timedelta(hours=said)),
            "est_delivery_date": f"{NOW.date() + timedelta(days=days)}T00:00:00Z",
            "tracking_details": [
                {"status": word, "datetime": rfc3339(NOW - timedelta(hours=ago))}
                for word, ago in known[:scans]
            ],
        },
    }
    return easypost.read(json.dumps(body | changes).encode(), {}, SHOP).scans


NOW = now()
DELIVERIES = (
    tracker(1, 2, 19), tracker(2, 2, 11), tracker(3, 2, 8), tracker(3, 4, 7), tracker(4, 4, 5),
    tracker(4, 9, 4), tracker(4, 3, 2),
)  # fmt: skip


def test_an_aggregators_deliveries_are_as_many_scans_as_there_were() -> None:
    order = make()
    heard = Counter(
        order.tracks[NUMBER].add(scan_fact(one, scan_id("demo", one), now()), now())
        for said in DELIVERIES
        for one in said
    )
    assert len(order.tracks[NUMBER].scans) == heard["new"] == 4
    assert heard["eta"] == 3


@given(st.permutations([*DELIVERIES, *DELIVERIES[1:5]]))
def test_the_time_that_was_said_last_is_expected_in_whichever_order_it_came(
    deliveries: list[tuple[ScanReported, ...]],
) -> None:
    order, straight = make(), make(*(one for said in DELIVERIES for one in said))
    for said in deliveries:
        hear(order, *said)
    assert len(order.tracks[NUMBER].scans) == 4
    found, wanted = look(order)[1]["1001/1"], look(straight)[1]["1001/1"]
    assert found.eta == wanted.eta == DELIVERIES[-1][-1].eta
    assert found.eta_said_at == wanted.eta_said_at == NOW - timedelta(hours=2)
    assert (found.state, found.since) == (wanted.state, wanted.since)


TELLINGS = [
    scan_fact(
        ScanReported.model_validate(
            scan("in_transit", ago=9).model_dump(by_alias=True)
            | {"eta": {"from": None, "to": f"2026-12-{day:02}T12:00:00Z"}, "eta_said_at": said}
        ),
        "one", NOW - timedelta(hours=received),
    )
    for day, said, received in (
        (1, None, 6), (2, rfc3339(NOW - timedelta(hours=5)), 3), (3, None, 4), (4, None, 4),
        (5, rfc3339(NOW - timedelta(hours=7)), 1),
    )
]  # fmt: skip


@given(st.permutations([*TELLINGS, *TELLINGS]))
def test_of_the_times_expected_on_one_scan_the_last_said_holds(tellings: list[Fact]) -> None:
    merged = reduce(merge_scans, tellings)
    assert merged.get("eta_to") == "2026-12-04T12:00:00Z"
    assert merge_scans(merged, TELLINGS[0]) is merged


def test_a_later_day_on_the_same_scan_opens_a_delay_and_an_earlier_one_ends_it() -> None:
    order = make()
    hear(order, *tracker(3, 2, 8), at=NOW - timedelta(hours=8))
    assert "shipment.delayed.v1" not in kinds(step(order, NOW - timedelta(hours=8)))
    later = NOW - timedelta(hours=7)
    hear(order, *tracker(3, 8, 7), at=later)
    told = step(order, later, only_heard=True)
    (delay,) = (one.data for one in told if isinstance(one.data, ShipmentDelayed))
    assert delay.cause == "eta_changed"
    assert kinds(told)[0] == "shipment.status_changed.v1"
    assert told[0].at == later
    hear(order, *tracker(3, 2, 4), at=NOW - timedelta(hours=4))
    told = step(order, NOW - timedelta(hours=4), only_heard=True)
    assert kinds(told) == ["shipment.status_changed.v1", "shipment.recovered.v1"]


def test_a_later_scan_does_not_take_back_what_was_said_after_it() -> None:
    order = make(*tracker(3, 4, 2))
    hear(order, scan("in_transit", ago=6, eta={"to": rfc3339(NOW + timedelta(days=1))}))
    assert look(order)[1]["1001/1"].eta == tracker(3, 4, 2)[-1].eta
    hear(order, scan("in_transit", ago=0.5, eta={"to": rfc3339(NOW + timedelta(days=1))}))
    found = look(order)[1]["1001/1"]
    assert found.eta is not None
    assert found.eta.to == NOW + timedelta(days=1)


def test_an_expected_time_said_after_a_failed_attempt_holds_whatever_scan_it_hangs_on() -> None:
    order = make(*tracker(3, 2, 8), scan("delivery_attempted", ago=5))
    assert look(order)[1]["1001/1"].eta is None
    hear(order, *tracker(3, 3, 6))
    assert look(order)[1]["1001/1"].eta is None
    hear(order, *tracker(3, 4, 4))
    assert look(order)[1]["1001/1"].eta == tracker(3, 4, 4)[-1].eta


def test_a_scan_too_old_to_be_kept_is_nothing_new() -> None:
    order = make(*(scan("in_transit", ago=n / 10) for n in range(1, 201)))
    track = order.tracks[NUMBER]
    old, before = scan("label_created", ago=50), (track.scans, track.heard_at)
    assert track.add(scan_fact(old, scan_id("demo", old), now()), now()) == "known"
    assert (track.scans, track.heard_at) == before
