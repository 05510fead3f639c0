"""Which promise a shop could keep: from its history, the working days that would have held.

Days are counted from the order to the delivery, Monday to Friday without the public holidays of both ends,
as a promise by shipping method is.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Final

from shared.calendars import WorkingDays
from tracking.backtest import PastParcel

SHARE: Final = 0.95
KEPT_WISE: Final = 0.9
ENOUGH: Final = 30
"""With fewer parcels the days that would have held are a guess."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One method and destination. `days` None: more than one of twenty never came, so no number holds.

    `kept` is the share of parcels whose own promise was kept, None where nothing was promised.
    """

    method: str
    country: str
    parcels: int
    days: int | None
    promised: int
    kept: float | None

    @property
    def is_guess(self) -> bool:
        """Whether too few parcels stand behind it."""
        return self.parcels < ENOUGH

    @property
    def is_broken(self) -> bool:
        """Whether the shop promises what it does not keep."""
        return self.kept is not None and self.kept < KEPT_WISE


def suggest(parcels: Iterable[PastParcel]) -> list[Suggestion]:
    """Return for each method and destination the days that would have held for `SHARE` of the parcels."""
    lanes: defaultdict[tuple[str, str], list[PastParcel]] = defaultdict(list)
    for one in parcels:
        lanes[one.method or "*", one.ship_to_country or "*"].append(one)
    return [_suggestion(*lane, of) for lane, of in sorted(lanes.items())]


def _suggestion(method: str, country: str, parcels: list[PastParcel]) -> Suggestion:
    took = sorted(days for one in parcels if (days := _days(one)) is not None)
    wanted = ceil(SHARE * len(parcels))  # those that never came count as not held
    kept = [not one.is_late for one in parcels if one.is_late is not None]
    return Suggestion(
        method=method,
        country=country,
        parcels=len(parcels),
        days=took[wanted - 1] if wanted <= len(took) else None,
        promised=len(kept),
        kept=sum(kept) / len(kept) if kept else None,
    )


def _days(one: PastParcel) -> int | None:
    if one.delivered_at is None:
        return None
    countries = sorted({c for c in (one.ship_from_country, one.ship_to_country) if c})
    working = WorkingDays(countries=tuple(countries))
    placed, came = (at.astimezone(one.zone).date() for at in (one.placed_at, one.delivered_at))
    return working.between(working.back(placed), working.forward(came))
