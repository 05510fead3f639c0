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
    LEVELS,
    MARKS,
    NO_SCAN,
    NONE_LEVELS,
    Route,
    View,
    grid,
    last_day,
    levels_of,
    standing,
)

_INDEX: Final = {mark: place for place, mark in enumerate(MARKS)}
_WEIGHT: Final = 15  # parcels that what is assumed of an unknown carrier counts for
_DAYS_MAX: Final = 40
_LAST: Final = {"ofd": 0.9, "none": 0.02, "moving": 0.08}
_LOST: Final = 0.004
_WORTH: Final = 0.08  # usual share of late parcels: more wrong than right is no warning
_FAR: Final = 4  # longer silences on the way abroad mean as little as short ones within a country
_NEWS: Final = 1.25  # what many parcels say changes slowly
_WRONG_ETAS: Final = 0.08
_MUTE_SHARE: Final = 0.3

SHOWS: Final = {
    "unshipped": (0.1, 10), "none0": (0.01, 0), "none1": (0.04, 0), "none2": (0.06, 1), "none3": (0.1, 1),
    "delayed": (0.08, 0), "exception": (0.08, 0), "attempted": (0.08, 0), "ofd": (0.03, 0),
    "ofd_old": (0.02, 0), "quiet0": (0.08, 0), "quiet1": (0.08, 0), "quiet2": (0.08, 0),
    "quiet3": (0.06, 0), "quiet4": (0.05, 1), "quiet5": (0.04, 2), "quiet6": (0.03, 3),
    "quiet7": (0.03, 4), "quiet8": (0.05, 5),
}  # fmt: skip
"""Standings that may be a delay: the rough share of late parcels that each shows, and how many days before the
promised one it means something: what stands so earlier mostly still comes in time."""

_FAMILIES: Final = {
    "none": tuple(f"none{level}" for level in range(NONE_LEVELS + 1)),
    "quiet": tuple(f"quiet{level}" for level in range(LEVELS + 1)),
}

_LONGER: Final = {
    one: family[level:] for family in _FAMILIES.values() for level, one in enumerate(family)
}

# how parcels stood at last that were delivered unseen, and how many of them stand so the same day, later
_ENDS_AS: Final = {
    "none1": ("none", 0.5, 0.0), "none2": ("none", 0.5, 0.3), "none3": ("none", 0.0, 0.7),
    "ofd": ("ofd", 1.0, 0.0), "ofd_old": ("ofd", 0.0, 1.0),
    "quiet0": ("moving", 0.5, 0.0), "quiet1": ("moving", 0.5, 0.1), "quiet2": ("moving", 0.0, 0.3),
    "quiet3": ("moving", 0.0, 0.2), "quiet4": ("moving", 0.0, 0.2), "quiet5": ("moving", 0.0, 0.2),
}  # fmt: skip


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
        return (counted + _WEIGHT * assumed) / (lane.arrived + _WEIGHT)

    def counted(self, place: int, standings: Iterable[str], abroad: bool) -> int:  # noqa: FBT001
        """Return how many parcels in time stood in one of these ways at a mark before their delivery."""
        table = self._lanes[abroad].table
        return sum(table[f"{place} {stood}"] for stood in standings)

    def slack(self, days: int, abroad: bool, pool: "Profile | None") -> float:  # noqa: FBT001
        """Return the share of parcels in time that arrive so many days before the last promised one."""
        lane = self._lanes[abroad]
        assumed = pool.slack(days, abroad, None) if pool else prior_slack(days)
        return (lane.slack[str(days)] + _WEIGHT * assumed) / (lane.slack.total() + _WEIGHT)

    def unseen(self, kind: str, abroad: bool, pool: "Profile") -> float:  # noqa: FBT001
        """Return the share of parcels delivered with no scan that says so; `kind` is how they stood at last."""
        lane = self._lanes[abroad]
        last = (lane.last[kind] + _WEIGHT * _LAST[kind]) / (lane.last.total() + _WEIGHT)
        return last * self.lost_scan(abroad, pool)

    def lost_scan(self, abroad: bool, pool: "Profile | None") -> float:  # noqa: FBT001
        """Return how often the scan that says "delivered" does not come."""
        lane, weight = self._lanes[abroad], 2 * _WEIGHT
        assumed = pool.lost_scan(abroad, None) if pool else _LOST
        seen = lane.last
        if (
            2 * seen["none"] > seen.total() > 0
        ):  # it hardly scans: nothing but the stop itself tells
            gone = lane.gone.total()
            return (gone + assumed * weight) / (seen.total() + gone + weight)
        tours = seen["ofd"] + lane.gone["ofd"]
        return (lane.gone["ofd"] + weight * assumed) / (tours + weight)

    def wrong_etas(self, abroad: bool, pool: "Profile | None") -> float:  # noqa: FBT001
        """Return how often a parcel comes in time although the carrier gave a later date."""
        said = self._lanes[abroad].etas
        assumed = pool.wrong_etas(abroad, None) if pool else _WRONG_ETAS
        return (said["in_time"] + _WEIGHT * assumed) / (said.total() + _WEIGHT)

    def mute(self, *, abroad: bool) -> bool:
        """Tell whether so many parcels end without a word that their silence says nothing at all."""
        lane = self._lanes[abroad]
        gone = lane.gone.total()
        return gone > _MUTE_SHARE * (gone + lane.last.total() + _WEIGHT)

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


class Habits:
    """What is known of a carrier, its own parcels first, then those of all carriers of the shop."""

    __slots__ = ("_learned", "_silent", "_slacks", "_stoods", "_telling", "_unseens", "own", "pool")

    def __init__(self, own: Profile, pool: Profile) -> None:
        self.own, self.pool = own, pool
        self._telling: dict[tuple[int, bool, float], frozenset[str]] = {}
        self._silent: dict[tuple[int, str, bool], tuple[float, float, int]] = {}
        self._stoods: dict[tuple[int, str, bool], float] = {}
        self._slacks: dict[bool, list[float]] = {}
        self._unseens: dict[tuple[str, bool], float] = {}
        self._learned = 0.0

    @property
    def learned(self) -> int:
        """How many parcels stand behind it; another number, another answer."""
        return 10 * self.own.learned + self.pool.learned

    def telling(self, place: int, tolerance: float, *, abroad: bool) -> frozenset[str]:
        """Return the standings that are a delay at this mark.

        They are those that are rarest among parcels in time, beside how many late ones they show: as
        many as may together be wrong about `tolerance` of all parcels in time.
        """
        learned = self.learned
        if learned > _NEWS * self._learned:
            for known in (self._telling, self._stoods, self._silent, self._slacks, self._unseens):
                known.clear()
            self._learned = learned
        key = (place, abroad, tolerance)
        if (chosen := self._telling.get(key)) is None:
            chosen = self._telling[key] = self._choose(place, tolerance, abroad)
        return chosen

    def _choose(self, place: int, tolerance: float, abroad: bool) -> frozenset[str]:  # noqa: FBT001
        wrong = {
            stood: self.wrong(place, stood, abroad)
            for stood, (_, earliest) in SHOWS.items()
            if MARKS[place][0] <= (max(earliest - _FAR, 0) if abroad else earliest)
        }
        chosen, spent = set[str](), 0.0
        for stood in sorted(wrong, key=lambda one: wrong[one] / SHOWS[one][0]):
            longer = _LONGER.get(stood, (stood,))  # a longer silence never says less
            more = sum(wrong[one] for one in longer if one not in chosen)
            if spent + more > tolerance or wrong[stood] > _WORTH * SHOWS[stood][0]:
                break
            spent += more
            chosen.update(longer)
        return frozenset(chosen)

    def wrong(self, place: int, stood: str, abroad: bool) -> float:  # noqa: FBT001
        """Return the share of parcels arriving in time about which a warning here would be wrong."""
        days, hour = MARKS[place]
        share = self._unseen(days, stood, abroad)
        for slack, part in enumerate(self._slack(abroad)):
            at = _INDEX.get((days - slack, hour if days - slack >= 0 else 10))
            if at is None:
                break
            key = (at, stood, abroad)
            if (here := self._stoods.get(key)) is None:
                here = self._stoods[key] = self._stood(at, stood, abroad)
            share += part * here
        return share

    def _stood(self, place: int, stood: str, abroad: bool) -> float:  # noqa: FBT001
        """Return the share of parcels in time that stand so at a mark before their delivery.

        How many are silent at all is soon known of a carrier; for how long they are is taken from all
        carriers until it has shown enough of them.
        """
        family = _FAMILIES.get(stood[:-1])
        if family is None:
            return self.own.stood(place, stood, abroad, self.pool)
        key = (place, stood[:-1], abroad)
        if (known := self._silent.get(key)) is None:
            known = self._silent[key] = (
                sum(self.own.stood(place, one, abroad, self.pool) for one in family),
                sum(self.pool.stood(place, one, abroad, None) for one in family),
                self.own.counted(place, family, abroad),
            )
        silent, of_all, of_own = known
        assumed = self.pool.stood(place, stood, abroad, None) / of_all
        counted = self.own.counted(place, (stood,), abroad)
        return silent * (counted + _WEIGHT * assumed) / (of_own + _WEIGHT)

    def _slack(self, abroad: bool) -> list[float]:  # noqa: FBT001
        if (known := self._slacks.get(abroad)) is None:
            days = range(SLACK_DAYS + 1)
            known = self._slacks[abroad] = [self.own.slack(n, abroad, self.pool) for n in days]
        return known

    def _unseen(self, days: int, stood: str, abroad: bool) -> float:  # noqa: FBT001
        """Return how many parcels have been delivered unseen by then and stand like this."""
        kind, fresh, old = _ENDS_AS.get(stood, ("", 0.0, 0.0))
        if not kind:
            return 0.0
        key, slack = (kind, abroad), self._slack(abroad)
        if (known := self._unseens.get(key)) is None:
            known = self._unseens[key] = self.own.unseen(kind, abroad, self.pool)
        return known * (fresh * slack[0] * (days == 0) + old * sum(slack[max(days + 1, 0) :]))

    def mute(self, *, abroad: bool) -> bool:
        """Tell whether this carrier's silence says nothing at all."""
        return self.own.mute(abroad=abroad)

    def wrong_etas(self, *, abroad: bool) -> float:
        """Return how often a parcel comes in time although this carrier gave a later date."""
        return self.own.wrong_etas(abroad, self.pool)

    def under_way(self, share: float, route: Route) -> int:
        """Return within how many working days after sending such a share of parcels has arrived."""
        return (self.own if self.own.learned else self.pool).under_way(share, route)


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
