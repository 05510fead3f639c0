import random
from datetime import UTC, date, datetime, time, timedelta

from hypothesis import given, settings, strategies as st

from order_events.domain import (
    FUTURE_MAX,
    Once,
    Order,
    Shipment,
    Snapshot,
    clamp,
    decide,
    fingerprint,
    fold,
    promised_days,
    record,
)
from shared import facts
from shared.events import (
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    OrderShipped,
    OrderUpdated,
    Promise,
)
from shared.facts import Fact
from shared.shops import Calendar, Shop, parse
from shared.testing import placed

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MONDAY = date(2026, 11, 23)


def shop(calendar: str = "", promises: str = "days = [2, 4]") -> Shop:
    made = parse(f"""
[shops.demo]
name = "Demo"
sender = {{ name = "Demo", address = "shop@demo.example.com" }}
reply_to = "help@demo.example.com"
time_zone = "Europe/Ljubljana"
[shops.demo.calendars.default]
{calendar}
[[shops.demo.promises]]
{promises}
""").get("demo")
    assert made is not None
    return made


def promise(
    made: Shop, at: str, country: str | None = None, method: str | None = "standard"
) -> Promise | None:
    ship_to = {"country": country} if country else None
    data = placed(placed_at=at, shipping_method=method, ship_to=ship_to)
    return promised_days(data, made)


def days(found: Promise | None) -> tuple[date, date]:
    assert found is not None
    return found.from_, found.to


# ---------------------------------------------------------------- the promise


def test_a_promise_counts_working_days_from_a_working_day() -> None:
    assert days(promise(shop(), "2026-11-23T09:00:00Z")) == (date(2026, 11, 25), date(2026, 11, 27))
    friday, saturday = "2026-11-27T09:00:00Z", "2026-11-28T09:00:00Z"
    assert days(promise(shop(), friday)) == (date(2026, 12, 1), date(2026, 12, 3))
    assert days(promise(shop(), saturday)) == (date(2026, 12, 2), date(2026, 12, 4))


def test_an_order_after_the_cut_off_in_the_shops_zone_starts_the_next_day() -> None:
    made = shop("cut_off = 14:00:00")
    early, late = "2026-11-23T12:59:00Z", "2026-11-23T13:00:00Z"  # 13:59 and 14:00 in Ljubljana
    assert days(promise(made, early))[0] == date(2026, 11, 25)
    assert days(promise(made, late))[0] == date(2026, 11, 26)


def test_holidays_of_the_shop_and_of_the_destination_and_closed_days_do_not_count() -> None:
    made = shop('holidays = "SI"\nclosed = [2026-12-28]')
    # 24.12. Thursday, 25. and 26. holidays (Friday, Saturday), 28. closed, 1. and 2.1. holidays
    assert days(promise(made, "2026-12-24T09:00:00Z")) == (date(2026, 12, 30), date(2027, 1, 4))
    assert days(promise(shop(), "2026-11-10T09:00:00Z", "PL"))[0] == date(2026, 11, 13)
    assert days(promise(shop(), "2026-11-10T09:00:00Z", "SI"))[0] == date(2026, 11, 12)


def test_handling_days_come_before_the_days_under_way() -> None:
    made = shop("handling_days = 2")
    assert days(promise(made, "2026-11-23T09:00:00Z")) == (date(2026, 11, 27), date(2026, 12, 1))


def test_the_first_line_that_speaks_of_method_and_country_counts() -> None:
    lines = 'method = "express*"\ndays = [1, 1]\n[[shops.demo.promises]]\ncountries = ["SI"]\ndays = [3, 5]'
    made = shop(promises=lines)
    at = "2026-11-23T09:00:00Z"
    assert days(promise(made, at, "DE", "Express 24"))[0] == date(2026, 11, 24)
    assert days(promise(made, at, "SI"))[0] == date(2026, 11, 26)
    assert promise(made, at, "DE") is None
    assert promise(made, at) is None


@settings(max_examples=60, deadline=None)
@given(
    at=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - made aware below
    span=st.tuples(st.integers(0, 10), st.integers(0, 10)).map(sorted),
    weekdays=st.sets(st.sampled_from(["mon", "tue", "wed", "sat", "sun"]), min_size=1),
    handling=st.integers(0, 5),
    country=st.sampled_from(["SI", "DE", "PL", "US", "XK", None]),
)
def test_a_promise_is_made_of_working_days_after_the_order(
    at: datetime, span: list[int], weekdays: set[str], handling: int, country: str | None
) -> None:
    made = shop(f"weekdays = {sorted(weekdays)}\nhandling_days = {handling}", f"days = {span}")
    stated = placed(
        placed_at=at.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z"),
        ship_to={"country": country} if country else None,
    )
    first, last = days(promised_days(stated, made))
    ordered = stated.placed_at.astimezone(made.zone).date()
    assert ordered + timedelta(days=handling + span[0]) <= first <= last
    calendar = Calendar(weekdays=tuple(sorted(weekdays)))
    assert {first.weekday(), last.weekday()} <= calendar.weekday_numbers


def test_what_the_shop_promised_and_what_was_promised_before_is_not_computed_again() -> None:
    order = Order("demo", "1001")
    stated = Promise.model_validate({"from": MONDAY, "to": MONDAY, "source": "shop"})
    record(
        order,
        placed(promise={"from": str(MONDAY), "to": str(MONDAY), "source": "shop"}),
        NOW,
        shop(),
        NOW,
    )
    later, _ = record(order, placed(number="#2"), NOW, shop(), NOW)
    assert isinstance(later, OrderPlaced)
    assert later.promise == stated


# ---------------------------------------------------------------- times


@given(st.timedeltas(timedelta(days=-9000), timedelta(days=9000)))
def test_only_a_time_more_than_ten_minutes_ahead_becomes_now(off: timedelta) -> None:
    at = NOW + off
    assert clamp(at, NOW) == (NOW if off > FUTURE_MAX else at)


# ---------------------------------------------------------------- statements


def snapshot(city: str = "Celje", *, minute: int = 0, paid: bool = True) -> Snapshot:
    data = placed(
        placed_at="2026-11-20T09:00:00Z",
        ship_to={"city": city, "country": "SI"},
        revision=f"2026-11-20T10:{minute:02}:00Z",
    )
    return Snapshot(data, placed=paid)


def said(order: Order, *statements: Snapshot | Shipment | Once) -> list[str]:
    return [data.type for s in statements for data, _ in decide(order, s, shop(), NOW)]


def test_a_basket_is_placed_when_it_is_paid_and_told_once() -> None:
    order = Order("demo", "1001")
    assert said(order, snapshot(paid=False), snapshot(paid=False, minute=1)) == []
    assert said(order, snapshot(minute=2), snapshot(minute=3)) == ["order.placed.v1"]
    assert said(order, snapshot("Koper", minute=4)) == ["order.updated.v1"]
    assert said(order, snapshot("Celje", minute=1)) == []


def test_a_parcel_is_told_when_it_is_new_changed_withdrawn_and_back() -> None:
    order = Order("demo", "1001")
    parcel = OrderShipped(order_id="1001", shipment_id="7/1", tracking_number="A")
    other = parcel.model_copy(update={"tracking_number": "B"})
    told = said(
        order,
        Shipment(parcel, withdrawn=True),
        Shipment(parcel),
        Shipment(parcel),
        Shipment(other),
        Shipment(other, withdrawn=True),
        Shipment(other, withdrawn=True),
        Shipment(parcel),
    )
    assert told == [
        "order.shipped.v1",
        "shipment.updated.v1",
        "shipment.withdrawn.v1",
        "shipment.updated.v1",
    ]


def test_any_other_event_is_told_once_per_subject() -> None:
    order = Order("demo", "1001")
    refund = OrderRefunded(order_id="1001", amount=5, currency="EUR")
    cancel = OrderCancelled(order_id="1001")
    told = said(
        order,
        Once(refund, NOW, "1"),
        Once(refund, NOW, "1"),
        Once(refund, NOW, "2"),
        Once(cancel, NOW),
    )
    assert told == ["order.refunded.v1"] * 2 + ["order.cancelled.v1"]


def test_the_fingerprint_leaves_the_revision_out_and_nothing_else() -> None:
    one, same, other = snapshot(minute=1), snapshot(minute=2), snapshot("Koper", minute=1)
    assert fingerprint(one.data) == fingerprint(same.data) != fingerprint(other.data)


@given(st.permutations(range(6)))
def test_the_newest_revision_stays_whatever_comes_in_which_order(order_of: list[int]) -> None:
    order = Order("demo", "1001")
    at = [NOW - timedelta(hours=6 - n) for n in range(6)]
    for n in order_of:
        first = placed(placed_at="2026-11-20T05:00:00Z", number="#0")
        body = first.model_dump() | {"number": f"#{n}", "revision": at[n]}
        data = OrderUpdated.model_validate(_wire(body)) if n else first
        record(order, data, at[n], shop(), NOW)
    assert order.snapshot is not None
    assert order.looks["number"] == "#5"


def _wire(body: dict[str, object]) -> dict[str, object]:
    times = {
        k: v.isoformat().replace("+00:00", "Z") for k, v in body.items() if isinstance(v, datetime)
    }
    return body | times


# ---------------------------------------------------------------- the fold

TYPES = [
    "order.placed.v1",
    "order.preparing.v1",
    "order.shipped.v1",
    "shipment.updated.v1",
    "shipment.withdrawn.v1",
    "order.cancelled.v1",
    "order.refunded.v1",
    "order.return_requested.v1",
    "order.return_received.v1",
]
FACTS = st.builds(
    facts.fact,
    st.sampled_from(TYPES),
    st.integers(0, 5).map(lambda n: NOW + timedelta(hours=n)),
    st.integers(0, 30),
    day=st.booleans(),
    subject=st.sampled_from(["1", "2"]),
    partial=st.sampled_from([None, True]),
).map(lambda f: f._replace(at=f.at.replace(hour=0)) if f.day else f)


@given(st.lists(FACTS, max_size=12), st.randoms(use_true_random=False))
def test_the_state_is_the_same_for_any_order_and_any_duplication(
    known: list[Fact], dice: random.Random
) -> None:
    expected = fold(facts.add((), known))
    for _ in range(3):
        arrived: tuple[Fact, ...] = ()
        for one in dice.sample(known * 2, len(known) * 2):
            arrived = facts.add(arrived, [one])
        assert fold(arrived) == expected


def test_a_cancelled_order_stays_cancelled_when_a_part_is_cancelled_later() -> None:
    cancelled = facts.fact("order.cancelled.v1", NOW, 1)
    partly = facts.fact("order.cancelled.v1", NOW + timedelta(hours=1), 2, partial=True)
    assert fold(facts.add((), [partly]))["cancelled"] == "partly"
    assert fold(facts.add((), [cancelled, partly]))["cancelled"] is True


def test_the_cut_off_is_a_time_of_the_day() -> None:
    assert shop("cut_off = 14:00:00").calendar("default").cut_off == time(14)
