"""Days and hours as the customer's calendar and clock show them."""

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from shared.calendars import day_expected
from shared.events import Eta
from shared.languages import Language
from tracking.domain.pace import Pace

Values = dict[str, Any]
Day = dict[str, str]  # `iso` for machines, `text` for people

EXPECTED, LATEST = "Expected", "Expected at the latest"
NEAR: Final = {0: "Today", 1: "Tomorrow"}

_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)
_AFTER_NUMBER: Final = re.compile(r"(?<=\d)(\.?) ")
_YEAR_IS_CLEAR: Final = 180 * _DAY


class Days:
    """Puts days into words, in one language and zone; `today` is the calendar's, which a demo hurries."""

    def __init__(self, language: Language, zone: ZoneInfo, now: datetime, pace: Pace) -> None:
        self.language, self.zone, self.pace = language, zone, pace
        self.today = pace.calendar(now).astimezone(zone).date()

    def span(self, first: date, last: date, label: str) -> Values:
        """Return a label and the one or two days it is about; of a span that has begun, its end."""
        days = [self.day(last, named=True)]
        if first < last and first >= self.today:
            days.insert(0, self.day(first, named=True))
        elif first < self.today < last:
            label = LATEST
        return {"label": self.language.text(label), "days": days, "was": None}

    def window(self, eta: Eta) -> Values | None:
        """Return when a carrier expects to deliver, with the hours if it names some; None once it is over."""
        first, last = eta.from_ or eta.to, eta.to or eta.from_
        if first is None or last is None:
            return None
        begin, due = (day_expected(one, self.zone) for one in (first, last))
        if due < self.today:
            return None
        said = self.span(begin, due, EXPECTED)
        start, end = (one.astimezone(self.zone) for one in (first, last))
        one_day = begin == due == start.date() == end.date()
        if one_day and _MINUTE < end - start < _DAY - 2 * _MINUTE:
            day = said["days"][0]
            day["text"] += f", {start:%H:%M}–{end:%H:%M}"
            day["iso"] = start.isoformat(timespec="minutes")
        return said

    def is_today(self, moment: datetime, *, day: bool = False) -> bool:
        """Tell whether a moment, or the date it stands for, is of today."""
        at = self.pace.calendar(moment)
        return (self._local(at) if day else at.astimezone(self.zone)).date() == self.today

    def today_of(self, eta: Eta | None) -> Values:
        """Return today, with the hours if a carrier named some of it."""
        window = self.window(eta) if eta else None
        if window and [one["iso"][:10] for one in window["days"]] == [self.today.isoformat()]:
            return window
        return self.span(self.today, self.today, EXPECTED)

    def day(self, day: date, *, named: bool = False) -> Day:
        """Return a day as a label; `named` puts "today" or "tomorrow" before it."""
        iso = day.isoformat()
        clear = abs(day - self.today) <= _YEAR_IS_CLEAR
        label = _whole(self.language.day(iso) if clear else self.language.full_date(iso))
        near = NEAR.get((day - self.today).days) if named else None
        return {"iso": iso, "text": f"{self.language.text(near)}, {label}" if near else label}

    def until(self, day: date) -> str:
        """Return a day as it stands after "by"."""
        return _whole(self.language.until(day.isoformat()))

    def until_moment(self, moment: datetime) -> str:
        """Return the day of a moment to come as it stands after "by"."""
        return self.until(self.pace.calendar(moment).astimezone(self.zone).date())

    def on(self, moment: datetime) -> Day:
        """Return the day of a moment."""
        return self.day(moment.astimezone(self.zone).date())

    def moment(self, moment: datetime, *, day: bool = False) -> Day:
        """Return a moment to the minute, or the day where only that is known."""
        local = self._local(moment) if day else moment.astimezone(self.zone)
        label = self.day(local.date())
        if day:
            return label
        return {
            "iso": local.isoformat(timespec="minutes"),
            "text": f"{label['text']}, {local:%H:%M}",
        }

    def zone_name(self) -> str:
        """Return the place whose clock this is."""
        return self.language.clock(self.zone)

    def _local(self, moment: datetime) -> datetime:
        """Return a moment on her clock; a bare date, told as midnight UTC, stays that date."""
        moment = moment.astimezone(UTC)
        return (
            moment.replace(tzinfo=self.zone)
            if moment.time() == time()
            else moment.astimezone(self.zone)
        )


def _whole(label: str) -> str:
    """Keep a day and its month on one line."""
    return _AFTER_NUMBER.sub("\\1\u00a0", label)
