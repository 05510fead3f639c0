"""What only the Postgres bus promises: its place in the caller's transaction, sharing, retention."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import given, strategies as st

from shared.bus import Subscription
from shared.bus.postgres import PostgresBus
from shared.bus.postgres_reader import fair_share
from shared.errors import BusUnavailable
from shared.events import Record
from shared.store import Database

TOPICS = ("orders", "scans")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "public")
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def bus(db: Database) -> AsyncIterator[PostgresBus]:
    made = PostgresBus(db, TOPICS, partitions=3)
    await made.start()
    yield made
    await made.stop()


def record(key: str, value: bytes = b"{}", topic: str = "orders") -> Record:
    return Record(topic, key, (("ce_id", b"1"),), value)


async def publish(db: Database, bus: PostgresBus, *records: Record) -> None:
    async with db.transaction() as tx:
        assert await bus.publish(tx, records) == {}


async def read(subscription: Subscription, number: int) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(10):
        while len(found) < number:
            found += await subscription.poll(100, 0.1)
    return found


async def test_a_slow_transaction_with_an_early_place_is_not_skipped(
    db: Database, bus: PostgresBus
) -> None:
    subscription = await bus.subscribe("reader", TOPICS)
    seen: list[Record] = []

    async def follow() -> None:
        while len(seen) < 3:
            seen.extend(await subscription.poll(10, 0.05))
            await subscription.commit(seen[-1:])

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(follow())
        async with db.transaction() as slow:
            await bus.publish(slow, [record("k", b"early")])
            quick = group.create_task(publish(db, bus, record("k", b"late")))
            await asyncio.sleep(0.5)  # the quick one may commit now only if the reader cannot pass
        await quick
        await publish(db, bus, record("k", b"last"))
    assert [r.value for r in seen] == [b"early", b"late", b"last"]
    assert [r.offset for r in seen] == [0, 1, 2]


async def test_publishers_that_cross_each_other_never_deadlock(
    db: Database, bus: PostgresBus
) -> None:
    keys = [f"demo:{n}" for n in range(12)]

    async def many(order: list[str]) -> None:
        for _ in range(15):
            async with db.transaction() as tx:
                topics = TOPICS if order is keys else TOPICS[::-1]
                await bus.publish(tx, [record(k, topic=t) for t in topics for k in order])

    async with asyncio.TaskGroup() as group:
        for order in (keys, keys[::-1], keys, keys[::-1]):
            group.create_task(many(order))
    rows = await db.fetch(
        'select shard, count(*) as n, max("offset") as last from bus.record group by shard'
    )
    assert sum(row["n"] for row in rows) == 4 * 15 * 24
    assert all(row["last"] == row["n"] - 1 for row in rows)


async def test_what_is_rolled_back_was_never_there(db: Database, bus: PostgresBus) -> None:
    async def fail() -> None:
        async with db.transaction() as tx:
            await bus.publish(tx, [record("k", b"gone")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await publish(db, bus, record("k", b"kept"))
    got = await read(await bus.subscribe("reader", TOPICS), 1)
    assert [(r.value, r.offset) for r in got] == [(b"kept", 0)]


async def test_many_processes_may_start_at_once(db: Database) -> None:
    buses = [PostgresBus(db, TOPICS, partitions=3) for _ in range(6)]
    async with asyncio.TaskGroup() as group:
        for made in buses:
            group.create_task(made.start())
    assert await db.fetchval("select count(*) from bus.shard") == 6
    assert await db.fetchval("select version from bus.version") == 1


async def test_a_topic_keeps_its_number_of_partitions(db: Database, bus: PostgresBus) -> None:
    grown = PostgresBus(db, (*TOPICS, "new"), partitions=5)
    shards = await grown.shards()
    assert {topic: len(ids) for topic, ids in shards.items()} == {"orders": 3, "scans": 3, "new": 5}


async def test_a_commit_wakes_the_reader_at_once(db: Database, bus: PostgresBus) -> None:
    subscription = await bus.subscribe("reader", TOPICS)
    await subscription.poll(1, 0)
    clock = asyncio.get_running_loop().time
    fastest = 1.0
    for _ in range(10):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(subscription.poll(10, 2))
            await asyncio.sleep(0.02)
            await publish(db, bus, record("k"))
            committed = clock()
        assert len(waiting.result()) == 1
        fastest = min(fastest, clock() - committed)
    assert fastest < 0.1  # far below the 250 ms poll


async def test_reading_goes_on_when_every_connection_was_ended(
    db: Database, bus: PostgresBus
) -> None:
    subscription = await bus.subscribe("reader", TOPICS)
    await publish(db, bus, record("a"))
    await subscription.commit(await read(subscription, 1))
    await db.execute(
        """select pg_terminate_backend(pid) from pg_stat_activity
           where datname = current_database() and pid <> pg_backend_pid()"""
    )
    await publish(db, bus, record("b", b"next"))
    found: list[Record] = []
    async with asyncio.timeout(10):
        while not found:
            try:
                found = await subscription.poll(10, 0.2)
            except BusUnavailable:
                await asyncio.sleep(0.05)
    assert [r.value for r in found] == [b"next"]


async def test_old_records_expire_and_those_nobody_read_are_counted(
    db: Database, database_url: str
) -> None:
    bus = PostgresBus(db, TOPICS, partitions=1, retention=timedelta(days=7))
    await bus.start()
    subscription = await bus.subscribe("reader", ["orders"])
    await publish(db, bus, *(record("k", b"%d" % n) for n in range(5)))
    await subscription.commit((await read(subscription, 5))[:2])
    await db.execute("update bus.record set recorded_at = now() - interval '8 days'")
    await publish(db, bus, record("k", b"new"))
    conn = await db.connect()
    later = PostgresBus(db, TOPICS, partitions=1, retention=timedelta(days=7))
    await later.expire(conn)
    await conn.close()
    assert later.counts["expired_unread"] == 3
    assert await db.fetchval("select count(*) from bus.record") == 1
    await bus.stop()
    fresh = await later.subscribe("other", ["orders"])
    assert [r.value for r in await read(fresh, 1)] == [b"new"]
    assert sum((await fresh.lag()).values()) == 0
    await later.stop()


async def test_two_versions_of_a_service_may_read_different_topics(
    db: Database, bus: PostgresBus
) -> None:
    old = await bus.subscribe("reader", ["orders"])
    new = await bus.subscribe("reader", TOPICS)
    await publish(db, bus, *(record(f"k{n}", topic=t) for t in TOPICS for n in range(9)))
    got: list[Record] = []
    async with asyncio.timeout(10):
        while len({(r.topic, r.partition, r.offset) for r in got}) < 18:
            for member in (old, new):
                got += await member.poll(50, 0.02)
    assert {r.topic for r in got} == set(TOPICS)


MEMBERS = st.lists(st.sets(st.sampled_from(["a", "b", "c"])), min_size=1, max_size=9)
SIZES = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 12), min_size=1)


@given(MEMBERS, SIZES)
def test_every_partition_with_a_reader_has_exactly_one(
    topics: list[set[str]], sizes: dict[str, int]
) -> None:
    share = fair_share({uuid4(): read for read in topics}, sizes)
    for topic, size in sizes.items():
        total = sum(quota.get(topic, 0) for quota in share.values())
        assert total == (size if any(topic in read for read in topics) else 0)


@given(st.integers(1, 20), SIZES)
def test_equal_members_hold_equal_numbers(number: int, sizes: dict[str, int]) -> None:
    share = fair_share({uuid4(): set(sizes) for _ in range(number)}, sizes)
    totals = [sum(quota.values()) for quota in share.values()]
    assert max(totals) - min(totals) <= 1
