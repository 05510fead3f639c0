"""What the tracking page says about one order, as plain values that its template prints.

Nothing of the person, no price, and none of a carrier's own words gets through here. Everything absent is
an empty string or tuple, so that a template's `if` leaves out the whole line.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from shared.calendars import zone_of
from shared.events import DateRange, OrderShipped, place_of_order
from shared.languages import Language
from shared.languages.brand import carrier_name, clean, safe_url
from shared.languages.delays import CAUSE
from shared.shops import Shop
from tracking import languages as words
from tracking.adapters.days import EXPECTED, Days
from tracking.adapters.timeline import Timeline, newest_first
from tracking.domain import choices
from tracking.domain.episodes import Episode
from tracking.domain.fold import OrderState, Shipment
from tracking.domain.model import Order
from tracking.domain.pace import Pace

Values = dict[str, Any]

_GOOD: Final = frozenset({"delivered", "returned", "cancelled"})
_STANDING: Final = frozenset({"unknown", "label_created"})
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
        zone = zone_of(self.about.country if self.about else None)
        self.days = Days(language, zone or subject.shop.zone, subject.now, subject.pace)
        self.timeline = Timeline(language, self.days, room.steps, room.chars)
        there = [one for one in subject.shipments.values() if not one.parcel.withdrawn]
        self.shipments = sorted(there, key=_first_sent)
        self.delays = [] if self.state.cancelled else list(subject.delays)
        self.asked = {(one.shipment_id, one.episode): one for one in choices.requested(self.order)}
        known = {(one.shipment_id, one.episode) for one in self.delays}
        newest = max(self.asked.values(), key=lambda one: one.at, default=None)
        self.newest_asked = newest
        self.asked_only = [one for key, one in self.asked.items() if key not in known]
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
            history, parcels[0]["steps"] = [], newest_first([*history, *parcels[0]["steps"]])
        for parcel in parcels:
            parcel.update(self.timeline.shown(parcel["steps"]))
        values: Values = {
            "number": self.number,
            "placed": self.days.on(self.state.placed_at) if self.state.placed_at else None,
            "headline": self._headline(),
            "lead": (),
            "day": None,
            "delays": [self._delay(one) for one in self.delays if one.shipment_id is None],
            "summary": several,
            "more_parcels": max(len(self.shipments) - self.room.parcels, 0),
            "parcels": parcels,
            "order_rows": order_rows,
            "order_more": order_more,
            "waiting_rows": waiting_rows,
            "waiting_more": waiting_more,
            "history": self.timeline.shown(history),
            "as_of": self.days.moment(now)["text"],
            "zone": self.days.zone_name(),
            "wishes": [
                (wish, self.text(name), self.text(meaning))
                for wish, (name, meaning) in words.WISH.items()
            ],
            "note_max": choices.NOTE_CHARS_MAX,
        }
        if not values["delays"]:
            values["delays"] = [self._only_asked(one) for one in self._asked_of(None)]
        values |= self._parcel_news(parcels, several) if parcels else self._order_news()
        values["lead"] = [*values["lead"], *self._returns()]
        return values

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
        return self._headline_of_many([self._state(one) for one in self.shipments])

    def _headline_of_many(self, states: Sequence[str]) -> str:
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
            return form % {"arrived": arrived, "total": total}
        telling = next((state for state in _MOST_TELLING if state in states), states[0])
        return self.text(words.HEADING[telling])

    def _order_news(self) -> Values:
        """What stands under the heading while there is no parcel."""
        if self.state.cancelled:
            refunded = any(one.type == "order.refunded.v1" for one in self.order.facts)
            lead = ["Nothing more will be sent."]
            lead += ["Your money is on its way back to you."] if refunded else []
            return {"lead": [self.text(one) for one in lead], "day": None}
        then = "As soon as it leaves us, you see it here."
        if self.shop.writes("order_shipped"):
            then = "We write to you when it leaves us, and you see it here."
        late = any(one.shipment_id is None for one in self.delays)
        return {"lead": [self.text(then)], "day": None if late else self._promise(None)}

    def _parcel_news(self, parcels: Sequence[Values], several: bool) -> Values:  # noqa: FBT001
        if not several:
            only = parcels[0]
            lead = only["lead"]
            if self.state.cancelled:
                lead = [f"{self.text('Parcel')}: {only['heading']}.", *lead]
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
        return {
            "state": state,
            "title": self._title(index),
            "heading": self._heading(one),
            "lead": self._lead(one, late=late is not None),
            "day": self._expected(one, late),
            "delay": self._delay(late) if late else self._parcel_asked(one),
            "next": self._next(one, late=late is not None),
            "facts": self._facts(body),
            "url": _https(body.tracking_url),
            "not_here": state == "delivered",
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
        state = self._state(one)
        if self._late(one) is not None:
            state = {"in_transit": "delayed"}.get(state, state)
            if state in _STANDING:
                return self.text("It will be late")
        return self.text(words.HEADING[state])

    def _late(self, one: Shipment) -> Episode | None:
        mine = one.parcel.shipment_id
        return next((late for late in self.delays if late.shipment_id == mine), None)

    def _lead(self, one: Shipment, *, late: bool) -> list[str]:
        """Say in sentences what the heading means."""
        if self._assumed(one):
            return [self.text(words.HOW["assumed"])]
        said = []
        if one.state == "delivered":
            said += [self.days.moment(one.since, day=one.since_day)["text"] + "."]
            said += [self.text(words.HOW[one.how])] if one.how and one.how in words.HOW else []
        elif one.state in words.NOW and not (late and not one.scans):
            said += [self.text(words.NOW[one.state])]
        if one.state != "delivered" and one.reason and one.reason in words.REASON:
            said.append(self.text(words.REASON[one.reason]))
        place = self.timeline.town(one.place)
        if one.state == "ready_for_pickup" and one.place:
            said.append(f"{self.text('Where')}: {self.timeline.line(one.place)}.")
        elif one.state in {"in_transit", "delayed", "exception", "returning"} and place:
            said.append(f"{self.text('Last seen')}: {place}.")
        return said

    def _next(self, one: Shipment, *, late: bool) -> list[str]:
        if self.state.cancelled or self._assumed(one) or one.state == "delivered":
            return []
        if one.action_required and one.state in {"exception", "delayed", "delivery_attempted"}:
            return [self.text(words.ACTION)]
        if late and one.state in {"unknown", "delayed"}:
            return []  # the delay says it
        return [self.text(words.NEXT[one.state])] if one.state in words.NEXT else []

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
        return self.text("Parcel %(mine)s of %(total)s") % {"mine": mine, "total": known}

    # ------------------------------------------------------------ days

    def _expected(self, one: Shipment, late: Episode | None) -> Values | None:
        if self.state.cancelled or self._assumed(one) or one.state in _GOOD | {"returning"}:
            return None
        if late is not None and late.new is not None:
            was = late.old and self.days.day(late.old.to)
            return self.days.span(late.new.from_, late.new.to, "New date") | {"was": was}
        days = self.days.window(one.eta) if one.eta else None
        if days is not None and (late is None or days["days"][-1]["iso"][:10] > _end(late.old)):
            return days
        if late is not None or one.state in {"ready_for_pickup", "expired"}:
            return None
        if one.state in _NO_PROMISE:
            unknown = self.text("We do not know the new day yet.")
            return {"label": unknown, "days": (), "was": None}
        return self._promise(one.parcel.shipment_id)

    def _promise(self, shipment_id: str | None) -> Values | None:
        """Return the days that hold: those told since the promise, which no notice takes back."""
        promise: DateRange | None = self.state.promise
        if promise is None:
            return {"label": self.text("We do not know the day yet."), "days": (), "was": None}
        told = _believed(self.order, shipment_id, promise)
        promise = told if told is not None and told.to > promise.to else promise
        label = EXPECTED if promise.to >= self.days.today else "Expected until now"
        return self.days.span(promise.from_, promise.to, label)

    # ------------------------------------------------------------ a delay

    def _delay(self, late: Episode) -> Values:
        sentences = []
        if late.old is not None:
            until = self.days.until(late.old.to)
            promised = self.text("We promised it by %(until)s and will not make it. We are sorry.")
            sentences.append(promised % {"until": until})
        else:
            sentences.append(self.text("It takes longer than it should. We are sorry."))
        if late.cause in CAUSE:
            sentences.append(self.text(CAUSE[late.cause]))
        if late.new is None:
            sentences.append(self.text("We do not know the new day yet."))
        elif late.shipment_id is None:
            until = self.days.until(late.new.to)
            sentences.append(self.text("With you by %(until)s.") % {"until": until})
        contact = late.next_contact_at if self.shop.writes("delay_update") else None
        asked = self.asked.get((late.shipment_id, late.episode))
        if asked is None:  # what she asked when it was less late is still asked
            before = [one for one in self._asked_of(late.shipment_id) if one.answered_at is None]
            asked = before[-1] if before else None
        values = self._asked_values(asked)
        return values | {
            "title": self.text("Why it is late"),
            "sentences": sentences,
            "next_contact": self.days.until_moment(contact) if contact else "",
            "open": True,
            "shipment": late.shipment_id or "",
            "episode": late.episode,
        }

    def _asked_values(self, one: choices.Requested | None) -> Values:
        if one is None:
            return {"asked": "", "standing": "", "anchor": False}
        answered = one.answered_at is not None and one.wish in words.ANSWERED
        standing = self.text("Answered" if answered else "Requested") if one.wish != "wait" else ""
        said = self.text((words.ANSWERED if answered else words.ASKED)[one.wish])
        return {"asked": said, "standing": standing, "anchor": one is self.newest_asked}

    def _only_asked(self, one: choices.Requested) -> Values:
        """What she asked for about a delay that is over: it is not forgotten."""
        return self._asked_values(one) | {
            "title": self.text("Your request"),
            "sentences": (),
            "next_contact": "",
            "open": False,
        }

    def _asked_of(self, shipment_id: str | None) -> list[choices.Requested]:
        mine = [one for one in self.asked_only if one.shipment_id == shipment_id]
        return [one for one in mine if one.wish != "wait"]

    def _parcel_asked(self, one: Shipment) -> Values | None:
        mine = self._asked_of(one.parcel.shipment_id)
        if not mine or self._state(one) in _GOOD:
            return None
        return self._only_asked(mine[-1])

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


def _believed(order: Order, shipment_id: str | None, promise: DateRange) -> DateRange | None:
    """Return the days last told in a notice since this promise: the parcel's own, else the order's."""
    said = order.told.get("episodes", {})
    for one in (said.get(shipment_id or ""), said.get("")):
        if one and one["new"] and one.get("base") == promise.to.isoformat():
            return DateRange.model_validate(dict(zip(("from", "to"), one["new"], strict=True)))
    return None


def _end(days: DateRange | None) -> str:
    return days.to.isoformat() if days else ""


def _https(url: str | None) -> str:
    safe = safe_url(url)
    return safe if safe.startswith("https://") else ""
