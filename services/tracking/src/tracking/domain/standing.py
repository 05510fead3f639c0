"""How a parcel stands at the marks around a day: the moments at which the delay rules look at it."""

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from shared.calendars import WorkingDays
from tracking.domain.priors import Mark

DAYS_BEFORE: Final = 6
HOURS: Final = (10, *range(12, 24))
LEVELS: Final = 8
NONE_LEVELS: Final = 3
"""Silence is counted in whole working days, up to so many."""

MARKS: Final[tuple[Mark, ...]] = (
    *((days, hour) for days in range(DAYS_BEFORE, 0, -1) for hour in (10, 18)),
    *((0, hour) for hour in HOURS),
    (-1, 10),
    (-2, 10),
)
"""(working days before the day, local hour); those below zero lie after it."""

_EARLIER: Final = 15  # working days before the first mark that are watched like it
_DAY: Final = timedelta(days=1)
_MONDAY_TO_SATURDAY: Final = frozenset(range(6))

NO_SCAN: Final = frozenset({"unknown", "label_created"})
DONE: Final = frozenset({"delivered", "returned", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Route:
    """Whence and whither a parcel goes, and the days that count on the way."""

    zone: ZoneInfo  # of the destination
    working: WorkingDays
    abroad: bool = False
    destination: str | None = None
    origin_zone: ZoneInfo | None = None

    def rests(self, at: datetime) -> bool:
        """Tell whether it is a Sunday or a holiday at one of the two ends, by the clocks there."""
        zones = {self.zone, self.origin_zone or self.zone}
        return any(at.astimezone(zone).date() not in self.delivery for zone in zones)

    @property
    def delivery(self) -> WorkingDays:
        """The days on which a parcel may arrive: Saturdays too, because many carriers come then."""
        return _with_saturdays(self.working)

    def local(self, at: datetime) -> datetime:
        """Return a time as the clock of the destination shows it."""
        return at.astimezone(self.zone)

    def at(self, day: date, hour: int | time) -> datetime:
        """Return the moment at which the destination's clock shows this."""
        clock = time(hour) if isinstance(hour, int) else hour
        return datetime.combine(day, clock, self.zone).astimezone(UTC)


@lru_cache(1024)
def _with_saturdays(working: WorkingDays) -> WorkingDays:
    weekdays = working.weekdays | _MONDAY_TO_SATURDAY
    return WorkingDays(weekdays, working.countries, working.closed)


class View(NamedTuple):
    """What was known of a parcel from `known_at` on."""

    known_at: datetime
    state: str
    since: datetime
    heard_at: datetime | None


class Levels:
    """When a silence that began at `start` has lasted one, two, … working days."""

    __slots__ = ("_ends", "_route")

    def __init__(self, start: datetime, route: Route) -> None:
        self._route = route
        self._ends = [route.working.time_after(start, _DAY, route.zone)]

    def at(self, now: datetime) -> int:
        """Return for how many whole working days it has lasted."""
        ends = self._ends
        while ends[-1] <= now and len(ends) < LEVELS:  # most are asked about the first days only
            here = self._route.local(ends[0])
            day = self._route.working.forward(here.date(), len(ends))
            ends.append(self._route.at(day, here.time()))
        return bisect_right(ends, now)


def standing(view: View | None, route: Route, now: datetime, levels: Levels | None) -> str:
    """Return how a parcel that was sent stands, from what was known last; "" when it needs no watching."""
    state = view.state if view else "unknown"
    if view is None or state in NO_SCAN:
        return f"none{min(levels.at(now), NONE_LEVELS) if levels else 0}"
    if state in {"delayed", "exception", "returning"}:
        return state
    if state == "ready_for_pickup" or state in DONE:
        return ""
    if state in {"out_for_delivery", "delivery_attempted"}:
        today = route.local(now).date() == route.local(view.since).date()
        if state == "out_for_delivery":
            return "ofd" if today else "ofd_old"
        return "attempted" if today else "attempted_old"
    return f"quiet{levels.at(now) if levels else 0}"


@lru_cache(8192)
def _levels(start: datetime, route: Route) -> Levels:
    return Levels(start, route)


def levels_of(view: View | None, route: Route, shipped_at: datetime | None) -> Levels | None:
    """Return the clock of a parcel's silence: since the newest scan, before any since it was sent."""
    if view is not None and view.state not in NO_SCAN and view.heard_at is not None:
        return _levels(view.heard_at, route)
    return _levels(shipped_at, route) if shipped_at is not None else None


@lru_cache(16384)
def grid(day: date, route: Route, *, earlier: bool = False) -> tuple[tuple[int, datetime], ...]:
    """Return the moments of the marks around a day, in order, each with its place in `MARKS`.

    With `earlier` the working days before the first mark are watched too, like the first.
    """
    before = [route.working.back(day - _DAY, days) for days in range(DAYS_BEFORE)]
    after = [route.working.forward(day + _DAY, days) for days in range(2)]
    days = {0: day, **dict(enumerate(before, 1)), **{-n: d for n, d in enumerate(after, 1)}}
    early = []
    if earlier:
        more = (route.working.back(before[-1] - _DAY, n) for n in range(_EARLIER - 1, -1, -1))
        early = [(0, route.at(one, MARKS[0][1])) for one in more]
    return (*early, *((place, route.at(days[k], hour)) for place, (k, hour) in enumerate(MARKS)))


def last_day(promise: date, route: Route) -> date:
    """Return the last day on which a parcel promised for then can really come."""
    return route.delivery.back(promise)
