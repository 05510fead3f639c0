"""What the facts of an order add up to, whatever its parcels do."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Final

from shared import facts
from shared.events import Event, ItemQuantity, OrderCancelled, OrderRefunded, Promise
from shared.facts import Fact
from tracking.domain.model import Order

_NONE: Final = Decimal()


@dataclass(slots=True)
class OrderState:
    """What the facts of an order add up to, whatever its parcels do."""

    placed_at: datetime | None = None
    cancelled: bool = False  # as a whole
    erased: bool = False
    open: dict[str, Decimal] = field(default_factory=dict)
    """By line: ordered minus cancelled and refunded, never below zero."""
    promise: Promise | None = None  # as the shop last moved it
    promise_moved_at: datetime | None = None
    return_requested_at: datetime | None = None
    return_received_at: datetime | None = None

    @property
    def nothing_open(self) -> bool:
        """Whether every line was cancelled or refunded."""
        return bool(self.open) and not any(self.open.values())


def order_fact(event: Event) -> Fact:
    """Make the fact that an event of an order is, with what `fold_order` reads of it."""
    made = facts.of(event)
    data = event.data
    if not isinstance(data, OrderCancelled | OrderRefunded) or not data.items:
        return made
    extra = {"items": _dump(data.items)}
    if isinstance(data, OrderRefunded) and data.refund_id:
        extra["refund"] = data.refund_id
    return made._replace(extra=tuple(sorted((*made.extra, *extra.items()))))


def fold_order(order: Order) -> OrderState:
    """Return the state of an order from its facts, which stand in their order, and its snapshot."""
    state = OrderState()
    about, moved = order.about, facts.promised(order.facts)
    if about is not None:
        state.placed_at, state.promise = about.placed_at, about.promise
        for line in about.lines:
            state.open[line.line_id] = state.open.get(line.line_id, _NONE) + Decimal(line.quantity)
    refunds: set[object] = set()
    for one in order.facts:
        match one.type:
            case "order.cancelled.v1" | "order.refunded.v1" if one.get("items"):
                refund = one.get("refund") or one.id
                if refund not in refunds:  # told by two events, it went back once
                    _take_off(state.open, one)
                refunds.add(refund)
            case "order.cancelled.v1" if not one.get("partial"):
                state.cancelled = True
            case _:
                _note(state, one)
    if moved is not None and moved.type == "order.delayed.v1":
        state.promise, state.promise_moved_at = _promise(moved), moved.at
    return state


def _note(state: OrderState, one: Fact) -> None:
    match one.type:
        case "order.placed.v1":
            state.placed_at = state.placed_at or one.at
        case "order.return_requested.v1":
            state.return_requested_at = one.at
        case "order.return_received.v1":
            state.return_received_at = one.at
        case "customer.erased.v1":
            state.erased = True
        case _:
            pass


def _dump(items: Sequence[ItemQuantity]) -> str:
    return json.dumps([[i.line_id, i.quantity] for i in items], separators=(",", ":"))


def _take_off(quantities: dict[str, Decimal], one: Fact) -> None:
    for line_id, quantity in json.loads(str(one.get("items") or "[]")):
        if line_id in quantities:
            quantities[line_id] = max(quantities[line_id] - Decimal(quantity), _NONE)


def _promise(one: Fact) -> Promise:
    first, _, last = str(one.get("promise")).partition("/")
    return Promise.model_construct(
        from_=date.fromisoformat(first), to=date.fromisoformat(last), source=None
    )
