"""What an event means for messages: from the bus to journal rows. Nothing is sent here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, get_args
from uuid import UUID

import orjson

from notifier import domain, policy, store
from notifier.domain import Identity, Role, State, Wanted
from notifier.store import Message, Order, Row
from shared import facts
from shared.errors import GiveUp
from shared.events import (
    CustomerErased,
    Event,
    EventData,
    MessageExpired,
    MessageFact,
    MessageFailed,
    MessageSent,
    MessageSuppressed,
    MessageUnknown,
    OrderDelayed,
    OrderPlaced,
    OrderShipped,
    ParcelDelivered,
    ShipmentStatusChanged,
    email_hash,
    event_id,
)
from shared.facts import Fact
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
_STATED: Final = {
    *("number_of_order", "carrier", "tracking_number", "tracking_url", "items", "final"),
}


class Notifier:
    """Keeps the projection of orders and makes, or takes back, journal rows."""

    def __init__(self, shops: Shops, secret: bytes, *, real_days: bool = True) -> None:
        """Take the shops and the secret of Message-IDs; without `real_days` a day has no evening."""
        self._shops = shops
        self._secret = secret
        self._real_days = real_days

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
        revoked: list[tuple[Row, str]] = []
        planned: dict[store.Key, Sequence[Wanted]] = {}
        for key, order in orders.items():
            looks = orjson.loads(order.snapshot or "{}")
            state = domain.fold(order.facts, policy.zone_for(self._shop(order.shop), looks))
            planned[key] = domain.plan(state)
            revoked += _ruled_out(order, state)
        await store.save_orders(tx, orders.values())
        await self._revoke(tx, orders, revoked, max((e.recorded_at for e in told), default=None))
        made = [
            message
            for key, order in orders.items()
            for message in self._wanted(order, planned[key], heard[key].recorded_at)
        ]
        await self._make(tx, made)
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

    def _shop(self, name: str) -> Shop:
        shop = self._shops.get(name)
        if shop is None:
            raise GiveUp("this shop is not in shops.toml")
        return shop

    def _count_history(self, event: Event) -> None:
        shop = self._shop(event.shop)
        if policy.is_history(shop, event.time):
            HISTORY_FACTS.labels(event.type).inc()

    def _wanted(
        self, order: Order, planned: Sequence[Wanted], recorded_at: datetime
    ) -> Iterable[Message]:
        shop = self._shop(order.shop)
        for wanted in planned:
            if policy.is_history(shop, wanted.happened_at):
                continue
            if not any(_key(order, wanted, role) in order.rows for role in get_args(Role)):
                yield self._message(order, shop, wanted, planned, recorded_at)

    def _message(
        self,
        order: Order,
        shop: Shop,
        wanted: Wanted,
        planned: Sequence[Wanted],
        recorded_at: datetime,
    ) -> Message:
        snapshot = orjson.loads(order.snapshot or "{}")
        role = policy.role_of(wanted.kind, snapshot)
        contact = policy.reader(snapshot, role).get("email")
        reason = wanted.never or policy.admit(shop, wanted.kind, contact)
        if reason is None and wanted.kind == "delay_over":
            rows = ((row, row.state) for row in order.rows.values())
            reason = None if domain.was_told(wanted, planned, rows) else "never_told"
        key = _key(order, wanted, role)
        return Message(
            key=key,
            message_id=policy.message_id(key, shop.sender.address, self._secret),
            shop=order.shop,
            order_id=order.order_id,
            kind=wanted.kind,
            subject=wanted.subject,
            channel="email",
            role=role,
            round=wanted.round,
            state="suppressed" if reason else "pending",
            reason=reason,
            fact_at=wanted.at,
            recorded_at=recorded_at,
            expires_at=policy.expires_at(
                wanted.kind,
                wanted.at,
                policy.zone_for(shop, snapshot),
                evening=self._real_days,
            ),
        )

    async def _revoke(
        self,
        tx: Tx,
        orders: Mapping[store.Key, Order],
        revoked: Sequence[tuple[Row, str]],
        at: datetime | None,
    ) -> None:
        """Take messages back; those that could not be have left us, and their orders' rows say so."""
        if not revoked or at is None:
            return
        taken = set(
            await store.suppress(tx, [r.id for r, _ in revoked], [why for _, why in revoked])
        )
        for row, _ in revoked:
            became = "suppressed" if row.id in taken else "dispatching"
            orders[row.shop, row.order_id].rows[row.key] = replace(row, state=became)
        gone = [(r, why) for r, why in revoked if r.id in taken]
        await tx.publish([outcome_event(r, "suppressed", why, at) for r, why in gone])
        for row, _ in gone:
            MESSAGES.labels(row.kind, "suppressed").inc()


def _key(order: Order, wanted: Wanted, role: Role) -> str:
    return wanted.key(order.shop, order.order_id, "email", role)


def _learn(order: Order, event: Event) -> None:
    """Add the event's fact to the order, and what it says of how the order looks."""
    data, fact = event.data, facts.of(event)
    order.facts = facts.add(order.facts, [fact])
    if any(f.type == CustomerErased.type for f in order.facts):
        order.snapshot = order.email_hash = order.recipient_hash = order.parcels = None
        return
    if isinstance(data, OrderPlaced):  # OrderUpdated has the same body
        revision = data.revision or event.time
        if order.revision is None or revision >= order.revision:
            order.snapshot = (event.body or data.model_dump_json().encode()).decode()
            order.revision = revision
            order.email_hash = _hash(data.customer.email)
            order.recipient_hash = _hash(data.recipient.email if data.recipient else None)
    else:
        _learn_parcel(order, data, fact)
    _move_promise(order)


def _hash(address: str | None) -> str | None:
    return email_hash(address) if address else None


def _learn_parcel(order: Order, data: EventData, fact: Fact) -> None:
    """Note how a parcel looks, for those who put it into words: of each part the last statement wins.

    The parts of a parcel: `stated` by the shop, `carried` and `eta` as the carrier says, `handed` over.
    """
    parts: dict[str, dict[str, Any]] = {}
    match data:
        case OrderShipped():  # ShipmentUpdated has the same body
            parts["stated"] = data.model_dump(mode="json", include=_STATED)
        case ShipmentStatusChanged():
            if data.carrier or data.tracking_number:
                parts["carried"] = data.model_dump(mode="json", include=_STATED)
            if data.eta:
                parts["eta"] = data.eta.model_dump(mode="json")
        case ParcelDelivered():
            parts["handed"] = {"how": data.how, "to": data.handed_to}
        case _:
            return
    parcels = orjson.loads(order.parcels or "{}")
    parcel = parcels.setdefault(data.shipment_id, {})
    said = [fact.at.timestamp(), fact.rank, fact.id]
    for name, content in parts.items():
        if name not in parcel or parcel[name]["said"] < said:
            parcel[name] = content | {"said": said}
    order.parcels = orjson.dumps(parcels).decode()


def _move_promise(order: Order) -> None:
    """Let the shop's last word say when the order comes, in whichever order its words came."""
    if not order.snapshot or not any(f.type == OrderDelayed.type for f in order.facts):
        return  # the snapshot says it
    said, looks = facts.promised(order.facts), orjson.loads(order.snapshot)
    first, _, last = str((said.get("promise") if said else None) or "").partition("/")
    known = looks.get("promise") or {}
    if (known.get("from") or "", known.get("to") or "") != (first, last):
        looks["promise"] = {"from": first, "to": last, "source": "shop"} if last else None
        order.snapshot = orjson.dumps(looks).decode()


def _ruled_out(order: Order, state: State) -> Iterable[tuple[Row, str]]:
    """Yield the rows that are not final and must not leave (again) any more, and why."""
    for row in order.rows.values():
        if row.state not in domain.FINAL_STATES:
            reason = domain.guard(state, row)
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
