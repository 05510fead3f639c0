"""What is known of an order: a small set of facts in one column, folded into its state.

A fact has a type, a time, a rank, an event id and the few fields the fold reads; nothing about a
person. The set is kept sorted, so any order of arrival and any duplication give the same facts and
the same state.

**The order.** Exact facts are sorted by (time, rank, id). A fact known only to the day covers the 24
hours from its midnight, and within them rank decides: a parcel "delivered on the 24th" comes after
the scan that took it out that morning. Comparing pair by pair like this runs in circles as soon as
one day holds two exact facts whose ranks fall (attempted at 12, out again at 16). So a day fact is
compared with nothing; it is *placed*: directly before the first exact fact of its day that has a
higher rank, else at the day's end. Every fact then has one key, which depends only on the set, and
keys cannot run in circles. Exact facts are never moved by it.

**The cap.** At most 200 facts: the earliest of those on which everything else rests (placed, cancelled as
a whole, erased) and the newest others. What is dropped is decided by (time, rank, id) alone, which needs no other fact, so it too is the same for every order
of arrival.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, NamedTuple

from shared.events import (
    DateRange,
    Event,
    EventData,
    OrderCancelled,
    OrderDelayed,
    OrderPlaced,
    OrderUpdated,
    ParcelDelivered,
    ShipmentDelayed,
    ShipmentDelayUpdate,
    ShipmentRecovered,
    ShipmentStatusChanged,
    rfc3339,
)
from shared.events.outcomes import DelayFact

MAX_FACTS: Final = 200

Scalar = str | int | bool | None

RANK: Final[Mapping[str, int]] = {
    "order.placed.v1": 10,
    "order.updated.v1": 15,
    "contact.logged.v1": 18,
    "order.preparing.v1": 30,
    "order.delayed.v1": 35,
    "order.shipped.v1": 40,
    "shipment.updated.v1": 42,
    "shipment.withdrawn.v1": 44,
    "shipment.delayed.v1": 52,
    "shipment.delay_update.v1": 53,
    "shipment.recovered.v1": 55,
    "customer.choice.v1": 56,
    "parcel.delivered.v1": 71,
    "parcel.delivery_revoked.v1": 72,
    "order.delivered.v1": 74,
    "order.return_requested.v1": 80,
    "order.return_received.v1": 82,
    "followup.due.v1": 83,
    "followup.dropped.v1": 84,
    "survey.answered.v1": 85,
    "complaint.opened.v1": 86,
    "case.opened.v1": 87,
    "case.answered.v1": 88,
    "case.update_due.v1": 89,
    "compensation.issued.v1": 90,
    "compensation.failed.v1": 91,
    "case.compensated.v1": 92,
    "case.closed.v1": 93,
    "complaint.closed.v1": 94,
    "order.cancelled.v1": 95,
    "order.refunded.v1": 96,
    "contact.opted_out.v1": 97,
    "customer.erased.v1": 99,
}
"""Which of two facts of the same moment comes later; scans take theirs from STATE_RANK."""

STATE_RANK: Final[Mapping[str, int]] = {
    "unknown": 38,
    "label_created": 39,
    "in_transit": 50,
    "delayed": 51,
    "exception": 57,
    "out_for_delivery": 60,
    "delivery_attempted": 65,
    "ready_for_pickup": 66,
    "delivered": 70,
    "returning": 76,
    "returned": 77,
    "cancelled": 78,
    "expired": 79,
}
"""Rank of a scan or a status change by the shipment state it tells."""

_UNRANKED: Final = 50
_SUBJECTS: Final = ("shipment_id", "return_id")
_DAY: Final = timedelta(days=1)

_Key = tuple[datetime, int, int, int, str]


class Fact(NamedTuple):
    """One fact: `at` aware, `day` when only the date is known (then `at` is that day's midnight)."""

    type: str
    at: datetime
    rank: int
    id: str
    day: bool = False
    extra: tuple[tuple[str, Scalar], ...] = ()

    def get(self, name: str) -> Scalar:
        """Return a field the fold reads, None when the fact does not have it."""
        return next((value for key, value in self.extra if key == name), None)


def fact(
    type: str,  # noqa: A002 - the attribute's name in CloudEvents
    at: datetime,
    id: object,  # noqa: A002 - the attribute's name in CloudEvents
    *,
    day: bool = False,
    state: str | None = None,
    **extra: Scalar,
) -> Fact:
    """Make a fact, ranked by its type or, for a scan, by its shipment `state`.

    Fields that are None are left out. Raises ValueError for a time without a zone.
    """
    if at.tzinfo is None:
        raise ValueError("a fact's time must have a zone")
    rank = RANK.get(type, _UNRANKED) if state is None else STATE_RANK.get(state, _UNRANKED)
    fields = {"state": state, **extra}
    kept = tuple(sorted((name, value) for name, value in fields.items() if value is not None))
    return Fact(type, at.astimezone(UTC), rank, str(id), day, kept)


def of(event: Event, *, raw_at: str | None = None) -> Fact:
    """Make the fact that an event is: what the folds of the services read of it, and nothing else.

    `raw_at` is the time its sender gave, where that could not be believed.
    """
    data = event.data
    reads = _READS.get(type(data))
    return fact(
        event.type,
        event.time,
        event.id,
        day="precision" in _fields(type(data)) and getattr(data, "precision", None) == "day",
        subject=subject_of(data) or None,
        raw_at=raw_at,
        **(reads(data) if reads else {}),
    )


def _days(said: DateRange | None) -> str | None:
    return f"{said.from_}/{said.to}" if said else None


def _promised(data: Any) -> dict[str, Any]:
    return {"promise": _days(data.promise)}


def _cancelled(data: Any) -> dict[str, Any]:
    return {"partial": bool(data.items) or None}


def _status(data: Any) -> dict[str, Any]:
    return {"state": data.state, "reason": data.reason, "action": data.action_required or None}


def _delay(data: DelayFact) -> dict[str, Any]:
    """Read one of a delay's facts; `old` and `new` are "from/to", times are RFC 3339 texts."""
    named = {name: getattr(data, name, None) for name in ("cause", "round")}
    next_contact, detected = data.next_contact_at, data.detected_at
    return named | {
        "episode": data.episode,
        "old": _days(getattr(data, "old", None)),
        "new": _days(getattr(data, "new", None)),
        "next": rfc3339(next_contact) if next_contact else None,
        "detected": rfc3339(detected) if detected else None,
    }


_READS: Final[Mapping[type[EventData], Callable[[Any], dict[str, Any]]]] = {
    OrderPlaced: _promised,
    OrderUpdated: _promised,
    OrderDelayed: _promised,
    OrderCancelled: _cancelled,
    ShipmentStatusChanged: _status,
    ShipmentDelayed: _delay,
    ShipmentDelayUpdate: _delay,
    ShipmentRecovered: _delay,
    ParcelDelivered: lambda data: {"how": data.how},
}
"""What the folds read of a body, beside which part of the order it is about."""


def subject_of(data: EventData) -> str:
    """Return which part of the order a body is about: a parcel, a return; "" for the order as a whole."""
    fields = _fields(type(data))
    return next((str(getattr(data, n) or "") for n in _SUBJECTS if n in fields), "")


@cache  # asking a pydantic object for a field that it does not have is slow
def _fields(kind: type[EventData]) -> frozenset[str]:
    return frozenset(kind.model_fields)


def promised(facts: Iterable[Fact]) -> Fact | None:
    """Return the fact whose `promise` holds, or withdraws it: the shop's last word on when an order comes.

    The newer word wins. A snapshot that only repeats the days of the snapshot before is no new word:
    shops send an order again for many reasons, and a delay they told in between still holds.
    """
    holds = snapshot = None
    for one in facts:
        days = one.get("promise")
        if one.type in {"order.placed.v1", "order.updated.v1"}:
            if snapshot is None or snapshot.get("promise") != days:
                holds = one
            snapshot = one
        elif one.type == "order.delayed.v1" and days:
            holds = one
    return holds


def add(facts: Iterable[Fact], new: Iterable[Fact]) -> tuple[Fact, ...]:
    """Return the sorted set of both, each id once, at most MAX_FACTS.

    Two different facts under one id are a fault of their writer; the smaller one stays, whichever
    came first.
    """
    by_id: dict[str, Fact] = {}
    for one in (*facts, *new):
        known = by_id.get(one.id)
        if known is None or (known != one and _content(one) < _content(known)):
            by_id[one.id] = one
    kept = by_id.values() if len(by_id) <= MAX_FACTS else _newest(by_id.values())
    return _sorted(list(kept))


def dump(facts: Iterable[Fact]) -> str:
    """Write facts as a compact JSON list, for a jsonb column."""
    return json.dumps([_row(one) for one in facts], ensure_ascii=False, separators=(",", ":"))


def load(text: str | bytes) -> tuple[Fact, ...]:
    """Read what `dump` wrote, in the order it was written."""
    return tuple(_from_row(row) for row in json.loads(text))


def _is_anchor(one: Fact) -> bool:
    """Tell whether everything else rests on a fact of this type."""
    whole = one.type == "order.cancelled.v1" and not one.get("partial")
    return whole or one.type in {"order.placed.v1", "customer.erased.v1"}


def _newest(facts: Iterable[Fact]) -> list[Fact]:
    newest_first = sorted(facts, key=_static, reverse=True)
    # the last one written for a type is its earliest
    anchors = list({one.type: one for one in newest_first if _is_anchor(one)}.values())
    others = [one for one in newest_first if one not in anchors]
    return [*anchors, *others[: MAX_FACTS - len(anchors)]]


def _sorted(facts: list[Fact]) -> tuple[Fact, ...]:
    exact = sorted((one for one in facts if not one.day), key=_static)
    if len(exact) == len(facts):
        return tuple(exact)
    return tuple(sorted(facts, key=lambda one: _place(one, exact) if one.day else _exact_key(one)))


def _place(one: Fact, exact: list[Fact]) -> _Key:
    """Return the key of a day fact, given the exact facts in their order."""
    end = one.at + _DAY
    for other in exact:
        if other.at >= end:
            break
        if other.at >= one.at and other.rank > one.rank:
            return (other.at, other.rank, 0, one.rank, one.id)
    return (end, -1, 0, one.rank, one.id)


def _exact_key(one: Fact) -> _Key:
    return (one.at, one.rank, 1, one.rank, one.id)


def _static(one: Fact) -> tuple[datetime, int, str]:
    return (one.at, one.rank, one.id)


def _content(one: Fact) -> tuple[datetime, int, str, bool, str]:
    return (one.at, one.rank, one.type, one.day, repr(one.extra))


def _row(one: Fact) -> list[object]:
    row: list[object] = [one.type, one.at.isoformat().replace("+00:00", "Z"), one.rank, one.id]
    if one.day or one.extra:
        row.append(int(one.day))
    if one.extra:
        row.append(dict(one.extra))
    return row


def _from_row(row: list[Any]) -> Fact:
    type_, at, rank, id_, *rest = row
    extra = tuple(sorted(rest[1].items())) if len(rest) > 1 else ()
    return Fact(type_, datetime.fromisoformat(at), rank, id_, bool(rest and rest[0]), extra)
