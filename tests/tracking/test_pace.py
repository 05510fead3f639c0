from datetime import UTC, datetime, timedelta

from hypothesis import given, strategies as st

from tracking.domain.pace import Pace

ORIGIN = datetime(2026, 11, 23, 9, tzinfo=UTC)
TIMES = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(TIMES)
def test_with_real_days_clock_and_calendar_are_the_same(at: datetime) -> None:
    pace = Pace(ORIGIN)
    assert pace.calendar(at) == pace.clock(at) == at


@given(TIMES, st.sampled_from([5, 60, 3600, 86_400]))
def test_a_calendar_time_turned_into_clock_time_and_back_is_the_same(
    at: datetime, day_seconds: int
) -> None:
    pace = Pace(ORIGIN, day_seconds)
    off = abs(pace.calendar(pace.clock(at)) - at)
    assert off <= timedelta(
        seconds=0.02
    )  # a microsecond of the clock is up to 17 ms of the calendar


def test_from_the_origin_on_a_day_takes_as_long_as_it_is_told() -> None:
    pace = Pace(ORIGIN, 5)
    assert pace.calendar(ORIGIN + timedelta(seconds=10)) == ORIGIN + timedelta(days=2)
    assert pace.clock(ORIGIN + timedelta(days=2)) == ORIGIN + timedelta(seconds=10)


def test_what_was_before_the_origin_stays_as_it_was() -> None:
    before = ORIGIN - timedelta(days=3)
    assert Pace(ORIGIN, 5).calendar(before) == Pace(ORIGIN, 5).clock(before) == before


def test_a_calendar_that_runs_out_of_years_stands_still() -> None:
    late = Pace(ORIGIN, 0.001).calendar(ORIGIN + timedelta(days=400))
    assert late == datetime.max.replace(tzinfo=UTC)


@given(TIMES, TIMES)
def test_what_comes_later_on_the_clock_comes_later_in_the_calendar(
    one: datetime, two: datetime
) -> None:
    pace = Pace(ORIGIN, 7)
    assert (one < two) <= (pace.calendar(one) <= pace.calendar(two))
