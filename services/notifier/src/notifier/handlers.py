"""What an event means for messages: from the bus to journal rows. Nothing is sent here."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import orjson

from notifier import domain, store
from notifier.domain import Identity, State, Wanted
from notifier.store import Message, Order, Row
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
    email_hash,
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

    def __init__(self, shops: Shops, secret: bytes) -> None:
        self._shops = shops
        self._secret = secret

    async def receive(self, tx: Tx, events: Sequence[Event]) -> None:
        """Apply a batch of events: facts, then what they want, then what they rule out."""
        told = [e for e in events if e.data.order_id is not None]
        orders = await store.lock_orders(tx, ((e.shop, str(e.data.order_id)) for e in told))
        heard: dict[store.Key, Event] = {}
        for event in told:
            key = (event.shop, str(event.data.order_id))
            _learn(orders[key], event)
            if event.type == OrderPlaced.type or key not in heard:
                heard[key] = event
            self._count_history(event)
        made: list[Message] = []
        revoked: list[tuple[Row, str]] = []
        for key, order in orders.items():
            state = domain.fold(order.facts)
            made += self._wanted(order, state, heard[key].recorded_at)
            revoked += _ruled_out(order, state)
        await store.save_orders(tx, orders.values())
        await self._make(tx, made)
        await self._revoke(tx, revoked, max((e.recorded_at for e in told), default=None))
        erased = [
            k
            for k, e in heard.items()
            if any(f.type == CustomerErased.type for f in orders[k].facts)
        ]
        if erased:
            await store.erase_orders(tx, sorted(erased))

    async def _make(self, tx: Tx, made: Sequence[Message]) -> None:
        expired = await store.make_messages(tx, made)
        ended = [(m, "expired", "old_news") for m in made if m.key in expired]
        ended += [(m, m.state, m.reason or "") for m in made if m.state == "suppressed"]
        await tx.publish([outcome_event(m, s, why, m.recorded_at) for m, s, why in ended])
        for message in made:
            state_now = "expired" if message.key in expired else message.state
            MESSAGES.labels(message.kind, state_now).inc()

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
                yield self._message(order, shop, state, wanted, recorded_at)

    def _message(
        self, order: Order, shop: Shop, state: State, wanted: Wanted, recorded_at: datetime
    ) -> Message:
        contact = (orjson.loads(order.snapshot or "{}").get("customer") or {}).get("email")
        reason = domain.guard(state, wanted.kind) or domain.admit(shop, wanted.kind, contact)
        key = wanted.key(order.shop, order.order_id, "email")
        return Message(
            key=key,
            message_id=domain.message_id(key, shop.sender.address, self._secret),
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

    async def _revoke(
        self, tx: Tx, revoked: Sequence[tuple[Row, str]], at: datetime | None
    ) -> None:
        if not revoked or at is None:
            return
        taken = set(
            await store.suppress(tx, [r.id for r, _ in revoked], [why for _, why in revoked])
        )
        gone = [(r, why) for r, why in revoked if r.id in taken]
        await tx.publish([outcome_event(r, "suppressed", why, at) for r, why in gone])
        for row, _ in gone:
            MESSAGES.labels(row.kind, "suppressed").inc()


def _learn(order: Order, event: Event) -> None:
    """Add the event's fact to the order, and what it says of how the order looks."""
    data = event.data
    order.facts = facts.add(order.facts, [facts.of(event)])
    if any(f.type == CustomerErased.type for f in order.facts):
        order.snapshot = order.email_hash = None
        return
    if isinstance(data, OrderPlaced):  # OrderUpdated has the same body
        revision = data.revision or event.time
        if order.revision is None or revision >= order.revision:
            order.snapshot = (event.body or data.model_dump_json().encode()).decode()
            order.revision = revision
            address = data.customer.email
            order.email_hash = email_hash(address) if address else None
    _move_promise(order)


def _move_promise(order: Order) -> None:
    """Let the last delay since the order's last revision say when it comes, whichever came first."""
    moved = [f for f in order.facts if f.type == OrderDelayed.type and f.get("promise")]
    if moved and order.snapshot and order.revision and moved[-1].at > order.revision:
        first, last = str(moved[-1].get("promise")).split("/")
        promise = {"from": first, "to": last, "source": "shop"}
        order.snapshot = orjson.dumps(orjson.loads(order.snapshot) | {"promise": promise}).decode()


def _ruled_out(order: Order, state: State) -> Iterable[tuple[Row, str]]:
    """Yield the rows that are not final and must not leave (again) any more, and why."""
    for row in order.rows.values():
        if row.state not in domain.FINAL_STATES:
            reason = domain.guard(state, row.kind)
            if reason is not None:
                yield row, reason


def outcome_event(
    message: Identity, state: str, reason: str | None, at: datetime, *, attempt: int = 0
) -> Event:
    """Build the event that tells what became of a message; one for each state and attempt."""
    data = _OUTCOMES[state].model_construct(
        order_id=message.order_id,
        kind=message.kind,
        subject=message.subject,
        channel=message.channel,
        role=message.role,
        round=message.round,
        reason=reason,
        at=at,
    )
    said: UUID = event_id("message", message.key, state, str(attempt))
    return Event.of(
        data, id=said, shop=message.shop, source="/afterglow/notifier", time=at, recorded_at=at
    )
