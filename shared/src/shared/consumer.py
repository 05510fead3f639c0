"""The consumer shell: from a subscription to one transaction per batch, and the offset after it.

A batch that fails for a reason that passes (database away) is handed out again. One that fails for
good is taken apart: record by record, and the one at fault becomes a dead event, so that its partition
moves on. At the third start at the same first batch its records are run alone; the one with which the
process dies twice even then is not run again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog

from shared.bus import Bus, Subscription
from shared.errors import AfterglowError, BusUnavailable, Malformed, Retry, UnknownType
from shared.events import Event, Record, from_record
from shared.failpoints import failpoint
from shared.life import Life
from shared.observability import EVENTS_CONSUMED
from shared.store import Database, Tx, is_transient, load_headers

BATCH_MAX = 500
POLL_SECONDS = 0.5
LINGER_FROM, LINGER_SECONDS = 4, 0.015  # busy means: a batch of so many
BACKOFF_SECONDS_MAX = 5.0
STARTS_MAX = 3  # so often may one record be the first of a batch that never finished
ALONE_MAX = 2  # so often may the process die while the record is run alone
ALONE = 1000  # what such a start counts, so that it is told from the others
log = structlog.get_logger(__name__)

Handle = Callable[[Tx, Sequence[Event]], Awaitable[None]]


class Consumer:
    """Reads topics as one member of a group and gives events to `handle`, in batches.

    `handle` gets only events that this group has not seen, in order for each key, inside an open
    transaction. `after` is called when a batch is committed.
    """

    def __init__(
        self,
        db: Database,
        bus: Bus,
        group: str,
        topics: Sequence[str],
        handle: Handle,
        *,
        decode: Callable[[Record], Event] = from_record,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._db = db
        self._bus = bus
        self._group = group
        self.topics = tuple(topics)
        self._handle = handle
        self._decode = decode
        self._after = after
        self._careful: set[tuple[str, int]] = set()
        self._guarded: set[tuple[str, int]] = set()
        self._alone: Record | None = None
        self.subscription: Subscription | None = None

    async def run(self, life: Life) -> None:
        """Work until the process stops, then leave the group."""
        name = f"consumer {self._group}"
        while not life.stopping.is_set():
            life.turned(name)
            try:
                self.subscription = await self._bus.subscribe(self._group, self.topics)
                self._guarded.clear()
                await self._consume(life, name)
            except BusUnavailable as error:
                log.warning("consumer_waits_for_bus", reason=str(error))
                await life.sleep(1)
            finally:
                if self.subscription is not None:
                    await self.subscription.close()
                    self.subscription = None
        life.ended(name)

    async def _consume(self, life: Life, name: str) -> None:
        subscription = self.subscription
        assert subscription is not None
        backoff = 0.1
        while not life.stopping.is_set():
            life.turned(name)
            try:
                # what a poll that is cut short had read is handed out again, to another member
                polled = await life.unless_stopping(subscription.poll(BATCH_MAX, POLL_SECONDS))
                records = polled or []
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("consumer_waits", reason=type(error).__name__)
                await life.sleep(1)
                continue
            if not records:
                continue
            try:
                await self._work(subscription, records)
                backoff = 0.1
                if LINGER_FROM <= len(records) < BATCH_MAX:  # fuller batches, fewer transactions
                    await asyncio.sleep(LINGER_SECONDS)
            except Exception as error:
                if not (is_transient(error) or isinstance(error, Retry)):
                    raise
                log.warning("batch_is_retried", reason=type(error).__name__, records=len(records))
                await subscription.rewind(records)
                await life.sleep(backoff)
                backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)

    async def _work(self, subscription: Subscription, records: list[Record]) -> None:
        await self._count_start(records)
        if self._careful:
            await self._one_by_one(subscription, records)
            return
        try:
            await self._apply(records)
        except Exception as error:
            if is_transient(error) or isinstance(error, Retry):
                raise
            log.warning("batch_is_taken_apart", error=type(error).__name__, records=len(records))
            await self._one_by_one(subscription, records)
            return
        await failpoint("co.after_commit")
        await subscription.commit(records)
        self._after()

    async def _apply(self, records: Sequence[Record]) -> None:
        events: list[Event] = []
        dead: list[tuple[Record, str, str]] = []
        for record in records:
            if record.value is None:  # erased while it waited: there is nothing left to know
                self._count(record.topic, "erased")
                continue
            try:
                events.append(self._decode(record))
            except UnknownType:
                self._count(record.topic, "unknown")
            except Malformed as error:
                self._count(record.topic, "dead")
                dead.append((record, "malformed", str(error)))
        async with self._db.transaction() as tx:
            if events:
                fresh = await tx.first_time(self._group, [e.id for e in events])
                await self._handle(tx, self._first_copies(events, fresh))
            if dead:
                await tx.bury(self._group, dead)
            await failpoint("co.before_commit")

    def _first_copies(self, events: Sequence[Event], fresh: set[UUID]) -> list[Event]:
        kept = []
        left = set(fresh)
        for event in events:
            if event.id in left:
                left.discard(event.id)
                kept.append(event)
                self._count(event.topic, "applied")
            else:
                self._count(event.topic, "duplicate")
        return kept

    async def _one_by_one(self, subscription: Subscription, records: Sequence[Record]) -> None:
        for record in records:
            if self._careful and await self._died_alone(record):
                log.error("record_kills_the_process", topic=record.topic, offset=record.offset)
                await self._bury(record, "crash", "the process died each time it was handled")
            else:
                try:
                    await self._apply([record])
                except Exception as error:
                    if is_transient(error) or isinstance(error, Retry):
                        raise
                    log.exception("record_is_dead", topic=record.topic, offset=record.offset)
                    reason = (
                        str(error) if isinstance(error, AfterglowError) else type(error).__name__
                    )
                    await self._bury(record, type(error).__name__, reason)
            if self._careful:
                await self._forget_start(record)
            await subscription.commit([record])
        self._careful.clear()
        self._after()

    async def _bury(self, record: Record, error_class: str, reason: str) -> None:
        self._count(record.topic, "dead")
        async with self._db.transaction() as tx:
            await tx.bury(self._group, [(record, error_class, reason)])

    async def _count_start(self, records: Sequence[Record]) -> None:
        """At the first batch of each partition, note where it starts and how often it has started there."""
        for record in records:
            place = (record.topic, record.partition)
            if place in self._guarded:
                continue
            if await self._mark_start(record, 1) >= STARTS_MAX:
                self._careful.add(place)
            self._guarded.add(place)

    async def _died_alone(self, record: Record) -> bool:
        """Note that this record is run alone now; tell whether processes died of that before."""
        if record == self._alone:  # this process tried it a moment ago, and lives
            return False
        starts = await self._mark_start(record, ALONE)
        self._alone = record
        return starts // ALONE > ALONE_MAX

    async def _forget_start(self, record: Record) -> None:
        await self._db.execute(
            "delete from consumer_guard where (consumer, topic, partition) = ($1, $2, $3)",
            self._group,
            record.topic,
            record.partition,
        )

    async def _mark_start(self, record: Record, counts: int) -> int:
        return int(
            await self._db.fetchval(
                """insert into consumer_guard as g (consumer, topic, partition, "offset", starts)
                   values ($1, $2, $3, $4, $5)
                   on conflict (consumer, topic, partition) do update set
                     starts = case when g."offset" = excluded."offset"
                                   then g.starts else 0 end + excluded.starts,
                     "offset" = excluded."offset"
                   returning starts""",
                self._group,
                record.topic,
                record.partition,
                record.offset,
                counts,
            )
        )

    def _count(self, topic: str, outcome: str) -> None:
        EVENTS_CONSUMED.labels(self._group, topic, outcome).inc()

    async def replay(self, dead_id: int) -> bool:
        """Give a dead event to the handler again; True when applied, False when it is not open.

        Only what this consumer read is its to replay: what the bus refused has been handled here.
        Raises what the handler raises; the event then stays open.
        """
        async with self._db.transaction() as tx:
            row = await tx.fetchrow(
                """select * from dead_event where id = $1 and state = 'open' and consumer = $2
                   for update""",
                dead_id,
                self._group,
            )
            if row is None:
                return False
            record = Record(row["topic"], row["key"], load_headers(row["headers"]), row["value"])
            event = self._decode(record)
            if await tx.first_time(self._group, [event.id]):
                await self._handle(tx, [event])
            await tx.execute("update dead_event set state = 'replayed' where id = $1", dead_id)
        self._after()
        return True
