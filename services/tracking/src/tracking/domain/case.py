"""One subject of an order with its delay episode: when it speaks, what it says, when it is over."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from shared.events import (
    DateRange,
    ShipmentDelayed,
    ShipmentDelayUpdate,
    ShipmentRecovered,
    parse_instant,
    rfc3339,
)
from tracking.domain.delays import Alarm, alarms, new_date
from tracking.domain.model import News
from tracking.domain.situation import Situation
from tracking.domain.subjects import FIRST_ETAS, ORDER, Subject

EPISODES: Final = "episodes"  # what was told, in `order.told`
UPDATES_MAX: Final = 2
MISSES_MAX: Final = 2  # own alarms about one parcel; what the carrier says itself is always told

_MOVES: Final = frozenset({"in_transit", "out_for_delivery", "ready_for_pickup"})
_SAID_BY_CARRIER: Final = frozenset({"eta_changed", "returning"})
_SAID_BY_SCAN: Final = _SAID_BY_CARRIER | {"delivery_attempted", "delayed", "exception"}
_SILENT: Final = frozenset({"not_shipped", "not_collected", "silence"})


class Case:
    """One subject of an order, a parcel or what is not sent, with its episode."""

    def __init__(self, here: Situation, subject: Subject) -> None:
        self.here, self.subject = here, subject
        self.order, self.pace = here.order, here.pace
        self.now, self.calendar = here.now, here.calendar
        self.rules, self.habits, self.promise = subject.rules, subject.habits, subject.promise
        self.original = history = subject.history
        self.said: dict[str, Any] | None = self.order.told.get(EPISODES, {}).get(subject.name)
        if self.said is not None and self.said["base"] != subject.base:
            self.said = {**self.said, "open": False, "new": None, "misses": 0}  # the shop moved it
        believed = days_of(self.said["new"]) if self.said else None
        if believed is not None and (self.promise is None or believed.to > self.promise.to):
            history = replace(history, promise=believed.to, told=True, implied=False)
        self.history = history
        self.given_up = history.view is not None and history.view.state == "expired"

    def note_eta(self) -> None:
        """Note the first date that the carrier gives where nobody promised one: later ones are a delay."""
        history = self.original
        if self.promise is None and history.eta is not None and history.first_eta is None:
            noted = self.order.told.setdefault(FIRST_ETAS, {})
            noted[self.subject.name] = history.eta.isoformat()
            self.order.changed = True

    @property
    def is_open(self) -> bool:
        return bool(self.said and self.said["open"])

    @property
    def moved_since(self) -> bool:
        """Whether something happened after the notice that shows it on its way, not only came in after it.

        Where a scan said what is wrong, that is something that happened after this scan: many come in late.
        """
        view = self.history.view
        if self.said is None or view is None or view.state not in _MOVES:
            return False
        newest, known = self._newest(), parse_instant(self.said.get("seen") or self.said["at"])
        return newest is not None and self.pace.clock(newest) > known

    def _newest(self) -> datetime | None:
        """Return the newest thing that a carrier has said of it."""
        view = self.history.view
        said = (view.heard_at if view else None, self.history.eta_since)
        return max((at for at in said if at is not None), default=None)

    # ------------------------------------------------------------ when

    def alarm(self) -> Alarm | None:
        """Return the next alarm that would be told."""
        if not self.subject.scanned or self._waits_for_it():
            return None
        found = next(iter(alarms(self.history, self.rules, self.habits)), None)
        if found is None or self.said is None:
            return found
        if not self._is_said_by_carrier(found) and self.said["misses"] >= MISSES_MAX:
            return None
        return found if self._moves(found) else None

    def _waits_for_it(self) -> bool:
        """Tell whether what is open was told without a date, and nothing moved since: no clock runs then."""
        if self.said is None or not self.said["open"]:
            return False
        if self.given_up:
            return True
        return self.said["new"] is None and not self.moved_since and not self._comes_to_an_end()

    def _comes_to_an_end(self) -> bool:
        assert self.said is not None
        view = self.history.view
        return view is not None and view.state == "returning" and self.said["cause"] != "returning"

    def _is_said_by_carrier(self, alarm: Alarm) -> bool:
        return alarm.cause in _SAID_BY_CARRIER or self.given_up

    def _moves(self, alarm: Alarm) -> bool:
        """Tell whether this is another date than she was told."""
        if self.said is None:
            return True
        new = days_of(self.said["new"])
        if alarm.new is None or new is None:
            return not (alarm.new is None and new is None and self.said["open"])
        return alarm.new.to > new.to

    def check(self) -> datetime | None:
        """Return when to look again, in calendar time."""
        found = []
        if (alarm := self.alarm()) is not None:
            found.append(self._speaks_at(alarm))
        contact = self._contact()
        if contact is not None:
            found.append(contact)
        return min(found, default=None)

    def _speaks_at(self, alarm: Alarm) -> datetime:
        """Return when an alarm may be told: what we found out ourselves waits for a day with carriers at work."""
        at = max(alarm.at, self.calendar)
        route = self.rules.route
        heard = alarm.at == self.history.known_at and alarm.cause not in _SILENT
        if heard and at - alarm.at < timedelta(days=1):
            return at
        while route.rests(at):  # by the clocks of both ends
            at = route.at(route.working.forward(route.local(at).date() + timedelta(days=1)), 10)
        return at

    def _contact(self) -> datetime | None:
        said = self.said
        if said is None or not said["open"] or not said["contact"] or said["rounds"] >= UPDATES_MAX:
            return None
        return self.pace.calendar(parse_instant(said["contact"]))

    # ------------------------------------------------------------ what

    def tell(self, contact: datetime | None) -> list[News]:
        """Return what is to be said now; `contact` is when we write again of the order, where that is known."""
        alarm = self.alarm()
        if alarm is not None and self._speaks_at(alarm) <= self.calendar:
            return self._delayed(alarm, contact or self._next_contact())
        if self._is_over():
            return self._recovered()
        due = self._contact()
        if due is not None and due <= self.calendar:
            return self._update(contact or self._next_contact())
        return []

    def _delayed(self, alarm: Alarm, contact: datetime) -> list[News]:
        route, calendar, now = self.rules.route, self.calendar, self.now
        if alarm.new is not None and route.local(alarm.at).date() < route.local(calendar).date():
            new = new_date(alarm.cause, calendar, self.history, self.rules, self.habits)
            alarm = replace(alarm, new=new)  # told days after it was due
        old = days_of(self.said["new"] if self.said else None) or _range(self.promise)
        number = self.said["n"] + 1 if self.said else 1
        own = not self._is_said_by_carrier(alarm)
        misses = (self.said["misses"] if self.said else 0) + own
        self._note(
            n=number, cause=alarm.cause, old=_text(old), new=_text(alarm.new), open=True,
            at=rfc3339(now), contact=rfc3339(contact), rounds=0, misses=misses,
            base=self.subject.base, seen=self._seen(alarm),
        )  # fmt: skip
        if self.subject.name == ORDER:
            self._note(beside=sorted(self.order.parcels))
        data = ShipmentDelayed.model_construct(
            order_id=self.order.order_id, shipment_id=self.subject.name or None, episode=number,
            cause=alarm.cause, old=old, new=alarm.new, next_contact_at=contact, detected_at=now,
            at=None, precision="second",
        )  # fmt: skip
        return [News(data, self._at(alarm))]

    def _seen(self, alarm: Alarm) -> str | None:
        """Return up to when the carrier's words were known that an alarm speaks of; None for one of silence."""
        newest = self._newest() if alarm.cause in _SAID_BY_SCAN else None
        return rfc3339(self.pace.clock(newest)) if newest else None

    def _at(self, alarm: Alarm) -> datetime:
        """Return the time of the fact that caused it: the scan, or the moment at which too little was heard."""
        if alarm.at == self.history.known_at:
            return min(self.subject.fact_at, self.now)
        return min(self.pace.clock(alarm.at), self.now)

    def _is_over(self) -> bool:
        """Tell whether the parcel moved on after the notice, and no date is in danger now."""
        said, view, history = self.said, self.history.view, self.history
        if said is None or not said["open"] or view is None or not self.moved_since:
            return False
        if said["cause"] == "eta_changed" and (
            history.eta is None or history.eta > self.original.eta_due
        ):
            return view.state in {"out_for_delivery", "ready_for_pickup"}
        return self.rules.route.local(self.calendar).date() <= history.promise

    def _recovered(self) -> list[News]:
        assert self.said is not None
        kept = self._kept()
        self._note(open=False, contact=None, new=_text(kept), misses=0)
        data = ShipmentRecovered.model_construct(
            order_id=self.order.order_id, shipment_id=self.subject.name or None,
            episode=self.said["n"], new=kept, next_contact_at=None, detected_at=self.now, at=None,
            precision="second",
        )  # fmt: skip
        return [News(data, min(self.subject.fact_at, self.now))]

    def _kept(self) -> DateRange | None:
        """Return the days that hold now: those first promised where they still can, else those told since."""
        assert self.said is not None
        first = alarms(self.original, self.rules, self.habits)
        today = self.rules.route.local(self.calendar).date()
        told, eta = days_of(self.said["new"]), self.original.eta
        if self.promise is not None:
            safe = today <= self.promise.to and not any(one.at <= self.calendar for one in first)
            return _range(self.promise) if safe else told
        if eta is not None and told is not None and today <= eta < told.from_:
            return DateRange.model_validate({"from": eta, "to": eta})
        return told

    def _update(self, contact: datetime) -> list[News]:
        assert self.said is not None
        rounds = self.said["rounds"] + 1
        again = contact if rounds < UPDATES_MAX else None
        at = parse_instant(self.said["contact"])
        self._note(rounds=rounds, contact=rfc3339(again) if again else None)
        data = ShipmentDelayUpdate.model_construct(
            order_id=self.order.order_id, shipment_id=self.subject.name or None,
            episode=self.said["n"], round=rounds, new=days_of(self.said["new"]),
            next_contact_at=again, detected_at=self.now, at=None, precision="second",
        )  # fmt: skip
        return [News(data, min(at, self.now))]

    def _next_contact(self) -> datetime:
        """Return the clock time of our next word: working days on, at a humane hour of her day."""
        route, delays = self.rules.route, self.here.shop.delays
        today = route.local(self.calendar).date()
        day = route.working.forward(today + timedelta(days=1), delays.contact_days - 1)
        return self.pace.clock(route.at(day, delays.contact_hour))

    def _note(self, **changed: Any) -> None:
        all_said = self.order.told.setdefault(EPISODES, {})
        self.said = all_said[self.subject.name] = {**(self.said or {}), **changed}
        self.order.changed = True

    def why(self) -> dict[str, Any]:
        """Return what is waited for, for operators."""
        alarm, contact = self.alarm(), self._contact()
        return {
            "shipment_id": self.subject.name or None,
            "due": self.history.promise.isoformat(),
            "promised": not self.history.implied,
            "next_alarm_at": alarm and self.pace.clock(self._speaks_at(alarm)),
            "next_alarm": alarm and alarm.cause,
            "next_contact_at": contact and self.pace.clock(contact),
            "because": None if alarm or contact else self._why_silent(),
        }

    def _why_silent(self) -> str:
        if self.is_open:
            return "waits_for_staff"
        if self.said is not None and self.said["misses"] >= MISSES_MAX:
            return "misses_used_up"
        if not self.subject.scanned:
            return "no_number"
        if self.history.arrived:
            return "ready_for_pickup"
        mute = self.history.sent and self.habits.mute(abroad=self.rules.route.abroad)
        return "mute_carrier" if mute else "nothing_in_danger"


def days_of(said: list[str] | None) -> DateRange | None:
    """Read days as `told` holds them."""
    return DateRange.model_validate({"from": said[0], "to": said[1]}) if said else None


def _range(days: DateRange | None) -> DateRange | None:
    """Return a promise's days without who promised them."""
    return DateRange.model_construct(from_=days.from_, to=days.to) if days else None


def _text(days: DateRange | None) -> list[str] | None:
    return [days.from_.isoformat(), days.to.isoformat()] if days else None
