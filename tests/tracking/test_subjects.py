"""What of an order is watched: parcels without a promise, the rest of an order, what is not paid; and why not."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.events import (
    EventData,
    ScanReported,
    ShipmentDelayed,
    ShipmentRecovered,
    ShipmentStatusChanged,
)
from shared.facts import add
from tracking.domain import episodes, lessons
from tracking.domain.model import News, scan_fact
from tracking.domain.profile import Profile
from tracking.handlers.tally import Tally

from .test_episodes import World, at, late


def notices(told: Sequence[EventData]) -> list[ShipmentDelayed]:
    return [one for one in told if isinstance(one, ShipmentDelayed)]


def why(world: World, when: str) -> dict[str | None, dict[str, Any]]:
    return {one["shipment_id"]: one for one in episodes.why(world.situation(when))}


# ---------------------------------------------------------------- without a promise


def test_without_a_promise_nothing_can_be_late_before_it_is_sent() -> None:
    world = World(promise=None)
    assert world.run("09 09:00", "30 23:00") == []
    assert why(world, "30 23:00")[None]["because"] == "no_promise"


@pytest.mark.parametrize(
    ("state", "cause"), [("label_created", "not_collected"), ("in_transit", "silence")]
)
def test_without_a_promise_silence_is_told_after_most_parcels_have_come(
    state: str, cause: str
) -> None:
    world = World(promise=None)
    world.ship()
    world.scan(state, "09 18:00")
    told = world.run("09 18:00", "20 23:00")
    (first,) = notices(told)[:1]
    assert (first.cause, first.old) == (cause, None)
    assert first.new is not None
    assert first.detected_at is not None
    assert at("12 18:00") < first.detected_at < at("19 00:00")


def test_without_a_promise_a_parcel_that_goes_back_is_told_at_once() -> None:
    world = World(promise=None)
    world.ship()
    told = world.scan("returning", "10 08:00")
    assert [(one.cause, one.old, one.new) for one in notices(told)] == [("returning", None, None)]


def test_without_a_promise_the_carriers_first_date_counts_and_a_later_one_is_told() -> None:
    world = World("[shops.demo.delays]\neta_hours = 0\n", promise=None)
    world.ship()
    first, later = "2026-11-12T12:00:00Z", "2026-11-16T12:00:00Z"
    assert world.scan("in_transit", "10 08:00", eta={"to": first}) == []
    assert world.scan("in_transit", "10 12:00", eta={"to": "2026-11-12T16:00:00Z"}) == []
    (told,) = notices(world.scan("in_transit", "11 08:00", eta={"to": later}))
    assert told.new is not None
    assert (told.cause, told.old, told.new.from_) == ("eta_changed", None, date(2026, 11, 16))
    (over,) = world.scan("in_transit", "11 20:00", eta={"to": first})
    assert isinstance(over, ShipmentRecovered)
    assert over.new is not None
    assert over.new.to == date(2026, 11, 12)


def test_without_a_promise_a_parcel_that_goes_on_moving_is_not_late() -> None:
    world = World(promise=None)
    world.ship()
    told: list[EventData] = []
    for day in range(10, 28):
        told += world.scan("in_transit", f"{day} 08:00")
        told += world.run(f"{day} 08:00", f"{day} 23:59")
    assert told == []


def test_parcels_without_a_promise_teach_how_long_they_take() -> None:
    world = World(promise=None)
    world.ship()
    world.scan("in_transit", "10 08:00")
    world.scan("delivered", "18 09:00")
    slow = Profile()
    for name, story in lessons.stories(world.situation("18 10:00")):
        assert name in {"posta", lessons.ALL}
        for _ in range(30):
            slow.learn(story)
    learned, unknown = World(promise=None), World(promise=None)
    learned.profiles = {"posta": Profile.load(slow.dump())}
    for one in (learned, unknown):
        one.ship()
        one.scan("label_created", "09 18:00")
    assert why(learned, "09 18:00")["1"]["due"] > why(unknown, "09 18:00")["1"]["due"]
    assert not why(learned, "09 18:00")["1"]["promised"]


# ---------------------------------------------------------------- the rest of an order, and what is not paid

TWO = {"1": "2", "2": "1"}


def test_the_rest_of_a_partly_sent_order_is_watched() -> None:
    world = World(lines=TWO)
    world.ship(items=[{"line_id": "1", "quantity": "2"}], final="no")
    world.scan("delivered", "10 12:00")
    told = notices(world.run("10 12:00", "13 23:00"))
    assert [(one.shipment_id, one.cause) for one in told] == [(None, "not_shipped")]
    world.ship("13 23:30", "2", "AB2", items=[{"line_id": "2", "quantity": "1"}], final="no")
    assert episodes.open_delays(world.order) == [("2", 1)]
    assert episodes.believed(world.order, "2") == told[0].new


@pytest.mark.parametrize(
    "parcel",
    [
        {"items": [{"line_id": "1", "quantity": "2"}], "final": "yes"},
        {"items": [{"line_id": "1", "quantity": "2"}, {"line_id": "2", "quantity": "1"}]},
        {"items": None, "final": "unknown"},
    ],
)
def test_nothing_is_waited_for_when_all_may_be_in_the_parcels(parcel: dict[str, Any]) -> None:
    world = World(lines=TWO)
    world.ship(**parcel)
    world.scan("delivered", "10 12:00")
    assert world.run("10 12:00", "20 23:00") == []


def test_an_order_that_is_not_paid_is_not_late_until_it_is() -> None:
    world = World(payment="awaiting")
    assert world.run("09 09:00", "20 23:00") == []
    assert why(world, "20 23:00")[None]["because"] == "not_paid"
    assert world.order.about is not None
    world.order.about = world.order.about.model_copy(update={"payment": "paid"})
    (told,) = world.run("10 09:00", "20 23:00")[:1]
    assert isinstance(told, ShipmentDelayed)
    assert told.cause == "not_shipped"


# ---------------------------------------------------------------- days, names


def test_a_parcel_of_which_only_the_day_is_known_is_not_waited_for_from_its_midnight_on() -> None:
    own = "[shops.demo.delays]\ncollect_days = 1\n"
    day, hour = World(own), World(own)
    day.ship("10 00:00", precision="day")
    hour.ship("10 00:00")
    told = {w: notices(w.run("10 00:00", "13 00:00"))[0].detected_at for w in (day, hour)}
    assert told[day] is not None
    assert told[hour] is not None
    assert told[day] - told[hour] >= timedelta(hours=14)


def test_a_carrier_has_one_profile_however_it_is_spelt() -> None:
    names = {
        lessons.carrier_key(n)
        for n in ("DHL Express", "dhl-express", " dhl  EXPRESS", "DHL_Express")
    }
    assert names == {"dhl-express"}
    assert lessons.carrier_key("DHL") == "dhl"


def missed_words() -> float:
    said = REGISTRY.get_sample_value("afterglow_next_contact_total", {"outcome": "missed"})
    return said or 0.0


def test_a_word_that_an_end_takes_back_is_counted_as_missed_once() -> None:
    world = World()
    late(world)
    world.scan("returned", "16 08:00")
    before, now = missed_words(), at("16 08:00")
    for previous in ("exception", "returned"):
        told = ShipmentStatusChanged(
            order_id="1001", shipment_id="1", state="returned", previous=previous
        )
        tally = Tally()
        tally.news(world.order, world.shop, [News(told, now)], now, world.pace)
        tally.count()
    assert missed_words() == before + 1


def test_what_two_hundred_scans_teach_is_known_in_a_moment() -> None:
    world = World()
    world.ship()
    start = at("09 16:00")
    facts = []
    for n in range(200):
        data = ScanReported(
            tracking_number="AB1", state="in_transit", occurred_at=start + timedelta(minutes=9 * n)
        )
        # two sources, one of them three hours behind
        facts.append(scan_fact(data, str(n), data.occurred_at + timedelta(hours=3 * (n % 2))))
    end = ScanReported(tracking_number="AB1", state="delivered", occurred_at=at("11 12:00"))
    facts.append(scan_fact(end, "end", at("11 12:00")))
    world.order.tracks["AB1"].scans = add((), facts)
    (_, story), _ = lessons.stories(world.situation("11 13:00"))
    assert len(story.views) <= 30
    assert [view.state for view in story.views[-2:]] == ["in_transit", "delivered"]
    known = [view.known_at for view in story.views]
    assert known == sorted(known)


# ---------------------------------------------------------------- why


def test_operators_see_what_is_told_next_and_when() -> None:
    world = World()
    before = why(world, "09 09:00")[None]
    assert (before["next_alarm"], before["because"]) == ("not_shipped", None)
    assert before["next_alarm_at"] <= at("13 23:00")
    told = late(world)
    now = why(world, "13 15:00")
    assert set(now) == {"1"}
    assert now["1"]["next_contact_at"] == told.next_contact_at


def test_operators_see_why_nothing_is_told() -> None:
    world = World("[shops.demo.delays]\ncontact_days = 1\n")
    world.ship()
    world.scan("returning", "10 14:00")
    assert why(world, "10 15:00")["1"]["because"] is None
    world.run("10 14:00", "20 23:00")
    assert why(world, "20 23:00")["1"]["because"] == "waits_for_staff"
    world.scan("returned", "23 12:00")
    assert why(world, "23 13:00")["1"]["because"] == "returned"
    world.state.cancelled = True
    assert why(world, "23 13:00")[None]["because"] == "cancelled"
    old = World("live_from = 2026-12-01T00:00:00Z\n")
    old.ship()
    assert why(old, "10 08:00")["1"]["because"] == "history"
