"""What happens when somebody says something about an order: the story, from request to outbox."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from order_events import domain, erasure, store
from order_events.domain import Erase, Order, Scan, Shipment, Snapshot
from order_events.store import Claim
from shared import facts
from shared.bus import Bus
from shared.errors import GiveUp, Refused, Retry
from shared.events import (
    CustomerErased,
    Event,
    EventData,
    OrderUpdated,
    ScanReported,
    email_hash,
    event_id,
)
from shared.failpoints import failpoint
from shared.observability import EVENTS_ACCEPTED, SCANS_UNMAPPED, WEBHOOKS
from shared.shops import Shop, Shops
from shared.store import CONTENTION, Database, Tx
from shared.webhook_log import Received

RACES_MAX = (
    5  # so often may another replica make the same new order first, or lock in another order
)


@dataclass(frozen=True, slots=True)
class Stated:
    """One event as a shop states it, with the id it will have for ever."""

    id: UUID
    data: EventData
    time: datetime
    source: str
    traceparent: str | None = None
    body: bytes | None = None  # `data` as JSON, where that was made already


@dataclass(frozen=True, slots=True)
class Request:
    """One API request: all its events are taken, or none. `claims[n]` is the key of `events[n]`."""

    shop: Shop
    events: tuple[Stated, ...]
    claims: tuple[Claim, ...]
    whole: Claim | None = None  # the Idempotency-Key of the request as a whole


@dataclass(frozen=True, slots=True)
class Webhook:
    """One verified webhook delivery; `unusable` is the reason when it was not understood."""

    shop: Shop
    source: str
    delivery: domain.Delivery
    body: bytes
    unusable: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told."""

    ids: tuple[UUID, ...]
    replayed: int = 0
    outcome: str = "accepted"


Item = Request | Webhook


@dataclass(slots=True)
class _Batch:
    """What one transaction will write."""

    now: datetime
    orders: dict[store.Key, Order]
    taken: dict[store.Key, Claim]
    tombstones: dict[store.Key, datetime]
    events: list[Event] = field(default_factory=list)
    webhooks: list[Received] = field(default_factory=list)
    released: list[Claim] = field(default_factory=list)
    published: int = 0  # so many of `events` are in the outbox already


class Orders:
    """Takes statements about orders, keeps them, and puts what they mean into the outbox."""

    def __init__(
        self, db: Database, bus: Bus, shops: Shops, wake_relay: Callable[[], None]
    ) -> None:
        self._db = db
        self._bus = bus
        self._shops = shops
        self._wake_relay = wake_relay

    async def accept(self, items: Sequence[Item]) -> list[Answer | Exception]:
        """Take a group of requests in one transaction; each gets its answer, or its Refused."""
        for _ in range(RACES_MAX):
            with contextlib.suppress(Retry, *CONTENTION):
                return await self._accept(items)
        return await self._accept(items)

    async def _accept(self, items: Sequence[Item]) -> list[Answer | Exception]:
        async with self._db.transaction() as tx:
            batch = await self._open(tx, items)
            answers = [await self._one(tx, batch, item) for item in items]
            await self._write(tx, batch)
            await failpoint("oe.before_commit")
        await failpoint("oe.after_commit")
        self._wake_relay()
        for item, answer in zip(items, answers, strict=True):
            if isinstance(item, Webhook) and isinstance(answer, Answer):
                WEBHOOKS.labels(item.source, answer.outcome).inc()
        for type_, count in Counter(e.type for e in batch.events).items():
            EVENTS_ACCEPTED.labels(type_).inc(count)
        for event in batch.events:
            if isinstance(event.data, ScanReported) and event.data.state == "unknown":
                SCANS_UNMAPPED.labels(str(event.data.source)).inc()
        return answers

    async def stated(self, tx: Tx, events: Sequence[Event]) -> None:
        """Take events that a shop's own system put on the bus (topic `orders.inbound`)."""
        keys = [(e.shop, i) for e in events if (i := e.data.order_id)]
        hashes = [(e.shop, h) for e in events for h in _hashes_of([e.data])]
        now, orders = await store.lock_orders(tx, keys)
        batch = _Batch(now, orders, {}, await store.tombstones(tx, hashes))
        for event in events:
            if (shop := self._shops.get(event.shop)) is None:
                raise GiveUp("this shop is not known any more")
            stated = Stated(event.id, event.data, event.time, event.source, event.traceparent)
            await self._state(tx, batch, shop, stated)
        await self._write(tx, batch)

    async def _open(self, tx: Tx, items: Sequence[Item]) -> _Batch:
        keys: list[store.Key] = []
        hashes: list[store.Key] = []
        claims: dict[store.Key, Claim] = {}
        for item in items:
            keys.extend((item.shop.id, order_id) for order_id in _order_ids(item))
            hashes.extend((item.shop.id, h) for h in _hashes_of(_data(item)))
            if isinstance(item, Request):
                for claim in (*item.claims, *([item.whole] if item.whole else [])):
                    claims.setdefault((claim.shop, claim.key), claim)
        now, orders = await store.lock_orders(tx, keys)
        taken = await store.claim_keys(tx, list(claims.values()))
        return _Batch(now, orders, taken, await store.tombstones(tx, hashes))

    async def _write(self, tx: Tx, batch: _Batch) -> None:
        if batch.released:
            await store.release_keys(tx, batch.released)
            # A key that came with a refused request may belong to a request that was taken since.
            kept = {(c.shop, c.key): batch.taken.get((c.shop, c.key)) for c in batch.released}
            await store.claim_keys(tx, [c for c in kept.values() if c is not None])
            batch.released = []
        await store.save_orders(tx, batch.orders.values())
        await tx.publish(batch.events[batch.published :])
        batch.published = len(batch.events)
        await store.webhooks.save(tx, batch.webhooks)
        batch.webhooks = []

    async def _one(self, tx: Tx, batch: _Batch, item: Item) -> Answer | Exception:
        if isinstance(item, Webhook):
            return await self._webhook(tx, batch, item)
        return await self._request(tx, batch, item)

    # ---------------------------------------------------------------- API

    async def _request(self, tx: Tx, batch: _Batch, request: Request) -> Answer | Exception:
        if request.whole is not None:
            known = batch.taken.get((request.whole.shop, request.whole.key))
            if known is not None:
                if known.body_sha256 != request.whole.body_sha256:
                    return _reused("Idempotency-Key", None)
                return Answer(known.ids, len(known.ids))
        seen = [batch.taken.get((c.shop, c.key)) for c in request.claims]
        own: dict[str, Claim] = {}  # one batch may name an id twice as well
        for index, (claim, known) in enumerate(zip(request.claims, seen, strict=True)):
            before = known or own.setdefault(claim.key, claim)
            if before.body_sha256 != claim.body_sha256:
                mine = [c for c, k in zip(request.claims, seen, strict=True) if k is None]
                batch.released += [*mine, *([request.whole] if request.whole else [])]
                return _reused("id", index)
        if request.whole is not None:
            batch.taken[request.whole.shop, request.whole.key] = request.whole
        for stated, claim, known in zip(request.events, request.claims, seen, strict=True):
            if known is None and batch.taken.setdefault((claim.shop, claim.key), claim) is claim:
                await self._state(tx, batch, request.shop, stated)
        return Answer(tuple(s.id for s in request.events), sum(k is not None for k in seen))

    async def _state(self, tx: Tx, batch: _Batch, shop: Shop, stated: Stated) -> None:
        data = stated.data
        if isinstance(data, CustomerErased):
            erase = Erase((data.order_id,), None, email_hash=data.email_hash)
            await self._erase(tx, batch, shop, erase)
            return
        order = batch.orders.get((shop.id, data.order_id or ""))
        if order is None:  # about a person, not an order
            at = domain.clamp(data.happened_at or stated.time, batch.now)
            event = _event(batch, shop, stated.source, data, at, stated.id, stated.traceparent)
            batch.events.append(event)
            return
        if self._is_erased(batch, order, data):
            return
        data, at = domain.record(order, data, stated.time, shop, batch.now, stated.body)
        body = stated.body if data is stated.data else order.body_of(data)
        event = _event(batch, shop, stated.source, data, at, stated.id, stated.traceparent, body)
        said_at = stated.data.happened_at or stated.time
        self._tell(order, event, domain.overstated(said_at, batch.now))
        batch.events.append(event)

    # ---------------------------------------------------------------- webhooks

    async def _webhook(self, tx: Tx, batch: _Batch, hook: Webhook) -> Answer:
        delivery = hook.delivery
        before = len(batch.events)
        outcome, reason = "accepted", None
        if hook.unusable is not None:
            outcome, reason = "quarantined", hook.unusable
        elif delivery.ignored is not None:
            outcome, reason = "ignored", delivery.ignored
        else:
            for statement in delivery.statements:
                await self._statement(tx, batch, hook, statement)
            erased = any(isinstance(s, Erase) for s in delivery.statements)
            if len(batch.events) == before and not erased:
                outcome, reason = self._why_nothing(hook)
        batch.webhooks.append(
            Received(
                hook.shop.id,
                hook.source,
                delivery.topic,
                delivery.delivery_id,
                delivery.order_id,
                outcome,
                reason,
                hook.body if outcome == "quarantined" else None,
            )
        )
        return Answer(tuple(e.id for e in batch.events[before:]), outcome=outcome)

    def _why_nothing(self, hook: Webhook) -> tuple[str, str]:
        for statement in hook.delivery.statements:
            if isinstance(statement, Snapshot):
                if statement.history:
                    return "history", statement.history
                if not statement.placed:
                    return "ignored", "not placed yet"
        return "duplicate", "nothing new in it"

    async def _statement(
        self, tx: Tx, batch: _Batch, hook: Webhook, statement: domain.Statement
    ) -> None:
        shop, source = hook.shop, f"/shops/{hook.shop.id}/{hook.source}"
        if isinstance(statement, Erase):
            await self._erase(tx, batch, shop, statement)
            return
        if isinstance(statement, Scan):
            at = domain.clamp(statement.data.happened_at or batch.now, batch.now)
            said = event_id(shop.id, statement.data.type, domain.fingerprint(statement.data))
            event = _event(batch, shop, source, statement.data, at, said, hook.traceparent)
            batch.events.append(event)
            return
        order = batch.orders[shop.id, statement.data.order_id or ""]
        if self._is_erased(batch, order, statement.data):
            return
        for data, at in domain.decide(order, statement, shop, batch.now):
            subject = facts.subject_of(data) or getattr(statement, "subject", "")
            # The time belongs to it: what changes from A to B, back, and to B again, is told each time.
            said = event_id(
                shop.id,
                order.order_id,
                data.type,
                subject,
                domain.fingerprint(data),
                at.isoformat(),
            )
            body = order.body_of(data)
            event = _event(batch, shop, source, data, at, said, hook.traceparent, body)
            self._tell(order, event, domain.overstated(_said_at(statement, data), batch.now))
            batch.events.append(event)

    # ---------------------------------------------------------------- both

    def _tell(self, order: Order, event: Event, raw_at: str | None) -> None:
        order.facts = facts.add(order.facts, [facts.of(event, raw_at=raw_at)])

    def _is_erased(self, batch: _Batch, order: Order, data: EventData) -> bool:
        """Tell whether these facts are older than the erasure of the customer they are about.

        An undated fact about an erased order that nobody has told anew is older, too.
        """
        marks = [batch.tombstones.get((order.shop, h)) for h in _hashes_of([data])]
        erased_at = max((at for at in (*marks, order.erased_at) if at), default=None)
        if erased_at is None:
            return False
        if data.happened_at is None:
            return order.erased_at is not None and order.snapshot is None
        return data.happened_at < erased_at

    async def _erase(self, tx: Tx, batch: _Batch, shop: Shop, request: Erase) -> None:
        """Blank everything we keep about these orders, and tell the other services to do so."""
        await self._write(tx, batch)  # what was stated a moment ago must be found, too
        if request.whole_shop:
            await erasure.note_shop(tx, shop.id, batch.now)
            return
        done = await erasure.erase(tx, self._bus, shop.id, request, batch.now)
        for hashed in done.hashes:
            batch.tombstones[shop.id, hashed] = batch.now
        for order_id in done.order_ids:
            if (order := batch.orders.get((shop.id, order_id))) is not None:
                order.forget(batch.now)
        told = {e.id for e in batch.events}  # two requests of one moment may be about one order
        batch.events += [e for e in done.events if e.id not in told]


def _event(
    batch: _Batch,
    shop: Shop,
    source: str,
    data: EventData,
    at: datetime,
    said: UUID,
    traceparent: str | None = None,
    body: bytes | None = None,
) -> Event:
    return Event.of(
        data,
        id=said,
        shop=shop.id,
        source=source,
        time=at,
        recorded_at=batch.now,
        traceparent=traceparent,
        body=body,
    )


def _reused(field_: str, index: int | None) -> Refused:
    detail = "was used before with another body; nothing of this request was taken"
    return Refused(409, "idempotency_key_reused", detail, field=field_, index=index)


def _said_at(statement: domain.Statement, data: EventData) -> datetime | None:
    """Return the time that the platform gave for what became `data`."""
    if isinstance(statement, domain.Once):
        return statement.at
    if isinstance(statement, Snapshot) and isinstance(data, OrderUpdated):
        return statement.data.revision
    return data.happened_at


def _data(item: Item) -> list[EventData]:
    if isinstance(item, Request):
        return [s.data for s in item.events]
    return [
        s.data for s in item.delivery.statements if isinstance(s, Snapshot | Shipment | domain.Once)
    ]


def _order_ids(item: Item) -> list[str]:
    return [i for data in _data(item) if (i := data.order_id)]


def _hashes_of(bodies: Sequence[EventData]) -> list[str]:
    addresses = (getattr(getattr(d, "customer", None), "email", None) for d in bodies)
    return [email_hash(a) for a in addresses if a]
