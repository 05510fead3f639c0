"""What an event means for messages: from the bus to journal rows. Nothing is sent here."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from notifier import domain, store
from notifier.domain import State, Wanted
from notifier.store import Message, Order
from shared import facts
from shared.errors import GiveUp
from shared.events import (
    CustomerErased,
    Event,
    MessageExpired,
    MessageFact,
    MessageFailed,
    MessageSent,
    MessageSuppressed,
    MessageUnknown,
    OrderDelayed,
    OrderPlaced,
    OrderUpdated,
    event_id,
)
from shared.observability import HISTORY_FACTS, MESSAGES
from shared.shops import Shop, Shops
from shared.store import Tx

_OUTCOMES: Mapping[str, type[MessageFact]] = {
    "sent": MessageSent,
    "failed": MessageFailed,
    "suppressed": MessageSuppressed,
    "expired": MessageExpired,
    "unknown": MessageUnknown,
}


class Notifier:
    """Keeps the projection of orders and makes, or takes back, journal rows."""

    def __init__(self, shops: Shops) -> None:
        self._shops = shops

    async def receive(self, tx: Tx, events: Sequence[Event]) -> None:
        """Apply a batch of events: facts, then what they want, then what they rule out."""
        told = [e for e in events if e.data.order_id is not None]
        orders = await store.lock_orders(tx, ((e.shop, str(e.data.order_id)) for e in told))
        heard: dict[store.Key, datetime] = {}
        for event in told:
            key = (event.shop, str(event.data.order_id))
            _learn(orders[key], event)
            heard[key] = event.recorded_at
            self._count_history(event)
        made: list[Message] = []
        revoked: list[tuple[Message, int]] = []
        for key, order in orders.items():
            state = domain.fold(order.facts)
            made += self._wanted(order, state, heard[key])
            revoked += _ruled_out(order, state)
        await store.save_orders(tx, orders.values())
        expired = await store.make_messages(tx, made)
        await self._revoke(tx, revoked)
        await tx.publish(
            [_outcome(m, "expired", "old_news") for m in made if m.key in expired]
            + [_outcome(m, m.state, m.reason) for m in made if m.state == "suppressed"]
        )
        for message in made:
            state_now = "expired" if message.key in expired else message.state
            MESSAGES.labels(message.kind, state_now).inc()
        erased = {
            (e.shop, str(e.data.order_id)) for e in told if isinstance(e.data, CustomerErased)
        }
        if erased:
            await store.erase_orders(tx, sorted(erased))

    def _count_history(self, event: Event) -> None:
        shop = self._shops.get(event.shop)
        if shop is None:
            raise GiveUp("this shop is not in shops.toml")
        if domain.is_history(shop, event.time):
            HISTORY_FACTS.labels(event.type).inc()

    def _wanted(self, order: Order, state: State, recorded_at: datetime) -> Iterable[Message]:
        shop = self._shops.get(order.shop)
        assert shop is not None
        for wanted in domain.plan(state):
            if domain.is_history(shop, wanted.at):
                continue
            key = wanted.key(order.shop, order.order_id, "email")
            if key not in order.rows:
                yield _message(order, shop, state, wanted, recorded_at)

    async def _revoke(self, tx: Tx, revoked: Sequence[tuple[Message, int]]) -> None:
        if not revoked:
            return
        reasons = [m.reason or "" for m, _ in revoked]
        taken = set(await store.suppress(tx, [i for _, i in revoked], reasons))
        gone = [m for m, i in revoked if i in taken]
        await tx.publish([_outcome(m, "suppressed", m.reason) for m in gone])
        for message in gone:
            MESSAGES.labels(message.kind, "suppressed").inc()


def _learn(order: Order, event: Event) -> None:
    """Add the event's fact to the order, and what it says of how the order looks."""
    data = event.data
    partial = event.type == "order.cancelled.v1" and bool(getattr(data, "items", None))
    subject = getattr(data, "shipment_id", None) or getattr(data, "return_id", None)
    moved = data.promise if isinstance(data, OrderDelayed) else None
    fact = facts.fact(
        event.type,
        event.time,
        event.id,
        day=getattr(data, "precision", "second") == "day",
        subject=str(subject) if subject else None,
        partial=partial or None,
        promise=f"{moved.from_}/{moved.to}" if moved else None,
    )
    order.facts = facts.add(order.facts, [fact])
    erased = any(f.type == CustomerErased.type for f in order.facts)
    if erased:
        order.snapshot = None
    elif isinstance(data, OrderPlaced | OrderUpdated):
        revision = data.revision or event.time
        if order.revision is None or revision >= order.revision:
            order.snapshot = data.model_dump(mode="json")
            order.revision = revision
    _move_promise(order)


def _move_promise(order: Order) -> None:
    """Let the last delay since the order's last revision say when it comes, whichever came first."""
    moved = [f for f in order.facts if f.get("promise")]
    if moved and order.snapshot and order.revision and moved[-1].at > order.revision:
        first, last = str(moved[-1].get("promise")).split("/")
        promise = {"from": first, "to": last, "source": "shop"}
        order.snapshot = order.snapshot | {"promise": promise}


def _message(
    order: Order, shop: Shop, state: State, wanted: Wanted, recorded_at: datetime
) -> Message:
    contact = ((order.snapshot or {}).get("customer") or {}).get("email")
    reason = domain.guard(state, wanted.kind) or domain.admit(shop, wanted.kind, contact)
    return Message(
        key=wanted.key(order.shop, order.order_id, "email"),
        shop=order.shop,
        order_id=order.order_id,
        kind=wanted.kind,
        subject=wanted.subject,
        channel="email",
        role=wanted.role,
        round=wanted.round,
        state="suppressed" if reason else "pending",
        reason=reason,
        fact_at=wanted.at,
        recorded_at=recorded_at,
        expires_at=domain.expires_at(wanted.kind, wanted.at),
    )


def _ruled_out(order: Order, state: State) -> Iterable[tuple[Message, int]]:
    """Yield the rows that are not final and must not leave (again) any more."""
    for key, row in order.rows.items():
        if row.state in domain.FINAL_STATES:
            continue
        reason = domain.guard(state, row.kind)
        if reason is not None:
            at = state.placed_at or order.facts[0].at
            yield (
                Message(
                    key, order.shop, order.order_id, row.kind, row.subject, row.channel, row.role,
                    row.round, "suppressed", reason, at, at, at,
                ),
                row.id,
            )  # fmt: skip


def _outcome(message: Any, state: str, reason: str | None, *, round_: str = "") -> Event:
    return outcome_event(
        message.shop,
        message.key,
        state,
        reason,
        message.recorded_at,
        {
            "order_id": message.order_id,
            "kind": message.kind,
            "subject": message.subject,
            "channel": message.channel,
            "role": message.role,
            "round": message.round,
        },
        attempt=round_,
    )


def outcome_event(
    shop: str,
    key: str,
    state: str,
    reason: str | None,
    at: datetime,
    fields: Mapping[str, Any],
    *,
    attempt: str = "",
) -> Event:
    """Build the event that tells what became of a message; one for each state and attempt."""
    data = _OUTCOMES[state].model_construct(**fields, reason=reason, at=at)
    said: UUID = event_id("message", key, state, attempt)
    return Event.of(data, id=said, shop=shop, source="/afterglow/notifier", time=at, recorded_at=at)
