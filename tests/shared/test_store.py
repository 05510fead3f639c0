import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given, strategies as st

from shared import migrations, store
from shared.clock import now
from shared.events import Record
from shared.store import Database, Timer, Tx, dump_headers, load_headers
from shared.testing import event, placed

from .conftest import Open


class Oops(Exception):
    pass


async def count(db: Database, table: str) -> int:
    return int(await db.fetchval(f"select count(*) from {table}"))


async def test_what_a_block_wrote_is_there_when_it_ends(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.publish([event(placed())])
    assert await count(db, "outbox") == 1


async def test_a_block_that_raises_leaves_nothing(db: Database) -> None:
    with suppress(Oops):
        async with db.transaction() as tx:
            await tx.publish([event(placed())])
            await tx.first_time("me", [uuid4()])
            raise Oops
    assert (await count(db, "outbox"), await count(db, "inbox")) == (0, 0)


async def test_an_event_stands_in_the_outbox_once_however_often_it_is_published(
    db: Database,
) -> None:
    one, other = event(placed()), event(placed("1002"))
    for events in ([one], [one, other, other], [other]):
        async with db.transaction() as tx:
            await tx.publish(events)
    assert await count(db, "outbox") == 2


async def test_events_keep_their_order_in_the_outbox(db: Database) -> None:
    events = [event(placed(str(n))) for n in range(50)]
    async with db.transaction() as tx:
        await tx.publish(events)
    rows = await db.fetch("select event_id from outbox order by seq")
    assert [r["event_id"] for r in rows] == [e.id for e in events]


async def test_an_event_is_new_to_each_consumer_once(db: Database) -> None:
    first, second = uuid4(), uuid4()
    async with db.transaction() as tx:
        assert await tx.first_time("a", [first, first]) == {first}
    async with db.transaction() as tx:
        assert await tx.first_time("a", [first, second]) == {second}
        assert await tx.first_time("b", [first]) == {first}


async def test_of_two_at_once_one_sees_an_event_for_the_first_time(open_database: Open) -> None:
    said = uuid4()
    pools = [await open_database() for _ in range(2)]

    async def mark(db: Database) -> int:
        async with db.transaction() as tx:
            found = await tx.first_time("a", [said])
            await asyncio.sleep(0.1)
            return len(found)

    assert sorted(await asyncio.gather(*(mark(db) for db in pools))) == [0, 1]


async def bury(db: Database, record: Record, error_class: str = "malformed") -> None:
    async with db.transaction() as tx:
        await tx.bury("me", [(record, error_class, "because")])


async def test_the_same_place_buried_twice_counts_attempts(db: Database) -> None:
    record = Record("orders", "demo:1", (), b"x", 3, 77)
    await bury(db, record)
    await bury(db, record)
    rows = await db.fetch("select attempts, state from dead_event")
    assert [tuple(r.values()) for r in rows] == [(2, "open")]


async def test_records_without_a_place_are_buried_one_by_one(db: Database) -> None:
    record = Record("orders", "demo:1", (), b"x")
    await bury(db, record)
    await bury(db, record)
    assert await count(db, "dead_event") == 2


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.binary(max_size=40)
        ),
        max_size=5,
    )
)
def test_headers_come_back_as_they_were_except_for_nul(headers: list[tuple[str, bytes]]) -> None:
    expected = tuple((n.replace("\0", ""), v.replace(b"\0", b"")) for n, v in headers)
    text = dump_headers(headers)
    assert "\\u0000" not in text.replace("\\\\", "")
    assert load_headers(text) == expected


async def test_whatever_stands_in_a_header_or_a_body_can_be_buried(db: Database) -> None:
    headers = (
        ("ce_id", b"\x00\xff\xfe"),
        ("note", rb"\u0000 written out"),
        ("n\0ame", b"\\"),
        ("quote", b'"\\\\u0000"'),
    )
    await bury(db, Record("orders", "a\0b", headers, b"\x00\xff", 0, 1))
    row = await db.fetchrow("select key, headers, value from dead_event")
    assert (row["key"], row["value"]) == ("ab", b"\x00\xff")
    assert dict(load_headers(row["headers"]))["note"] == rb"\u0000 written out"


# ---------------------------------------------------------------- timers


def timer(key: str, seconds: float, **payload: str) -> Timer:
    return Timer(key, "look", now() + timedelta(seconds=seconds), payload)


async def set_timers(db: Database, *timers: Timer) -> None:
    async with db.transaction() as tx:
        await store.set_timers(tx, timers)


async def take(db: Database, limit: int = 100) -> list[str]:
    async with db.transaction() as tx:
        return [t.key for t in await store.take_due_timers(tx, limit)]


async def test_due_timers_are_taken_in_order_and_only_once(db: Database) -> None:
    await set_timers(db, timer("b", -1), timer("a", -2), timer("later", 60))
    assert await take(db) == ["a", "b"]
    assert await take(db) == []
    assert await count(db, "timer") == 1


async def test_a_timer_set_again_is_moved(db: Database) -> None:
    await set_timers(db, timer("a", -1))
    await set_timers(db, timer("a", 60, why="moved"))
    assert await take(db) == []
    await set_timers(db, timer("a", 60), timer("a", -1))
    assert await take(db) == ["a"]


async def test_a_cancelled_timer_is_never_taken(db: Database) -> None:
    await set_timers(db, timer("a", -1), timer("b", -1))
    async with db.transaction() as tx:
        await store.cancel_timers(tx, ["a", "unknown"])
    assert await take(db) == ["b"]


async def test_a_timer_taken_in_a_transaction_that_fails_is_still_due(db: Database) -> None:
    await set_timers(db, timer("a", -1))
    with suppress(Oops):
        async with db.transaction() as tx:
            assert await store.take_due_timers(tx, 10)
            raise Oops
    assert await take(db) == ["a"]


async def test_each_due_timer_is_taken_by_one_of_many(open_database: Open) -> None:
    pools = [await open_database() for _ in range(3)]
    await set_timers(pools[0], *(timer(f"t{n:03}", -1) for n in range(100)))
    taken: Counter[str] = Counter()

    async def work(db: Database) -> None:
        while keys := await take(db, 7):
            assert len(keys) <= 7
            taken.update(keys)

    await asyncio.gather(*(work(db) for db in pools))
    assert len(taken) == 100
    assert set(taken.values()) == {1}


# ---------------------------------------------------------------- tidying


async def test_cleaning_up_takes_what_is_old_and_published_and_nothing_else(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.publish([event(placed(name)) for name in ("old", "waiting", "new")])
        await tx.first_time("me", [uuid4(), uuid4()])
    old = "created_at = now() - interval '8 days'"
    await db.execute(f"update outbox set {old} where key <> 'demo:new'")
    await db.execute(
        """delete from outbox_unpublished using outbox
           where outbox_unpublished.seq = outbox.seq and outbox.key <> 'demo:waiting'"""
    )
    await db.execute(
        """update inbox set recorded_on = current_date - 40
           where event_id = (select event_id from inbox limit 1)"""
    )
    await store.clean_up(db)
    rows = await db.fetch("select key from outbox order by seq")
    assert [r["key"] for r in rows] == ["demo:waiting", "demo:new"]
    assert await count(db, "inbox") == 1


# ---------------------------------------------------------------- what passes


async def test_a_database_that_refuses_is_transient_and_a_mistake_is_not(db: Database) -> None:
    with pytest.raises(asyncpg.UndefinedTableError) as mistake:
        await db.fetch("select * from nowhere")
    assert not store.is_transient(mistake.value)
    away = Database("postgresql://127.0.0.1:1/x", "order_events")
    with pytest.raises(OSError, match="1") as refused:
        await away.open()
    assert store.is_transient(refused.value)


async def test_a_pool_works_again_after_the_server_cut_its_connections(db: Database) -> None:
    faults: list[BaseException] = []
    for _ in range(5):
        try:
            async with db.transaction() as tx:
                if not faults:
                    await tx.execute("select pg_terminate_backend(pg_backend_pid())")
                await tx.fetchval("select 1")
            break
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            faults.append(error)
    assert 1 <= len(faults) < 5
    assert all(store.is_transient(f) for f in faults)


# ---------------------------------------------------------------- migrations


async def test_several_processes_may_migrate_at_once_and_the_next_start_does_nothing(
    database_url: str,
) -> None:
    await asyncio.gather(*(migrations.ensure(database_url, "notifier") for _ in range(3)))
    conn = await asyncpg.connect(database_url)
    try:
        versions = await conn.fetch("select version_num from notifier.alembic_version")
        assert [r[0] for r in versions] == [migrations.head("notifier")]
        xmin = await conn.fetchval("select xmin::text from notifier.alembic_version")
        await migrations.ensure(database_url, "notifier")
        assert await conn.fetchval("select xmin::text from notifier.alembic_version") == xmin
    finally:
        await conn.close()


async def test_services_in_one_database_keep_to_their_own_schema(database_url: str) -> None:
    await migrations.ensure(database_url, "notifier")
    await migrations.ensure(database_url, "order_events")
    db = Database(database_url, "order_events")
    await db.open()
    try:
        assert await db.fetchval("select to_regclass('webhooks') is not null")
        assert await db.fetchval("select to_regclass('message') is null")
    finally:
        await db.close()


async def test_a_migration_that_fails_says_so_without_the_password(database_url: str) -> None:
    conn = await asyncpg.connect(database_url)
    await conn.execute("create schema notifier; create table notifier.message (x int)")
    await conn.close()
    with pytest.raises(RuntimeError, match="migration of notifier failed") as failed:
        await migrations.ensure(database_url, "notifier")
    assert database_url not in str(failed.value)


async def test_transactions_are_durable_and_short(db: Database) -> None:
    async def setting(tx: Tx, name: str) -> str:
        return str(await tx.fetchval(f"show {name}"))

    async with db.transaction() as tx:
        assert await setting(tx, "transaction_isolation") == "read committed"
        assert await setting(tx, "statement_timeout") == "30s"
        assert await setting(tx, "idle_in_transaction_session_timeout") == "1min"
