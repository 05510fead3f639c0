from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, strategies as st

from shared import shops
from shared.clock import now
from shared.events import OrderShipped, ScanReported
from shared.shops import Shop
from tracking.domain.advance import advance, look
from tracking.domain.fold import order_fact
from tracking.domain.model import News, Order, Parcel, Track, about, scan_fact, scan_id
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


def hear(order: Order, *scans: ScanReported) -> None:
    for one in scans:
        order.tracks[NUMBER].add(scan_fact(one, scan_id("demo", one), now()), now())


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
