"""Carriers' habits, learned from parcels whose way is over."""

from datetime import datetime
from typing import Final

import structlog

from shared.shops import Shops
from shared.store import Database
from tracking import store
from tracking.domain import lessons
from tracking.domain.advance import look
from tracking.domain.model import Order
from tracking.domain.pace import Pace
from tracking.domain.profile import Story
from tracking.domain.situation import Situation
from tracking.handlers.batch import in_turns
from tracking.store import Key

LEARN_MAX: Final = 20
"""At once: each may take several milliseconds, and all stay locked as long."""

log = structlog.get_logger(__name__)


class Learning:
    """Lets profiles learn, a few orders at a time."""

    def __init__(
        self, db: Database, shops: Shops, profiles: store.Profiles, day_seconds: float
    ) -> None:
        self._db = db
        self._shops = shops
        self._profiles = profiles
        self._day_seconds = day_seconds

    async def learn(self, limit: int = LEARN_MAX) -> int:
        """Let the profiles of carriers learn from orders that have something to teach; return how many had."""
        async with self._db.transaction() as tx:
            now, orders = await store.lock_unlearned(tx, limit)
            stories: list[tuple[Key, Story]] = []
            async for order in in_turns(orders, 1):
                stories += self._stories(order, now)
            if stories:
                await self._profiles.learn(tx, stories)
            await store.save_orders(tx, orders)
        return len(orders)

    def _stories(self, order: Order, now: datetime) -> list[tuple[Key, Story]]:
        """Return what an order teaches; one that cannot be learned from teaches nothing."""
        order.learn, order.changed = False, True
        shop = self._shops.get(order.shop)
        if shop is None:
            return []
        told = dict(order.told)
        try:
            pace = Pace(order.known_since, self._day_seconds)
            found = lessons.stories(Situation(order, *look(order), shop, now, pace))
        except Exception:
            log.exception("order_teaches_nothing", shop=order.shop, order_id=order.order_id)
            order.told, order.parcels = told, {}  # of it is written only that it was tried
            return []
        return [((order.shop, carrier), story) for carrier, story in found]
