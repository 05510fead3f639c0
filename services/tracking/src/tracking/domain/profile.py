"""What a carrier of a shop usually does, learned from the parcels that it delivered.

A parcel has a *standing* at every moment: not sent, no scan yet, silent for two working days, out for
delivery… `MARKS` are moments before and after a day: ten o'clock two working days before, noon of the day. For
parcels that arrived in time a profile counts which standing they had at each mark before their delivery.
So the share of parcels about which a warning at that mark would have been wrong is known, and a warning
is given only where that share is small. Nothing else is learned: a carrier that hardly scans teaches by
itself that no scan means nothing.

Counts only add up, so the order of learning makes no difference.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final

from tracking.domain.priors import SLACK_DAYS, prior, prior_slack
from tracking.domain.standing import (
    DONE,
    MARKS,
    NO_SCAN,
    Route,
    View,
    grid,
    last_day,
    levels_of,
    standing,
)

WEIGHT: Final = 15  # parcels that what is assumed of an unknown carrier counts for
_DAYS_MAX: Final = 40
_LAST: Final = {"ofd": 0.9, "none": 0.02, "moving": 0.08}
_LOST: Final = {"ofd": 0.012, "none": 0.004, "moving": 0.004}
"""How often no scan says "delivered", by what was scanned last, of a carrier whose other scans do not tell."""

_MISSED: Final = 0.02  # parcels delivered with no scan that says "out for delivery"
_WRONG_ETAS: Final = 0.08
_MUTE_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Story:
    """A parcel of which no more is to be learned. `delivered_at` None: the scans just stopped."""

    placed_at: datetime
    shipped_at: datetime | None
    promise: date | None
    route: Route
    views: Sequence[View]
    delivered_at: datetime | None
    toured: bool = False  # it was out for delivery, as far as scans tell
    late_eta: bool = False  # the carrier gave a date after the promised day, at some time


@dataclass(slots=True)
class _Lane:
    """Counts for parcels within a country, or for those that cross a border."""

    arrived: int = 0  # in time
    late: int = 0
    table: Counter[str] = field(default_factory=Counter)  # "place standing": of those in time
    slack: Counter[str] = field(default_factory=Counter)  # days before the last promised one
    last: Counter[str] = field(default_factory=Counter)  # the last that was scanned before delivery
    gone: Counter[str] = field(
        default_factory=Counter
    )  # the same of those whose scans just stopped
    etas: Counter[str] = field(
        default_factory=Counter
    )  # "late", "in_time": after a late date was given


_LANE_FIELDS: Final = ("table", "slack", "last", "gone", "etas")


class Profile:
    """The habits of one carrier with the parcels of one shop; an empty one is of an unknown carrier."""

    def __init__(self) -> None:
        self._lanes = {False: _Lane(), True: _Lane()}
        self._under_way: dict[str, Counter[str]] = {}
        self.learned = 0

    # ------------------------------------------------------------ learning

    def learn(self, story: Story) -> None:
        """Take in a parcel; each only once."""
        lane = self._lanes[story.route.abroad]
        if story.delivered_at is None:
            lane.gone[_last_of(story)] += 1
        else:
            self._arrived(lane, story, story.delivered_at)
        self.learned += 1

    def _arrived(self, lane: _Lane, story: Story, delivered_at: datetime) -> None:
        route = story.route
        day = route.local(delivered_at).date()
        if story.shipped_at is not None:
            sent = route.local(story.shipped_at).date()
            under_way = min(route.delivery.between(sent, day), _DAYS_MAX)
            self._under_way.setdefault(story.route.destination or "", Counter())[
                str(under_way)
            ] += 1
        lane.last[_last_of(story)] += 1
        late = story.promise is not None and day > story.promise
        if story.late_eta:
            lane.etas["late" if late else "in_time"] += 1
        if late:
            lane.late += 1
            return
        lane.arrived += 1
        if story.promise is not None:
            slack = route.delivery.between(day, last_day(story.promise, route))
            lane.slack[str(min(slack, SLACK_DAYS))] += 1
        for place, stood in _standings(story, day):
            lane.table[f"{place} {stood}"] += 1

    def dump(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        lanes = {
            "abroad" if abroad else "domestic": {
                "arrived": lane.arrived,
                "late": lane.late,
                **{name: dict(getattr(lane, name)) for name in _LANE_FIELDS},
            }
            for abroad, lane in self._lanes.items()
        }
        return {**lanes, "under_way": {c: dict(n) for c, n in self._under_way.items()}}

    @classmethod
    def load(cls, text: str | bytes | dict[str, Any]) -> "Profile":
        """Read what `dump` returned, as JSON text or parsed; fields of another version are left out."""
        said = text if isinstance(text, dict) else json.loads(text)
        made = cls()
        for abroad, lane in made._lanes.items():
            kept = said.get("abroad" if abroad else "domestic", {})
            lane.arrived, lane.late = kept.get("arrived", 0), kept.get("late", 0)
            for name in _LANE_FIELDS:
                setattr(lane, name, Counter(kept.get(name, {})))
            made.learned += lane.arrived + lane.late + lane.gone.total()
        made._under_way = {c: Counter(n) for c, n in said.get("under_way", {}).items()}
        return made

    # ------------------------------------------------------------ what it knows

    def stood(self, place: int, stood: str, abroad: bool, pool: "Profile | None") -> float:  # noqa: FBT001
        """Return the share of parcels in time that stand so at a mark before their delivery.

        `pool` is what all carriers of the shop do: it counts for a few parcels of this one.
        """
        lane = self._lanes[abroad]
        assumed = (
            pool.stood(place, stood, abroad, None)
            if pool
            else prior(MARKS[place], stood, abroad=abroad)
        )
        counted = lane.table[f"{place} {stood}"]
        return (counted + WEIGHT * assumed) / (lane.arrived + WEIGHT)

    def counted(self, place: int, standings: Iterable[str], abroad: bool) -> int:  # noqa: FBT001
        """Return how many parcels in time stood in one of these ways at a mark before their delivery."""
        table = self._lanes[abroad].table
        return sum(table[f"{place} {stood}"] for stood in standings)

    def slack(self, days: int, abroad: bool, pool: "Profile | None") -> float:  # noqa: FBT001
        """Return the share of parcels in time that arrive so many days before the last promised one."""
        lane = self._lanes[abroad]
        assumed = pool.slack(days, abroad, None) if pool else prior_slack(days)
        return (lane.slack[str(days)] + WEIGHT * assumed) / (lane.slack.total() + WEIGHT)

    def unseen(self, kind: str, abroad: bool) -> float:  # noqa: FBT001
        """Return the share of parcels delivered with no scan that says so; `kind` is how they stood at last."""
        lane = self._lanes[abroad]
        last = (lane.last[kind] + WEIGHT * _LAST[kind]) / (lane.last.total() + WEIGHT)
        return last * self.lost_scan(kind, abroad)

    def lost_scan(self, kind: str, abroad: bool) -> float:  # noqa: FBT001
        """Return how often the scan that says "delivered" does not come.

        A tour after which nothing is heard may as well be a parcel lost at the door. A carrier that hardly
        ever forgets the scan before does not forget this one.
        """
        lane, weight = self._lanes[abroad], 3 * WEIGHT
        seen = lane.last
        if 2 * seen["none"] > seen.total() > 0:  # it hardly scans: only the stop itself tells
            gone = lane.gone.total()
            return (gone + weight * _LOST[kind]) / (seen.total() + gone + weight)
        tours = seen["ofd"] + lane.gone["ofd"]
        missed = (seen.total() - seen["ofd"] + WEIGHT * _MISSED) / (seen.total() + WEIGHT)
        assumed = missed if kind == "ofd" else _LOST[kind]
        return min((lane.gone["ofd"] + weight * assumed) / (tours + weight), missed)

    def vanished(self, abroad: bool) -> float:  # noqa: FBT001
        """Return the share of parcels that are not heard of after their tour, and whose last scan is not lost."""
        lane = self._lanes[abroad]
        tours = lane.last["ofd"] + lane.gone["ofd"]
        return max(lane.gone["ofd"] / (tours + WEIGHT) - self.lost_scan("ofd", abroad), 0.0)

    def wrong_etas(self, abroad: bool, pool: "Profile | None") -> float:  # noqa: FBT001
        """Return how often a parcel comes in time although the carrier gave a later date."""
        said = self._lanes[abroad].etas
        assumed = pool.wrong_etas(abroad, None) if pool else _WRONG_ETAS
        return (said["in_time"] + WEIGHT * assumed) / (said.total() + WEIGHT)

    def arrived(self, *, abroad: bool) -> int:
        """Return how many parcels in time it has learned from."""
        return self._lanes[abroad].arrived

    def mute(self, *, abroad: bool) -> bool:
        """Tell whether so many parcels end without a word that their silence says nothing at all."""
        lane = self._lanes[abroad]
        gone = lane.gone.total()
        return gone > _MUTE_SHARE * (gone + lane.last.total() + WEIGHT)

    def under_way(self, share: float, route: Route) -> int:
        """Return within how many working days after sending such a share of parcels has arrived."""
        counts = self._under_way.get(route.destination or "", Counter())
        assumed = {2: 2, 3: 5, 4: 5, 5: 3} if route.abroad else {1: 7, 2: 5, 3: 3}
        both = Counter({int(days): count for days, count in counts.items()})
        both.update(assumed)
        reached = 0
        for days in sorted(both):
            reached += both[days]
            if reached >= share * both.total():
                return days
        return _DAYS_MAX


def _last_of(story: Story) -> str:
    """Return what was scanned last before its delivery: "ofd", "moving", "none"."""
    if story.toured:
        return "ofd"
    before = [view for view in story.views if view.state not in DONE]
    return "moving" if before and before[-1].state not in NO_SCAN else "none"


def _standings(story: Story, day: date) -> Iterable[tuple[int, str]]:
    """Return how a parcel stood at each mark before its delivery on `day` was known."""
    route, views = story.route, story.views
    known, levels = -1, None
    sent = False
    for place, at in grid(day, route):
        if at < story.placed_at:
            continue
        moved = False
        while known + 1 < len(views) and views[known + 1].known_at <= at:
            known, moved = known + 1, True
        view = views[known] if known >= 0 else None
        if view is not None and view.state in DONE:
            return
        shipped = story.shipped_at is not None and story.shipped_at <= at
        if not shipped and (view is None or view.state in NO_SCAN):
            yield place, "unshipped"
            continue
        if moved or not sent:
            levels, sent = levels_of(view, route, story.shipped_at), True
        if stood := standing(view, route, at, levels):
            yield place, stood
