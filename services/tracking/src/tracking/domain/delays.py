"""When a parcel is late, said before its promised day ends: pure rules over what is known now.

An alarm is a moment: "if nothing else is heard, this parcel is called late then". Every rule looks at the
parcel's *standing* (see `standing`) at marks around the last promised day, and speaks where that standing
is so rare among parcels that arrive in time that few warnings would be wrong. Silence is counted in the
carrier's working days, so no Sunday and no public holiday, at either end, is ever silent.

| cause | what is seen |
|---|---|
| not_shipped | no parcel yet, and from now on the promise can hardly be kept |
| not_collected | a label and no scan of the carrier |
| silence | no scan for longer than this carrier is usually silent |
| eta_changed | the carrier's own date lies after the promised day, and stays there |
| promise_date | the last promised day, and not out for delivery, or out for too long |
| delivery_attempted, delayed, exception | a problem that does not leave enough time |
| returning | it goes back, or the carrier says that it is lost or destroyed |
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Final

from shared.calendars import WorkingDays, customer_zone, day_expected, day_zone_of
from shared.events import DateRange, Eta
from shared.shops import Shop, Thresholds
from tracking.domain.habits import Habits
from tracking.domain.standing import (
    HOURS,
    MARKS,
    Levels,
    Route,
    View,
    grid,
    last_day,
    levels_of,
    standing,
)

GONE_FOR_GOOD: Final = frozenset({
    "carrier_parcel_lost", "carrier_damaged_parcel", "consignee_refused", "consignee_cancelled",
})  # fmt: skip
"""Reasons of a problem after which the parcel does not come at all."""

CAUSES: Final = (
    "not_shipped", "not_collected", "silence", "eta_changed", "promise_date",
    "delivery_attempted", "delayed", "exception", "returning",
)  # fmt: skip

_AT_ONCE: Final = frozenset({"attempted", "delayed", "exception"})
_DAY_ENDS: Final = timedelta(days=1)
_ETA_IGNORED: Final = 0.5
_ETA_HOURS: Final = 3.0
_MORNING: Final = time(9)
_AFTERNOON: Final = 12
_BEFORE, _AFTER = 0.12, 0.3
_UNTIL: Final = ((12, 0.0), (18, 0.18), (21, 0.25), (22, 0.3), (23, 0.5), (24, 1.0))


def _patience(days: int, hour: int) -> float:
    """Return how much of the tolerance may be spent at a mark: while one can wait, be surer.

    Nothing before noon of the last day, when the vans are being loaded; most of it in its last hour, when
    the carriers that upload their scans in the evening have done so.
    """
    if days:
        return _BEFORE if days > 0 else _AFTER
    return next(part for until, part in _UNTIL if hour < until)


_RECKONED_HIGH: Final = 1.4  # a silence is charged with all longer ones, most of which never come
_PATIENCE: Final = tuple(_patience(*mark) for mark in MARKS)
_LAST_CALL: Final = MARKS.index((0, HOURS[-1]))


@dataclass(frozen=True, slots=True)
class Alarm:
    """If nothing else is heard, the parcel is called late `at`; `new` is a date that should hold.

    `new` None: no date can be given, it does not come.
    """

    at: datetime
    cause: str
    new: DateRange | None


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one parcel: its route, the shop's thresholds, and how many warnings may be wrong."""

    route: Route
    limits: Thresholds
    tolerance: float = 0.004  # share of parcels in time
    cut_off: time | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What is known of one parcel, or (`shipped_at` and `view` None) of an order not sent yet.

    `promise` is the last day told to the customer; `told` whether she was told a new one already, so that
    only a miss of that one or a new date is news. `implied`: nobody promised it, it is only what is usual;
    then a date of the carrier is late when it lies after its first one.
    """

    known_at: datetime
    promise: date
    shipped_at: datetime | None = None
    view: View | None = None
    reason: str | None = None
    eta: date | None = None
    eta_since: datetime | None = None  # when the carrier said so
    told: bool = False
    implied: bool = False
    first_eta: date | None = None

    @property
    def sent(self) -> bool:
        """Whether it left; before, it is the shop that is silent and no carrier."""
        return self.shipped_at is not None or self.view is not None

    @property
    def eta_due(self) -> date:
        """The day after which the carrier's own date is late."""
        return self.first_eta or self.promise if self.implied else self.promise

    @property
    def dated(self) -> bool:
        """Whether the carrier, for all that happened, still means to come in time."""
        return self.eta is not None and self.eta <= self.promise

    @property
    def arrived(self) -> bool:
        """Whether it lies ready where the customer fetches it."""
        return self.view is not None and self.view.state == "ready_for_pickup"


def rules_for(shop: Shop, carrier: str | None, country: str | None) -> Rules:
    """Return the rules for a parcel of this carrier to this country."""
    limits = shop.delays.of(carrier)
    calendar = shop.calendar(limits.calendar) if limits.calendar else None
    origin = shop.delays.ship_from or shop.calendar("default").holidays
    named = calendar.working_days(origin, country) if calendar else _usual(origin, country)
    abroad = bool(origin and country and origin[:2] != country[:2])
    zone = customer_zone(country, shop.zone)
    route = Route(zone, named, abroad, country, day_zone_of(origin[:2]) if origin else None)
    cut_off = calendar.cut_off if calendar else None
    return Rules(route, limits, shop.delays.tolerance / 1000, cut_off)


@lru_cache(1024)
def _usual(*countries: str | None) -> WorkingDays:
    return WorkingDays(countries=tuple(sorted({c for c in countries if c})))


def eta_day(eta: Eta, route: Route) -> date | None:
    """Return the day by which the carrier expects it, as the destination's calendar shows it."""
    said = eta.to or eta.from_
    return day_expected(said, route.zone) if said else None


def alarms(history: History, rules: Rules, habits: Habits) -> tuple[Alarm, ...]:
    """Return when the parcel is called late if nothing else is heard, the earliest first."""
    return _alarms(history, rules, habits, habits.own.learned + habits.pool.learned)


@lru_cache(64)  # what may be told is asked for once more a moment later: when to look again
def _alarms(history: History, rules: Rules, habits: Habits, learned: float) -> tuple[Alarm, ...]:  # noqa: ARG001 - it dates what is known of the carrier
    found = sorted(_causes(history, rules, habits), key=lambda one: one[0])
    return tuple(
        Alarm(at, cause, new_date(cause, at, history, rules, habits)) for at, cause in found[:1]
    )


def _causes(history: History, rules: Rules, habits: Habits) -> Iterator[tuple[datetime, str]]:
    view, known_at = history.view, history.known_at
    state = view.state if view else ""
    if state in {"delivered", "returned", "cancelled"}:
        return
    if state == "expired":  # the carrier, or who asks it for us, has stopped looking
        if not habits.mute(abroad=rules.route.abroad):
            yield known_at, "silence"
        return
    if state == "returning" or (state == "exception" and history.reason in GONE_FOR_GOOD):
        yield known_at, "returning"
        return
    if (at := _eta_told(history, rules, habits)) is not None:
        yield at, "eta_changed"
    if history.arrived:
        return
    if _surely_missed(history, rules):
        yield known_at, "promise_date"
    if not history.sent or not habits.mute(abroad=rules.route.abroad):
        yield from _marked(history, rules, habits)


def _eta_told(history: History, rules: Rules, habits: Habits) -> datetime | None:
    """Return when the carrier's own date is told, where it lies after the promised day.

    A date is often taken back within hours: before the last day it must stand for some. A carrier whose late
    dates are mostly wrong is not believed.
    """
    if history.eta is None or history.eta <= history.eta_due or history.arrived:
        return None
    if history.implied and history.first_eta is None:
        return None
    if habits.wrong_etas(abroad=rules.route.abroad) > _ETA_IGNORED:
        return None
    hours = rules.limits.eta_hours
    held = timedelta(hours=_ETA_HOURS if hours is None else hours)
    said_at = history.eta_since or history.known_at
    today = rules.route.at(last_day(history.eta_due, rules.route), 0)
    return max(history.known_at, min(said_at + held, max(today, said_at)))


def _surely_missed(history: History, rules: Rules) -> bool:
    """Tell whether a scan shows it on its way after the promised day is over."""
    heard = history.view.heard_at if history.view else None
    return (
        heard is not None
        and not history.implied
        and rules.route.local(heard).date() > history.promise
    )


def _marked(history: History, rules: Rules, habits: Habits) -> Iterator[tuple[datetime, str]]:
    route = rules.route
    sent = history.sent
    levels = levels_of(history.view, route, _clock_starts(history, rules)) if sent else None
    fixed = _fixed(history, rules, levels)
    if fixed is not None:
        yield fixed
    marks = grid(last_day(history.promise, route), route, earlier=True)
    first = bisect_left(marks, history.known_at, key=lambda mark: mark[1])
    if sent:
        now, place = (
            standing(history.view, route, history.known_at, levels),
            marks[max(first - 1, 0)][0],
        )
        if now in _AT_ONCE and not history.dated and _tells(place, now, history, rules, habits):
            yield history.known_at, _cause(now, place)
            return
    for place, at in marks[first:]:
        stood = standing(history.view, route, at, levels) if sent else "unshipped"
        if not sent and _is_early(place) and _same_day(at, history.known_at, route):
            continue  # nobody sends what was ordered an hour ago
        if history.dated and stood in _AT_ONCE and _is_before_noon(place):
            continue
        if history.implied and _cause(stood, place) == "promise_date":
            continue
        if _tells(place, stood, history, rules, habits) and not route.rests(at):
            yield _moment(at, place, stood, rules), _cause(stood, place)
            return


def _tells(place: int, stood: str, history: History, rules: Rules, habits: Habits) -> bool:
    """Tell whether this standing at this mark is a delay."""
    days, hour = MARKS[place]
    limits = rules.limits
    if not stood or (history.told and _is_before_noon(place)):
        return False
    if days == 0:
        limit = limits.evening_hour if stood in {"ofd", "ofd_old"} else limits.arrival_hour
        if limit is not None and stood not in {"unshipped", *_AT_ONCE}:
            return time(hour) >= limit
    elif _is_fixed(stood, limits):
        return False
    elif stood == "unshipped" and limits.days_under_way is not None:
        return days <= limits.days_under_way
    tolerance, abroad = rules.tolerance * _RECKONED_HIGH * _PATIENCE[place], rules.route.abroad
    if days >= 0 and place != _LAST_CALL and not _is_told(stood):
        tolerance *= habits.experience(scanned=not stood.startswith("none"), abroad=abroad)
    return stood in habits.telling(place, tolerance, abroad=abroad)


def _is_told(stood: str) -> bool:
    """Tell whether the shop or the carrier says it, whatever the carrier's habits are."""
    return stood == "unshipped" or stood in _AT_ONCE


def _is_early(place: int) -> bool:
    """Tell whether a mark lies before the last promised day."""
    return MARKS[place][0] > 0


def _same_day(one: datetime, other: datetime, route: Route) -> bool:
    return route.local(one).date() == route.local(other).date()


def _is_before_noon(place: int) -> bool:
    """Tell whether a mark lies before noon of the last promised day."""
    days, hour = MARKS[place]
    return days > 0 or (days == 0 and hour < _AFTERNOON)


def _is_fixed(stood: str, limits: Thresholds) -> bool:
    set_for = {"quiet": limits.silence_days, "none": limits.collect_days}
    return set_for.get(stood[:-1]) is not None


def _fixed(history: History, rules: Rules, levels: Levels | None) -> tuple[datetime, str] | None:
    """Return the alarm of a number of days that the shop has set."""
    start = _clock_starts(history, rules)
    view, limits = history.view, rules.limits
    seen = view is not None and view.state not in {"unknown", "label_created"}
    if seen and view is not None and view.heard_at is not None:
        start = view.heard_at
    days = limits.silence_days if seen else limits.collect_days
    if levels is None or days is None or start is None or history.told:
        return None
    at = rules.route.working.time_after(start, timedelta(days=days), rules.route.zone)
    here = rules.route.local(at)
    at = max(at, rules.route.at(here.date(), _MORNING), history.known_at)
    return at, "silence" if seen else "not_collected"


def _clock_starts(history: History, rules: Rules) -> datetime | None:
    """Return from when on the carrier should scan: what is sent after its cut-off leaves the next day."""
    sent = history.shipped_at
    if sent is None or rules.cut_off is None:
        return sent
    here = rules.route.local(sent)
    if here.time() < rules.cut_off:
        return sent
    return rules.route.at(rules.route.working.forward(here.date() + _DAY_ENDS), 0)


def _moment(at: datetime, place: int, stood: str, rules: Rules) -> datetime:
    """Return when a mark speaks: of what is not sent, not before the last van of that day leaves."""
    cut_off = rules.cut_off
    if stood != "unshipped" or cut_off is None or MARKS[place][0] < 1:
        return at
    here = rules.route.local(at)
    return max(at, rules.route.at(here.date(), cut_off)) if here.hour < cut_off.hour else at


def _cause(stood: str, place: int) -> str:
    if stood == "unshipped":
        return "not_shipped"
    if stood.startswith("none"):
        return "not_collected"
    if stood in {"attempted", "attempted_old"}:
        return "delivery_attempted"
    if stood in {"delayed", "exception"}:
        return stood
    days, _ = MARKS[place]
    silent = stood.startswith("quiet") and int(stood[-1]) > 1
    return "silence" if silent and days >= 0 else "promise_date"


# what still lies before it, in working days: (usual days under way count, first more, last more)
_AHEAD: Final = {
    "not_shipped": (True, 1, 2),
    "not_collected": (True, 1, 2),
    "silence": (False, 2, 4),
    "promise_date": (False, 1, 2),
    "delivery_attempted": (False, 1, 2),
    "delayed": (False, 1, 3),
    "exception": (False, 2, 4),
}


def new_date(
    cause: str, at: datetime, history: History, rules: Rules, habits: Habits
) -> DateRange | None:
    """Return days that should hold, with slack: a second miss after an apology costs most.

    They are working days, after the day that is told late and never in the past.
    """
    if cause == "returning" or (history.view is not None and history.view.state == "expired"):
        return None
    days = rules.route.working
    today = rules.route.local(at).date()
    late = max(history.promise, today)
    if cause == "eta_changed" and history.eta is not None:
        first = days.forward(max(history.eta, today))
        return _range(first, days.forward(first, 2 if rules.route.abroad else 1))
    counts, first_more, last_more = _AHEAD[cause]
    base = today if counts else late
    usual = habits.under_way(0.8, rules.route) if counts else 0
    far = 1 if rules.route.abroad else 0
    first = max(
        days.forward(base + _DAY_ENDS, usual + first_more - 1),
        days.forward(late + _DAY_ENDS),
    )
    return _range(first, days.forward(first, last_more - first_more + far))


def _range(first: date, last: date) -> DateRange:
    return DateRange.model_validate({"from": first, "to": last})
