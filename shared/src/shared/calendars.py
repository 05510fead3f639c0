"""Working days, public holidays and local time: what a promise, a silence and a new date are counted in.

A working day is one of some weekdays that is no public holiday in any of some countries and on no list
of closed days. Working time is clock time that stands still outside working days: a night between two
of them counts, because parcels are sorted at night, a Sunday does not.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel.core import get_global
from holidays import country_holidays

MONDAY_TO_FRIDAY: Final = frozenset(range(5))
_DAY: Final = timedelta(days=1)
_LAST_MINUTE: Final = (23, 59)
_YEARS_SEARCHED: Final = 20  # a calendar without any working day in so many years is a mistake

_MAIN_ZONES: Final = {  # of countries with several names, where nine of ten people have one clock
    "AR": "America/Argentina/Buenos_Aires", "BR": "America/Sao_Paulo", "CL": "America/Santiago",
    "CN": "Asia/Shanghai", "CY": "Asia/Nicosia", "DE": "Europe/Berlin", "EC": "America/Guayaquil",
    "ES": "Europe/Madrid", "GL": "America/Nuuk", "KZ": "Asia/Almaty", "MN": "Asia/Ulaanbaatar",
    "MY": "Asia/Kuala_Lumpur", "NZ": "Pacific/Auckland", "PF": "Pacific/Tahiti",
    "PT": "Europe/Lisbon", "UA": "Europe/Kyiv", "UZ": "Asia/Tashkent", "XK": "Europe/Belgrade",
}  # fmt: skip
_SEVERAL_CLOCKS: Final = {  # and where most people live there
    "AU": "Australia/Sydney", "CA": "America/Toronto", "CD": "Africa/Kinshasa",
    "FM": "Pacific/Pohnpei", "ID": "Asia/Jakarta", "KI": "Pacific/Tarawa",
    "MX": "America/Mexico_City", "RU": "Europe/Moscow", "UM": "Pacific/Wake",
    "US": "America/New_York",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorkingDays:
    """The days that count. `weekdays` are 0 (Monday) to 6; a country may name a region, as in "DE-BY"."""

    weekdays: frozenset[int] = MONDAY_TO_FRIDAY
    countries: tuple[str, ...] = ()
    closed: frozenset[date] = frozenset()

    def __contains__(self, day: date) -> bool:
        """Tell whether a day is one of them."""
        days, ordinal = self._of(day.year), day.toordinal()
        at = bisect_left(days, ordinal)
        return at < len(days) and days[at] == ordinal

    def forward(self, day: date, count: int = 0) -> date:
        """Move on by so many working days, first of all onto one. Raises ValueError where there is none."""
        for year in range(day.year, day.year + _YEARS_SEARCHED):
            days = self._of(year)
            at = bisect_left(days, day.toordinal()) if year == day.year else 0
            if at + count < len(days):
                return date.fromordinal(days[at + count])
            count -= len(days) - at
        raise ValueError("the calendar has no such working day")

    def back(self, day: date, count: int = 0) -> date:
        """Go back by so many working days, first of all onto one. Raises ValueError where there is none."""
        for year in range(day.year, day.year - _YEARS_SEARCHED, -1):
            days = self._of(year)
            at = bisect_right(days, day.toordinal()) if year == day.year else len(days)
            if at > count:
                return date.fromordinal(days[at - count - 1])
            count -= at
        raise ValueError("the calendar has no such working day")

    def between(self, first: date, last: date) -> int:
        """Count the working days after `first`, up to and with `last`; 0 where `last` is not later."""
        if last <= first:
            return 0
        found = 0
        for year in range(first.year, last.year + 1):
            days = self._of(year)
            start = bisect_right(days, first.toordinal()) if year == first.year else 0
            end = bisect_right(days, last.toordinal()) if year == last.year else len(days)
            found += end - start
        return found

    def time_between(self, start: datetime, end: datetime, zone: ZoneInfo) -> timedelta:
        """Return the working time from `start` to `end`; zero where `end` is not later."""
        if end <= start:
            return timedelta()
        here, there = start.astimezone(zone), end.astimezone(zone)
        # days have 24 hours here, so that a clock change neither adds nor takes away
        whole = self.between(here.date() - _DAY, there.date() - _DAY) * _DAY
        return max(whole - self._passed(here) + self._passed(there), timedelta())

    def time_after(self, start: datetime, length: timedelta, zone: ZoneInfo) -> datetime:
        """Return the moment at which so much working time has passed since `start`; it lies in a working day."""
        here = start.astimezone(zone)
        first = self.forward(here.date())
        days, rest = divmod(
            length + (self._passed(here) if first == here.date() else timedelta()), _DAY
        )
        day = self.forward(first, days)
        return (datetime.combine(day, time()) + rest).replace(tzinfo=zone).astimezone(start.tzinfo)

    def _passed(self, local: datetime) -> timedelta:
        """Return how much of a local time's day has passed, where that day counts."""
        if local.date() not in self:
            return timedelta()
        return timedelta(hours=local.hour, minutes=local.minute, seconds=local.second)

    def _of(self, year: int) -> list[int]:
        return _working_days(self.weekdays, self.countries, self.closed, year)


@lru_cache(4096)
def _working_days(
    weekdays: frozenset[int], countries: tuple[str, ...], closed: frozenset[date], year: int
) -> list[int]:
    """Return the working days of a year, sorted, as ordinals: looking up a holiday costs much more."""
    free = (*holidays_of(*countries), closed)
    first = date(year, 1, 1).toordinal()
    days = map(date.fromordinal, range(first, date(year, 12, 31).toordinal() + 1))
    return [
        day.toordinal()
        for day in days
        if day.weekday() in weekdays and not any(day in known for known in free)
    ]


@cache
def holidays_of(*countries: str | None) -> tuple[Container[date], ...]:
    """Return the public holidays of these countries, made year by year as they are asked for."""
    known = []
    for code in sorted({c for c in countries if c}):
        name, _, region = code.partition("-")
        with suppress(RuntimeError):  # a country without a calendar: every weekday is a working day
            known.append(country_holidays(name, subdiv=region or None))
    return tuple(known)


@cache
def zone_of(country: str | None) -> ZoneInfo | None:
    """Return the one clock that people of a country live by (CLDR).

    None where nobody knows, or where it depends on where in the country: then whoever shows an hour
    says whose it is.
    """
    code = (country or "").upper()
    if code in _SEVERAL_CLOCKS:
        return None
    zones = get_global("territory_zones").get(code) or ()
    name = _MAIN_ZONES.get(code) or (zones[0] if zones else None)
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


@cache
def day_zone_of(country: str | None) -> ZoneInfo | None:
    """Return the clock to count a country's days by: where it has several, that of most people."""
    name = _SEVERAL_CLOCKS.get((country or "").upper())
    return ZoneInfo(name) if name else zone_of(country)


def customer_zone(country: str | None, shop: ZoneInfo) -> ZoneInfo:
    """Return the clock by which a customer's days are counted and shown, wherever either is done.

    That of her country (see `day_zone_of`), else the shop's.
    """
    return day_zone_of(country) or shop


def day_expected(moment: datetime, zone: ZoneInfo) -> date:
    """Return the day for which somebody is told to expect something at this moment.

    Who knows only the day writes its midnight, or its last minute, in UTC: that is no hour.
    """
    said = moment.astimezone(UTC)
    is_day = said.time() == time() or (said.hour, said.minute) == _LAST_MINUTE
    return (said if is_day else said.astimezone(zone)).date()


def prepare() -> None:
    """Load what all calendars share, once at the start: the first order would wait a third of a second."""
    holidays_of("DE")
