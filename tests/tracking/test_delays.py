"""The rules, on parcels that a person can follow: Ljubljana, Monday 2 November 2026 is a working day."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from shared.events import Eta
from shared.shops import Shop, Thresholds, parse
from tracking.domain.delays import Alarm, History, Rules, alarms, eta_day, rules_for
from tracking.domain.habits import Habits
from tracking.domain.profile import Profile, Story
from tracking.domain.standing import View

LJUBLJANA = ZoneInfo("Europe/Ljubljana")
UNKNOWN = Habits(Profile(), Profile())
SHOP = """
[shops.demo]
name = "Demo"
reply_to = "help@example.com"
sender = { name = "Demo", address = "orders@example.com" }
time_zone = "Europe/Ljubljana"
[shops.demo.delays]
ship_from = "SI"
"""
FRIDAY = date(2026, 11, 13)


def shop(extra: str = "") -> Shop:
    found = parse(SHOP + extra).get("demo")
    assert found is not None
    return found


def at(text: str) -> datetime:
    """A local time in Ljubljana."""
    return datetime.fromisoformat(text).replace(tzinfo=LJUBLJANA).astimezone(UTC)


def seen(state: str, when: str) -> View:
    return View(at(when), state, at(when), at(when))


def first(history: History, extra: str = "", country: str = "SI") -> Alarm | None:
    rules = rules_for(shop(extra), "posta", country)
    return next(iter(alarms(history, rules, UNKNOWN)), None)


def sent(state: str, when: str, promise: date = FRIDAY, **more: Any) -> History:
    view = seen(state, when)
    return History(view.known_at, promise, at("2026-11-09T15:00"), view, **more)


def local(alarm: Alarm | None) -> datetime:
    assert alarm is not None
    return alarm.at.astimezone(LJUBLJANA)


def test_an_order_that_is_not_sent_the_day_before_is_late() -> None:
    alarm = first(History(at("2026-11-09T10:00"), FRIDAY))
    assert alarm is not None
    assert alarm.cause == "not_shipped"
    assert date(2026, 11, 11) <= local(alarm).date() <= FRIDAY


def test_a_label_that_nobody_collects_is_late_before_the_promised_day_ends() -> None:
    alarm = first(sent("label_created", "2026-11-09T15:00"))
    assert alarm is not None
    assert alarm.cause == "not_collected"
    assert date(2026, 11, 11) < local(alarm).date() <= FRIDAY


def test_a_parcel_last_seen_days_ago_is_silent() -> None:
    alarm = first(sent("in_transit", "2026-11-09T18:00"))
    assert alarm is not None
    assert alarm.cause == "silence"
    assert date(2026, 11, 11) < local(alarm).date() <= FRIDAY


def test_a_parcel_that_moves_but_is_not_out_for_delivery_on_the_last_day_is_late() -> None:
    alarm = first(sent("in_transit", "2026-11-12T22:00"))
    assert alarm is not None
    assert alarm.cause == "promise_date"
    assert local(alarm).date() == FRIDAY
    assert local(alarm).hour >= 12


def test_a_parcel_out_for_delivery_is_given_the_evening() -> None:
    out, moving = (
        sent("out_for_delivery", "2026-11-13T07:00"),
        sent("in_transit", "2026-11-13T07:00"),
    )
    alarm = first(out)
    assert alarm is None or local(alarm) >= local(first(moving))
    assert alarm is None or local(alarm).hour >= 20


@pytest.mark.parametrize("state", ["ready_for_pickup", "delivered", "returned", "cancelled"])
def test_what_has_arrived_or_ended_is_not_late(state: str) -> None:
    assert first(sent(state, "2026-11-12T10:00")) is None


def test_a_parcel_that_goes_back_is_told_at_once_and_without_a_date() -> None:
    alarm = first(sent("returning", "2026-11-11T10:00"))
    assert alarm == Alarm(at("2026-11-11T10:00"), "returning", None)
    lost = first(sent("exception", "2026-11-11T10:00", reason="carrier_parcel_lost"))
    assert lost == Alarm(at("2026-11-11T10:00"), "returning", None)


def test_an_exception_on_the_last_day_is_told_at_once() -> None:
    alarm = first(sent("exception", "2026-11-13T13:00", reason="consignee_incorrect_address"))
    assert alarm is not None
    assert (alarm.at, alarm.cause) == (at("2026-11-13T13:00"), "exception")


def test_a_failed_attempt_is_a_delay_only_when_no_day_is_left() -> None:
    today = first(sent("delivery_attempted", "2026-11-13T13:00"))
    assert today is not None
    assert (today.at, today.cause) == (at("2026-11-13T13:00"), "delivery_attempted")
    early = first(sent("delivery_attempted", "2026-11-11T13:00"))
    assert early is None or local(early).date() == FRIDAY


# ---------------------------------------------------------------- a carrier that nobody knows yet

COLD = {
    "silent since Tuesday, promised for Friday": (
        "in_transit", "2026-11-10T18:00", FRIDAY, "silence", "2026-11-13T10:00", "2026-11-13T23:00"),
    "silent since the Friday before": (
        "in_transit", "2026-11-06T18:00", FRIDAY, "silence", "2026-11-12T10:00", "2026-11-13T23:00"),
    "moved last night, not out on the last day": (
        "in_transit", "2026-11-12T22:00", FRIDAY, "promise_date", "2026-11-13T12:00", "2026-11-13T23:00"),
    "moved on Saturday, promised for Monday": (
        "in_transit", "2026-11-14T10:00", date(2026, 11, 16), "promise_date",
        "2026-11-16T12:00", "2026-11-16T23:00"),
    "silent for a week, promised for the week after": (
        "in_transit", "2026-11-09T18:00", date(2026, 11, 24), "silence",
        "2026-11-13T18:00", "2026-11-20T18:00"),
    "silent over All Saints and a Sunday, promised for Wednesday": (
        "in_transit", "2026-10-30T18:00", date(2026, 11, 4), "silence",
        "2026-11-04T10:00", "2026-11-04T23:00"),
    "silent over All Saints and a Sunday, promised for Monday": (
        "in_transit", "2026-10-30T18:00", date(2026, 11, 2), "promise_date",
        "2026-11-02T12:00", "2026-11-02T23:00"),
    "a label only for four working days": (
        "label_created", "2026-11-06T15:00", FRIDAY, "not_collected",
        "2026-11-12T10:00", "2026-11-13T23:00"),
    "a label only since Wednesday": (
        "label_created", "2026-11-11T15:00", FRIDAY, "not_collected",
        "2026-11-12T18:00", "2026-11-13T23:00"),
    "a problem three days before": (
        "exception", "2026-11-10T18:00", FRIDAY, "exception", "2026-11-12T10:00", "2026-11-13T18:00"),
    "not at home the day before": (
        "delivery_attempted", "2026-11-12T13:00", FRIDAY, "delivery_attempted",
        "2026-11-13T12:00", "2026-11-13T23:00"),
}  # fmt: skip
"""How it stands, since when, the last promised day; what a person would say, not before and not after when."""


@pytest.mark.parametrize("case", COLD)
def test_of_a_carrier_that_nobody_knows_a_person_would_say_the_same(case: str) -> None:
    state, since, promise, cause, earliest, latest = COLD[case]
    view = seen(state, since)
    alarm = first(History(view.known_at, promise, at(since) - timedelta(hours=3), view))
    assert alarm is not None
    assert (alarm.cause, at(earliest) <= alarm.at <= at(latest)) == (cause, True), local(alarm)


@pytest.mark.parametrize(
    ("promise", "day", "hours"),
    [
        (FRIDAY, date(2026, 11, 12), (10, 18)),
        (date(2026, 11, 14), FRIDAY, (10, 18)),  # a Saturday
        (date(2026, 11, 15), FRIDAY, (10, 18)),  # a Sunday
        (date(2026, 11, 16), FRIDAY, (10, 18)),  # a Monday: the Friday is the day before
    ],
)
def test_an_order_not_sent_on_the_working_day_before_the_last_is_late(
    promise: date, day: date, hours: tuple[int, int]
) -> None:
    alarm = local(first(History(at("2026-11-09T10:00"), promise)))
    assert alarm.date() == day
    assert hours[0] <= alarm.hour <= hours[1]


def test_carriers_of_which_nothing_is_heard_do_not_silence_that_an_order_was_not_sent() -> None:
    waits, rules = History(at("2026-11-09T10:00"), FRIDAY), rules_for(shop(), None, "SI")
    unheard = Profile()
    ended = Story(waits.known_at, waits.known_at, FRIDAY, rules.route, (), None)
    for _ in range(50):
        unheard.learn(ended)
    silent = Habits(unheard, unheard)
    assert [one.cause for one in alarms(waits, rules, silent)] == ["not_shipped"]
    assert alarms(History(waits.known_at, FRIDAY, waits.known_at), rules, silent) == ()


def test_an_order_is_not_called_late_on_the_day_it_came_unless_that_is_the_last() -> None:
    early, late = (local(first(History(at(f"2026-11-{day}T16:30"), FRIDAY))) for day in (12, 13))
    assert early.date() == late.date() == FRIDAY


def test_where_nobody_promised_a_day_a_parcel_that_moves_is_not_late() -> None:
    for when in ("2026-11-12T22:00", "2026-11-13T07:00", "2026-11-16T07:00"):
        assert first(sent("in_transit", when)) is not None
        assert first(sent("in_transit", when, implied=True)) is None


@settings(deadline=None)
@given(
    start=st.datetimes(datetime(2026, 11, 2), datetime(2026, 11, 12)),  # noqa: DTZ001 - made aware
    longer=st.timedeltas(timedelta(hours=1), timedelta(days=8)),
    days=st.integers(1, 15),
    state=st.sampled_from(["label_created", "in_transit"]),
)
def test_a_longer_silence_is_never_told_later(
    start: datetime, longer: timedelta, days: int, state: str
) -> None:
    promise = start.date() + timedelta(days=days)
    short, long = (at_.replace(tzinfo=UTC) for at_ in (start, start - longer))
    told = []
    for since in (short, long):
        view = View(short, state, since, since)  # all is known at the same moment
        told.append(first(History(short, promise, since, view)))
    if told[0] is not None:
        assert told[1] is not None
        assert told[1].at <= told[0].at


# ---------------------------------------------------------------- the carrier's own date


def test_the_carriers_later_date_is_told_when_it_stays() -> None:
    said = at("2026-11-10T09:00")
    history = sent("in_transit", "2026-11-10T09:00", eta=date(2026, 11, 17), eta_since=said)
    alarm = first(history)
    assert alarm is not None
    assert (alarm.cause, alarm.at) == ("eta_changed", said + timedelta(hours=3))
    assert alarm.new is not None
    assert alarm.new.from_ == date(2026, 11, 17)
    at_once = first(history, "[shops.demo.delays.carriers.posta]\neta_hours = 0\n")
    assert at_once is not None
    assert at_once.at == said


def test_on_the_last_day_the_carriers_later_date_is_told_at_once() -> None:
    said = at("2026-11-13T09:00")
    alarm = first(sent("in_transit", "2026-11-13T09:00", eta=date(2026, 11, 16), eta_since=said))
    assert alarm is not None
    assert (alarm.cause, alarm.at) == ("eta_changed", said)


def test_a_problem_with_a_date_in_time_is_no_delay_yet() -> None:
    alarm = first(sent("delayed", "2026-11-11T09:00", eta=FRIDAY))
    assert alarm is None or local(alarm) >= at("2026-11-13T12:00")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("2026-11-13T00:00:00Z", date(2026, 11, 13)),
        ("2026-11-13T23:59:59Z", date(2026, 11, 13)),
        ("2026-11-13T23:30:00Z", date(2026, 11, 14)),
        ("2026-11-13T22:59:59Z", date(2026, 11, 13)),
    ],
)
def test_a_date_without_an_hour_is_no_midnight(said: str, wanted: date) -> None:
    eta = Eta.model_validate({"to": said})
    assert eta_day(eta, rules_for(shop(), None, "SI").route) == wanted


# ---------------------------------------------------------------- Sundays, holidays


states = st.sampled_from(
    [
        "label_created",
        "in_transit",
        "out_for_delivery",
        "delayed",
        "exception",
        "delivery_attempted",
    ]
)


@settings(deadline=None)
@given(
    known=st.datetimes(datetime(2026, 1, 2), datetime(2026, 12, 20)),  # noqa: DTZ001 - made aware
    state=states,
    days=st.integers(0, 12),
    country=st.sampled_from(["SI", "DE", "PL", "US"]),
)
def test_no_silence_is_told_on_a_sunday_or_a_holiday(
    known: datetime, state: str, days: int, country: str
) -> None:
    heard = known.replace(tzinfo=UTC)
    promise = heard.date() + timedelta(days=days)
    view = View(heard, state, heard, heard)
    rules = rules_for(shop(), "posta", country)
    for alarm in alarms(History(heard, promise, heard, view), rules, UNKNOWN):
        here = rules.route.local(alarm.at).date()
        if alarm.at != heard:
            assert here in rules.route.delivery, (alarm, here)
        if alarm.new is not None:
            assert alarm.new.from_ > promise
            assert alarm.new.from_ > here
            assert alarm.new.from_ in rules.route.working
            assert alarm.new.to in rules.route.working


@pytest.mark.parametrize(
    ("heard", "promise", "quiet_until"),
    [
        ("2026-11-06T16:00", date(2026, 11, 11), "2026-11-10T12:00"),  # a Friday label, a weekend
        ("2026-04-02T18:00", date(2026, 4, 9), "2026-04-08T09:00"),  # Good Friday … Easter Monday
        ("2026-10-30T18:00", date(2026, 11, 5), "2026-11-04T09:00"),  # Reformation Day, a Sunday
    ],
)
def test_free_days_in_between_do_not_make_a_parcel_silent(
    heard: str, promise: date, quiet_until: str
) -> None:
    for state in ("label_created", "in_transit"):
        alarm = first(sent(state, heard, promise))
        assert alarm is None or alarm.at > at(quiet_until), (state, alarm)


# ---------------------------------------------------------------- what the shop sets


def test_thresholds_of_the_shop_go_before_what_is_learned() -> None:
    own = "[shops.demo.delays.carriers.'pos*']\nsilence_days = 1\ncollect_days = 1\n"
    silent = first(sent("in_transit", "2026-11-09T12:00"), own)
    assert silent is not None
    assert (silent.cause, local(silent)) == ("silence", at("2026-11-10T12:00"))
    label = first(sent("label_created", "2026-11-09T15:00"), own)
    assert label is not None
    assert (label.cause, label.at) == ("not_collected", at("2026-11-10T15:00"))


def test_the_hours_of_the_last_day_can_be_set() -> None:
    own = "[shops.demo.delays.carriers.posta]\narrival_hour = 14:00:00\nevening_hour = 20:00:00\n"
    assert local(first(sent("in_transit", "2026-11-12T22:00"), own)).hour == 14
    assert local(first(sent("out_for_delivery", "2026-11-13T07:00"), own)).hour == 20


def test_days_under_way_count_back_from_the_promise() -> None:
    own = "[shops.demo.delays.carriers.'*']\ndays_under_way = 3\n"
    alarm = first(History(at("2026-11-09T08:00"), FRIDAY), own)
    assert alarm is not None
    assert alarm.cause == "not_shipped"
    assert local(alarm).date() == date(2026, 11, 10)


def test_what_is_sent_after_the_cut_off_leaves_the_next_day() -> None:
    calendar = '[shops.demo.calendars.van]\ncut_off = 14:00:00\nholidays = "SI"\n'
    own = calendar + "[shops.demo.delays.carriers.posta]\ncollect_days = 1\ncalendar = 'van'\n"
    history = sent("label_created", "2026-11-09T15:00")  # sent at 15:00
    alarm = first(history, own)
    assert alarm is not None
    assert local(alarm).date() == date(2026, 11, 11)


def test_the_day_is_counted_where_the_parcel_goes() -> None:
    history = sent("in_transit", "2026-11-12T22:00")
    here, there = first(history), first(history, country="US")
    assert here is not None
    assert there is not None
    assert rules_for(shop(), None, "US").route.zone == ZoneInfo("America/New_York")
    assert there.at > here.at


def test_a_told_date_is_told_again_only_when_it_is_missed_too() -> None:
    told = History(
        at("2026-11-12T10:00"), FRIDAY, at("2026-11-05T15:00"),
        seen("in_transit", "2026-11-06T18:00"), told=True,
    )  # fmt: skip
    assert local(first(told)) >= at("2026-11-13T12:00")
    assert Rules(rules_for(shop(), None, "SI").route, Thresholds()).cut_off is None
    assert time(12) <= local(first(told)).time()
