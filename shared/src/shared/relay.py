"""The relay: takes events from the outbox to the bus, in the order in which they were committed.

What is unpublished stands in a list, and is never found by a cursor over `seq`: a slow transaction with
a low number is not skipped. One replica at a time works, whoever holds the transaction lock.
"""

import asyncio
from collections import Counter

import structlog

from shared.bus import Bus
from shared.errors import BusUnavailable
from shared.events import Record
from shared.failpoints import failpoint
from shared.life import Life
from shared.observability import EVENTS_PUBLISHED
from shared.store import Database, is_transient, load_headers, lock_relay

BATCH_MAX = 500
POLL_SECONDS = 0.25
LINGER_FROM, LINGER_SECONDS = 4, 0.015  # busy means: a batch of so many
BACKOFF_SECONDS_MAX = 5.0
log = structlog.get_logger(__name__)


class Relay:
    """Publishes what stands in the outbox; `wake` tells it that something was committed just now."""

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus
        self._work = asyncio.Event()

    def wake(self) -> None:
        """Look at the outbox now instead of at the next poll."""
        self._work.set()

    async def run(self, life: Life) -> None:
        """Work until the process stops; an unreachable bus or database only delays."""
        backoff = 0.1
        while not life.stopping.is_set():
            life.turned("relay")
            self._work.clear()
            try:
                moved = await self.publish_batch()
            except Exception as error:
                if not isinstance(error, BusUnavailable) and not is_transient(error):
                    raise
                log.warning("relay_waits", reason=type(error).__name__, seconds=round(backoff, 1))
                await life.sleep(backoff)
                backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
                continue
            backoff = 0.1
            if LINGER_FROM <= moved < BATCH_MAX:  # a moment's wait makes fewer, fuller transactions
                await asyncio.sleep(LINGER_SECONDS)
            if moved < BATCH_MAX:
                await life.unless_stopping(life.wait(self._work, POLL_SECONDS))
        life.ended("relay")

    async def publish_batch(self) -> int:
        """Hand over at most BATCH_MAX events; return how many."""
        async with self._db.transaction() as tx:
            if not await lock_relay(tx, wait=False):
                return 0
            rows = await tx.fetch(
                """select seq, topic, key, headers, value
                   from outbox where seq = any(array(
                     select seq from outbox_unpublished order by seq limit $1)) order by seq""",
                BATCH_MAX,
            )
            if not rows:
                return 0
            records = [
                Record(r["topic"], r["key"], load_headers(r["headers"]), r["value"]) for r in rows
            ]
            refused = await self._bus.publish(tx, records)
            await failpoint("rl.after_publish")
            await tx.bury(
                "relay", [(records[i], "refused_by_bus", why) for i, why in refused.items()]
            )
            await tx.execute(
                "delete from outbox_unpublished where seq = any($1::bigint[])",
                [r["seq"] for r in rows],
            )
        await failpoint("rl.after_commit")
        for topic, count in Counter(r.topic for r in records).items():
            EVENTS_PUBLISHED.labels(self._db.schema, topic).inc(count)
        return len(rows)

    async def oldest_seconds(self) -> float:
        """Return the age of the oldest event that the bus does not have, 0 when there is none."""
        return float(
            await self._db.fetchval(
                """select coalesce(extract(epoch from now() - min(created_at)), 0) from outbox
                   where seq = (select min(seq) from outbox_unpublished)"""
            )
        )
