"""Delay episodes: when one opens, what is said while it is open, and when it is over.

One opens once for a parcel (or, before anything is sent, for the order); a second notice, with the next
episode number, goes out only when the date moves on by a day or more. Each names the time of our next word;
when that comes without other news, the word is kept: `ShipmentDelayUpdate`, at most twice, then it waits
for staff. It is over when the parcel moves again and a date can be kept: `ShipmentRecovered` with that
date. A delivery closes it without a word: that is a message of its own. So does a new promise of the
shop: it tells its customer itself.

All waiting is in calendar time (see `pace`); times on the wire and in `told` are clock times.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from shared.events import (
    DateRange,
    Eta,
    ShipmentDelayed,
    ShipmentDelayUpdate,
    ShipmentRecovered,
    parse_instant,
    rfc3339,
)
from shared.facts import Fact
from shared.shops import Shop
from tracking.domain.delays import (
    Alarm,
    History,
    Rules,
    alarms,
    eta_day,
    rules_for,
)
from tracking.domain.fold import OrderState, Shipment, fold
from tracking.domain.model import News, Order, Parcel
from tracking.domain.pace import Pace
from tracking.domain.profile import Habits, Profile, Story, View

UPDATES_MAX: Final = 2
MISSES_MAX: Final = 2  # own alarms about one parcel; what the carrier says itself is always told
ALL: Final = "*"  # the profile of all carriers of a shop together
ORDER: Final = ""  # the subject of an episode before anything is sent

_KEY: Final = "episodes"
_LEARNED: Final = "learned"
_MOVES: Final = frozenset({"in_transit", "out_for_delivery", "ready_for_pickup"})
_SAID_BY_CARRIER: Final = frozenset({"eta_changed", "returning"})
_CONCLUDED_DAYS: Final = (
    8  # working days without a word after the promise: it will not be heard of again
)
_EMPTY: Final = Profile()

Profiles = Mapping[str, Profile]


@dataclass(frozen=True, slots=True)
class Episode:
    """One open delay, as the page shows it; times are clock times."""

    shipment_id: str | None
    episode: int
    cause: str
    carrier: str | None
    old: DateRange | None
    new: DateRange | None
    opened_at: datetime
    next_contact_at: datetime | None


def open_(order: Order) -> list[Episode]:
    """Return the delays of an order that are open, the order's own first."""
    said: Mapping[str, Any] = order.told.get(_KEY, {})
    found = []
    for subject, one in sorted(said.items()):
        if not one["open"]:
            continue
        parcel = order.parcels.get(subject)
        found.append(
            Episode(
                shipment_id=subject or None,
                episode=one["n"],
                cause=one["cause"],
                carrier=parcel.body.carrier if parcel else None,
                old=_days(one["old"]),
                new=_days(one["new"]),
                opened_at=parse_instant(one["at"]),
                next_contact_at=parse_instant(one["contact"]) if one["contact"] else None,
            )
        )
    return found


def open_delays(order: Order) -> list[tuple[str | None, int]]:
    """Return shipment (None: the order itself) and episode number of each delay that is open."""
    return [(one.shipment_id, one.episode) for one in open_(order)]


def tell(
    order: Order,
    state: OrderState,
    shipments: Mapping[str, Shipment],
    shop: Shop,
    now: datetime,
    pace: Pace,
    profiles: Profiles,
) -> list[News]:
    """Return what is to be told about delays now, and note in `order.told` that it was."""
    told: list[News] = []
    for case in _cases(order, state, shipments, shop, pace, profiles):
        told += case.tell(pace.calendar(now), now)
    _close_others(order, state, shipments)
    return told


def check(
    order: Order,
    state: OrderState,
    shipments: Mapping[str, Shipment],
    shop: Shop,
    now: datetime,
    pace: Pace,
    profiles: Profiles,
) -> datetime | None:
    """Return the next clock time at which there may be something to say, or to learn, without news."""
    calendar = pace.calendar(now)
    found = [case.check(calendar) for case in _cases(order, state, shipments, shop, pace, profiles)]
    found += [at for _, _, at in _to_learn(order, state, shipments, shop, pace) if at is not None]
    due = [at for at in found if at is not None]
    return pace.clock(max(min(due), calendar)) if due else None


def concluded(
    order: Order,
    state: OrderState,
    shipments: Mapping[str, Shipment],
    shop: Shop,
    now: datetime,
    pace: Pace,
) -> bool:
    """Tell whether a parcel was delivered, or has been silent so long, that profiles can learn from it."""
    calendar = pace.calendar(now)
    return any(
        at is None or at <= calendar for _, _, at in _to_learn(order, state, shipments, shop, pace)
    )


def stories(
    order: Order,
    state: OrderState,
    shipments: Mapping[str, Shipment],
    shop: Shop,
    now: datetime,
    pace: Pace,
) -> list[tuple[str, Story]]:
    """Return by profile (a carrier, and `ALL`) what is to be learned of this order now, each parcel once.

    A parcel teaches when it is delivered, or when nothing was heard for long after its promise; that it did
    is noted in `order.told`.
    """
    found = []
    calendar = pace.calendar(now)
    for carrier, shipment, at in list(_to_learn(order, state, shipments, shop, pace)):
        if at is not None and at > calendar:
            continue
        order.told[_LEARNED] = [*order.told.get(_LEARNED, ()), shipment.parcel.shipment_id]
        order.changed = True
        if (story := _story(order, state, shipment, shop, pace)) is not None:
            found += [(carrier, story), (ALL, story)]
    return found


# ---------------------------------------------------------------- one subject


class _Case:
    """One subject of an order, a parcel or the order before it is sent, with its episode."""

    def __init__(
        self,
        order: Order,
        subject: str,
        history: History,
        rules: Rules,
        habits: Habits,
        promise: DateRange,
        fact_at: datetime,
        shop: Shop,
        pace: Pace,
    ) -> None:
        self.order, self.subject, self.rules, self.habits = order, subject, rules, habits
        self.promise, self.fact_at, self.shop, self.pace = promise, fact_at, shop, pace
        self.said: dict[str, Any] | None = order.told.get(_KEY, {}).get(subject)
        if self.said is not None and self.said["base"] != promise.to.isoformat():
            self.said = {**self.said, "open": False, "new": None, "misses": 0}  # the shop moved it
        believed = _days(self.said["new"]) if self.said else None
        told = believed is not None and believed.to > promise.to
        self.history = History(
            known_at=history.known_at,
            promise=believed.to if told and believed else promise.to,
            shipped_at=history.shipped_at,
            view=history.view,
            reason=history.reason,
            eta=history.eta,
            eta_since=history.eta_since,
            told=told,
        )
        self.original = history
        self.told_returning = bool(
            self.said and self.said["open"] and self.said["cause"] == "returning"
        )

    # ------------------------------------------------------------ when

    def alarm(self) -> Alarm | None:
        """Return the next alarm that would be told."""
        if self.told_returning:
            return None
        found = next(iter(alarms(self.history, self.rules, self.habits)), None)
        if found is None or self.said is None:
            return found
        if found.cause not in _SAID_BY_CARRIER:
            if self.said["misses"] >= MISSES_MAX:
                return None
            if self.said["open"] and not self.history.told:
                return None  # told without a date: there is nothing new in our own clock
        return found if self._moves(found) else None

    def _moves(self, alarm: Alarm) -> bool:
        """Tell whether this is another date than she was told."""
        if self.said is None:
            return True
        new = _days(self.said["new"])
        if alarm.new is None or new is None:
            return not (alarm.new is None and new is None and self.said["open"])
        return alarm.new.to > new.to

    def check(self, calendar: datetime) -> datetime | None:
        """Return when to look again, in calendar time."""
        found = []
        if (alarm := self.alarm()) is not None:
            found.append(self._speaks_at(alarm, calendar))
        contact = self._contact()
        if contact is not None:
            found.append(contact)
        return min(found, default=None)

    def _speaks_at(self, alarm: Alarm, calendar: datetime) -> datetime:
        """Return when an alarm may be told: what we found out ourselves waits for a day with carriers at work."""
        at = max(alarm.at, calendar)
        route = self.rules.route
        if alarm.at == self.history.known_at and at - alarm.at < timedelta(days=1):
            return at
        here = route.local(at).date()
        return at if here in route.delivery else route.at(route.working.forward(here), 10)

    def _contact(self) -> datetime | None:
        said = self.said
        if said is None or not said["open"] or not said["contact"] or said["rounds"] >= UPDATES_MAX:
            return None
        return self.pace.calendar(parse_instant(said["contact"]))

    # ------------------------------------------------------------ what

    def tell(self, calendar: datetime, now: datetime) -> list[News]:
        """Return what is to be said now."""
        alarm = self.alarm()
        if alarm is not None and self._speaks_at(alarm, calendar) <= calendar:
            return self._delayed(alarm, calendar, now)
        if self._is_over(calendar):
            return self._recovered(calendar, now)
        contact = self._contact()
        if contact is not None and contact <= calendar:
            return self._update(calendar, now)
        return []

    def _delayed(self, alarm: Alarm, calendar: datetime, now: datetime) -> list[News]:
        old = _days(self.said["new"]) if self.said and self.said["new"] else self.promise
        number = self.said["n"] + 1 if self.said else 1
        own = alarm.cause not in _SAID_BY_CARRIER
        contact = self._next_contact(calendar)
        misses = (self.said["misses"] if self.said else 0) + own
        self._note(
            n=number, cause=alarm.cause, old=_text(old), new=_text(alarm.new), open=True,
            at=rfc3339(now), contact=rfc3339(contact), rounds=0, misses=misses,
            base=self.promise.to.isoformat(),
        )  # fmt: skip
        data = ShipmentDelayed.model_construct(
            order_id=self.order.order_id, shipment_id=self.subject or None, episode=number,
            cause=alarm.cause, old=old, new=alarm.new, next_contact_at=contact, detected_at=now,
            at=None, precision="second",
        )  # fmt: skip
        return [News(data, self._at(alarm, now))]

    def _at(self, alarm: Alarm, now: datetime) -> datetime:
        """Return the time of the fact that caused it: the scan, or the moment at which too little was heard."""
        if alarm.at == self.history.known_at:
            return min(self.fact_at, now)
        return min(self.pace.clock(alarm.at), now)

    def _is_over(self, calendar: datetime) -> bool:
        """Tell whether the parcel moved on after the notice, and no date is in danger now."""
        said, view = self.said, self.history.view
        if said is None or not said["open"] or view is None:
            return False
        if self.subject == ORDER or view.state not in _MOVES:
            return False
        opened = self.pace.calendar(parse_instant(said["at"]))
        if view.known_at <= opened:
            return False
        if (
            said["cause"] == "eta_changed"
            and (self.history.eta or date.max) > self.original.promise
        ):
            return view.state in {"out_for_delivery", "ready_for_pickup"}
        return self.rules.route.local(calendar).date() <= self.history.promise

    def _recovered(self, calendar: datetime, now: datetime) -> list[News]:
        assert self.said is not None
        kept = self._kept(calendar)
        self._note(open=False, contact=None, new=_text(kept))
        data = ShipmentRecovered.model_construct(
            order_id=self.order.order_id, shipment_id=self.subject or None, episode=self.said["n"],
            new=kept, next_contact_at=None, detected_at=now, at=None, precision="second",
        )  # fmt: skip
        return [News(data, min(self.fact_at, now))]

    def _kept(self, calendar: datetime) -> DateRange | None:
        """Return the days that hold now: those first promised where they still can, else those told since."""
        assert self.said is not None
        first = alarms(self.original, self.rules, self.habits)
        today = self.rules.route.local(calendar).date()
        if today <= self.promise.to and not any(one.at <= calendar for one in first):
            return self.promise
        return _days(self.said["new"])

    def _update(self, calendar: datetime, now: datetime) -> list[News]:
        assert self.said is not None
        rounds = self.said["rounds"] + 1
        contact = self._next_contact(calendar) if rounds < UPDATES_MAX else None
        at = parse_instant(self.said["contact"])
        self._note(rounds=rounds, contact=rfc3339(contact) if contact else None)
        data = ShipmentDelayUpdate.model_construct(
            order_id=self.order.order_id, shipment_id=self.subject or None, episode=self.said["n"],
            round=rounds, new=_days(self.said["new"]), next_contact_at=contact, detected_at=now,
            at=None, precision="second",
        )  # fmt: skip
        return [News(data, min(at, now))]

    def _next_contact(self, calendar: datetime) -> datetime:
        """Return the clock time of our next word: working days on, at a humane hour of her day."""
        route, delays = self.rules.route, self.shop.delays
        today = route.local(calendar).date()
        day = route.working.forward(today + timedelta(days=1), delays.contact_days - 1)
        return self.pace.clock(route.at(day, delays.contact_hour))

    def _note(self, **changed: Any) -> None:
        all_said = self.order.told.setdefault(_KEY, {})
        self.said = all_said[self.subject] = {**(self.said or {}), **changed}
        self.order.changed = True


# ---------------------------------------------------------------- which subjects


def _cases(
    order: Order,
    state: OrderState,
    shipments: Mapping[str, Shipment],
    shop: Shop,
    pace: Pace,
    profiles: Profiles,
) -> Iterator[_Case]:
    about = order.about
    if about is None or state.promise is None or _is_done(state):
        return
    known_since = pace.calendar(max(order.known_since, about.placed_at))
    live = [one for one in shipments.values() if not one.parcel.withdrawn]
    if not live and _is_live(shop, about.placed_at):
        rules = rules_for(shop, None, about.country)
        history = History(known_since, state.promise.to)
        habits = _habits(profiles, ALL)  # which carrier it will go with is not known
        yield _Case(
            order, ORDER, history, rules, habits, state.promise, about.placed_at, shop, pace
        )
    for shipment in live:
        if shipment.terminal or _is_untracked(shipment):
            continue
        fact_at = _fact_at(shipment)
        if not _is_live(shop, fact_at):
            continue
        carrier = _carrier(order, shipment.parcel)
        rules = rules_for(shop, carrier, about.country)
        history = _history(shipment, state.promise, rules, known_since, pace)
        habits = _habits(profiles, carrier or ALL)
        subject = shipment.parcel.shipment_id
        yield _Case(order, subject, history, rules, habits, state.promise, fact_at, shop, pace)


def _is_done(state: OrderState) -> bool:
    return state.cancelled or state.erased or state.nothing_open


def _is_live(shop: Shop, fact_at: datetime) -> bool:
    return shop.live_from is None or fact_at >= shop.live_from


def _is_untracked(shipment: Shipment) -> bool:
    """Tell whether nobody can ever scan it: it has no number, and nothing was said of it."""
    return not shipment.scans and not shipment.parcel.body.tracking_number


def _close_others(order: Order, state: OrderState, shipments: Mapping[str, Shipment]) -> None:
    """Close without a word what is open about a parcel that needs no watching any more."""
    said = order.told.get(_KEY, {})
    over = _is_done(state)
    for subject, one in said.items():
        if not one["open"]:
            continue
        shipment = shipments.get(subject)
        sent = any(not s.parcel.withdrawn for s in shipments.values())
        gone = sent if subject == ORDER else shipment is None or shipment.terminal
        moved = state.promise is not None and one["base"] != state.promise.to.isoformat()
        if over or gone or moved:
            said[subject] = {**one, "open": False, "contact": None}
            order.changed = True


def _habits(profiles: Profiles, carrier: str) -> Habits:
    """Return what is known of a carrier; the same object while the profiles are the same, for its cache."""
    return _pair(profiles.get(carrier, _EMPTY), profiles.get(ALL, _EMPTY))


@lru_cache(256)
def _pair(own: Profile, pool: Profile) -> Habits:
    return Habits(own, pool)


def _carrier(order: Order, parcel: Parcel) -> str | None:
    """Return the carrier's name: as the shop states it, else as it was scanned."""
    if parcel.body.carrier:
        return parcel.body.carrier
    return next((order.tracks[ref].carrier for ref in parcel.refs if ref in order.tracks), None)


def _sent_at(parcel: Parcel) -> datetime:
    return parcel.shipped_at or parcel.body.shipped_at or parcel.stated[0]


def _fact_at(shipment: Shipment) -> datetime:
    """Return the time of the newest that is known about a parcel."""
    sent = _sent_at(shipment.parcel)
    return max(shipment.heard_at, sent) if shipment.heard_at else sent


def _received(scan: Fact) -> datetime:
    said = scan.get("received")
    return datetime.fromisoformat(said) if isinstance(said, str) else scan.at


def _view(shipment: Shipment, known_at: datetime, pace: Pace) -> View:
    heard = shipment.heard_at
    return View(
        known_at,
        shipment.state,
        pace.calendar(shipment.since),
        pace.calendar(heard) if heard else None,
    )


def _history(
    shipment: Shipment, promise: DateRange, rules: Rules, known_since: datetime, pace: Pace
) -> History:
    sent = pace.calendar(_sent_at(shipment.parcel))
    known_at = max(sent, known_since)
    view = None
    if shipment.scans:
        received = pace.calendar(max(_received(scan) for scan in shipment.scans))
        known_at = max(known_at, received)
        view = _view(shipment, received, pace)
    return History(
        known_at=known_at,
        promise=promise.to,
        shipped_at=sent,
        view=view,
        reason=shipment.reason,
        eta=_eta(shipment, rules),
        eta_since=pace.calendar(shipment.eta_said_at) if shipment.eta_said_at else None,
    )


def _eta(shipment: Shipment, rules: Rules) -> date | None:
    """Return the carrier's date, unless what went wrong since has made it worthless."""
    said_at, trouble = shipment.eta_said_at, shipment.state in {"delayed", "exception"}
    if shipment.eta is None or (trouble and said_at is not None and said_at < shipment.since):
        return None
    return eta_day(shipment.eta, rules.route)


# ---------------------------------------------------------------- what there is to learn


def _to_learn(
    order: Order, state: OrderState, shipments: Mapping[str, Shipment], shop: Shop, pace: Pace
) -> Iterator[tuple[str, Shipment, datetime | None]]:
    """Yield parcels not learned yet: carrier, parcel, and from when (calendar; None: now)."""
    learned = order.told.get(_LEARNED, ())
    if order.about is None or state.promise is None or _is_done(state):
        return
    for shipment in shipments.values():
        parcel = shipment.parcel
        if parcel.shipment_id in learned or parcel.withdrawn or _is_untracked(shipment):
            continue
        if shipment.state in {"returning", "returned", "cancelled"}:
            continue
        carrier = _carrier(order, parcel)
        if not carrier:
            continue
        if shipment.state == "delivered":
            yield carrier, shipment, None
            continue
        route = rules_for(shop, carrier, order.about.country).route
        heard = route.local(pace.calendar(_fact_at(shipment))).date()
        day = route.working.forward(max(heard, state.promise.to), _CONCLUDED_DAYS)
        yield carrier, shipment, route.at(day, 10)


def _story(
    order: Order, state: OrderState, shipment: Shipment, shop: Shop, pace: Pace
) -> Story | None:
    about = order.about
    if about is None or state.promise is None:
        return None
    parcel = shipment.parcel
    rules = rules_for(shop, _carrier(order, parcel), about.country)
    views = _views(shipment, pace)
    delivered = shipment.delivered_at
    return Story(
        placed_at=pace.calendar(about.placed_at),
        shipped_at=pace.calendar(_sent_at(parcel)),
        promise=state.promise.to,
        route=rules.route,
        views=views,
        delivered_at=pace.calendar(delivered) if delivered else None,
        late_eta=_had_late_eta(shipment.scans, state.promise.to, rules),
    )


def _views(shipment: Shipment, pace: Pace) -> Sequence[View]:
    """Return what was known of a parcel after each of its scans came in."""
    heard = sorted(((_received(scan), scan) for scan in shipment.scans), key=lambda pair: pair[0])
    found = []
    for count, (received, _) in enumerate(heard, 1):
        if count < len(heard) and heard[count][0] == received:
            continue  # several at once are one piece of news
        known = fold(shipment.parcel, [scan for _, scan in heard[:count]])
        found.append(_view(known, pace.calendar(received), pace))
    return found


def _had_late_eta(scans: Sequence[Fact], promise: date, rules: Rules) -> bool:
    for scan in scans:
        said = scan.get("eta_to") or scan.get("eta_from")
        if isinstance(said, str):
            day = eta_day(Eta.model_construct(from_=None, to=parse_instant(said)), rules.route)
            if day is not None and day > promise:
                return True
    return False


def _days(said: list[str] | None) -> DateRange | None:
    return DateRange.model_validate({"from": said[0], "to": said[1]}) if said else None


def _text(days: DateRange | None) -> list[str] | None:
    return [days.from_.isoformat(), days.to.isoformat()] if days else None
