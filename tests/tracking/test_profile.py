from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import orjson
from hypothesis import given, settings, strategies as st

from shared.calendars import WorkingDays
from tracking.domain.habits import SHOWS, Habits
from tracking.domain.profile import Profile, Story
from tracking.domain.standing import MARKS, Levels, Route, View, grid, last_day, standing

ROUTE = Route(ZoneInfo("Europe/Ljubljana"), WorkingDays(countries=("SI",)), destination="SI")
MONDAY = date(2026, 11, 9)
NOON = MARKS.index((0, 12))
EVE = MARKS.index((1, 18))


def local(day: date, hour: float) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ROUTE.zone) + timedelta(hours=hour)


def story(monday: date = MONDAY, *, scans: bool = True, first_scan: int = 0) -> Story:
    """A parcel ordered and sent on a Monday, promised for Thursday, delivered on Wednesday at two."""
    wednesday = monday + timedelta(days=2)
    seen = [
        ("in_transit", local(monday, 18 + 24 * first_scan)),
        ("out_for_delivery", local(wednesday, 8)),
        ("delivered", local(wednesday, 14)),
    ]
    if not scans:
        seen = seen[-1:]
    views = [View(at, state, at, at) for state, at in seen]
    return Story(
        local(monday, 9), local(monday, 16), monday + timedelta(days=3), ROUTE, views, seen[-1][1]
    )


def learned(*stories: Story) -> Habits:
    own = Profile()
    for one in stories:
        own.learn(one)
    return Habits(own, Profile())


weeks = st.integers(0, 40).map(lambda n: MONDAY + timedelta(days=7 * n))
stories = st.builds(story, weeks, scans=st.booleans(), first_scan=st.integers(0, 1))


@settings(deadline=None)
@given(st.lists(stories, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_learning_makes_no_difference(told: list[Story], random: Random) -> None:
    one, other = Profile(), Profile()
    shuffled = list(told)
    random.shuffle(shuffled)
    for each in told:
        one.learn(each)
    for each in shuffled:
        other.learn(each)
    assert one.dump() == other.dump()


@settings(deadline=None)
@given(st.lists(stories, max_size=12))
def test_a_profile_is_kept_as_small_json(told: list[Story]) -> None:
    profile = Profile()
    for each in told:
        profile.learn(each)
    text = orjson.dumps(profile.dump())
    assert len(text) < 20_000
    assert Profile.load(text).dump() == profile.dump()
    assert Profile.load(b'{"of_another_version": 1}').dump() == Profile().dump()


@settings(deadline=None)
@given(told=st.lists(stories, max_size=12), tolerance=st.floats(0.0001, 0.02), abroad=st.booleans())
def test_where_a_silence_tells_a_longer_one_does_too(
    *, told: list[Story], tolerance: float, abroad: bool
) -> None:
    habits = learned(*told)
    for place in range(len(MARKS)):
        telling = habits.telling(place, tolerance, abroad=abroad)
        for kind, levels in (("quiet", range(8)), ("none", range(3))):
            for level in levels:
                if f"{kind}{level}" in telling:
                    assert f"{kind}{level + 1}" in telling


def test_a_carrier_that_never_scans_teaches_that_no_scan_means_nothing() -> None:
    unknown = Habits(Profile(), Profile())
    mute = learned(*(story(MONDAY + timedelta(days=7 * n), scans=False) for n in range(20)))
    assert unknown.wrong(EVE, "none1", False) < 0.01
    assert mute.wrong(EVE, "none1", False) > 0.03


def test_a_carrier_that_is_always_out_by_ten_may_be_called_late_earlier() -> None:
    sure = learned(*(story(MONDAY + timedelta(days=7 * n)) for n in range(200)))
    unknown = Habits(Profile(), Profile())
    assert sure.wrong(NOON, "quiet0", False) < unknown.wrong(NOON, "quiet0", False)
    assert "quiet0" in sure.telling(NOON, 0.005, abroad=False)


def test_what_is_tolerated_bounds_what_may_be_wrong() -> None:
    habits = learned(*(story(MONDAY + timedelta(days=7 * n), first_scan=n % 2) for n in range(60)))
    for place in range(len(MARKS)):
        for tolerance in (0.0005, 0.002, 0.005):
            told = habits.telling(place, tolerance, abroad=False)
            assert sum(habits.wrong(place, one, False) for one in told) <= tolerance


@settings(deadline=None)
@given(st.lists(stories, max_size=30), st.floats(0.001, 0.02))
def test_no_long_silence_that_would_be_right_is_left_out(
    told: list[Story], tolerance: float
) -> None:
    habits = learned(*told, *(unfinished(MONDAY, scans=True) for _ in told[::5]))
    for place, (days, _) in enumerate(MARKS):
        telling = habits.telling(place, tolerance, abroad=False)
        left = tolerance - sum(habits.wrong(place, one, False) for one in telling)
        levels = [level for level in range(9) if days <= SHOWS[f"quiet{level}"][1]]
        untold = [level for level in levels if f"quiet{level}" not in telling]
        if untold:
            wrong, rare = (
                habits.wrong(place, f"quiet{untold[-1]}", False),
                0.08 * SHOWS[f"quiet{untold[-1]}"][0],
            )
            assert wrong > min(left, rare)


def unfinished(monday: date, *, scans: bool) -> Story:
    """The same parcel, of which nothing is heard after its tour (or ever)."""
    told = story(monday, scans=scans)
    return Story(
        told.placed_at, told.shipped_at, told.promise, ROUTE, told.views[:-1], None, toured=scans
    )


def toured(monday: date) -> Story:
    told = story(monday)
    return Story(
        told.placed_at, told.shipped_at, told.promise, ROUTE, told.views, told.delivered_at, toured=True
    )  # fmt: skip


def test_a_parcel_not_heard_of_after_its_tour_is_late_where_no_scan_is_ever_missing() -> None:
    weeks = [MONDAY + timedelta(days=7 * n) for n in range(150)]
    gone = [unfinished(monday, scans=True) for monday in weeks[:8]]
    sure = learned(*map(toured, weeks), *gone)
    careless = learned(*(story(m) if n % 4 else toured(m) for n, m in enumerate(weeks)), *gone)
    last_hour = MARKS.index((0, 23))
    assert "ofd_old" in sure.telling(last_hour, 0.0056, abroad=False)
    assert "ofd_old" not in careless.telling(last_hour, 0.0056, abroad=False)
    assert "quiet5" in careless.telling(last_hour, 0.0056, abroad=False)


def test_a_carrier_is_known_by_its_parcels_in_time_and_by_a_scan() -> None:
    known = [
        learned(*(story(MONDAY + timedelta(days=7 * n)) for n in range(count)))
        for count in (0, 20, 200)
    ]
    shares = [one.experience(scanned=False, abroad=False) for one in known]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] > 0.6
    assert known[0].experience(scanned=True, abroad=False) > 0


def test_what_all_carriers_do_is_assumed_of_a_new_one() -> None:
    pool = Profile()
    for n in range(60):
        pool.learn(story(MONDAY + timedelta(days=7 * n), scans=False))
    new = Habits(Profile(), pool)
    assert new.wrong(EVE, "none1", False) > 0.03


def test_parcels_that_end_without_a_word_make_a_carrier_mute() -> None:
    gone = story(scans=False)
    ended = Story(gone.placed_at, gone.shipped_at, gone.promise, ROUTE, (), None)
    assert not learned(ended).mute(abroad=False)
    assert learned(*[ended] * 20).mute(abroad=False)


def test_a_late_parcel_does_not_teach_what_a_parcel_in_time_looks_like() -> None:
    late = story()
    late = Story(late.placed_at, late.shipped_at, MONDAY, ROUTE, late.views, late.delivered_at)
    assert learned(late).own.dump()["domestic"]["table"] == {}
    assert learned(late).own.dump()["domestic"]["late"] == 1


def test_days_under_way_follow_what_happened() -> None:
    habits = learned(*(story(MONDAY + timedelta(days=7 * n)) for n in range(30)))
    assert habits.under_way(0.8, ROUTE) == 2


def test_the_marks_stand_on_working_days_around_the_day() -> None:
    marks = grid(date(2026, 11, 2), ROUTE)  # the Friday before it is free in Slovenia
    at = {MARKS[place]: moment for place, moment in marks}
    assert [moment for _, moment in marks] == sorted(moment for _, moment in marks)
    assert at[1, 18].date() == date(2026, 10, 30)
    assert at[-1, 10].date() == date(2026, 11, 3)
    assert last_day(date(2026, 11, 1), ROUTE) == date(2026, 10, 30)  # Sunday, then 31st a holiday
    assert last_day(date(2026, 11, 7), ROUTE) == date(2026, 11, 7)  # carriers come on Saturdays


def test_a_silence_is_as_long_as_the_carriers_working_days_in_it() -> None:
    friday = local(date(2026, 11, 6), 18)
    view = View(friday, "in_transit", friday, friday)
    levels = Levels(friday, ROUTE)
    monday, tuesday = local(date(2026, 11, 9), 17), local(date(2026, 11, 10), 19)
    assert standing(view, ROUTE, monday, levels) == "quiet0"
    assert standing(view, ROUTE, tuesday, levels) == "quiet2"
    assert standing(None, ROUTE, tuesday, levels) == "none2"
    assert levels.at(friday.astimezone(UTC)) == 0
