"""What an order's facts mean for its messages: the fold, the plan, the guard. Pure rules, no I/O."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from shared.facts import Fact
from shared.shops import Shop

Channel = Literal["email", "sms"]

LIVES: Final[dict[str, timedelta]] = {"order_confirmed": timedelta(hours=24)}
"""How long a message of a kind is worth sending, counted from the fact's own time."""

FINAL_STATES: Final = frozenset({"sent", "failed", "suppressed", "expired", "forgotten"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Which message it is, whichever form it is in: to be made, claimed, taken back, swept.

    `key` joins the other fields and is unique for ever: the same fact told twice is one message.
    """

    key: str
    shop: str
    order_id: str
    kind: str
    subject: str  # shipment, delay episode, survey round, case step
    channel: Channel
    role: str
    round: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A message that the order's state asks for now. `at` is the time of the fact behind it."""

    kind: str
    subject: str
    at: datetime
    role: str = "buyer"
    round: int = 0

    def key(self, shop: str, order_id: str, channel: Channel) -> str:
        """Return the message's key (see Identity)."""
        return f"{shop}|{order_id}|{self.kind}|{self.subject}|{channel}|{self.role}|{self.round}"


@dataclass(slots=True)
class State:
    """What the facts of an order add up to."""

    placed_at: datetime | None = None
    cancelled: bool = False
    erased: bool = False
    shipments: dict[str, bool] = field(default_factory=dict)


def fold(facts: Sequence[Fact]) -> State:
    """Return the state: the same for any order of arrival and any duplication of the facts."""
    state = State()
    for fact in facts:
        match fact.type:
            case "order.placed.v1":
                state.placed_at = state.placed_at or fact.at
            case "order.cancelled.v1":
                state.cancelled = state.cancelled or not fact.get("partial")
            case "order.shipped.v1" | "shipment.updated.v1":
                state.shipments[str(fact.get("subject"))] = True
            case "shipment.withdrawn.v1":
                state.shipments[str(fact.get("subject"))] = False
            case "customer.erased.v1":
                state.erased = True
            case _:
                pass
    return state


def plan(state: State) -> list[Wanted]:
    """Return the messages that the order's state wants; those that exist already are not made again.

    Until the order is known to be placed nothing is wanted: facts are kept, and planned when it is.
    """
    if state.placed_at is None or state.erased:
        return []
    return [Wanted("order_confirmed", "", state.placed_at)]


def guard(state: State, kind: str) -> str | None:
    """Return why a message must never be sent as things stand, None when nothing speaks against it.

    Asked when a row is made and, for every row that has not left yet, whenever a fact changes the
    state, in the same transaction: a row that is still claimed or pending after it may be sent.
    """
    if state.erased:
        return "erased"
    match kind:
        case "order_confirmed" if state.cancelled:
            return "cancelled"
        case _:
            return None


def admit(shop: Shop, kind: str, contact: str | None) -> str | None:
    """Return why this shop or this contact does not get a message of a kind, None when it does."""
    if kind in shop.kinds_off:
        return "kind_off"
    if contact is None:
        return "no_contact"
    if shop.mode == "shadow":
        return "shadow"
    return None if shop.may_reach(contact) else "not_on_allowlist"


def is_history(shop: Shop, at: datetime) -> bool:
    """Tell whether a fact is older than the shop's `live_from`: it updates state, nothing else."""
    return shop.live_from is not None and at < shop.live_from


def expires_at(kind: str, at: datetime) -> datetime:
    """Return when a message is old news: its life runs from the fact, not from our hearing of it."""
    return at + LIVES[kind]


def message_id(key: str, sender: str, secret: bytes) -> str:
    """Return the Message-ID of a message, in the sender's domain, telling nothing about the order.

    Made once, with the row: keys rotate and senders change, a message's name does not.
    """
    digest = hashlib.blake2b(key.encode(), key=secret[:64], digest_size=20).hexdigest()
    return f"<{digest}@{sender.rpartition('@')[2]}>"
