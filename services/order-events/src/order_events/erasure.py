"""Forgetting: one order, all orders of one address, or a whole shop.

What is personal is blanked in every table and on the bus, a tombstone of the address stays, and each
known order is told to the other services as erased.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from order_events import store
from order_events.domain import Erase
from shared.bus import Bus
from shared.errors import Retry
from shared.events import CustomerErased, Event, email_hash, event_id
from shared.life import Life
from shared.store import Database, Timer, Tx, is_transient, set_timers, take_due_timers

SHOP_STEP = 500  # orders of a whole shop that one transaction forgets
SHOP_POLL_SECONDS = 2.0
_SHOP = "erase_shop"
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Erased:
    """What one request made the shop forget: orders, hashes of addresses; and the events that tell it."""

    order_ids: Sequence[str]
    hashes: Sequence[str]
    events: Sequence[Event]


async def erase(tx: Tx, bus: Bus, shop: str, request: Erase, now: datetime) -> Erased:
    """Forget the orders and the address that a request names, wherever they stand."""
    address = request.email
    hashed = request.email_hash or (email_hash(address) if address else None)
    found = await store.orders_to_erase(tx, shop, request.order_ids, hashed)
    named = sorted({*request.order_ids, *found})
    await store.erase_unread(tx, shop, named, [address] if address else [])
    return await _forget(tx, bus, shop, found, hashed, now)


async def _forget(
    tx: Tx, bus: Bus, shop: str, order_ids: Sequence[str], hashed: str | None, now: datetime
) -> Erased:
    hashes = await store.erase(tx, shop, order_ids, [hashed] if hashed else [])
    await bus.erase(tx, [f"{shop}:{i}" for i in order_ids])
    return Erased(order_ids, hashes, [_told(shop, i, hashed, now) for i in order_ids])


def _told(shop: str, order_id: str, hashed: str | None, now: datetime) -> Event:
    data = CustomerErased(order_id=order_id, email_hash=hashed, at=now)
    said = event_id(shop, order_id, data.type, now.isoformat())
    return Event.of(
        data, id=said, shop=shop, source="/afterglow/order-events", time=now, recorded_at=now
    )


async def note_shop(tx: Tx, shop: str, now: datetime) -> None:
    """Keep the wish to forget a whole shop; `ShopErasure` carries it out."""
    await set_timers(tx, [Timer(f"{_SHOP}:{shop}", _SHOP, now, {"shop": shop, "after": ""})])


class ShopErasure:
    """Forgets whole shops in bounded steps, so that ingest never waits for one.

    The wish stands in a timer row with the place it has come to, and leaves it with the last step.
    """

    def __init__(
        self, db: Database, bus: Bus, wake_relay: Callable[[], None], *, step: int = SHOP_STEP
    ) -> None:
        self._db = db
        self._bus = bus
        self._wake_relay = wake_relay
        self._step = step

    async def run(self, life: Life) -> None:
        """Work until the process stops; an unreachable database only delays."""
        while not life.stopping.is_set():
            life.turned("shop erasure")
            try:
                more = await self.step()
            except Exception as error:
                if not is_transient(error) and not isinstance(error, Retry):
                    raise
                log.warning("erasure_waits", reason=type(error).__name__)
                more = False
            if not more:
                await life.sleep(SHOP_POLL_SECONDS)
        life.ended("shop erasure")

    async def step(self) -> bool:
        """Forget the next orders of a shop that asked for it; False when there is nothing to do."""
        async with self._db.transaction() as tx:
            timers = await take_due_timers(tx, 1, kind=_SHOP)
            if not timers:
                return False
            shop, after = timers[0].payload["shop"], timers[0].payload["after"]
            now, found = await store.next_orders(tx, shop, after, self._step)
            done = await _forget(tx, self._bus, shop, found, None, now)
            await tx.publish(done.events)
            if len(found) == self._step:
                payload = {"shop": shop, "after": found[-1]}
                await set_timers(tx, [Timer(timers[0].key, _SHOP, now, payload)])
            else:
                await store.erase_all_unread(tx, shop)
        self._wake_relay()
        return True
