from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from shared.calendars import (
    WorkingDays,
    customer_zone,
    day_expected,
    day_zone_of,
    holidays_of,
    zone_of,
)
from shared.events.values import countries

LJUBLJANA = ZoneInfo("Europe/Ljubljana")
SLOVENIA = WorkingDays(countries=("SI",))
HOUR = timedelta(hours=1)

weekdays = st.sets(st.integers(0, 6), min_size=1).map(frozenset)
places = st.sets(st.sampled_from(["SI", "DE-BY", "PL", "US", "XX"])).map(tuple)
calendars = st.builds(WorkingDays, weekdays, places)
dates = st.dates(date(2020, 1, 1), date(2030, 12, 31))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=LJUBLJANA).astimezone(UTC)


def test_holidays_of_every_country_named_do_not_count() -> None:
    easter_monday, all_saints, unity = date(2026, 4, 6), date(2027, 11, 1), date(2028, 10, 3)
    assert easter_monday not in SLOVENIA
    assert all_saints not in SLOVENIA
    assert all_saints in WorkingDays(countries=("DE",))
    assert all_saints not in WorkingDays(countries=("DE-BY",))
    assert unity in SLOVENIA
    assert unity not in WorkingDays(countries=("DE", "SI"))


def test_a_country_without_a_calendar_has_no_holidays() -> None:
    assert holidays_of("QQ", None) == ()
    assert date(2026, 12, 25) in WorkingDays(countries=("QQ",))


@given(calendars, dates, st.integers(0, 400))
def test_going_back_undoes_going_forward(days: WorkingDays, day: date, count: int) -> None:
    first = days.forward(day)
    later = days.forward(day, count)
    assert later in days
    assert first >= day
    assert days.back(later, count) == first
    assert days.between(first, later) == count
    assert days.between(later, first) == 0 or count == 0


@given(calendars, dates, st.integers(0, 60))
def test_between_counts_what_counting_one_by_one_counts(
    days: WorkingDays, day: date, span: int
) -> None:
    counted = sum(day + timedelta(days=n) in days for n in range(1, span + 1))
    assert days.between(day, day + timedelta(days=span)) == counted


def test_a_calendar_without_a_working_day_is_an_error_not_a_hang() -> None:
    never = WorkingDays(frozenset())
    with pytest.raises(ValueError, match="no such working day"):
        never.forward(date(2026, 1, 1))
    with pytest.raises(ValueError, match="no such working day"):
        never.back(date(2026, 1, 1))


def test_working_time_stands_still_on_sundays_and_holidays() -> None:
    friday, monday = at("2026-04-03T18:00"), at("2026-04-06T09:00")  # Easter Monday
    tuesday = at("2026-04-07T09:00")
    assert SLOVENIA.time_between(friday, monday, LJUBLJANA) == 6 * HOUR
    assert SLOVENIA.time_between(friday, tuesday, LJUBLJANA) == 15 * HOUR
    assert SLOVENIA.time_between(tuesday, friday, LJUBLJANA) == 0 * HOUR
    assert SLOVENIA.time_after(friday, 15 * HOUR, LJUBLJANA) == tuesday
    assert SLOVENIA.time_after(monday, 9 * HOUR, LJUBLJANA) == tuesday


def test_a_clock_change_neither_adds_nor_takes_a_working_hour() -> None:
    friday, monday = at("2026-10-23T12:00"), at("2026-10-26T12:00")
    assert SLOVENIA.time_between(friday, monday, LJUBLJANA) == 24 * HOUR
    everyday = WorkingDays(frozenset(range(7)))
    assert everyday.time_between(friday, monday, LJUBLJANA) == 72 * HOUR


moments = st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1)).map(  # noqa: DTZ001 - made aware
    lambda t: t.replace(tzinfo=UTC, microsecond=0)
)


@given(calendars, moments, st.integers(1, 1000))
def test_waiting_so_much_working_time_ends_in_a_working_day(
    days: WorkingDays, start: datetime, hours: int
) -> None:
    end = days.time_after(start, hours * HOUR, LJUBLJANA)
    assert end.astimezone(LJUBLJANA).date() in days
    assert abs(days.time_between(start, end, LJUBLJANA) - hours * HOUR) <= HOUR  # a clock change


def test_every_country_with_people_has_a_time_zone() -> None:
    without = {code for code in countries() if day_zone_of(code) is None}
    assert without <= {"AQ", "BV", "CP", "HM"}
    assert zone_of("SI") == LJUBLJANA
    assert str(day_zone_of("us")) == "America/New_York"
    assert zone_of("US") is None  # nobody knows what her clock shows
    assert zone_of(None) is None


def test_a_customers_clock_is_her_countrys_and_only_where_nobody_knows_it_the_shops() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    assert str(customer_zone("US", LJUBLJANA)) == "America/New_York"
    assert customer_zone("JP", LJUBLJANA) == tokyo
    assert customer_zone(None, LJUBLJANA) == customer_zone("XX", LJUBLJANA) == LJUBLJANA


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("2026-11-26T00:00:00+00:00", 26),  # a bare date
        ("2026-11-26T23:59:59+00:00", 26),
        ("2026-11-26T01:00:00+01:00", 26),
        ("2026-11-26T02:00:00+00:00", 25),
        ("2026-11-26T23:30:00+00:00", 26),
    ],
)
def test_a_bare_date_is_expected_on_that_day_wherever_she_lives(said: str, day: int) -> None:
    expected = day_expected(datetime.fromisoformat(said), ZoneInfo("America/New_York"))
    assert expected == date(2026, 11, day)
