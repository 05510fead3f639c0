"""Reading from Kafka: explicit offsets, bounded calls, a consumer made anew when it falls silent."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from shared.errors import BusUnavailable
from shared.events import Record

if TYPE_CHECKING:
    from shared.bus.kafka import KafkaBus

COMMIT_SECONDS = 10.0
LAG_SECONDS = 5.0
STOP_SECONDS = 5.0
POLL_GRACE_SECONDS = 0.5  # getmany() forgets its timeout while the group shares anew
log = structlog.get_logger(__name__)


async def finish(work: Coroutine[Any, Any, Any], what: str, seconds: float = STOP_SECONDS) -> bool:
    """Let aiokafka clean up for so long and no longer; True when it did.

    Its stop() may hang, or raise a CancelledError that nobody asked for: inside a task of its own
    neither can be mistaken for our being cancelled. The task never outlives this call by choice.
    """
    task = asyncio.ensure_future(work)  # noqa: TID251 - ended below
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1)
    finally:
        task.cancel()
    if not task.done() or task.cancelled() or task.exception() is not None:
        log.warning("kafka_client_left_behind", what=what)
        return False
    return True


async def _stop_consumer(consumer: AIOKafkaConsumer) -> None:
    if await finish(consumer.stop(), "consumer"):
        return
    # stop() gave up at its first failing step; the steps behind it still hold tasks and sockets.
    for part in (consumer._coordinator, consumer._fetcher, consumer._client):  # noqa: SLF001
        if part is not None:
            await finish(part.close(), type(part).__name__, 1)


class KafkaSubscription:
    """One member of a consumer group; makes its consumer anew when the broker falls silent."""

    def __init__(self, bus: "KafkaBus", group: str, topics: Sequence[str]) -> None:
        self._bus = bus
        self._group = group
        self._topics = sorted(set(topics))
        self._consumer: AIOKafkaConsumer | None = None
        self._heard: int | None = None  # the broker's last answer to a fetch
        self._heard_at = 0.0
        self._careful = False
        self._closed = False

    async def poll(self, max_records: int, timeout_seconds: float) -> list[Record]:
        """Return the next records. Joining the group may take longer than the timeout."""
        consumer = await self._joined()
        sharing = False
        batches: dict[TopicPartition, list[Any]] = {}
        try:
            async with asyncio.timeout(timeout_seconds + POLL_GRACE_SECONDS):
                if self._careful:
                    return await self._poll_one_by_one(consumer)
                batches = await consumer.getmany(
                    timeout_ms=int(timeout_seconds * 1000), max_records=max_records
                )
        except TimeoutError:
            sharing = True
        except UnicodeDecodeError:
            # aiokafka cannot read a header name that is no UTF-8, and it has moved past records of
            # other partitions that it did not return. Join anew, from what is committed.
            self._careful = True
            await self._drop_consumer("unreadable header name")
            return []
        except KafkaError as error:
            await self._start_over(type(error).__name__)
        if not batches:
            await self._check_alive(consumer, sharing=sharing)
        return [_record(message) for batch in batches.values() for message in batch]

    async def _poll_one_by_one(self, consumer: AIOKafkaConsumer) -> list[Record]:
        """Read single records until the one that cannot be read shows its place, and pass it.

        It is handed out without key, headers and body, so that the caller keeps a dead event of it.
        """
        records: list[Record] = []
        for place in sorted(consumer.assignment()):
            try:
                batch = await consumer.getmany(place, max_records=1)
            except UnicodeDecodeError:
                offset = await consumer.position(place)
                consumer.seek(place, offset + 1)
                records.append(Record(place.topic, "", (), b"", place.partition, offset))
                self._careful = False
            else:
                records += [_record(message) for message in batch.get(place, ())]
        if not records:
            self._careful = not consumer.assignment() or any((await self.lag()).values())
            await asyncio.sleep(0.05)
        return records

    async def _joined(self) -> AIOKafkaConsumer:
        if self._closed:
            raise BusUnavailable("the subscription is closed")
        if self._consumer is None:
            await self._bus.make_topics()
            consumer = self._bus.new_consumer(self._group, self._topics)
            try:
                async with asyncio.timeout(self._bus.connect_seconds):
                    await consumer.start()
            except (TimeoutError, KafkaError, OSError) as error:
                await _stop_consumer(consumer)
                raise BusUnavailable(f"kafka: {type(error).__name__}") from error
            except asyncio.CancelledError:
                await _stop_consumer(consumer)
                raise
            self._consumer = consumer
            self._heard = None
            self._heard_at = asyncio.get_running_loop().time()
        return self._consumer

    async def _check_alive(self, consumer: AIOKafkaConsumer, *, sharing: bool) -> None:
        """Make the consumer anew when no fetch was answered and no partition assigned for too long.

        A member without partitions (more members than partitions) hears nothing and is well.
        """
        now = asyncio.get_running_loop().time()
        assigned = consumer.assignment()
        heard = max((consumer.last_poll_timestamp(tp) or 0 for tp in assigned), default=0)
        if heard != self._heard or not (assigned or sharing):
            self._heard, self._heard_at = heard, now
        elif now - self._heard_at > self._bus.stall_seconds:
            await self._start_over("nothing heard from the broker")

    async def _start_over(self, reason: str) -> None:
        await self._drop_consumer(reason)
        raise BusUnavailable(f"kafka: {reason}")

    async def _drop_consumer(self, reason: str) -> None:
        consumer, self._consumer = self._consumer, None
        self._bus.counts["consumers_restarted"] += 1
        log.warning("kafka_consumer_restarted", group=self._group, reason=reason)
        if consumer is not None:
            await _stop_consumer(consumer)

    async def commit(self, records: Sequence[Record]) -> None:
        """Store the positions after these records; raises BusUnavailable when the broker is away."""
        after: dict[TopicPartition, int] = {}
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            after[place] = max(after.get(place, 0), record.offset + 1)
        try:
            assigned = self._consumer.assignment() if self._consumer else frozenset()
            mine = {place: offset for place, offset in after.items() if place in assigned}
            late = len(after) - len(mine)
            if self._consumer and mine:
                async with asyncio.timeout(COMMIT_SECONDS):
                    await self._consumer.commit(mine)
        except (CommitFailedError, IllegalStateError):
            late = len(after)
        except (TimeoutError, KafkaError) as error:
            raise BusUnavailable(f"kafka: commit: {type(error).__name__}") from error
        if late:
            self._bus.counts["late_commits"] += late
            log.warning("late_commit_dropped", group=self._group, partitions=late)

    async def rewind(self, records: Sequence[Record]) -> None:
        """Seek back; a partition that went to another member starts at its commit there."""
        first: dict[TopicPartition, int] = {}
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            first[place] = min(first.get(place, record.offset), record.offset)
        for place, offset in first.items():
            try:
                if self._consumer is not None:
                    self._consumer.seek(place, offset)
            except IllegalStateError:
                log.info("rewind_of_lost_partition", group=self._group, topic=place.topic)

    async def lag(self) -> dict[tuple[str, int], int]:
        """Return how many records each assigned partition still has for this member."""
        consumer = self._consumer
        assigned = consumer.assignment() if consumer else set()
        if consumer is None or not assigned:
            return {}
        try:
            async with asyncio.timeout(LAG_SECONDS):
                ends = await consumer.end_offsets(assigned)
                return {
                    (tp.topic, tp.partition): max(0, ends[tp] - await consumer.position(tp))
                    for tp in assigned
                }
        except IllegalStateError:  # the group shared anew in between
            return {}
        except (TimeoutError, KafkaError) as error:
            raise BusUnavailable(f"kafka: lag: {type(error).__name__}") from error

    async def close(self) -> None:
        """Leave the group."""
        if self._closed:
            return
        self._closed = True
        self._bus.forget(self)
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await _stop_consumer(consumer)


def _record(message: Any) -> Record:
    """Translate; what other programs wrote may lack a key or hold bytes that are no text."""
    return Record(
        message.topic,
        message.key.decode("utf-8", "replace") if message.key else "",
        tuple((name, value or b"") for name, value in message.headers),
        message.value,
        message.partition,
        message.offset,
    )
