"""The bus of production: Apache Kafka through aiokafka.

Every default of aiokafka that can lose data is set here, and every call that can hang runs under a
deadline of ours, because an idempotent producer and a committing consumer retry for ever. A producer
that missed its deadline or lost its sequence is thrown away; what it still delivers is a copy, which
consumers recognise by event id. No transactions, no static membership, no commit without offsets.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    NoError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.helpers import create_ssl_context

from shared.bus import HEADER_BYTES_MAX, VALUE_BYTES_MAX, refusal
from shared.bus.kafka_reader import STOP_SECONDS, KafkaSubscription, finish
from shared.errors import AfterglowError, BusUnavailable
from shared.events import Record
from shared.store import Tx

RECORD_BYTES_MAX = VALUE_BYTES_MAX + 2 * HEADER_BYTES_MAX  # with room for Kafka's own framing
BATCH_BYTES_MAX = 512 * 1024
TOPIC_BYTES_MAX = 1024 * 1024  # the broker measures whole batches
REQUEST_MS = 300_000  # shorter ones expire batches whose sequence numbers are already used up
RETENTION_MS = 7 * 86_400_000
SEGMENT_MS = 86_400_000
READY_SECONDS = 5.0
DISCARD_SECONDS = 0.5
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """How to connect: TLS with these files, and SASL where a mechanism is named.

    `sasl_mechanism` is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. Naming a CA file turns TLS on.
    """

    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def options(self) -> dict[str, Any]:
        """Return aiokafka's arguments for this; raises AfterglowError for unusable files."""
        tls = self.tls or self.ca_file is not None or self.cert_file is not None
        context: SSLContext | None = None
        if tls:
            try:
                context = create_ssl_context(
                    cafile=self.ca_file, certfile=self.cert_file, keyfile=self.key_file
                )
            except OSError as error:  # SSLError is one
                reason = error.strerror or type(error).__name__
                raise AfterglowError(f"the KAFKA_TLS_* files cannot be used: {reason}") from None
        transport = "SSL" if tls else "PLAINTEXT"
        if self.sasl_mechanism is None:
            return {"security_protocol": transport, "ssl_context": context}
        return {
            "security_protocol": f"SASL_{transport}",
            "ssl_context": context,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }


def producer_options() -> dict[str, Any]:
    """Return what makes a producer keep every record, once and in order."""
    return {
        "acks": "all",
        "enable_idempotence": True,
        "transactional_id": None,
        "request_timeout_ms": REQUEST_MS,
        "max_request_size": RECORD_BYTES_MAX,
        "max_batch_size": BATCH_BYTES_MAX,
        "linger_ms": 0,
        "compression_type": None,
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 60_000,
    }


def consumer_options(session_timeout_ms: int) -> dict[str, Any]:
    """Return what makes a consumer start at the beginning and pass nothing by itself."""
    return {
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "group_instance_id": None,
        "partition_assignment_strategy": (RoundRobinPartitionAssignor,),
        "session_timeout_ms": session_timeout_ms,
        "heartbeat_interval_ms": session_timeout_ms // 3,
        "rebalance_timeout_ms": 30_000,
        "max_poll_interval_ms": 300_000,
        "request_timeout_ms": 40_000,
        "max_partition_fetch_bytes": TOPIC_BYTES_MAX,
        "fetch_max_bytes": 8 * TOPIC_BYTES_MAX,
        "fetch_min_bytes": 1,
        "fetch_max_wait_ms": 500,
        "check_crcs": True,
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 60_000,
    }


class KafkaBus:
    """Publishes to and reads from a Kafka cluster.

    `servers` is host:port[,host:port]. `publish_seconds` bounds one publish() call, `stall_seconds`
    how long a consumer may hear nothing from the broker before it is made anew. `counts` says what
    was dropped or made anew.
    """

    def __init__(
        self,
        servers: str,
        topics: Sequence[str],
        *,
        partitions: int = 12,
        replication: int = 1,
        security: KafkaSecurity | None = None,
        publish_seconds: float = 30.0,
        connect_seconds: float = 30.0,
        session_seconds: float = 10.0,
        stall_seconds: float = 60.0,
    ) -> None:
        self._topics = tuple(topics)
        self._partitions = partitions
        self._replication = replication
        self._connection = {
            "bootstrap_servers": servers.split(","),
            "client_id": "afterglow",
            **(security or KafkaSecurity()).options(),
        }
        self._publish_seconds = publish_seconds
        self.connect_seconds = connect_seconds
        self.stall_seconds = stall_seconds
        self._session_ms = int(session_seconds * 1000)
        self.counts: Counter[str] = Counter()
        self._topics_made = False
        self._producer: AIOKafkaProducer | None = None
        self._sending = asyncio.Lock()  # concurrent send() calls cost O(n²) and lose the order
        self._subscriptions: list[KafkaSubscription] = []

    async def start(self) -> None:
        """Make the topics and connect the producer; raises BusUnavailable, call again then."""
        await self.make_topics()
        await self._connected_producer()

    async def stop(self) -> None:
        """Leave all groups and send what is still buffered, within a few seconds."""
        for subscription in tuple(self._subscriptions):
            await subscription.close()
        await self._discard_producer(STOP_SECONDS)

    async def ready(self) -> None:
        """Return when a broker answers."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                producer = await self._connected_producer()
                answered = await producer.client.force_metadata_update()
        except (TimeoutError, KafkaError, OSError) as error:
            raise BusUnavailable(f"kafka: {type(error).__name__}") from error
        if not answered:
            raise BusUnavailable("kafka: no broker answers")

    async def make_topics(self) -> None:
        """Create the topics that are missing; without the right to, they must be there already."""
        if self._topics_made:
            return
        admin = AIOKafkaAdminClient(
            **self._connection, request_timeout_ms=int(self.connect_seconds * 1000)
        )
        configs = {
            "retention.ms": str(RETENTION_MS),
            "segment.ms": str(SEGMENT_MS),
            "max.message.bytes": str(TOPIC_BYTES_MAX),
        }
        wanted = [
            NewTopic(t, self._partitions, self._replication, topic_configs=configs)
            for t in self._topics
        ]
        try:
            async with asyncio.timeout(self.connect_seconds):
                await admin.start()
                answer: Any = await admin.create_topics(wanted)
        except (TimeoutError, KafkaError, OSError) as error:
            raise BusUnavailable(f"kafka: {type(error).__name__}") from error
        finally:
            await finish(admin.close(), "admin")
        for topic, code, *_ in answer.topic_errors:
            refused = for_code(code)
            if refused in {TopicAuthorizationFailedError, ClusterAuthorizationFailedError}:
                log.warning("topic_not_created", topic=topic, reason=refused.__name__)
            elif refused not in {NoError, TopicAlreadyExistsError}:
                raise BusUnavailable(f"kafka: topic {topic} cannot be created: {refused.__name__}")
        self._topics_made = True

    async def _connected_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            await self.make_topics()
            producer = AIOKafkaProducer(**self._connection, **producer_options())
            try:
                async with asyncio.timeout(self.connect_seconds):
                    await producer.start()
            except (TimeoutError, KafkaError, OSError) as error:
                await _stop_producer(producer)
                raise BusUnavailable(f"kafka: {type(error).__name__}") from error
            except asyncio.CancelledError:
                await _stop_producer(producer)
                raise
            if self._producer is not None:  # another call was faster
                await _stop_producer(producer)
                return self._producer
            self._producer = producer
        return self._producer

    async def _discard_producer(self, seconds: float = DISCARD_SECONDS) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop_producer(producer, seconds)

    async def publish(self, tx: Tx, records: Sequence[Record]) -> dict[int, str]:  # noqa: ARG002
        """Send and wait until all in-sync replicas have them. `tx` plays no part: a broker cannot join it."""
        refused: dict[int, str] = {}
        for index, record in enumerate(records):
            known = record.topic in self._topics
            if reason := refusal(record) if known else "its topic does not exist":
                refused[index] = reason
        left = [index for index in range(len(records)) if index not in refused]
        if not left:
            return refused
        try:
            async with asyncio.timeout(self._publish_seconds):
                # A broker's limit counts whole batches: find out record by record, in order.
                for index in await self._send(records, left):
                    if await self._send(records, [index]):
                        refused[index] = "the broker refuses it as too large"
        except (TimeoutError, KafkaError, OSError) as error:
            self.counts["producers_discarded"] += 1
            log.warning("kafka_producer_discarded", reason=type(error).__name__)
            await self._discard_producer()
            raise BusUnavailable(f"kafka: {type(error).__name__}") from error
        return refused

    async def _send(self, records: Sequence[Record], indices: Iterable[int]) -> list[int]:
        """Send these and return those that the broker did not store because a batch was too large.

        Raises KafkaError when any other record was not confirmed.
        """
        sent: dict[int, asyncio.Future[Any]] = {}
        try:
            async with self._sending:
                producer = await self._connected_producer()
                for index in indices:
                    record = records[index]
                    sent[index] = await producer.send(
                        record.topic,
                        record.value,
                        record.key.encode(),
                        headers=list(record.headers),
                    )
            results = await asyncio.gather(*sent.values(), return_exceptions=True)
        finally:
            for future in sent.values():
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen, so that asyncio does not report it
        failed = {i: r for i, r in zip(sent, results, strict=True) if isinstance(r, BaseException)}
        if any(isinstance(error, _TOO_LARGE) for error in failed.values()):
            await (
                self._discard_producer()
            )  # its sequence has a hole now: what follows it failed too
            return list(failed)
        for error in failed.values():
            raise error
        return []

    async def subscribe(self, group: str, topics: Sequence[str]) -> KafkaSubscription:
        """Return a member of the group; it joins with its first poll."""
        subscription = KafkaSubscription(self, group, topics)
        self._subscriptions.append(subscription)
        return subscription

    def forget(self, subscription: KafkaSubscription) -> None:
        """Strike a closed subscription off the list."""
        self._subscriptions.remove(subscription)

    def new_consumer(self, group: str, topics: Sequence[str]) -> AIOKafkaConsumer:
        """Return a consumer that is not started yet."""
        return AIOKafkaConsumer(
            *topics, group_id=group, **self._connection, **consumer_options(self._session_ms)
        )

    async def erase(self, tx: Tx, keys: Sequence[str], topics: Sequence[str] | None = None) -> None:
        """Do nothing: a broker's log cannot be edited, its retention ends what it holds."""


async def _stop_producer(producer: AIOKafkaProducer, seconds: float = STOP_SECONDS) -> None:
    """Flush and close within this time; after it nothing of the producer may send or wait any more."""
    if await finish(producer.stop(), "producer", seconds):
        return
    await finish(producer.client.close(), "producer's connections", 1)
    # An interrupted stop() leaves its tasks to retry for ever, and it hands out no reference to them.
    parts = (producer._sender, producer._message_accumulator)  # noqa: SLF001
    left = {task for task in asyncio.all_tasks() if _runs_method_of(task, parts)}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=1)


def _runs_method_of(task: asyncio.Task[Any], owners: tuple[object, ...]) -> bool:
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is not None and any(frame.f_locals.get("self") is owner for owner in owners)
