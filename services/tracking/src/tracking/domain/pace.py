"""How fast days pass: in a demo one may take seconds, and every rule must follow."""

from dataclasses import dataclass
from datetime import datetime

REAL_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Pace:
    """Turns clock times into calendar times, on which all waiting is counted, and back.

    Until `origin` both are the same; from then on a calendar day takes `day_seconds` of the clock. With
    86,400 nothing changes.
    """

    origin: datetime
    day_seconds: float = REAL_DAY_SECONDS

    def calendar(self, clock: datetime) -> datetime:
        """Return the calendar time of a moment; the last that there is where it lies beyond."""
        if self.day_seconds == REAL_DAY_SECONDS or clock <= self.origin:
            return clock
        try:
            return self.origin + (clock - self.origin) * (REAL_DAY_SECONDS / self.day_seconds)
        except OverflowError:
            return datetime.max.replace(tzinfo=clock.tzinfo)

    def clock(self, calendar: datetime) -> datetime:
        """Return the moment at which the calendar shows this time."""
        if self.day_seconds == REAL_DAY_SECONDS or calendar <= self.origin:
            return calendar
        return self.origin + (calendar - self.origin) * (self.day_seconds / REAL_DAY_SECONDS)
