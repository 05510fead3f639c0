"""What is assumed of a carrier before it is known: a usual European parcel service that scans well.

Shares of the parcels that arrive in time which stand so at a mark before their delivery (see `profile`).
They are rough on purpose: a few dozen deliveries outweigh them.
"""

from bisect import bisect_right
from functools import cache
from typing import Final

Mark = tuple[int, int]
"""(working days before the day, local hour)."""

SLACK_DAYS: Final = 6
_SLACK: Final = (0.2, 0.2, 0.2, 0.15, 0.1, 0.1, 0.05)

# from the day itself back: (hour, share) steps, then the share one day before at 18 and at 10, two days
# before, three and more
_Steps = tuple[tuple[int, float], ...]
_ASSUMED: Final[dict[str, tuple[_Steps, float, float, float, float]]] = {
    "unshipped": (((0, 0.0002),), 0.0004, 0.05, 0.25, 0.6),
    "none0": (((0, 0.02), (15, 0.01), (18, 0.005)), 0.3, 0.3, 0.3, 0.3),
    "none1": (((0, 0.012), (15, 0.004), (18, 0.002)), 0.03, 0.04, 0.05, 0.05),
    "none2": (((0, 0.002), (15, 0.001)), 0.005, 0.005, 0.02, 0.02),
    "none3": (((0, 0.0005),), 0.0005, 0.0005, 0.002, 0.002),
    "delayed": (((0, 0.002), (12, 0.0005)), 0.004, 0.006, 0.02, 0.03),
    "exception": (((0, 0.002), (12, 0.0005)), 0.004, 0.006, 0.02, 0.03),
    "attempted": (((0, 0.0005),), 0.03, 0.03, 0.03, 0.03),
    "attempted_old": (((0, 0.003), (12, 0.001), (18, 0.0003)), 0.01, 0.01, 0.02, 0.02),
    "ofd": (
        ((0, 0.9), (12, 0.6), (15, 0.25), (18, 0.05), (19, 0.02), (20, 0.006), (21, 0.002)),
        0.03, 0.03, 0.03, 0.03,
    ),
    "ofd_old": (((0, 0.02), (18, 0.01), (20, 0.004)), 0.02, 0.02, 0.02, 0.02),
    "quiet0": (
        ((0, 0.2), (10, 0.1), (12, 0.04), (15, 0.02), (18, 0.008), (20, 0.004)),
        0.5, 0.6, 0.6, 0.6,
    ),
    "quiet1": (((0, 0.05), (12, 0.012), (15, 0.006), (18, 0.003)), 0.1, 0.15, 0.15, 0.15),
    "quiet2": (((0, 0.01), (12, 0.003), (15, 0.001)), 0.01, 0.015, 0.03, 0.03),
    "quiet3": (((0, 0.002), (12, 0.0005)), 0.004, 0.004, 0.008, 0.012),
    "quiet4": (((0, 0.0005),), 0.002, 0.002, 0.002, 0.002),
    "quiet5": (((0, 0.0003),), 0.001, 0.001, 0.001, 0.001),
    "quiet6": (((0, 0.0001),), 0.0001, 0.0002, 0.0002, 0.0002),
    "quiet7": (((0, 0.0001),), 0.0001, 0.0001, 0.0001, 0.0001),
    "quiet8": (((0, 0.0001),), 0.0001, 0.0001, 0.0001, 0.0001),
}  # fmt: skip
_NEXT_DAYS: Final = {"ofd_old": (0.004, 0.002)}  # delivered, and still not known the next morning


def prior_slack(days: int) -> float:
    """Return the share of parcels in time that arrive so many days before the last promised one."""
    return _SLACK[min(days, SLACK_DAYS)]


@cache
def prior(mark: Mark, standing: str, *, abroad: bool) -> float:
    """Return the share of parcels in time that stand so at a mark before their delivery."""
    days, hour = mark
    if days < 0:
        return _NEXT_DAYS.get(standing, (0.0001, 0.00005))[-days - 1]
    if abroad:  # longer legs without a scan, and it must leave a day earlier
        if standing == "unshipped":
            days = max(days - 1, 0)
        elif standing.startswith("quiet") and standing != "quiet0":
            standing = f"quiet{max(int(standing[-1]) - 3, 1)}"
    on_the_day, eve, morning_before, two, more = _ASSUMED.get(standing, _ASSUMED["quiet0"])
    if days == 0:
        at = bisect_right(on_the_day, hour, key=lambda step: step[0]) - 1
        return on_the_day[max(at, 0)][1]
    if days == 1:
        return eve if hour > 14 else morning_before  # noqa: PLR2004 - between the two marks of a day
    return two if days == 2 else more  # noqa: PLR2004 - the table's own columns
