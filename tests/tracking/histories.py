"""Parcels as they happen, from a seed: what the shop, the carrier and its scans do, and the truth.

A parcel is simulated step by step (shop, pick-up, hubs, customs, depot, tour) on the working days
of those who move it; then it is told, with what a carrier loses, uploads in the evening or tells
twice. `Truth` says whether the parcel was late and whether the scans, as they came in, let one
foresee it. Nothing here knows how delays are detected: this is the examiner.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from math import prod
from random import Random
from typing import Any, Final
from zoneinfo import ZoneInfo

from holidays import country_holidays

ZONES: Final = {
    "SI": "Europe/Ljubljana", "PL": "Europe/Warsaw", "DE": "Europe/Berlin", "AT": "Europe/Vienna",
    "RU": "Europe/Moscow", "GB": "Europe/London", "US": "America/New_York",
}  # fmt: skip
_UNION: Final = {"SI", "PL", "DE", "AT"}
_YEARS: Final = range(2025, 2028)
_SATURDAY: Final = 5
_CUT_OFF: Final = 14
_LAST_PICK_UP: Final = 16
_JUDGED_AT: Final = 14  # o'clock on the last working day: by then a van has long left the depot
_UPLOADED_LATE: Final = 0.05  # of a day's scans, a day later
_CHANCE: Final = 0.035  # scans that are missing with less than this chance let one foresee it
_MARGIN: Final = timedelta(hours=1)  # news in the last hour of the promised day help nobody
_BAD: Final = {"delayed", "exception", "delivery_attempted", "returning", "returned"}


@dataclass(frozen=True, slots=True)
class Carrier:
    """How a carrier works and how well it scans; `keeps` is the share of its steps one hears of."""

    name: str
    origins: tuple[str, ...]
    keeps: float
    saturdays: bool = False
    evening: bool = False  # uploads its scans once a day
    etas: bool = False

    @property
    def kind(self) -> str:
        if self.evening:
            return "evening"
        return "rare" if not self.keeps else "half" if self.keeps < 0.8 else "full"


CARRIERS: Final = (
    Carrier("posta-slovenije", ("SI",), 0.98),
    Carrier("dpd", ("SI", "DE", "AT", "PL"), 0.985, etas=True),
    Carrier("gls", ("SI", "DE", "AT"), 0.98, saturdays=True),
    Carrier("dhl", ("DE", "GB"), 0.985, saturdays=True, etas=True),
    Carrier("inpost", ("PL",), 0.985, saturdays=True),
    Carrier("evri", ("GB",), 0.98, saturdays=True),
    Carrier("usps", ("US",), 0.98, saturdays=True, etas=True),
    Carrier("ups", ("US", "DE"), 0.985, etas=True),
    Carrier("boxberry", ("RU",), 0.98, saturdays=True),
    Carrier("poczta-polska", ("PL",), 0.5),
    Carrier("pochta", ("RU",), 0.5, saturdays=True),
    Carrier("ontrac", ("US",), 0.5),
    Carrier("post-at", ("AT",), 0.98, evening=True),
    Carrier("cdek", ("RU",), 0.98, saturdays=True, evening=True),
    Carrier("intereuropa", ("SI",), 0.98, evening=True),
    Carrier("royal-mail", ("GB",), 0.0, saturdays=True),
    Carrier("packeta", ("SI", "PL"), 0.0),
    Carrier("letter-de", ("DE", "AT"), 0.0, saturdays=True),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What goes wrong: after which steps, for how many working days (None: for ever), and what is said."""

    after: tuple[str, ...]
    days: tuple[int, int] | None
    state: str | None = None
    reason: str | None = None
    action: bool = False
    eta: bool = False  # the carrier tells its new date


_MOVING: Final = ("collected", "hub_in", "hub_out", "depot")
PROBLEMS: Final[Mapping[str, Problem]] = {
    "not_shipped": Problem((), None),
    "shipped_late": Problem((), (1, 6)),
    "slow": Problem((), (1, 2)),
    "uncollected": Problem(("label",), None),
    "collected_late": Problem(("label",), (1, 4)),
    "lost": Problem(_MOVING, None),
    "stuck": Problem(_MOVING, (2, 7)),
    "weather": Problem(("hub_in", "hub_out"), (1, 3), "delayed", "weather_delay", eta=True),
    "missorted": Problem(("hub_out",), (1, 3), "delayed", "carrier_sorting_error"),
    "held_by_customs": Problem(("imported",), (2, 8), "exception", "customs_documentation", True),
    "address": Problem(("depot",), (1, 3), "exception", "consignee_incorrect_address", True),
    "attempted": Problem(("out",), (1, 2), "delivery_attempted", "consignee_not_home"),
    "refused": Problem(("out",), None, "exception", "consignee_refused"),
    "damaged": Problem(("hub_in", "hub_out"), None, "exception", "carrier_damaged_parcel"),
    "eta_slip": Problem(("hub_out",), (1, 3), "in_transit", eta=True),
}
_USUAL: Final = {
    "not_shipped": 4, "shipped_late": 12, "slow": 40, "uncollected": 4, "collected_late": 12,
    "lost": 8, "stuck": 16, "weather": 10, "missorted": 8, "held_by_customs": 8, "address": 6,
    "attempted": 14, "refused": 3, "damaged": 2, "eta_slip": 12,
}  # per 1,000 parcels  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """Shares are of parcels unless named otherwise; `slack` are working days above the usual ones."""

    kinds: tuple[str, ...] = ("full",)
    problems: Mapping[str, float] = field(default_factory=lambda: _USUAL)
    slack: tuple[int, ...] = (0, 1, 1, 2, 3)
    abroad: float = 0.3
    seasons: tuple[tuple[str, str], ...] = (("2025-09-01", "2026-12-20"),)
    weekdays: tuple[int, ...] = tuple(range(7))
    any_day: float = 0.0  # promises counted in plain days: they may end on a Sunday
    lost_scans: float = 0.0  # of scans, above what the carrier loses
    dark: float = 0.005  # nothing heard between label and delivery
    lagging: float = 0.01  # first scans told a day or two late
    wobble: float = 0.1  # ETA moves within the promise
    flip: float = 0.004  # ETA goes late and is back within hours
    day_only: float = 0.03
    doubled: float = 0.15
    told_next_day: float = 0.03  # of deliveries
    shuffled: float = 0.0


def _more(**shares: float) -> dict[str, float]:
    return {**_USUAL, **shares}


_ALL_KINDS: Final = ("full", "full", "full", "half", "evening", "rare")
_SEASONS: Final = (
    ("2025-10-22", "2025-11-04"), ("2025-12-12", "2026-01-08"), ("2026-02-03", "2026-02-10"),
    ("2026-03-26", "2026-04-09"), ("2026-04-22", "2026-05-29"), ("2026-06-18", "2026-06-26"),
    ("2026-08-10", "2026-08-17"), ("2026-10-22", "2026-11-13"), ("2026-11-20", "2026-12-28"),
)  # fmt: skip
_WORLDS: Final[Mapping[str, World]] = {
    "calm": World(problems={k: v / 2 for k, v in _USUAL.items()}, dark=0),
    "weekends": World(weekdays=(3, 4, 5, 6), any_day=0.25),
    "holidays": World(seasons=_SEASONS, kinds=("full", "full", "half", "evening")),
    "lost_scans": World(kinds=("full", "half"), lost_scans=0.15, dark=0.02),
    "lost_parcels": World(problems=_more(lost=45, uncollected=25, not_shipped=15, damaged=8)),
    "late_first_scan": World(
        slack=(1, 2, 3, 4), problems=_more(collected_late=180), lagging=0.15, dark=0.02
    ),
    "rare_scanners": World(kinds=("rare", "rare", "full"), problems=_more(not_shipped=15)),
    "eta_noise": World(wobble=0.7, flip=0.04, problems=_more(eta_slip=40, weather=20)),
    "batch_uploads": World(
        kinds=("evening",),
        told_next_day=0.1,
        problems=_more(attempted=8, address=3, missorted=4, weather=6),
    ),
    "mixed": World(kinds=_ALL_KINDS, any_day=0.05, day_only=0.08, doubled=0.3, shuffled=0.2),
}
WORLDS: Final = tuple(_WORLDS)


@dataclass(frozen=True, slots=True)
class Truth:
    """What really became of a parcel; `evidence_at` is when its lateness could first be foreseen."""

    id: str
    late: bool
    foreseeable: bool
    evidence_at: datetime | None
    why: tuple[str, ...]
    problem: str | None
    deadline: datetime
    delivered_at: datetime | None
    ship_from: str
    ship_to: str
    carrier: str
    saturdays: bool


@dataclass(slots=True)
class _Step:
    name: str
    state: str
    at: datetime
    country: str
    reason: str | None = None
    action: bool = False
    eta: date | None = None


@dataclass(slots=True)
class _Trip:
    id: str
    world: World
    carrier: Carrier
    origin: str
    target: str
    problem: str | None
    usual_days: int
    placed_at: datetime
    promise: tuple[date, date]
    shipped_at: datetime | None = None
    steps: list[_Step] = field(default_factory=list)

    @property
    def deadline(self) -> datetime:
        return local(self.target, self.promise[1], 24)

    @property
    def delivered_at(self) -> datetime | None:
        return next((s.at for s in self.steps if s.name == "delivered"), None)


# ---------------------------------------------------------------- days


@cache
def free_days(country: str) -> frozenset[date]:
    """Return the public holidays of the whole country."""
    return frozenset(country_holidays(country, years=_YEARS))


def works(country: str, day: date, *, saturdays: bool = False) -> bool:
    """Say whether people work there that day."""
    return day.weekday() < _SATURDAY + saturdays and day not in free_days(country)


def _go(day: date, days: int, *countries: str, saturdays: bool = False) -> date:
    """Go so many working days on (or back); with 0 to the next working day, which may be today."""
    one = timedelta(days=-1 if days < 0 else 1)

    def open_(day: date) -> bool:
        return all(works(c, day, saturdays=saturdays) for c in countries)

    if not days:
        while not open_(day):
            day += one
    for _ in range(abs(days)):
        day += one
        while not open_(day):
            day += one
    return day


def local(country: str, day: date, hour: float) -> datetime:
    """Return that hour of the day (24: its end) in the country's (main) time zone, as UTC."""
    whole = datetime.combine(day, time()) + timedelta(hours=hour)  # wall clock, DST or not
    return whole.replace(tzinfo=ZoneInfo(ZONES[country])).astimezone(UTC)


def day_of(country: str, at: datetime) -> date:
    """Return the date on the wall there."""
    return at.astimezone(ZoneInfo(ZONES[country])).date()


# ---------------------------------------------------------------- the order and the shop


def _usual_days(origin: str, target: str) -> int:
    if origin == target:
        return {"RU": 3, "US": 3, "PL": 2, "DE": 2}.get(origin, 1)
    return 3 if {origin, target} <= _UNION else 7


def _problem(rng: Random, world: World) -> str | None:
    point = rng.random() * 1000
    for name, share in world.problems.items():
        point -= share
        if point < 0:
            return name
    return None


def _order(rng: Random, world: World, parcel_id: str) -> _Trip:
    kind = rng.choice(world.kinds)
    carrier = rng.choice([c for c in CARRIERS if c.kind == kind])
    origin = rng.choice(carrier.origins)
    others = [c for c in ZONES if c != origin]
    target = rng.choice(others) if rng.random() < world.abroad else origin
    start, end = (date.fromisoformat(day) for day in rng.choice(world.seasons))
    day = start + timedelta(days=rng.randrange((end - start).days + 1))
    while day.weekday() not in world.weekdays:
        day += timedelta(days=1)
    placed_at = local(origin, day, rng.triangular(0, 24, 15))
    problem = _problem(rng, world)
    if problem == "held_by_customs" and (origin == target or {origin, target} <= _UNION):
        problem = "stuck"
    usual = _usual_days(origin, target)
    leaves = _leaves(origin, placed_at, rng.choice((0, 0, 1)))
    last = usual + rng.choice(world.slack)
    if rng.random() < world.any_day:
        spare = last + 2 + usual // 3 * 2
        promise = (leaves + timedelta(days=usual), leaves + timedelta(days=spare))
    else:
        promise = (_go(leaves, usual, origin, target), _go(leaves, last, origin, target))
    trip = _Trip(parcel_id, world, carrier, origin, target, problem, usual, placed_at, promise)
    trip.shipped_at = _dispatch(rng, trip, leaves)
    return trip


def _leaves(origin: str, placed_at: datetime, handling: int) -> date:
    placed = placed_at.astimezone(ZoneInfo(ZONES[origin]))
    day = placed.date() + timedelta(days=placed.hour >= _CUT_OFF)
    day = _go(day, 0, origin)
    return _go(day, handling, origin) if handling else day


def _dispatch(rng: Random, trip: _Trip, leaves: date) -> datetime | None:
    if trip.problem == "not_shipped":
        return None
    if trip.problem == "shipped_late":
        leaves = _go(leaves, rng.randint(1, 6), trip.origin)
    shipped = local(trip.origin, leaves, rng.triangular(9, 17, 14.5))
    return max(shipped, trip.placed_at + timedelta(minutes=rng.randint(40, 90)))


# ---------------------------------------------------------------- the way


_HOURS: Final = {
    "collected": (16.2, 19.5), "hub_in": (20, 22.3), "hub_out": (22.5, 26.5), "exported": (12, 20),
    "imported": (8, 18), "cleared": (10, 18), "depot": (3.5, 7), "out": (7, 9.5),
    "delivered": (9.6, 19),
}  # fmt: skip
_AT_HOME: Final = {"label", "collected", "hub_in", "hub_out", "exported"}
_STATES: Final = {"label": "label_created", "out": "out_for_delivery", "delivered": "delivered"}


def _days_of_steps(rng: Random, trip: _Trip) -> list[tuple[str, date]]:
    """Plan the way: which step on which day, were nothing to go wrong any more."""
    assert trip.shipped_at is not None
    saturdays = trip.carrier.saturdays
    sent = trip.shipped_at.astimezone(ZoneInfo(ZONES[trip.origin]))
    first = sent.date() + timedelta(days=sent.hour >= _LAST_PICK_UP)
    first = _go(first, 0, trip.origin, saturdays=saturdays)
    days = trip.usual_days
    if trip.problem == "slow":
        days += rng.randint(1, 2)
    elif days > 1 and rng.random() < 0.25:
        days -= 1
    last = _go(first, days, trip.target, saturdays=saturdays)
    way = [("label", sent.date()), ("collected", first), ("hub_in", first), ("hub_out", first)]
    if not (trip.origin == trip.target or {trip.origin, trip.target} <= _UNION):
        way += [
            ("exported", _go(first, 1, trip.origin, saturdays=saturdays)),
            ("imported", _go(last, -2, trip.target)),
            ("cleared", _go(last, -1, trip.target)),
        ]
    way += [("depot", last), ("out", last)]
    if trip.problem == "attempted":
        way.append(("out", last))
    return [*way, ("delivered", last)]


def _travel(rng: Random, trip: _Trip) -> None:
    way = _days_of_steps(rng, trip)
    problem = PROBLEMS.get(trip.problem or "")
    names = [name for name, _ in way]
    stop = names.index(rng.choice(problem.after)) if problem and problem.after else len(way)
    held = rng.randint(*problem.days) if problem and problem.days else 0
    planned = way[-1][1]
    new = _go(planned, held, trip.target, saturdays=trip.carrier.saturdays) if held else planned
    for index, (name, day) in enumerate(way):
        eta = planned if index <= stop else new
        if index > stop:
            if problem and problem.days is None:
                break
            day = _go(day, held, trip.target, saturdays=trip.carrier.saturdays)  # noqa: PLW2901 - it waited
        country = trip.origin if name in _AT_HOME else trip.target
        if name == "label" and trip.shipped_at:
            at = trip.shipped_at - timedelta(minutes=rng.randint(0, 30))
        else:
            at = local(country, day, rng.uniform(*_HOURS[name]))
            at = max(at, trip.steps[-1].at + timedelta(minutes=rng.randint(20, 40)))
        trip.steps.append(_Step(name, _STATES.get(name, "in_transit"), at, country, eta=eta))
        if index == stop and problem:
            _give_notice(rng, trip, problem, new)
    if problem and problem.days is None:
        _after_the_end(rng, trip)
    elif rng.random() < trip.world.flip and problem is None:
        _flip_the_eta(rng, trip)


def _give_notice(rng: Random, trip: _Trip, problem: Problem, new: date) -> None:
    if problem.state is None:
        return
    step = trip.steps[-1]
    hours = rng.uniform(2, 9) if step.name == "out" else rng.uniform(0.5, 10)
    told = step.eta if problem.days is None else new
    eta = told if problem.eta else None
    at = step.at + timedelta(hours=hours)
    trip.steps.append(
        _Step("notice", problem.state, at, step.country, problem.reason, problem.action, eta)
    )


def _after_the_end(rng: Random, trip: _Trip) -> None:
    """Say what is still heard of a parcel that never arrives."""
    last = trip.steps[-1]
    if trip.problem == "refused":
        for name, days in (("returning", 1), ("returned", 5)):
            at = last.at + timedelta(days=days, hours=rng.uniform(1, 4))
            trip.steps.append(_Step("notice", name, at, last.country, last.reason))
    elif trip.problem == "lost" and rng.random() < 0.4:
        at = last.at + timedelta(days=rng.randint(4, 12))
        trip.steps.append(_Step("notice", "exception", at, last.country, "carrier_parcel_lost"))


def _flip_the_eta(rng: Random, trip: _Trip) -> None:
    """Let the ETA go late and come back before the next step."""
    index = rng.randrange(1, len(trip.steps) - 2)
    before, after = trip.steps[index : index + 2]
    gap = after.at - before.at
    late = trip.promise[1] + timedelta(days=rng.randint(1, 3))
    back = min(gap * 0.9, gap * 0.1 + timedelta(hours=rng.uniform(0.4, 2.5)))
    trip.steps[index + 1 : index + 1] = [
        _Step("note", "in_transit", before.at + gap * 0.1, before.country, eta=late),
        _Step("note", "in_transit", before.at + back, before.country, eta=before.eta),
    ]


# ---------------------------------------------------------------- what is told


_RAW: Final = {
    "label": "Shipment information received", "collected": "Picked up", "hub_in": "Arrived at hub",
    "hub_out": "Departed hub", "exported": "Export customs", "imported": "Import customs",
    "cleared": "Released by customs", "depot": "At delivery depot", "out": "On the vehicle",
    "delivered": "Delivered", "notice": "Irregularity", "note": "Expected day changed",
}  # fmt: skip


def _heard(rng: Random, trip: _Trip, step: _Step, *, dark: bool) -> bool:
    keeps = trip.carrier.keeps * (1 - trip.world.lost_scans)
    if step.name in {"label", "delivered"}:
        keeps = 0.97 if step.name == "label" else 0.997 - trip.world.lost_scans / 20
    elif dark:
        return False
    elif not trip.carrier.keeps:
        keeps = 0.15 if step.name in {"notice", "out"} else 0.03
    return rng.random() < keeps


def _received(rng: Random, trip: _Trip, step: _Step, *, lagging: bool) -> datetime:
    at = step.at + timedelta(minutes=rng.triangular(1, 130, 10))
    if trip.carrier.evening and step.name != "label":
        day = day_of(step.country, step.at)
        dice = Random(f"{trip.id}/{day}")  # all of a day in one upload
        hour = dice.uniform(20, 22.5) + 24 * (dice.random() < _UPLOADED_LATE)
        at = local(step.country, day, hour)
        if at <= step.at:
            at = local(step.country, day, hour + 24)
    if step.name == "delivered" and rng.random() < trip.world.told_next_day:
        next_day = day_of(step.country, step.at) + timedelta(days=1)
        at = max(at, local(step.country, next_day, rng.uniform(6, 9)))
    if lagging and step.name in {"collected", "hub_in", "hub_out"}:
        at += timedelta(hours=rng.uniform(20, 50))
    return at


def _eta(rng: Random, trip: _Trip, step: _Step) -> dict[str, str | None] | None:
    """Return the window as it is told: delivery hours or the whole day, sometimes a day or two off."""
    day = step.eta
    if day is None or not trip.carrier.etas or step.name == "delivered":
        return None
    if step.name not in {"out", "note", "notice"} and rng.random() < trip.world.wobble:
        moved = day + timedelta(days=rng.choice((-1, 1, 2)))
        day = moved if day <= trip.promise[1] and moved <= trip.promise[1] else day
    if rng.random() < 0.2:
        return {"from": None, "to": _wire(local(trip.target, day, 24) - timedelta(seconds=1))}
    return {"from": _wire(local(trip.target, day, 9)), "to": _wire(local(trip.target, day, 18))}


def _wire(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _body(rng: Random, trip: _Trip, step: _Step, received: datetime) -> dict[str, Any]:
    day_only = rng.random() < trip.world.day_only
    at = step.at.replace(hour=0, minute=0, second=0, microsecond=0) if day_only else step.at
    return {
        "order_id": None,
        "shipment_id": trip.id,
        "carrier": trip.carrier.name,
        "tracking_number": f"{trip.carrier.name[:2].upper()}{trip.id[-8:]}{trip.target}",
        "state": step.state,
        "reason": step.reason,
        "action_required": step.action,
        "occurred_at": _wire(at),
        "precision": "day" if day_only else "second",
        "eta": _eta(rng, trip, step),
        "place": ZONES[step.country].split("/")[1].replace("_", " "),
        "source": "carrier",
        "raw_status": _RAW[step.name],
        "received_at": _wire(received),
    }


_Told = tuple[_Step, datetime, dict[str, Any]]


def _tell(rng: Random, trip: _Trip) -> list[_Told]:
    world = trip.world
    dark, lagging = rng.random() < world.dark, rng.random() < world.lagging
    doubled = rng.random() < world.doubled
    told: list[_Told] = []
    for step in trip.steps:
        if not _heard(rng, trip, step, dark=dark):
            continue
        received = _received(rng, trip, step, lagging=lagging)
        told.append((step, received, _body(rng, trip, step, received)))
        if doubled and rng.random() < 0.8:
            again = received + timedelta(minutes=rng.uniform(5, 240))
            copy = {**told[-1][2], "source": "aftership", "received_at": _wire(again)}
            told.append((step, again, copy))
    told.sort(key=lambda one: one[1])
    if rng.random() < world.shuffled:
        rng.shuffle(told)
    return told


# ---------------------------------------------------------------- what could be known


def _truth(trip: _Trip, told: list[_Told]) -> Truth:
    late = trip.delivered_at is None or trip.delivered_at >= trip.deadline
    found = _evidence(trip, told) if late else {}
    found = {why: at for why, at in found.items() if at <= trip.deadline - _MARGIN}
    return Truth(
        trip.id, late, bool(found), min(found.values(), default=None), tuple(found), trip.problem,
        trip.deadline, trip.delivered_at, trip.origin, trip.target, trip.carrier.name,
        trip.carrier.saturdays,
    )  # fmt: skip


def _evidence(trip: _Trip, told: list[_Told]) -> dict[str, datetime]:
    """Return what showed that the parcel would be late, and since when."""
    found: dict[str, datetime] = {}
    saturdays = trip.carrier.saturdays
    last_day = trip.promise[1]
    while not works(trip.target, last_day, saturdays=saturdays):
        last_day -= timedelta(days=1)
    quickest = max(1, trip.usual_days - 1)
    must_leave = local(trip.origin, _go(last_day, -quickest, trip.target, saturdays=saturdays), 19)
    if trip.shipped_at is None or trip.shipped_at > must_leave:
        found["not_shipped"] = max(must_leave, trip.placed_at)
    in_time = [one for one in told if one[1] < trip.deadline - _MARGIN]
    in_time.sort(key=lambda one: (one[0].at, one[1]))
    if in_time and in_time[-1][0].state in _BAD:
        found["notice"] = min(at for step, at, _ in in_time if step is in_time[-1][0])
    if since := _late_eta(trip, in_time):
        found["eta"] = since
    judged = local(trip.target, last_day, _JUDGED_AT)
    if trip.shipped_at and trip.shipped_at < judged:
        known = [step for step, at, _ in in_time if at <= judged]
        if _chance_of_missing(trip, {step.name for step in known}) <= _CHANCE:
            found["missing_scans"] = judged
        patient = _go(_usual_arrival(trip, known), 2, trip.target, saturdays=saturdays)
        if patient <= last_day and all(step.name != "out" for step in known):
            found["silence"] = judged
    return found


def _late_eta(trip: _Trip, in_time: list[_Told]) -> datetime | None:
    since = None
    for _, received, body in in_time:
        if body["eta"]:
            late = datetime.fromisoformat(body["eta"]["to"]) >= trip.deadline
            since = (since or received) if late else None
    return since


def _usual_arrival(trip: _Trip, known: list[_Step]) -> date:
    """Return the day on which parcels arrive that were seen where this one was seen last."""
    assert trip.shipped_at is not None
    seen = next((s for s in reversed(known) if s.name in _HOURS), None)
    days = trip.usual_days + 1
    if seen is not None:
        left = {"exported": trip.usual_days - 1, "imported": 2, "cleared": 1, "depot": 0, "out": 0}
        days = left.get(seen.name, trip.usual_days)
    day = day_of(trip.target, seen.at if seen else trip.shipped_at)
    return _go(day, days, trip.target, trip.origin, saturdays=trip.carrier.saturdays)


def _chance_of_missing(trip: _Trip, known: set[str]) -> float:
    """Return how likely the scans not seen are all lost ones, were the parcel to arrive that day."""
    days_before = dict.fromkeys(("collected", "hub_in", "hub_out"), trip.usual_days)
    if not (trip.origin == trip.target or {trip.origin, trip.target} <= _UNION):
        days_before |= {"exported": trip.usual_days - 1, "imported": 2, "cleared": 1}
    days_before |= {"depot": 0, "out": 0}
    missing: dict[int, list[float]] = {}  # those of a day are uploaded together
    for name, before in reversed(days_before.items()):
        if name in known:
            break
        uploaded = before - (name in {"hub_in", "hub_out"}) if trip.carrier.evening else before
        missing.setdefault(uploaded, []).append(
            1 - trip.carrier.keeps * (1 - trip.world.lost_scans)
        )
    chance = 1.0
    for uploaded, lost in missing.items():
        late = {0: 1.0, 1: _UPLOADED_LATE}.get(uploaded, 0.0) if trip.carrier.evening else 0.0
        chance *= late + (1 - late) * prod(lost)
    return max(chance, trip.world.dark / 2 if missing else 1)


# ---------------------------------------------------------------- out


def simulate(world: str, seed: int, count: int) -> Iterator[tuple[dict[str, Any], Truth]]:
    """Yield parcels as `afterglow delays backtest` reads them, each with its truth."""
    for number in range(count):
        rng = Random(f"{world}/{seed}/{number}")
        trip = _order(rng, _WORLDS[world], f"{world}-{seed}-{number:08}")
        if trip.shipped_at is not None:
            _travel(rng, trip)
        told = _tell(rng, trip)
        yield _line(trip, told), _truth(trip, told)


def generate(world: str, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield the parcels alone, as a history file holds them."""
    return (line for line, _ in simulate(world, seed, count))


def _line(trip: _Trip, told: list[_Told]) -> dict[str, Any]:
    first, last = trip.promise
    return {
        "id": trip.id,
        "placed_at": _wire(trip.placed_at),
        "shipped_at": _wire(trip.shipped_at) if trip.shipped_at else None,
        "promise": {"from": first.isoformat(), "to": last.isoformat()},
        "carrier": trip.carrier.name,
        "ship_from_country": trip.origin,
        "ship_to_country": trip.target,
        "scans": [body for _, _, body in told],
        "delivered_at": _wire(trip.delivered_at) if trip.delivered_at else None,
    }
