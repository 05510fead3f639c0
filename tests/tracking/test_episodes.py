"""One order in Ljubljana, promised for Friday 13 November 2026, and what is said while it is late."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shared.events import (
    EventData,
    OrderShipped,
    Payment,
    Promise,
    ScanReported,
    ShipmentDelayed,
    ShipmentDelayUpdate,
    ShipmentRecovered,
)
from shared.shops import Shop, parse
from tracking.domain import episodes, lessons
from tracking.domain.fold import Shipment, fold
from tracking.domain.model import About, Order, OrderLine, Parcel, Track, scan_fact
from tracking.domain.orders import fold_order
from tracking.domain.pace import Pace
from tracking.domain.profile import Profile
from tracking.domain.situation import Situation

LJUBLJANA = ZoneInfo("Europe/Ljubljana")
SHOP = """
[shops.demo]
name = "Demo"
reply_to = "help@example.com"
sender = { name = "Demo", address = "orders@example.com" }
time_zone = "Europe/Ljubljana"
"""
FRIDAY = date(2026, 11, 13)


def at(text: str) -> datetime:
    """A local time in November 2026: "13 18:00"."""
    day, clock = text.split()
    return (
        datetime.fromisoformat(f"2026-11-{day}T{clock}").replace(tzinfo=LJUBLJANA).astimezone(UTC)
    )


def promised(day: date) -> Promise:
    return Promise.model_validate({"from": day, "to": day, "source": "shop"})


FRIDAYS = promised(FRIDAY)


class World:
    """An order whose time is moved by hand; `said` is all that was told."""

    def __init__(
        self,
        extra: str = "",
        *,
        day_seconds: float = 86_400,
        promise: Promise | None = FRIDAYS,
        lines: dict[str, str] | None = None,
        payment: Payment = "paid",
    ) -> None:
        shop = parse(SHOP + extra).get("demo")
        assert shop is not None
        self.shop: Shop = shop
        placed = at("09 09:00")
        ordered = tuple(
            OrderLine(line_id=line_id, name="Tea", quantity=quantity)
            for line_id, quantity in (lines or {}).items()
        )
        self.order = Order("demo", "1001", placed)
        self.order.about = About(
            placed_at=placed, country="SI", promise=promise, lines=ordered, payment=payment
        )
        self.state = fold_order(self.order)
        self.pace = Pace(placed, day_seconds)
        self.said: list[EventData] = []
        self.profiles: Mapping[str, Profile] = {}
        self.scans = 0

    def ship(
        self, when: str = "09 15:00", shipment: str = "1", number: str = "AB1", **more: Any
    ) -> list[EventData]:
        body = OrderShipped.model_validate(
            {
                "order_id": "1001",
                "shipment_id": shipment,
                "carrier": "posta",
                "tracking_number": number,
                "shipped_at": at(when),
            }
            | more
        )
        self.order.parcels[shipment] = Parcel(shipment, body, (at(when), 0, ""), at(when))
        self.order.tracks[number] = Track("demo", number)
        return self.look(when)

    def scan(
        self, state: str, when: str, number: str = "AB1", heard: str | None = None, **more: Any
    ) -> list[EventData]:
        """Let a scan happen, and come in at `heard`."""
        self.scans += 1
        data = ScanReported.model_validate(
            {"tracking_number": number, "state": state, "occurred_at": at(when), **more}
        )
        heard = heard or when
        self.order.tracks[number].add(scan_fact(data, str(self.scans), at(heard)), at(heard))
        return self.look(heard)

    def shipments(self) -> dict[str, Shipment]:
        return {n: fold(p, self.order.scans(p)) for n, p in self.order.parcels.items()}

    def situation(self, when: str | datetime) -> Situation:
        now = at(when) if isinstance(when, str) else when
        shipments = self.shipments()
        return Situation(
            self.order, self.state, shipments, self.shop, now, self.pace, self.profiles
        )

    def look(self, when: str | datetime) -> list[EventData]:
        here = self.situation(when)
        told = [news.data for news in episodes.tell(here)]
        assert not episodes.tell(here), "what was told is told once"
        self.said += told
        return told

    def next(self, when: datetime) -> datetime | None:
        return episodes.check(self.situation(when))

    def run(self, start: str, end: str) -> list[EventData]:
        """Look whenever there may be something to say."""
        now, told = at(start), list[EventData]()
        for _ in range(100):
            due = self.next(now)
            if due is None or due > at(end):
                return told
            now = max(due, now + timedelta(seconds=1))
            told += self.look(now)
            lessons.stories(self.situation(now))
        raise AssertionError("it never comes to rest")


def late(world: World) -> ShipmentDelayed:
    """A parcel that a scan says will be late, told at once."""
    world.ship()
    world.scan("in_transit", "10 08:00")
    (told,) = world.scan("exception", "13 14:00", reason="consignee_incorrect_address")
    assert isinstance(told, ShipmentDelayed)
    return told


def test_an_episode_says_why_what_was_promised_what_now_and_when_we_write() -> None:
    told = late(World())
    assert (told.order_id, told.shipment_id, told.episode, told.cause) == (
        "1001",
        "1",
        1,
        "exception",
    )
    assert told.old is not None
    assert told.new is not None
    assert told.old.to == FRIDAY
    assert told.new.from_ > FRIDAY
    assert told.next_contact_at == at("17 10:00")
    assert told.detected_at == at("13 14:00")


def test_the_events_can_go_on_the_wire() -> None:
    world = World()
    told = late(world)
    world.run("13 14:00", "30 00:00")
    for one in (told, *world.said):
        assert type(one).model_validate_json(one.model_dump_json()) == one


def test_an_episode_opens_once() -> None:
    world = World()
    late(world)
    assert world.look("13 15:00") == []
    assert world.scan("exception", "13 16:00", reason="consignee_incorrect_address") == []
    assert episodes.open_delays(world.order) == [("1", 1)]
    assert [(one.cause, one.carrier) for one in episodes.open_(world.order)] == [
        ("exception", "posta")
    ]


def test_before_anything_is_sent_the_order_itself_is_late_and_the_parcel_takes_that_over() -> None:
    world = World()
    told = world.run("09 09:00", "13 23:00")
    assert [type(one) for one in told] == [ShipmentDelayed]
    assert isinstance(told[0], ShipmentDelayed)
    assert (told[0].shipment_id, told[0].cause) == (None, "not_shipped")
    assert episodes.open_delays(world.order) == [(None, 1)]
    world.ship("13 12:00")
    assert episodes.open_delays(world.order) == [("1", 1)]


def test_a_second_notice_only_when_the_date_moves_by_a_day() -> None:
    world = World("[shops.demo.delays]\neta_hours = 0\n")
    world.ship()
    eta = {"from": None, "to": "2026-11-16T12:00:00Z"}
    (first,) = world.scan("in_transit", "10 08:00", eta=eta)
    assert isinstance(first, ShipmentDelayed)
    assert (first.cause, first.episode) == ("eta_changed", 1)
    assert world.scan("in_transit", "10 12:00", eta={**eta, "to": "2026-11-16T16:00:00Z"}) == []
    later = world.scan("in_transit", "11 12:00", eta={**eta, "to": "2026-11-19T16:00:00Z"})
    assert [type(one) for one in later] == [ShipmentDelayed]
    assert isinstance(later[0], ShipmentDelayed)
    assert later[0].episode == 2
    assert later[0].old == first.new


def test_the_delay_is_over_when_the_parcel_moves_and_a_date_can_be_kept() -> None:
    world = World()
    told = late(world)
    over = world.scan("out_for_delivery", "16 08:00")
    assert [type(one) for one in over] == [ShipmentRecovered]
    assert isinstance(over[0], ShipmentRecovered)
    assert (over[0].episode, over[0].new) == (told.episode, told.new)
    assert episodes.open_delays(world.order) == []


def test_a_carrier_that_takes_its_late_date_back_gives_the_first_promise_back() -> None:
    world = World("[shops.demo.delays]\neta_hours = 0\n")
    world.ship()
    world.scan("in_transit", "10 08:00", eta={"from": None, "to": "2026-11-17T12:00:00Z"})
    (over,) = world.scan("in_transit", "10 20:00", eta={"from": None, "to": "2026-11-12T12:00:00Z"})
    assert isinstance(over, ShipmentRecovered)
    assert over.new is not None
    assert over.new.to == FRIDAY


def test_a_date_that_is_taken_back_within_hours_is_not_told() -> None:
    world = World()
    world.ship()
    assert (
        world.scan("in_transit", "10 08:00", eta={"from": None, "to": "2026-11-17T12:00:00Z"}) == []
    )
    assert (
        world.scan("in_transit", "10 10:00", eta={"from": None, "to": "2026-11-12T12:00:00Z"}) == []
    )
    assert world.run("10 10:00", "11 23:00") == []


def test_a_delivery_closes_an_episode_without_a_word() -> None:
    world = World()
    late(world)
    assert world.scan("delivered", "16 11:00") == []
    assert episodes.open_delays(world.order) == []
    assert world.run("16 11:00", "30 23:00") == []


def test_a_scan_from_before_the_notice_that_comes_in_after_it_ends_nothing() -> None:
    world = World()
    world.ship()
    world.scan("in_transit", "10 08:00")
    (told,) = world.run("10 08:00", "14 09:00")
    assert isinstance(told, ShipmentDelayed)
    assert world.scan("in_transit", "09 20:00", heard="14 10:00") == []
    assert world.scan("in_transit", "12 20:00", heard="14 11:00") == []
    assert episodes.open_delays(world.order) == [("1", told.episode)]
    over = world.scan("in_transit", "16 08:00")
    assert [type(one) for one in over] == [ShipmentRecovered]


def test_a_scan_that_follows_the_one_that_told_of_a_delay_ends_it_however_late_both_come_in() -> (
    None
):
    late_eta, good_eta = ({"from": None, "to": f"2026-11-{day}T12:00:00Z"} for day in (17, 12))
    world = World("[shops.demo.delays]\neta_hours = 0\n")
    world.ship()
    (told,) = world.scan("in_transit", "10 08:00", heard="10 12:00", eta=late_eta)
    assert isinstance(told, ShipmentDelayed)
    assert world.scan("in_transit", "10 07:00", heard="10 12:30", eta=good_eta) == []
    assert episodes.open_delays(world.order) == [("1", told.episode)]
    (over,) = world.scan("in_transit", "10 11:00", heard="10 13:00", eta=good_eta)
    assert isinstance(over, ShipmentRecovered)
    assert over.new is not None
    assert over.new.to == FRIDAY


def test_after_a_recovery_alarms_of_our_own_may_be_told_again() -> None:
    world = World()
    world.ship()
    world.scan("in_transit", "10 08:00")
    told = world.run("10 08:00", "20 12:00")
    notices = [one for one in told if isinstance(one, ShipmentDelayed)]
    assert len(notices) == episodes.MISSES_MAX
    assert notices[-1].new is not None
    assert notices[-1].new.to >= date(2026, 11, 20)
    over = world.scan("in_transit", "20 12:00")
    assert [type(one) for one in over] == [ShipmentRecovered]
    again = world.run("20 12:00", "30 23:00")
    assert any(isinstance(one, ShipmentDelayed) for one in again)


def test_what_is_told_days_after_it_was_due_names_no_day_that_has_passed() -> None:
    world = World()
    world.ship()
    world.scan("in_transit", "10 08:00")
    (told,) = world.look("25 12:00")
    assert isinstance(told, ShipmentDelayed)
    assert told.new is not None
    assert told.new.from_ > date(2026, 11, 25)


# ---------------------------------------------------------------- an order that was late when it left


def sent_late(world: World) -> ShipmentDelayed:
    (told,) = world.run("09 09:00", "13 23:00")
    assert isinstance(told, ShipmentDelayed)
    assert told.new is not None
    assert world.ship("13 23:30") == []
    return told


def test_the_date_told_before_it_was_sent_is_the_parcels_and_no_second_notice_comes_before_it() -> (
    None
):
    world = World()
    told = sent_late(world)
    assert told.new is not None
    assert episodes.believed(world.order, "1") == told.new
    assert [(e.shipment_id, e.cause, e.new) for e in episodes.open_(world.order)] == [
        ("1", episodes.SENT_LATE, told.new)
    ]
    world.scan("label_created", "13 23:40")
    later = world.run("13 23:40", f"{told.new.to.day} 11:59")
    assert {type(one) for one in later} == {ShipmentDelayUpdate}  # the word given still holds
    assert later[0].next_contact_at is not None
    missed = world.run(f"{told.new.to.day} 12:00", "30 23:00")
    (again,) = [one for one in missed if isinstance(one, ShipmentDelayed)][:1]
    assert (again.episode, again.old) == (2, told.new)


def test_a_parcel_that_left_late_is_no_longer_late_when_it_moves_in_time_for_the_new_date() -> None:
    world = World()
    told = sent_late(world)
    (over,) = world.scan("in_transit", "16 08:00")
    assert isinstance(over, ShipmentRecovered)
    assert (over.shipment_id, over.new) == ("1", told.new)
    assert episodes.open_delays(world.order) == []
    assert episodes.believed(world.order, "1") == told.new


def test_a_parcel_that_nobody_scans_keeps_the_word_given_before_it_was_sent() -> None:
    world = World()
    told = sent_late(world)
    world.order.parcels["1"].body = OrderShipped(
        order_id="1001", shipment_id="1", carrier="courier"
    )
    updates = world.run("13 23:40", "30 23:00")
    assert [type(one) for one in updates] == [ShipmentDelayUpdate, ShipmentDelayUpdate]
    assert world.order.told["episodes"]["1"]["contact"] is None
    assert told.episode == 1


# ---------------------------------------------------------------- a carrier that gives it up


def test_what_the_carrier_gives_up_stays_late_and_the_word_is_kept() -> None:
    world = World()
    told = late(world)
    assert world.scan("expired", "16 08:00") == []
    assert episodes.open_delays(world.order) == [("1", told.episode)]
    updates = world.run("16 08:00", "30 23:00")
    assert [type(one) for one in updates] == [ShipmentDelayUpdate, ShipmentDelayUpdate]
    assert updates[0].detected_at == at("17 10:00")


def test_what_the_carrier_gives_up_without_a_word_of_ours_is_told_once_without_a_date() -> None:
    world = World()
    world.ship()
    world.scan("in_transit", "10 08:00")
    told = world.scan("expired", "10 12:00")
    told += world.run("10 12:00", "30 23:00")
    notices = [one for one in told if isinstance(one, ShipmentDelayed)]
    assert [(one.cause, one.new) for one in notices] == [("silence", None)]


@pytest.mark.parametrize("end", ["returned", "cancelled"])
def test_a_word_that_an_end_without_a_message_takes_back_is_noted(end: str) -> None:
    world = World()
    late(world)
    assert world.scan(end, "16 08:00") == []
    assert episodes.open_delays(world.order) == []
    assert world.order.told["episodes"]["1"]["dropped"] == end


# ---------------------------------------------------------------- several parcels


def two_late(world: World) -> list[EventData]:
    """Two parcels fall silent together."""
    world.ship()
    world.ship("09 15:00", "2", "AB2")
    world.scan("in_transit", "10 08:00")
    world.scan("in_transit", "10 08:00", "AB2")
    told: list[EventData] = []
    now = at("10 08:00")
    while not told:
        due = world.next(now)
        assert due is not None
        now = max(due, now + timedelta(seconds=1))
        told = world.look(now)
    return told


def test_parcels_that_get_late_together_are_told_with_one_time_of_our_next_word() -> None:
    told = two_late(World())
    assert [one.shipment_id for one in told if isinstance(one, ShipmentDelayed)] == ["1", "2"]
    assert len({(one.detected_at, one.next_contact_at) for one in told}) == 1  # type: ignore[attr-defined]


def test_of_two_carriers_that_work_on_other_days_one_time_of_our_next_word_is_told() -> None:
    six = 'weekdays = ["mon", "tue", "wed", "thu", "fri", "sat"]'
    world = World(
        f"[shops.demo.calendars.six]\n{six}\n[shops.demo.delays.carriers.gls]\ncalendar = 'six'\n"
    )
    world.ship()
    world.ship("09 15:00", "2", "AB2", carrier="gls")
    data = ScanReported(tracking_number="AB1", state="returning", occurred_at=at("13 15:00"))
    world.order.tracks["AB1"].add(scan_fact(data, "first", at("13 15:00")), at("13 15:00"))
    told = world.scan("returning", "13 15:00", "AB2")
    contacts = [one.next_contact_at for one in told if isinstance(one, ShipmentDelayed)]
    assert contacts == [at("17 10:00")] * 2


def test_of_several_late_parcels_the_word_is_kept_once() -> None:
    world = World()
    two_late(world)
    contact = world.order.told["episodes"]["1"]["contact"]
    told = world.look(datetime.fromisoformat(contact))
    assert [type(one) for one in told] == [ShipmentDelayUpdate]
    said = world.order.told["episodes"]
    assert [said[name]["rounds"] for name in ("1", "2")] == [1, 1]
    assert said["1"]["contact"] == said["2"]["contact"]


# ---------------------------------------------------------------- the kept word


def test_we_write_when_we_said_so_twice_and_then_wait_for_staff() -> None:
    world = World("[shops.demo.delays]\ncontact_days = 1\n")
    world.ship()
    world.scan("in_transit", "10 08:00")
    (told,) = world.scan("returning", "12 14:00")
    assert isinstance(told, ShipmentDelayed)
    assert told.new is None
    assert told.next_contact_at == at("13 10:00")
    updates = world.run("12 14:00", "30 23:00")
    assert [type(one) for one in updates] == [ShipmentDelayUpdate, ShipmentDelayUpdate]
    rounds = [(u.round, u.next_contact_at) for u in updates if isinstance(u, ShipmentDelayUpdate)]
    assert rounds == [(1, at("16 10:00")), (2, None)]  # Friday, then Monday


def test_news_in_between_keep_the_word_too() -> None:
    world = World()
    late(world)
    world.scan("out_for_delivery", "16 08:00")
    assert not any(
        isinstance(one, ShipmentDelayUpdate) for one in world.run("16 08:00", "17 12:00")
    )


def test_the_next_word_comes_on_a_working_day_at_a_humane_hour() -> None:
    world = World("[shops.demo.delays]\ncontact_hour = 16:30:00\nship_from = 'SI'\n")
    told = late(world)
    assert told.next_contact_at is not None
    here = told.next_contact_at.astimezone(LJUBLJANA)
    assert (here.weekday() < 5, here.hour, here.minute) == (True, 16, 30)


# ---------------------------------------------------------------- nothing where nothing belongs


@pytest.mark.parametrize("over", ["cancelled", "erased"])
def test_of_an_order_that_is_over_nothing_is_said(over: str) -> None:
    world = World()
    late(world)
    setattr(world.state, over, True)
    assert world.run("13 14:00", "30 23:00") == []
    world.look("30 23:00")
    assert episodes.open_delays(world.order) == []


def test_of_a_withdrawn_parcel_nothing_is_said() -> None:
    world = World()
    late(world)
    world.order.parcels["1"].withdrawn = True
    world.ship("13 15:00", "2")
    assert episodes.open_delays(world.order) == []


def test_old_facts_raise_no_alarm() -> None:
    world = World("live_from = 2026-12-01T00:00:00Z\n")
    world.ship()
    assert world.scan("exception", "13 14:00", reason="weather_delay") == []
    assert world.run("13 14:00", "30 23:00") == []


def test_a_parcel_without_a_number_and_without_scans_is_not_watched() -> None:
    world = World()
    body = OrderShipped(order_id="1001", shipment_id="1", carrier="courier")
    world.order.parcels["1"] = Parcel("1", body, (at("09 15:00"), 0, ""))
    assert world.run("09 15:00", "30 23:00") == []


def test_a_new_promise_of_the_shop_replaces_what_was_open() -> None:
    world = World()
    world.run("09 09:00", "13 23:00")
    assert episodes.open_delays(world.order) == [(None, 1)]
    world.state.promise = promised(date(2026, 11, 27))
    assert world.look("14 09:00") == []
    assert episodes.open_delays(world.order) == []
    told = world.run("14 09:00", "27 23:00")
    assert [one.episode for one in told if isinstance(one, ShipmentDelayed)] == [2]


def test_what_is_late_for_ever_comes_to_rest() -> None:
    world = World()
    world.ship()
    world.scan("in_transit", "10 08:00")
    told = world.run("10 08:00", "30 23:00")
    assert 1 <= sum(isinstance(one, ShipmentDelayed) for one in told) <= episodes.MISSES_MAX
    assert all(isinstance(one, ShipmentDelayed | ShipmentDelayUpdate) for one in told)


def test_no_own_alarm_is_told_on_a_sunday_even_when_the_check_comes_late() -> None:
    world = World()
    world.ship()
    world.scan("in_transit", "10 08:00")
    assert world.look("15 12:00") == []  # Sunday: every mark has passed
    due = world.next(at("15 12:00"))
    assert due is not None
    assert due.astimezone(LJUBLJANA).date() == date(2026, 11, 16)


def test_when_a_day_takes_seconds_all_waiting_shrinks_with_it() -> None:
    world = World(day_seconds=5)
    start = at("09 09:00")
    due = world.next(start)
    assert due is not None
    assert due - start < timedelta(seconds=5 * 6)
    told = world.look(due + timedelta(seconds=1))
    assert [type(one) for one in told] == [ShipmentDelayed]
    contact = told[0].next_contact_at if isinstance(told[0], ShipmentDelayed) else None
    assert contact is not None
    assert timedelta() < contact - due < timedelta(seconds=5 * 6)


# ---------------------------------------------------------------- learning


def test_each_parcel_teaches_its_carrier_and_all_carriers_once() -> None:
    world = World()
    world.ship()
    world.scan("in_transit", "10 08:00")
    assert lessons.stories(world.situation("11 08:00")) == []
    world.scan("delivered", "11 09:00")
    here = world.situation("11 10:00")
    assert lessons.concluded(here)
    assert [name for name, _ in lessons.stories(here)] == ["posta", lessons.ALL]
    assert lessons.stories(here) == []
    assert not lessons.concluded(here)


def test_a_parcel_that_is_never_heard_of_again_teaches_too() -> None:
    world = World()
    world.ship()
    world.scan("in_transit", "10 08:00")
    assert not lessons.concluded(world.situation("16 08:00"))
    found = lessons.stories(world.situation("30 12:00"))
    assert [story.delivered_at for _, story in found] == [None, None]


def test_the_order_of_two_copies_of_a_world_is_the_same() -> None:
    one, other = World(), World()
    assert late(one) == late(other)
    assert one.order.told == other.order.told
