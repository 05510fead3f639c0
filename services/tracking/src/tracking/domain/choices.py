"""What the customer asks for while her order is late: wait, change, cancel, call me.

She asks, the shop decides. So a choice is *requested* until a fact of the shop answers it, and what she
asked last counts. It stands in `order.told["choices"]`, without her words: those travel in the event.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

from shared.events import CustomerChoice
from shared.facts import Fact
from tracking.domain.model import News, Order

Wish = Literal["wait", "change", "cancel", "call_me"]
WISHES: Final[tuple[Wish, ...]] = get_args(Wish)
NOTE_CHARS_MAX: Final = 500
TIMES_MAX: Final = 12  # she may change her mind; nobody may flood the shop through her page

_KEY: Final = "choices"
_DAY: Final = timedelta(days=1)
_ANSWERS: Final[dict[str, frozenset[str]]] = {
    "wait": frozenset(),  # nothing is asked of the shop
    "change": frozenset({"order.updated.v1", "order.delayed.v1", "order.cancelled.v1"}),
    "cancel": frozenset({"order.cancelled.v1"}),
    "call_me": frozenset({"contact.logged.v1", "order.cancelled.v1"}),
}


class NothingToChoose(Exception):
    """The delay this is about is not open (any more), so there is nothing to choose."""


class TooOften(Exception):
    """She asked TIMES_MAX times; now a person has to talk to her."""


@dataclass(frozen=True, slots=True)
class Requested:
    """What she asked last about one delay, and by when which fact of the shop answered it."""

    wish: Wish
    at: datetime
    shipment_id: str | None
    episode: int
    answered_at: datetime | None = None


Delay = tuple[str | None, int]  # shipment (None: the order before it was sent), episode


def choose(
    order: Order,
    wish: Wish,
    shipment_id: str | None,
    episode: int,
    note: str | None,
    *,
    delays: Collection[Delay],
    now: datetime,
) -> News | None:
    """Note what she asks for; None when she asked for just that last, as a form sent twice does.

    `delays` are the open ones. Raises `NothingToChoose` and `TooOften`.
    """
    if (shipment_id, episode) not in delays:
        raise NothingToChoose
    note = note.strip()[:NOTE_CHARS_MAX].strip() or None if note else None
    said: list[dict[str, Any]] = order.told.get(_KEY, [])
    words = hashlib.sha256(note.encode()).hexdigest()[:16] if note else None
    last = next(
        (s for s in reversed(said) if (s["shipment"], s["episode"]) == (shipment_id, episode)), None
    )
    if last is not None and last["wish"] == wish and words in {None, last["words"]}:
        return None
    if len(said) >= TIMES_MAX:
        raise TooOften
    at = now.replace(microsecond=0)  # a shop's answer may be dated to the second
    order.told[_KEY] = [
        *said,
        {
            "wish": wish,
            "shipment": shipment_id,
            "episode": episode,
            "at": at.isoformat(),
            "words": words,
        },
    ]
    order.changed = True
    data = CustomerChoice(
        order_id=order.order_id,
        at=at,
        shipment_id=shipment_id,
        episode=episode,
        choice=wish,
        note=note,
    )
    return News(data, at)


def requested(order: Order) -> list[Requested]:
    """Return what she asked last about each delay, oldest first, open or answered."""
    latest: dict[Delay, Requested] = {}
    for said in order.told.get(_KEY, ()):
        at = datetime.fromisoformat(said["at"])
        shipment_id, episode, wish = said["shipment"], said["episode"], said["wish"]
        latest.pop((shipment_id, episode), None)
        latest[shipment_id, episode] = Requested(
            wish, at, shipment_id, episode, _answered_at(wish, at, order.facts)
        )
    return list(latest.values())


def _answered_at(wish: Wish, asked_at: datetime, facts: Collection[Fact]) -> datetime | None:
    answers = (
        one.at
        for one in facts
        if one.type in _ANSWERS[wish]
        and (one.at + _DAY > asked_at if one.day else one.at >= asked_at)
    )
    return min(answers, default=None)
