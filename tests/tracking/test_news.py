import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st
from tests.tracking.simulation import PACE, START, a_shop, run, tells_each_change_once

from shared import facts
from shared.events import (
    EventData,
    OrderDelivered,
    OrderShipped,
    ParcelDelivered,
    Promise,
    ScanReported,
    ShipmentStatusChanged,
)
from shared.facts import Fact
from shared.shops import Shop
from tracking.domain import news
from tracking.domain.fold import Shipment, fold
from tracking.domain.model import About, News, Order, OrderLine, Parcel, Track, scan_fact
from tracking.domain.orders import OrderState, fold_order
from tracking.domain.pace import Pace
from tracking.domain.situation import Situation

NOBODY_WAITS = datetime(2027, 3, 1, tzinfo=UTC)


def moment(when: str) -> datetime:
    return datetime.fromisoformat(f"2026-{when}Z")


def scan(when: str, state: str, reason: str | None = None, **more: Any) -> Fact:
    more = {"source": "easypost", **more}
    data = ScanReported(
        tracking_number="x",
        state=state,
        reason=reason,
        occurred_at=moment(when),
        **more,
    )
    return scan_fact(
        data, f"{when} {state} {reason} {sorted(map(str, more.items()))}", NOBODY_WAITS
    )


class Watch:
    """One order and what is told of it; parcel n has number N<n> and holds line n."""

    def __init__(self, shop: Shop | None = None, lines: int = 0, pace: Pace = PACE) -> None:
        self.shop, self.pace = shop or a_shop(), pace
        self.order = Order("s", "1", START)
        self.state: OrderState | None = None
        if lines:
            ordered = (
                OrderLine(line_id=str(n), name="Tea", quantity="1") for n in range(1, lines + 1)
            )
            self.order.about = About(placed_at=START, lines=tuple(ordered))  # fmt: skip

    def ship(
        self, n: int, *, when: str = "11-23 08:00", items: bool = False, line: int = 0, **more: Any
    ) -> "Watch":
        body = {"order_id": "1", "shipment_id": f"s/{n}", "tracking_number": f"N{n}"} | more
        if items:
            body["items"] = [{"line_id": str(line or n), "quantity": "1"}]
        at = moment(when)
        self.order.parcels[f"s/{n}"] = Parcel(f"s/{n}", OrderShipped(**body), (at, 40, f"{n}"), at)
        return self

    def hear(self, n: int, *scans: Fact, now: datetime | None = None) -> list[EventData]:
        return [one.data for one in self.news_of(n, *scans, now=now)]

    def news_of(self, n: int, *scans: Fact, now: datetime | None = None) -> list[News]:
        track = self.order.tracks.setdefault(f"N{n}", Track("s", f"N{n}"))
        track.scans = facts.add(track.scans, scans)
        newest = max((one.at for one in track.scans), default=START)
        return self.news(now or newest)

    def at(self, now: datetime) -> list[EventData]:
        return [one.data for one in self.news(now)]

    def news(self, now: datetime) -> list[News]:
        return news.tell(self.situation(now))

    def check(self, now: datetime) -> datetime | None:
        return news.check(self.situation(now))

    def situation(self, now: datetime) -> Situation:
        state = self.state or fold_order(self.order)
        return Situation(self.order, state, self.shipments(), self.shop, now, self.pace)

    def shipments(self) -> dict[str, Shipment]:
        return {i: fold(p, self.order.scans(p)) for i, p in self.order.parcels.items()}


def kinds(told: Iterable[EventData]) -> list[str]:
    return [type(one).__name__ for one in told]


OUT = scan("11-24 06:00", "out_for_delivery")
THERE = scan("11-24 12:00", "delivered", "neighbour", place="Ptuj")


def test_a_new_state_is_told_once_with_what_it_was_before() -> None:
    watch = Watch().ship(1, carrier="posta")
    assert watch.hear(1) == []
    assert watch.order.told == {}
    (told,) = watch.hear(1, scan("11-23 20:00", "in_transit", place="Celje"))
    assert isinstance(told, ShipmentStatusChanged)
    assert (told.state, told.previous, told.place) == ("in_transit", "unknown", "Celje")
    assert (told.carrier, told.tracking_number) == ("posta", "N1")
    assert (told.at, told.detected_at) == (moment("11-23 20:00"), moment("11-23 20:00"))
    assert watch.hear(1, scan("11-23 23:00", "in_transit", place="Ptuj")) == []
    (out,) = watch.hear(1, OUT)
    assert out.previous == "in_transit"  # type: ignore[attr-defined]


def test_a_new_reason_a_new_demand_and_a_new_attempt_are_news() -> None:
    watch = Watch().ship(1)
    said = [
        scan("11-24 10:00", "exception", "customs_documentation"),
        scan("11-24 11:00", "exception", "customs_documentation", action_required=True),
        scan("11-24 12:00", "exception", "customs_duties_unpaid"),
        scan("11-25 10:00", "delivery_attempted", "consignee_not_home"),
        scan("11-26 10:00", "delivery_attempted", "consignee_not_home"),
    ]
    for one in said:
        (told,) = watch.hear(1, one)
        assert told.happened_at == one.at
    assert watch.hear(1, scan("11-26 10:00:04", "delivery_attempted", source="shippo")) == []


def test_an_eta_is_news_when_its_day_or_its_window_moves() -> None:
    watch = Watch().ship(1)

    def hear(when: str, first: str | None, last: str) -> list[EventData]:
        eta = {"from": first and moment(first), "to": moment(last)}
        return watch.hear(1, scan(when, "in_transit", eta=eta))

    assert kinds(hear("11-23 10:00", None, "11-25 12:00")) == ["ShipmentStatusChanged"]
    assert hear("11-23 11:00", None, "11-25 12:00:40") == []
    assert hear("11-23 12:00", None, "11-25 16:00") == []  # only the day was promised
    (moved,) = hear("11-23 13:00", None, "11-25 23:30")  # after midnight in Ljubljana
    assert moved.happened_at == moment("11-23 13:00")
    assert hear("11-23 14:00", "11-26 09:00", "11-26 11:00")
    assert hear("11-23 15:00", "11-26 08:59:50", "11-26 11:00:10") == []
    assert hear("11-23 16:00", "11-26 10:00", "11-26 12:00")
    assert hear("11-23 17:00", "11-26 10:00", "11-27 12:00")


def test_a_delivery_is_told_with_how_and_only_once() -> None:
    watch = Watch().ship(1, carrier="posta")
    told = watch.hear(1, OUT, THERE)
    assert kinds(told) == ["ShipmentStatusChanged", "ParcelDelivered"]
    delivered = told[1]
    assert isinstance(delivered, ParcelDelivered)
    assert (delivered.delivered_at, delivered.how) == (THERE.at, "neighbour")
    assert (delivered.carrier, delivered.precision) == ("posta", "second")
    earlier = scan("11-24 11:59:57", "delivered", source="aftership")
    assert kinds(watch.hear(1, earlier)) == []
    assert kinds(watch.hear(1, scan("11-24 18:00", "delivered"))) == []


def test_a_delivery_of_which_only_the_date_is_known_says_so() -> None:
    day = scan("11-24 00:00", "delivered", precision="day")
    told = Watch().ship(1).hear(1, OUT, day)
    assert [one.precision for one in told] == ["day", "day"]  # type: ignore[attr-defined]


def test_a_revoked_delivery_is_told_and_so_is_the_next_one() -> None:
    watch = Watch().ship(1)
    watch.hear(1, OUT, THERE)
    gone = watch.hear(1, scan("11-24 16:00", "exception", "carrier_parcel_lost"))
    assert kinds(gone) == ["ShipmentStatusChanged", "ParcelDeliveryRevoked"]
    assert (gone[1].happened_at, gone[1].reason) == (  # type: ignore[attr-defined]
        moment("11-24 16:00"),
        "carrier_parcel_lost",
    )
    again = watch.hear(1, scan("11-25 10:00", "delivered"))
    assert kinds(again) == ["ShipmentStatusChanged", "ParcelDelivered"]


def test_each_word_about_a_delivery_is_dated_after_the_one_before() -> None:
    stood = Watch().ship(1)
    stood.hear(1, THERE)
    words = [*stood.news_of(1, scan("11-24 12:06", "exception"))[1:]]
    slower = scan("11-24 12:03", "delivered", source="aftership")  # so the first delivery had stood
    words += stood.news_of(1, slower)[1:]
    words += stood.news_of(1, scan("11-24 16:00", "returning"))[1:]
    assert kinds(one.data for one in words) == [
        "ParcelDeliveryRevoked", "ParcelDelivered", "ParcelDeliveryRevoked"
    ]  # fmt: skip
    assert words[1].data.happened_at == moment("11-24 12:00")  # type: ignore[attr-defined]
    times = [moment("11-24 12:00"), *(one.at for one in words)]
    assert times == sorted(set(times))
    back = Watch().ship(1)
    back.hear(1, THERE)
    (_, gone) = back.news_of(1, scan("11-24 00:00", "returning", precision="day"))
    assert gone.at > moment("11-24 12:00")


def test_a_revocation_and_a_new_delivery_heard_together_are_both_told() -> None:
    watch = Watch().ship(1)
    watch.hear(1, THERE)
    both = watch.hear(
        1, scan("11-24 16:00", "delivery_attempted"), scan("11-25 10:00", "delivered")
    )
    assert "ParcelDeliveryRevoked" in kinds(both)
    assert kinds(both)[-1] == "ParcelDelivered"
    assert watch.at(NOBODY_WAITS)[:-1] == []  # only that the order is complete
    fresh = Watch().ship(1)
    assert kinds(fresh.hear(1, *watch.order.tracks["N1"].scans))[-1:] == ["ParcelDelivered"]


def test_a_parcel_that_its_customer_sends_back_had_been_delivered() -> None:
    watch = Watch().ship(1)
    watch.hear(1, THERE)
    watch.order.facts = (facts.fact("order.return_requested.v1", moment("11-26 10:00"), "r"),)
    assert kinds(watch.hear(1, scan("11-27 10:00", "returning"))) == ["ShipmentStatusChanged"]
    assert kinds(watch.hear(1, scan("11-30 10:00", "returned"))) == ["ShipmentStatusChanged"]


def test_a_new_number_starts_afresh() -> None:
    watch = Watch().ship(1)
    watch.hear(1, THERE)
    watch.ship(1, tracking_number="N9", when="11-25 08:00")
    told = watch.at(moment("11-25 08:00"))
    assert kinds(told) == ["ShipmentStatusChanged", "ParcelDeliveryRevoked"]
    assert told[0].happened_at == moment("11-25 08:00")


# --- the last parcel


def complete(told: Iterable[EventData]) -> OrderDelivered | None:
    return next((one for one in told if isinstance(one, OrderDelivered)), None)


def test_an_order_is_delivered_when_the_quantities_are() -> None:
    watch = Watch(lines=2).ship(1, items=True).ship(2, items=True)
    assert complete(watch.hear(1, THERE)) is None
    later = scan("11-25 09:00", "delivered")
    told = watch.hear(2, later)
    assert kinds(told)[-1] == "OrderDelivered"
    made = complete(told)
    assert made is not None
    assert (made.delivered_at, made.how, made.shipment_ids) == (later.at, "scanned", ("s/1", "s/2"))


def test_what_was_cancelled_or_refunded_is_not_waited_for() -> None:
    watch = Watch(lines=2).ship(1, items=True)
    assert complete(watch.hear(1, THERE)) is None
    watch.order.facts = (
        facts.fact("order.refunded.v1", moment("11-25 10:00"), "r", items='[["2","1"]]'),
    )
    made = complete(watch.at(moment("11-25 10:01")))
    assert made
    assert made.delivered_at == THERE.at


def test_a_lost_parcel_does_not_hold_up_an_order_that_its_replacement_completes() -> None:
    watch = Watch(lines=1).ship(1, items=True)
    assert complete(watch.hear(1, scan("11-24 10:00", "exception", "carrier_parcel_lost"))) is None
    watch.ship(2, items=True, line=1, when="11-24 11:00")
    assert complete(watch.hear(2, THERE))


def test_boxes_that_each_state_their_whole_fulfilment_count_when_all_are_there() -> None:
    two = [{"line_id": "1", "quantity": "2"}]
    watch = Watch()
    lines = (OrderLine(line_id="1", name="Tea", quantity="2"),)
    watch.order.about = About(placed_at=START, lines=lines)
    for n in (1, 2):
        watch.ship(n)
        body = watch.order.parcels[f"s/{n}"].body
        watch.order.parcels[f"s/{n}"].body = OrderShipped(**body.model_dump() | {"items": two})
    assert complete(watch.hear(1, THERE)) is None
    assert complete(watch.hear(2, scan("11-25 09:00", "delivered")))


def test_boxes_that_share_a_line_count_each_for_itself() -> None:
    watch = Watch()
    lines = (OrderLine(line_id="7", name="Tea", quantity="3"),)
    watch.order.about = About(placed_at=START, lines=lines)
    for n in (1, 2, 3):
        watch.ship(n, items=True, line=7)
    assert complete(watch.hear(1, THERE)) is None
    assert complete(watch.hear(2, THERE)) is None
    assert complete(watch.hear(3, THERE))


def test_an_order_is_delivered_when_the_shop_said_that_this_is_all_and_all_is_there() -> None:
    watch = Watch(lines=3).ship(1, final="no").ship(2, final="yes")
    assert complete(watch.hear(2, THERE)) is None
    assert complete(watch.hear(1, scan("11-25 10:00", "returning"))) is None  # still under way
    assert complete(watch.hear(1, scan("11-27 10:00", "returned")))


def test_parcels_that_all_came_back_are_no_delivery() -> None:
    watch = Watch().ship(1, final="yes")
    assert complete(watch.hear(1, scan("11-25 10:00", "returned"), now=NOBODY_WAITS)) is None
    assert watch.check(NOBODY_WAITS) is None


def test_a_parcel_that_the_shop_counts_and_we_do_not_know_yet_is_waited_for() -> None:
    watch = Watch().ship(2, final="yes", number_of_order="2 of 2")
    assert complete(watch.hear(2, THERE)) is None
    watch.ship(1, final="no", number_of_order="1 of 2")
    assert complete(watch.at(moment("11-25 10:00"))) is None
    assert complete(watch.hear(1, scan("11-25 11:00", "delivered")))


def test_a_withdrawn_parcel_is_not_waited_for_and_not_spoken_of() -> None:
    watch = Watch().ship(1, final="no").ship(2, final="yes")
    assert complete(watch.hear(2, THERE)) is None
    watch.order.parcels["s/1"].withdrawn = True
    assert complete(watch.at(moment("11-25 10:00")))
    assert watch.hear(1, OUT) == []


@pytest.mark.parametrize(
    ("delivered", "due"),
    [
        ("11-24 12:00", "12-01 12:00"),  # Tuesday, a weekend between
        ("11-28 12:00", "12-04 12:00"),  # Saturday: Monday to Friday are five
        ("12-18 12:00", "12-28 12:00"),  # the 25th is Friday and Christmas: the 28th makes five
    ],
)
def test_without_a_word_on_more_the_order_is_delivered_five_working_days_later(
    delivered: str, due: str
) -> None:
    shop = a_shop(calendars={"default": {"holidays": "DE"}})
    watch = Watch(shop, lines=2).ship(1)
    assert complete(watch.hear(1, scan(delivered, "delivered"))) is None
    assert watch.check(moment(delivered)) == moment(due)
    assert watch.at(moment(due) - timedelta(seconds=1)) == []
    made = complete(watch.at(moment(due)))
    assert made is not None
    assert (made.delivered_at, made.how) == (moment(delivered), "scanned")
    assert watch.check(moment(due)) is None


def test_those_days_pass_as_fast_as_the_demo() -> None:
    watch = Watch(pace=Pace(START, day_seconds=5)).ship(1)
    at = START + timedelta(seconds=10)
    watch.hear(1, THERE._replace(at=at))
    assert watch.check(at) == at + timedelta(seconds=5 * 7)


def test_a_new_parcel_and_one_under_way_are_waited_for() -> None:
    watch = Watch().ship(1)
    watch.hear(1, THERE)
    watch.ship(2, when="11-26 10:00")
    assert watch.check(moment("11-26 10:00")) is None
    assert complete(watch.at(NOBODY_WAITS)) is None
    watch.hear(2, scan("11-30 10:00", "delivered"))
    assert watch.check(moment("11-30 10:00")) == moment("12-07 10:00")


def test_a_shop_that_says_more_is_coming_is_believed() -> None:
    watch = Watch().ship(1, final="no")
    assert complete(watch.hear(1, THERE, now=NOBODY_WAITS)) is None


def test_an_order_is_delivered_once_for_ever() -> None:
    watch = Watch().ship(1, final="yes")
    assert complete(watch.hear(1, THERE))
    watch.hear(1, scan("11-24 16:00", "delivery_attempted"))
    again = watch.hear(1, scan("11-25 10:00", "delivered"))
    assert kinds(again) == ["ShipmentStatusChanged", "ParcelDelivered"]
    assert watch.at(NOBODY_WAITS) == []


# --- shops without scans


def test_a_parcel_no_carrier_speaks_of_is_assumed_delivered_where_the_shop_wants_it() -> None:
    watch = Watch(a_shop(assume_delivered_days=7)).ship(1, final="yes")
    assert watch.at(START) == []
    due = moment("11-30 08:00")
    assert watch.check(START) == due
    told = watch.at(due)
    assert kinds(told) == ["ParcelDelivered", "OrderDelivered"]
    assert [one.how for one in told] == ["assumed", "assumed"]  # type: ignore[attr-defined]
    assert told[0].happened_at == due
    assert watch.check(due) is None
    assert watch.at(NOBODY_WAITS) == []
    assert Watch().ship(1, final="yes").at(NOBODY_WAITS) == []


def test_what_was_sent_before_the_shops_start_is_never_assumed_delivered() -> None:
    shop = a_shop(assume_delivered_days=7, live_from=START + timedelta(days=1))
    watch = Watch(shop).ship(1, final="yes")
    assert watch.check(START) is None
    assert watch.at(NOBODY_WAITS) == []


def test_a_parcel_with_a_scan_is_never_assumed_delivered() -> None:
    watch = Watch(a_shop(assume_delivered_days=7)).ship(1, final="yes")
    label = scan("11-23 20:00", "label_created")
    assert kinds(watch.hear(1, label, now=NOBODY_WAITS)) == ["ShipmentStatusChanged"]
    assert watch.check(START) is None


def test_what_a_carrier_says_after_an_assumption_counts() -> None:
    watch = Watch(a_shop(assume_delivered_days=1)).ship(1, final="yes")
    watch.at(moment("11-24 08:00"))
    told = watch.hear(1, OUT)
    assert kinds(told) == ["ShipmentStatusChanged", "ParcelDeliveryRevoked"]
    assert kinds(watch.hear(1, THERE)) == ["ShipmentStatusChanged", "ParcelDelivered"]
    straight = Watch(a_shop(assume_delivered_days=1)).ship(1, final="yes")
    straight.at(moment("11-24 08:00"))
    assert kinds(straight.hear(1, THERE)) == ["ShipmentStatusChanged", "ParcelDelivered"]


# --- orders that are over


def test_of_a_cancelled_order_only_states_are_told() -> None:
    watch = Watch(a_shop(assume_delivered_days=1)).ship(1, final="yes").ship(2)
    watch.order.facts = (facts.fact("order.cancelled.v1", START, "c"),)
    assert kinds(watch.hear(1, THERE)) == ["ShipmentStatusChanged"]
    assert watch.at(NOBODY_WAITS) == []
    assert watch.check(START) is None


def test_of_an_erased_order_nothing_is_told() -> None:
    watch = Watch(a_shop(assume_delivered_days=1)).ship(1, final="yes")
    watch.order.facts = (facts.fact("customer.erased.v1", START, "c"),)
    assert watch.hear(1, THERE, now=NOBODY_WAITS) == []
    assert watch.check(START) is None
    assert watch.order.told == {}


@pytest.mark.parametrize(
    ("when", "day", "kept"),
    [
        ("11-25 22:59", False, True),
        ("11-25 23:01", False, False),  # midnight has passed in Ljubljana
        ("11-25 00:00", True, True),
        ("11-26 00:00", True, False),
    ],
)
def test_a_promise_is_kept_by_the_end_of_its_last_day(when: str, *, day: bool, kept: bool) -> None:
    promise = Promise(from_=date(2026, 11, 24), to=date(2026, 11, 25))
    zone, watch = ZoneInfo("Europe/Ljubljana"), Watch().ship(1)
    watch.hear(1, scan(when, "delivered", precision="day" if day else "second"))
    (shipment,) = watch.shipments().values()
    assert news.promise_kept(OrderState(promise=promise), shipment, zone) is kept
    assert news.promise_kept(OrderState(), shipment, zone) is None
    under_way = fold(shipment.parcel, [OUT])
    assert news.promise_kept(OrderState(promise=promise), under_way, zone) is None


# --- whatever comes, in whatever order

SCANS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.builds(
            lambda day, hour, state, source, exact: scan(
                f"11-{day} {hour if exact else 0:02}:00",
                state,
                source=source,
                precision="second" if exact else "day",
            ),
            st.integers(23, 27),
            st.integers(6, 20),
            st.sampled_from(["in_transit", "out_for_delivery", "delivery_attempted", "delivered",
                             "exception", "returning", "expired", "unknown"]),
            st.sampled_from(["easypost", "aftership"]),
            st.booleans(),
        ),
    ),
    max_size=10,
)  # fmt: skip


@given(said=SCANS, dice=st.randoms(use_true_random=False), final=st.booleans())
@settings(deadline=None)
def test_however_scans_arrive_the_end_is_the_same_and_the_order_delivered_at_most_once(
    said: list[tuple[int, Fact]], dice: Random, *, final: bool
) -> None:
    ends = []
    for _ in range(2):
        watch = Watch(lines=3)
        for n in range(1, 4):
            watch.ship(n, items=n < 3, final="yes" if final else "unknown")
        arriving = [*said, *said]
        dice.shuffle(arriving)
        told = [news for n, one in arriving for news in watch.news_of(n, one)]
        told += watch.news(NOBODY_WAITS)
        assert watch.at(NOBODY_WAITS) == []
        assert watch.check(NOBODY_WAITS) is None
        assert kinds(one.data for one in told).count("OrderDelivered") <= 1
        tells_each_change_once(told)
        ends.append((watch.shipments(), watch.order.told.get("parcels")))
    assert ends[0] == ends[1]


def test_shuffled_and_doubled_orders_end_as_they_happened_and_are_delivered_once() -> None:
    assert run(0, 200).orders == 200


@pytest.mark.soak
@pytest.mark.timeout(1800)  # two idle cores need a third of it
def test_ten_thousand_such_orders_of_each_of_twenty_seeds(request: pytest.FixtureRequest) -> None:
    command = [sys.executable, "-m", "tests.tracking.simulation", "10000"]
    cores = os.cpu_count() or 1
    seeds = [[str(seed) for seed in range(1 + core, 21, cores)] for core in range(min(cores, 20))]
    runs = [subprocess.Popen([*command, *own], cwd=request.config.rootpath) for own in seeds]
    assert [one.wait() for one in runs] == [0] * len(runs)
