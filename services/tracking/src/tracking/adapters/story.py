"""What the tracking page says about one order, as plain values that its template prints.

Nothing of the person, no price, and none of a carrier's own words gets through here. Everything absent is
an empty string or tuple, so that a template's `if` leaves out the whole line.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from shared.events import DateRange, OrderShipped, place_of_order
from shared.languages import Language
from shared.languages.brand import carrier_name, clean, safe_url
from shared.shops import Shop
from tracking import languages as words
from tracking.adapters.boxes import Boxes, is_explained
from tracking.adapters.days import EXPECTED, Days
from tracking.adapters.timeline import Timeline
from tracking.domain import choices
from tracking.domain.episodes import Episode, believed
from tracking.domain.fold import Shipment
from tracking.domain.model import Order
from tracking.domain.orders import OrderState
from tracking.domain.pace import Pace

Values = dict[str, Any]

_NBSP: Final = "\u00a0"
_GOOD: Final = frozenset({"delivered", "returned", "cancelled"})
_STANDING: Final = frozenset({"unknown", "label_created"})
_ON_ITS_WAY: Final = frozenset({"in_transit", *_STANDING})
_TURNED_BACK: Final = frozenset({"returning", "returned", "cancelled"})
# The promise says nothing about a parcel that waits for her, or for something to be cleared up.
_NO_PROMISE: Final = frozenset({"ready_for_pickup", "delivery_attempted", "exception", "expired"})
# What the order's state is called when its parcels differ: the first that one of them has.
_MOST_TELLING: Final = (
    *("exception", "delivery_attempted", "ready_for_pickup", "out_for_delivery", "delayed"),
    *("in_transit", "label_created", "unknown", "returning", "returned", "expired"),
)


@dataclass(frozen=True, slots=True)
class Room:
    """How much may stand on the page, so that it stays small whatever an order holds."""

    steps: int
    items: int
    parcels: int
    chars: int


@dataclass(frozen=True, slots=True)
class Subject:
    """One order with all that was found out about it, at a moment."""

    order: Order
    state: OrderState
    shipments: Mapping[str, Shipment]
    delays: Collection[Episode]
    shop: Shop
    now: datetime
    pace: Pace


def story(subject: Subject, language: Language, room: Room) -> Values:
    """Return the values of `page.html.j2`."""
    return _Teller(subject, language, room).page(subject.now)


class _Teller:
    """One telling: the subject in one language."""

    def __init__(self, subject: Subject, language: Language, room: Room) -> None:
        self.order, self.state, self.shop = subject.order, subject.state, subject.shop
        self.about = subject.order.about
        self.language, self.room = language, room
        zone = subject.order.zone(subject.shop.zone)
        self.days = Days(language, zone, subject.now, subject.pace)
        self.timeline = Timeline(language, self.days, room.steps, room.chars)
        there = [one for one in subject.shipments.values() if not one.parcel.withdrawn]
        self.shipments = sorted(there, key=_first_sent)
        self.delays = [] if self.state.cancelled else list(subject.delays)
        self.boxes = Boxes(
            self.order, self.shop, language, self.days, self.delays, cancelled=self.state.cancelled
        )
        self.names = {line.line_id: line.name for line in self.about.lines} if self.about else {}

    # ------------------------------------------------------------ the whole

    def page(self, now: datetime) -> Values:
        """Return everything."""
        parcels = [self.parcel(index) for index in range(len(self.shipments[: self.room.parcels]))]
        several = len(self.shipments) > 1
        order_rows, order_more = self._order_rows()
        waiting_rows, waiting_more = self._waiting_rows()
        history = self.timeline.of_order(self.order.facts)
        if len(self.shipments) == 1:
            history, parcels[0]["steps"] = [], [*history, *parcels[0]["steps"]]
        for parcel in parcels:
            parcel.update(self.timeline.shown(parcel["steps"]))
        values: Values = {
            "number": self.number,
            "placed": self.days.on(self.state.placed_at) if self.state.placed_at else None,
            "headline": self._headline(),
            "lead": (),
            "day": None,
            "delays": self.boxes.of_order(rest=bool(self.shipments)),
            "summary": several,
            "more_parcels": max(len(self.shipments) - self.room.parcels, 0),
            "parcels": parcels,
            "order_rows": order_rows,
            "order_more": order_more,
            "waiting_rows": waiting_rows,
            "waiting_more": waiting_more,
            "history": self.timeline.shown(history),
            "as_of": self.days.moment(self.days.pace.calendar(now))["text"],
            "zone": self.days.zone_name(),
            "note_max": choices.NOTE_CHARS_MAX,
        }
        values |= self._parcel_news(parcels, several) if parcels else self._order_news()
        values["lead"] = [*values["lead"], *self._refund(), *self._returns()]
        return values

    def _refund(self) -> list[str]:
        refunded = any(one.type == "order.refunded.v1" for one in self.order.facts)
        told = self.state.cancelled and refunded
        return [self.text("Your money is on its way back to you.")] if told else []

    def _returns(self) -> list[str]:
        if self.state.return_received_at is not None:
            return [self.text("Your return has reached us.")]
        return [self.text("Your return is announced.")] if self.state.return_requested_at else []

    @property
    def number(self) -> str:
        """The order's number as the customer knows it."""
        about = self.about
        return clean(about.number if about else None) or clean(self.order.order_id)

    def text(self, sentence: str) -> str:
        """Return a sentence of the tables in the language of this page."""
        return self.language.text(sentence)

    def _headline(self) -> str:
        if self.state.cancelled:
            return self.text("Your order is cancelled")
        if not self.shipments:
            if any(one.shipment_id is None for one in self.delays):
                return self.text("Your order will be late")
            packing = any(one.type == "order.preparing.v1" for one in self.order.facts)
            return self.text("We are packing your order" if packing else "We have your order")
        if len(self.shipments) == 1:
            return self._heading(self.shipments[0])
        return self._headline_of_many()

    def _headline_of_many(self) -> str:
        states = [self._state(one) for one in self.shipments]
        total = len(states)
        arrived = states.count("delivered")
        if arrived == total and not self._waiting():
            return self.text("All parcels are delivered")
        if arrived:
            forms = self.language.plurals(
                "Delivered: %(arrived)s of %(total)s parcel",
                "Delivered: %(arrived)s of %(total)s parcels",
            )
            form = forms[self.language.plural_form(total)]
            delivered, _, count = (form % {"arrived": arrived, "total": total}).partition(": ")
            return f"{delivered}: {count.replace(' ', _NBSP)}"
        return self._heading(min(self.shipments, key=self._how_telling))

    def _how_telling(self, one: Shipment) -> int:
        state = self._state(one)
        if state in _ON_ITS_WAY and self._late(one) is not None:
            state = "delayed"
        return _MOST_TELLING.index(state) if state in _MOST_TELLING else len(_MOST_TELLING)

    def _order_news(self) -> Values:
        """What stands under the heading while there is no parcel."""
        if self.state.cancelled:
            return {"lead": [self.text("Nothing more will be sent.")], "day": None}
        then = "As soon as it leaves us, you see it here."
        if self.shop.writes("order_shipped"):
            then = "We write to you when it leaves us, and you see it here."
        late = next((one for one in self.delays if one.shipment_id is None), None)
        day = self._new_days(late) if late else self._promise(None)
        return {"lead": [self.text(then)], "day": day}

    def _parcel_news(self, parcels: Sequence[Values], several: bool) -> Values:  # noqa: FBT001
        if not several:
            only = parcels[0]
            lead = only["lead"]
            if self.state.cancelled:
                state = only["heading"]
                lead = [f"{self.text('Parcel')}: {state[:1].lower()}{state[1:]}.", *lead]
            return {"lead": lead, "day": only["day"]}
        days = {str(one["day"]): one["day"] for one in parcels if one["day"]}
        open_ones = sum(one["state"] not in _GOOD for one in parcels)
        same = len(days) == 1 and open_ones == sum(bool(one["day"]) for one in parcels)
        return {"lead": (), "day": next(iter(days.values())) if same else None}

    # ------------------------------------------------------------ a parcel

    def parcel(self, index: int) -> Values:
        """Return what is said about one parcel."""
        one = self.shipments[index]
        body, state = one.parcel.body, self._state(one)
        late = self._late(one)
        rows, more = self._parcel_rows(body)
        ask = self._ask(one, late)
        lead = self._lead(one, late)
        return {
            "state": state,
            "title": self._title(index),
            "heading": self._heading(one),
            "lead": [*lead, ask] if ask else lead,
            "day": self._expected(one, late),
            "delay": self.boxes.of_parcel(one, late, over=state in _GOOD),
            "next": [] if ask else self._next(one, late=late is not None),
            "facts": self._facts(body),
            "url": _https(body.tracking_url),
            "to_help": self._to_help(state, ask),
            "rows": rows,
            "more": more,
            "steps": self.timeline.of_parcel(one),
        }

    def _state(self, one: Shipment) -> str:
        return "delivered" if self._assumed(one) else one.state

    def _assumed(self, one: Shipment) -> bool:
        told = self.order.told.get("parcels", {}).get(one.parcel.shipment_id, {})
        return told.get("how") == "assumed" and one.state != "delivered"

    def _heading(self, one: Shipment) -> str:
        if self._assumed(one):
            return self.text("It should be with you by now")
        if self._late(one) is not None:
            if one.state in _STANDING:
                return self.text("It will be late")
            if one.state in {"in_transit", "delayed"}:
                return self.text("On its way, but late")
        return self.text(words.HEADING[one.state])

    def _late(self, one: Shipment) -> Episode | None:
        mine = one.parcel.shipment_id
        return next((late for late in self.delays if late.shipment_id == mine), None)

    def _lead(self, one: Shipment, late: Episode | None) -> list[str]:
        """Say in sentences what the heading means."""
        if self._assumed(one):
            return [self.text(words.HOW["assumed"])]
        said = []
        if one.revoked_at is not None and one.state not in {"delivered", *_TURNED_BACK}:
            said += [self.text("The carrier had reported it as delivered and has taken that back.")]
        if one.state == "delivered":
            when = self.days.moment(one.since, day=one.since_day)["text"]
            said += [f"{when[:1].upper()}{when[1:]}."]
            said += [self.text(words.HOW[one.how])] if one.how and one.how in words.HOW else []
        elif _cannot_be_followed(one):
            said += [self.text("We have sent it. There is no parcel number to follow it by.")]
        elif one.state in words.NOW and not (late and not one.scans):
            said += [self.text(words.NOW[one.state])]
        below = late is not None and is_explained(late, one)
        if one.state != "delivered" and one.reason and one.reason in words.REASON and not below:
            said.append(self.text(words.REASON[one.reason]))
        return [*said, *self._place(one)]

    def _place(self, one: Shipment) -> list[str]:
        town = self.timeline.town(one.place)
        if one.state == "ready_for_pickup":
            if not one.place:
                return [
                    self.text("The carrier has not told us where. Look at its page, or ask us.")
                ]
            return [f"{self.text('Where')}: {self.timeline.line(one.place)}."]
        if town and one.state in {"in_transit", "delayed", "exception", "returning"}:
            return [f"{self.text('Last seen')}: {town}."]
        return []

    def _ask(self, one: Shipment, late: Episode | None) -> str:
        """Say what we need of her; nothing where the form under the delay asks for just that."""
        state = self._state(one)
        if self.state.cancelled:
            left = state not in {"delivered", *_TURNED_BACK}
            said = "It had left us before that. If it still reaches you, tell us." if left else ""
        elif one.action_required and state in {"exception", "delayed", "delivery_attempted"}:
            said = words.ACTION
        else:
            chosen = late is not None and late.cause == "returning"
            said = "" if chosen else words.ASK.get(state, "")
        return self.text(said) if said else ""

    def _to_help(self, state: str, ask: str) -> str:
        """Return the words of a link to the support block."""
        if ask:
            return self.text("How to reach us")
        returns = self.state.return_requested_at or self.state.return_received_at
        missed = state == "delivered" and returns is None
        return self.text("Not here? Tell us.") if missed else ""

    def _next(self, one: Shipment, *, late: bool) -> list[str]:
        if self.state.cancelled or self._assumed(one) or one.state not in words.NEXT:
            return []
        if _cannot_be_followed(one) or (late and one.state in {"unknown", "delayed"}):
            return []  # nothing more will be heard; the delay says it
        return [self.text(words.NEXT[one.state])]

    def _facts(self, body: OrderShipped) -> list[tuple[str, str]]:
        carrier, number = carrier_name(body.carrier), clean(body.tracking_number)
        rows = ((self.text("Carrier"), carrier), (self.text("Parcel number"), number))
        return [(name, value) for name, value in rows if value]

    def _title(self, index: int) -> str:
        place, total = place_of_order(self.shipments[index].parcel.body.number_of_order)
        known, mine = len(self.shipments), index + 1
        if place and total >= known:
            mine, known = place, total
        elif self._waiting() is not None and self._waiting():
            return self.text("Parcel %(mine)s") % {"mine": mine}
        title = self.text("Parcel %(mine)s of %(total)s") % {"mine": mine, "total": known}
        return title.replace(" ", _NBSP)

    # ------------------------------------------------------------ days

    def _expected(self, one: Shipment, late: Episode | None) -> Values | None:
        if self.state.cancelled or self._assumed(one) or one.state in _GOOD | {"returning"}:
            return None
        if one.state == "out_for_delivery" and self.days.is_today(one.since, day=one.since_day):
            return self.days.today_of(one.eta)  # whatever was expected before
        if late is not None and late.new is not None:
            return self._new_days(late)
        days = self.days.window(one.eta) if one.eta else None
        if days is not None and (late is None or days["days"][-1]["iso"][:10] > _end(late.old)):
            return days
        if one.state not in _NO_PROMISE and late is None:
            return self._promise(one.parcel.shipment_id)
        silent = late is not None or one.state in {"ready_for_pickup", "expired"}
        return None if silent else self._unknown()

    def _new_days(self, late: Episode) -> Values | None:
        if late.new is None:
            return None  # the delay says it
        if late.new.to < self.days.today:
            return self._unknown(late.new.to)
        was = late.old and self.days.day(late.old.to)
        return self.days.span(late.new.from_, late.new.to, "New date") | {"was": was}

    def _unknown(self, was: date | None = None) -> Values:
        label = self.text("We do not know the new date yet.")
        return {"label": label, "days": (), "was": was and self.days.day(was)}

    def _promise(self, shipment_id: str | None) -> Values | None:
        """Return the days that hold: those told since the promise, which no notice takes back."""
        promise: DateRange | None = self.state.promise
        if promise is None:
            return {"label": self.text("We do not know the day yet."), "days": (), "was": None}
        told = believed(self.order, shipment_id)
        promise = told if told is not None and told.to > promise.to else promise
        if promise.to < self.days.today:
            return self._unknown(promise.to)
        return self.days.span(promise.from_, promise.to, EXPECTED)

    # ------------------------------------------------------------ items

    def _rows(self, quantities: Sequence[tuple[str, Decimal]]) -> tuple[list[tuple[str, str]], int]:
        rows = [
            (self.timeline.line(self.names[line_id]), f"× {self.language.quantity(f'{amount:f}')}")
            for line_id, amount in quantities
            if line_id in self.names and amount > 0
        ]
        return rows[: self.room.items], max(len(rows) - self.room.items, 0)

    def _parcel_rows(self, body: OrderShipped) -> tuple[list[tuple[str, str]], int]:
        return self._rows([(i.line_id, Decimal(i.quantity)) for i in body.items or ()])

    def _waiting(self) -> dict[str, Decimal] | None:
        """Return what is in no parcel yet; None where a parcel does not say what is in it."""
        left = dict(self.state.open)
        for one in self.shipments:
            if one.parcel.body.items is None:
                return None
            for item in one.parcel.body.items:
                left[item.line_id] = left.get(item.line_id, Decimal()) - Decimal(item.quantity)
        return {line_id: amount for line_id, amount in left.items() if amount > 0}

    def _waiting_rows(self) -> tuple[list[tuple[str, str]], int]:
        waiting = self._waiting() if self.shipments and not self.state.cancelled else None
        return self._rows(list((waiting or {}).items()))

    def _order_rows(self) -> tuple[list[tuple[str, str]], int]:
        told = self.shipments and all(one.parcel.body.items for one in self.shipments)
        return (
            ([], 0) if told or self.state.cancelled else self._rows(list(self.state.open.items()))
        )


def _first_sent(one: Shipment) -> tuple[datetime, str]:
    return one.parcel.shipped_at or one.parcel.stated[0], one.parcel.shipment_id


def _cannot_be_followed(one: Shipment) -> bool:
    body = one.parcel.body
    return not (one.scans or body.tracking_number or body.tracking_url)


def _end(days: DateRange | None) -> str:
    return days.to.isoformat() if days else ""


def _https(url: str | None) -> str:
    safe = safe_url(url)
    return safe if safe.startswith("https://") else ""
