"""What is known of a carrier when a parcel is judged: which standings are a delay, and which just its way.

A standing (see `standing`) is told where it is so rare among parcels that arrive in time that few warnings
would be wrong. Parcels delivered without a scan that says so stand like silent ones: how many there are is
reckoned too, and how long those would seem silent.
"""

from collections.abc import Iterator
from typing import Final

from tracking.domain.priors import SLACK_DAYS, Mark
from tracking.domain.profile import WEIGHT, Profile
from tracking.domain.standing import LEVELS, MARKS, NONE_LEVELS, Route

_INDEX: Final = {mark: place for place, mark in enumerate(MARKS)}
_LATE: Final = 0.08  # usual share of late parcels: more wrong than right is no warning
_KNOWN: Final = 100  # parcels in time by which half of a carrier's habits is known
_SCANS: Final = 40  # what one scan of a parcel is worth for that: this carrier is not mute
_FAR: Final = 4  # longer silences on the way abroad mean as little as short ones within a country
_NEWS: Final = 1.25  # what many parcels say changes slowly

SHOWS: Final = {
    "unshipped": (0.1, 10), "none0": (0.01, 0), "none1": (0.04, 0), "none2": (0.06, 1), "none3": (0.1, 1),
    "delayed": (0.08, 0), "exception": (0.08, 0), "attempted": (0.08, 0), "attempted_old": (0.05, 0),
    "ofd": (0.03, 0), "ofd_old": (0.07, 0), "quiet0": (0.08, 0), "quiet1": (0.08, 0), "quiet2": (0.08, 0),
    "quiet3": (0.06, 0), "quiet4": (0.05, 1), "quiet5": (0.04, 2), "quiet6": (0.03, 3),
    "quiet7": (0.03, 4), "quiet8": (0.05, 5),
}  # fmt: skip
"""Standings that may be a delay: the rough share of late parcels that each shows, and how many days before the
promised one it means something: what stands so earlier mostly still comes in time."""

_FAMILIES: Final = {
    "none": tuple(f"none{level}" for level in range(NONE_LEVELS + 1)),
    "quiet": tuple(f"quiet{level}" for level in range(LEVELS + 1)),
}

_CHAINS: Final = (
    *(family[::-1] for family in _FAMILIES.values()),
    *((one,) for one in SHOWS if one[:-1] not in _FAMILIES),
)
"""What may be chosen in this order only: a longer silence never says less."""

# how parcels stood at last that are delivered and no scan says so
_ENDS_AS: Final = {"ofd": "ofd", "ofd_old": "ofd", "none": "none", "quiet": "moving"}
_MORNING: Final = _INDEX[0, 10]
_AFTERNOON: Final = 15


class Habits:
    """What is known of a carrier, its own parcels first, then those of all carriers of the shop."""

    __slots__ = (
        "_experience", "_learned", "_mornings", "_silent", "_slacks", "_stoods", "_telling", "_unseens",
        "_wrong", "own", "pool",
    )  # fmt: skip

    def __init__(self, own: Profile, pool: Profile) -> None:
        self.own, self.pool = own, pool
        self._telling: dict[tuple[int, bool, float], frozenset[str]] = {}
        self._silent: dict[tuple[int, str, bool], tuple[float, float, int]] = {}
        self._stoods: dict[tuple[int, str, bool], float] = {}
        self._slacks: dict[bool, list[float]] = {}
        self._unseens: dict[tuple[str, bool], float] = {}
        self._mornings: dict[tuple[str, bool], list[float]] = {}
        self._experience: dict[tuple[bool, bool], float] = {}
        self._wrong: dict[tuple[int, bool], dict[str, float]] = {}
        self._learned = 0.0

    def experience(self, *, scanned: bool, abroad: bool) -> float:
        """Return how well its own habits are known, 0 to 1: the less, the surer a warning must be."""
        self._refresh()
        if (known := self._experience.get((scanned, abroad))) is None:
            arrived = self.own.arrived(abroad=abroad)
            known = (arrived + _SCANS * scanned) / (arrived + _KNOWN)
            self._experience[scanned, abroad] = known
        return known

    def telling(self, place: int, tolerance: float, *, abroad: bool) -> frozenset[str]:
        """Return the standings that are a delay at this mark.

        They are those that are rarest among parcels in time, beside how many late ones they show: as
        many as may together be wrong about `tolerance` of all parcels in time.
        """
        self._refresh()
        key = (place, abroad, tolerance)
        if (chosen := self._telling.get(key)) is None:
            chosen = self._telling[key] = self._choose(place, tolerance, abroad)
        return chosen

    def _refresh(self) -> None:
        learned = 10 * self.own.learned + self.pool.learned
        if learned > _NEWS * self._learned:
            for known in (
                self._experience, self._mornings, self._silent, self._slacks, self._stoods,
                self._telling, self._unseens, self._wrong,
            ):  # fmt: skip
                known.clear()
            self._learned = learned

    def _choose(self, place: int, tolerance: float, abroad: bool) -> frozenset[str]:  # noqa: FBT001
        wrong = self._wrongs(place, abroad)
        late = {stood: _LATE * SHOWS[stood][0] for stood in wrong}
        if "ofd_old" in late:
            late["ofd_old"] = max(late["ofd_old"], self.own.vanished(abroad))
        left = [[one for one in chain if one in wrong] for chain in _CHAINS]
        chosen, spent = set[str](), 0.0
        while True:
            best = min(_steps(left, wrong, late, tolerance - spent), default=None)
            if best is None:
                return frozenset(chosen)
            _, cost, chain, count = best
            chosen.update(left[chain][:count])
            del left[chain][:count]
            spent += cost

    def _wrongs(self, place: int, abroad: bool) -> dict[str, float]:  # noqa: FBT001
        """Return of all that may be a delay at this mark how often it would be wrong."""
        if (known := self._wrong.get((place, abroad))) is None:
            known = self._wrong[place, abroad] = {
                stood: self.wrong(place, stood, abroad)
                for stood, (_, earliest) in SHOWS.items()
                if MARKS[place][0] <= (max(earliest - _FAR, 0) if abroad else earliest)
            }
        return known

    def wrong(self, place: int, stood: str, abroad: bool) -> float:  # noqa: FBT001
        """Return the share of parcels arriving in time about which a warning here would be wrong."""
        days, hour = MARKS[place]
        share = self._unseen(MARKS[place], stood, abroad)
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
        return silent * (counted + WEIGHT * assumed) / (of_own + WEIGHT)

    def _slack(self, abroad: bool) -> list[float]:  # noqa: FBT001
        if (known := self._slacks.get(abroad)) is None:
            days = range(SLACK_DAYS + 1)
            known = self._slacks[abroad] = [self.own.slack(n, abroad, self.pool) for n in days]
        return known

    def _unseen(self, mark: Mark, stood: str, abroad: bool) -> float:  # noqa: FBT001
        """Return how many parcels have been delivered unseen by then and stand like this.

        Their silence goes on: they stand as they did on the morning of their delivery, that much longer.
        """
        family = stood if stood in _ENDS_AS else stood[:-1]
        if (kind := _ENDS_AS.get(family)) is None:
            return 0.0
        key, slack = (kind, abroad), self._slack(abroad)
        if (share := self._unseens.get(key)) is None:
            share = self._unseens[key] = self.own.unseen(kind, abroad)
        days, hour = mark
        if stood == "ofd":
            return share * slack[0] * (days == 0)
        if stood == "ofd_old":
            return share * sum(slack[max(days + 1, 0) :])
        level, found = int(stood[-1]), 0.0
        longer = 0.5 if hour >= _AFTERNOON else 0.0
        for early, part in enumerate(slack):
            since = early - days
            if since < 0:
                continue
            alike = (1 - longer) * self._then(family, level - since, abroad)
            alike += longer * self._then(family, level - since - 1, abroad)
            found += part * alike * (1.0 if since else 0.5)
        return share * found

    def _then(self, family: str, level: int, abroad: bool) -> float:  # noqa: FBT001
        """Return how many of those silent on the morning of their delivery were so for that long."""
        key = (family, abroad)
        if (known := self._mornings.get(key)) is None:
            shares = [self._stood(_MORNING, one, abroad) for one in _FAMILIES[family]]
            known = self._mornings[key] = [one / sum(shares) for one in shares]
        return known[level] if 0 <= level < len(known) else 0.0

    def mute(self, *, abroad: bool) -> bool:
        """Tell whether this carrier's silence says nothing at all."""
        return self.own.mute(abroad=abroad)

    def wrong_etas(self, *, abroad: bool) -> float:
        """Return how often a parcel comes in time although this carrier gave a later date."""
        return self.own.wrong_etas(abroad, self.pool)

    def under_way(self, share: float, route: Route) -> int:
        """Return within how many working days after sending such a share of parcels has arrived."""
        return (self.own if self.own.learned else self.pool).under_way(share, route)


def _steps(
    left: list[list[str]], wrong: dict[str, float], late: dict[str, float], budget: float
) -> Iterator[tuple[float, float, int, int]]:
    """Yield what may be chosen next: wrong ones for each right one, wrong ones, which chain, how many of it."""
    for chain, names in enumerate(left):
        cost = shows = 0.0
        for count, name in enumerate(names, 1):
            cost += wrong[name]
            shows += late[name]
            if cost <= min(budget, shows):
                yield cost / shows, cost, chain, count
