"""What only the Kafka bus promises: no lossy default, a deadline on everything that can hang."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.util import calc_crc32c

from shared.bus import HEADER_BYTES_MAX, VALUE_BYTES_MAX
from shared.bus.kafka import (
    TOPIC_BYTES_MAX,
    KafkaBus,
    KafkaSecurity,
    consumer_options,
    producer_options,
)
from shared.errors import BusUnavailable
from shared.events import Record

from .conftest import KafkaProxy

NO_TX: Any = None


def record(topic: str, key: str, value: bytes) -> Record:
    return Record(topic, key, (("ce_id", b"1"),), value)


def test_the_producer_keeps_every_record() -> None:
    options = producer_options()
    assert options["acks"] == "all"
    assert options["enable_idempotence"] is True
    assert options["transactional_id"] is None
    assert options["request_timeout_ms"] == 300_000
    assert options["max_request_size"] >= VALUE_BYTES_MAX + HEADER_BYTES_MAX
    assert options["max_batch_size"] >= options["max_request_size"]
    assert options["max_batch_size"] < TOPIC_BYTES_MAX


def test_the_consumer_skips_and_commits_nothing_by_itself() -> None:
    options = consumer_options(10_000)
    assert options["auto_offset_reset"] == "earliest"
    assert options["enable_auto_commit"] is False
    assert options["isolation_level"] == "read_committed"
    assert options["group_instance_id"] is None
    assert options["session_timeout_ms"] == 10_000
    assert options["heartbeat_interval_ms"] * 3 <= 10_000
    assert options["max_partition_fetch_bytes"] >= TOPIC_BYTES_MAX


HARMLESS = {
    "loop", "api_version", "bootstrap_servers", "client_id", "group_id", "connections_max_idle_ms",
    "key_serializer", "value_serializer", "key_deserializer", "value_deserializer", "partitioner",
    "transaction_timeout_ms", "auto_commit_interval_ms", "consumer_timeout_ms", "max_poll_records",
    "exclude_internal_topics", "client_rack", "security_protocol", "ssl_context", "sasl_mechanism",
    "sasl_plain_username", "sasl_plain_password", "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name", "sasl_oauth_token_provider",
}  # fmt: skip


@pytest.mark.parametrize(
    ("client", "options"),
    [(AIOKafkaProducer, producer_options()), (AIOKafkaConsumer, consumer_options(10_000))],
)
def test_every_argument_of_the_client_is_set_or_known_to_be_harmless(
    client: type[Any], options: dict[str, Any]
) -> None:
    parameters = inspect.signature(client).parameters.values()
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty}
    assert named - set(options) - HARMLESS == set()
    assert set(options) <= named


def test_security_becomes_the_clients_arguments() -> None:
    assert KafkaSecurity().options() == {"security_protocol": "PLAINTEXT", "ssl_context": None}
    scram = KafkaSecurity(
        tls=True, sasl_mechanism="SCRAM-SHA-512", username="afterglow", password="not-shown"
    )
    options = scram.options()
    assert options["security_protocol"] == "SASL_SSL"
    assert options["ssl_context"].check_hostname
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["sasl_plain_password"] == "not-shown"
    assert "not-shown" not in repr(scram)
    plain = KafkaSecurity(sasl_mechanism="PLAIN", username="u", password="p").options()
    assert plain["security_protocol"] == "SASL_PLAINTEXT"


async def test_a_broker_that_is_not_there_is_said_within_the_deadline() -> None:
    bus = KafkaBus("127.0.0.1:1", ("orders",), connect_seconds=1, publish_seconds=2)
    async with asyncio.timeout(10):
        for call in (bus.start(), bus.ready(), bus.publish(NO_TX, [record("orders", "k", b"1")])):
            with pytest.raises(BusUnavailable):
                await call
        subscription = await bus.subscribe("reader", ["orders"])
        with pytest.raises(BusUnavailable):
            await subscription.poll(1, 0.1)
        await bus.stop()


async def test_a_broker_that_accepts_and_never_answers_is_said_within_the_deadline() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bus = KafkaBus(f"127.0.0.1:{port}", ("orders",), connect_seconds=0.5)
    async with asyncio.timeout(10):
        with pytest.raises(BusUnavailable):
            await bus.start()
        await bus.stop()
    server.close()


@asynccontextmanager
async def behind_proxy(servers: str, topic: str) -> AsyncIterator[tuple[KafkaBus, KafkaProxy]]:
    proxy = KafkaProxy(servers)
    await proxy.open()
    bus = KafkaBus(
        f"{proxy.host}:{proxy.port}",
        (topic,),
        partitions=2,
        publish_seconds=1,
        connect_seconds=3,
        session_seconds=6,
        stall_seconds=1,
    )
    await bus.start()
    try:
        yield bus, proxy
    finally:
        await bus.stop()
        await proxy.cut()


@pytest.mark.kafka
async def test_nothing_is_left_behind_when_the_broker_vanishes(kafka_servers: str) -> None:
    topic = f"orders-{uuid4().hex[:8]}"
    before = asyncio.all_tasks()
    async with behind_proxy(kafka_servers, topic) as (bus, proxy):
        subscription = await bus.subscribe("reader", [topic])
        await bus.publish(NO_TX, [record(topic, "k", b"1")])
        records: list[Record] = []
        while not records:
            records = await subscription.poll(10, 0.5)
        await proxy.cut()
        with pytest.raises(BusUnavailable):
            await bus.publish(NO_TX, [record(topic, "k", b"2")])
        assert bus.counts["producers_discarded"] == 1

        async def poll_for_ever() -> None:
            while True:
                await subscription.poll(10, 0.2)

        with pytest.raises(BusUnavailable):
            await asyncio.wait_for(poll_for_ever(), 15)
        assert bus.counts["consumers_restarted"] == 1
        await subscription.rewind(records)
        await subscription.commit(records)
        assert bus.counts["late_commits"] == 1
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() - before == set()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


@pytest.mark.kafka
async def test_what_only_the_broker_finds_too_large_is_named_and_spoils_nothing(
    kafka_servers: str,
) -> None:
    topic = f"orders-{uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "2000"})])
    await admin.close()
    bus = KafkaBus(kafka_servers, (topic,), session_seconds=6)
    await bus.start()
    sizes = [500, 600, 5000, 700, 1500, 3000, 100]
    refused = await bus.publish(
        NO_TX, [record(topic, "k", bytes([n]) * size) for n, size in enumerate(sizes)]
    )
    assert set(refused) == {2, 5}
    assert await bus.publish(NO_TX, [record(topic, "k", b"after")]) == {}
    subscription = await bus.subscribe("reader", [topic])
    got: list[Record] = []
    async with asyncio.timeout(20):
        while not got or got[-1].value != b"after":
            got += await subscription.poll(10, 0.5)
    assert [r.value[0] for r in got[:-1] if r.value] == [0, 1, 3, 4, 6]
    await bus.stop()


@pytest.mark.kafka
async def test_concurrent_publishers_keep_the_order_of_their_own_records(
    kafka_servers: str,
) -> None:
    topic = f"orders-{uuid4().hex[:8]}"
    bus = KafkaBus(kafka_servers, (topic,), partitions=2, session_seconds=6)
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            batch = [record(topic, name, b"%d" % n) for n in range(500)]
            group.create_task(bus.publish(NO_TX, batch))
    subscription = await bus.subscribe("reader", [topic])
    got: list[Record] = []
    async with asyncio.timeout(20):
        while len(got) < 1500:
            got += await subscription.poll(500, 0.5)
    for name in "abc":
        assert [int(r.value or b"") for r in got if r.key == name] == list(range(500))
    await bus.stop()


async def send_unreadable(servers: str, topic: str) -> None:
    """Write a record whose header name is no UTF-8, as a program in another language may."""
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    batch = producer.create_batch()
    batch.append(timestamp=None, key=b"k", value=b"odd", headers=[("zz", b"v")])
    raw = bytearray(batch._build().replace(b"zz", b"\xff\xfe"))
    raw[17:21] = calc_crc32c(bytes(raw[21:])).to_bytes(4, "big")
    batch._buffer = bytes(raw)
    await (await producer.send_batch(batch, topic, partition=0))
    await producer.stop()


@pytest.mark.kafka
async def test_a_record_that_the_client_cannot_read_is_passed_and_no_other_is_lost(
    kafka_servers: str,
) -> None:
    topic = f"orders-{uuid4().hex[:8]}"
    bus = KafkaBus(kafka_servers, (topic,), partitions=3, session_seconds=6)
    await bus.start()
    sent = [record(topic, f"k{n}", b"%d" % n) for n in range(60)]
    await bus.publish(NO_TX, sent[:40])
    await send_unreadable(kafka_servers, topic)
    await bus.publish(NO_TX, sent[40:])
    subscription = await bus.subscribe("reader", [topic])
    got: dict[tuple[int, int], Record] = {}
    async with asyncio.timeout(20):
        while len(got) < 61:
            records = await subscription.poll(100, 0.5)
            got |= {(r.partition, r.offset): r for r in records}
            await subscription.commit(records)
    assert sorted(r.value or b"" for r in got.values() if r.key) == sorted(
        r.value or b"" for r in sent
    )
    assert [(r.partition, r.value, r.headers) for r in got.values() if not r.key] == [(0, b"", ())]
    await bus.publish(NO_TX, sent[:1])
    assert [r.value for r in await subscription.poll(10, 5)] == [b"0"]
    await bus.stop()
