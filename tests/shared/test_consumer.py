import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from shared.consumer import Consumer
from shared.errors import GiveUp, Malformed, Retry
from shared.events import Event, Record
from shared.life import Life
from shared.store import Database, Tx
from shared.testing import MemoryBus, event, placed

from .conftest import Open


class Killed(BaseException):
    """What a kill -9 leaves of a process: nothing after it runs in it."""


class Ledger:
    """A handler that writes down what it got; `fails` decides, by order id, what it raises."""

    def __init__(self) -> None:
        self.fails: Callable[[str], BaseException | None] = lambda _: None
        self.batches: list[list[str]] = []

    async def __call__(self, tx: Tx, events: Sequence[Event]) -> None:
        self.batches.append([str(e.data.order_id) for e in events])
        for e in events:
            await tx.execute("insert into seen (id) values ($1)", e.data.order_id)
            if error := self.fails(str(e.data.order_id)):
                raise error


@pytest.fixture
async def ledger(db: Database) -> Ledger:
    await db.execute("create table seen (n bigint generated always as identity, id text)")
    return Ledger()


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus(partitions=1, lease_seconds=5)


async def put(bus: MemoryBus, *orders: str | Event | Record) -> None:
    records = []
    for one in orders:
        made = event(placed(one)) if isinstance(one, str) else one
        records.append(made if isinstance(made, Record) else made.to_record())
    await bus.publish(None, records)


async def seen(db: Database) -> list[str]:
    return [r["id"] for r in await db.fetch("select id from seen order by n")]


async def dead(db: Database) -> dict[str, str]:
    rows = await db.fetch("select key, error_class from dead_event order by id")
    return {r["key"]: r["error_class"] for r in rows}


async def work(
    db: Database, bus: MemoryBus, ledger: Ledger, *, until: Callable[[], bool] = lambda: False
) -> None:
    """Be one process: consume until all is read, or until it dies."""
    life = Life()
    consumer = Consumer(db, bus, "me", ["orders"], ledger)

    async def stop_at_the_end() -> None:
        async with asyncio.timeout(20):
            while True:
                await asyncio.sleep(0.02)
                subscription = consumer.subscription
                group = bus.groups["me"]
                done = all(group.claims[p].committed >= len(log) for p, log in bus.log.items())
                if subscription is not None and (done or until()):
                    life.stopping.set()
                    return

    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run(life))
        group.create_task(stop_at_the_end())


async def die(db: Database, bus: MemoryBus, ledger: Ledger) -> None:
    """Be a process that is killed in its handler: no transaction commits, no goodbye."""
    with suppress(BaseExceptionGroup):
        await work(db, bus, ledger)


def counted(topic: str, outcome: str) -> float:
    labels = {"service": "me", "topic": topic, "outcome": outcome}
    return REGISTRY.get_sample_value("afterglow_events_consumed_total", labels) or 0.0


async def test_events_are_handled_once_in_order_and_the_place_is_kept(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    await put(bus, "1", "2", "3")
    await work(db, bus, ledger)
    await put(bus, "4")
    await work(db, bus, ledger)
    assert await seen(db) == ["1", "2", "3", "4"]
    assert ledger.batches[0] == ["1", "2", "3"]


async def test_a_second_copy_of_an_event_changes_nothing(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    twice = event(placed("1"))
    await put(bus, twice, twice, "2")
    await work(db, bus, ledger)
    await put(bus, twice)
    await work(db, bus, ledger)
    assert await seen(db) == ["1", "2"]


async def test_records_handed_out_again_after_a_lost_commit_change_nothing(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    await put(bus, "1", "2")
    await work(db, bus, ledger)
    for claim in bus.groups["me"].claims.values():
        claim.committed = 0
    await work(db, bus, ledger)
    assert await seen(db) == ["1", "2"]


async def test_a_record_that_is_no_event_becomes_a_dead_event_and_the_rest_is_handled(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    good = event(placed("good")).to_record()
    headers = tuple((n, b"no uuid" if n == "ce_id" else v) for n, v in good.headers)
    await put(
        bus,
        "1",
        Record("orders", "not json", good.headers, b"{"),
        Record("orders", "bad id", headers, good.value),
        Record("orders", "bare", (), b"\x00\xff"),
        Record("orders", "flood", (("ce_x", b"y"),) * 100, good.value),
        Record("orders", "binary", (("ce_id", b"\xff\xfe"),), good.value),
        Record("orders", "other:key", good.headers, good.value),
        "2",
    )
    await work(db, bus, ledger)
    assert await seen(db) == ["1", "2"]
    buried = ["not json", "bad id", "bare", "flood", "binary", "other:key"]
    assert await dead(db) == dict.fromkeys(buried, "malformed")


async def test_unknown_types_and_erased_bodies_are_counted_and_skipped(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    good = event(placed("good")).to_record()
    renamed = tuple((n, b"order.sung.v9" if n == "ce_type" else v) for n, v in good.headers)
    before = counted("orders", "unknown"), counted("orders", "erased")
    await put(
        bus,
        Record("orders", "demo:1", renamed, b"{}"),
        Record("orders", "demo:2", good.headers, None),
        "3",
    )
    await work(db, bus, ledger)
    assert await seen(db) == ["3"]
    assert await dead(db) == {}
    assert (counted("orders", "unknown"), counted("orders", "erased")) == (
        before[0] + 1,
        before[1] + 1,
    )


@pytest.mark.parametrize("error", [GiveUp("never"), KeyError("bug"), ZeroDivisionError()])
async def test_a_record_that_always_fails_is_taken_out_and_the_rest_is_handled(
    db: Database, bus: MemoryBus, ledger: Ledger, error: Exception
) -> None:
    ledger.fails = lambda order: error if order == "bad" else None
    await put(bus, "1", "2", "bad", "3")
    await work(db, bus, ledger)
    assert await seen(db) == ["1", "2", "3"]
    assert await dead(db) == {"demo:bad": type(error).__name__}
    text = await db.fetchval("select error_text from dead_event")
    assert text == (str(error) if isinstance(error, GiveUp) else type(error).__name__)


@pytest.mark.parametrize("error", [Retry("soon"), ConnectionResetError()])
async def test_an_error_that_passes_is_retried_until_it_has_passed(
    db: Database, bus: MemoryBus, ledger: Ledger, error: Exception
) -> None:
    left = [error] * 3
    ledger.fails = lambda order: left.pop() if order == "2" and left else None
    await put(bus, "1", "2", "3")
    await work(db, bus, ledger)
    assert await seen(db) == ["1", "2", "3"]
    assert await dead(db) == {}


async def test_a_bus_that_is_away_is_waited_for(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    await put(bus, "1")
    bus.away = True

    async def come_back() -> None:
        await asyncio.sleep(0.3)
        bus.away = False

    async with asyncio.TaskGroup() as group:
        group.create_task(come_back())
        group.create_task(work(db, bus, ledger))
    assert await seen(db) == ["1"]


async def test_a_record_that_kills_the_process_is_found_and_no_other_is_given_up(
    db: Database, ledger: Ledger
) -> None:
    bus = MemoryBus(partitions=3, lease_seconds=0.05)
    orders = [str(n) for n in range(12)]
    await put(bus, *orders[:7], "killer", *orders[7:])
    ledger.fails = lambda order: Killed() if order == "killer" else None
    starts = 0
    while len(await seen(db)) < len(orders):
        starts += 1
        assert starts <= 8
        await die(db, bus, ledger)
        await asyncio.sleep(0.06)  # the dead member's lease
    await work(db, bus, ledger)
    assert sorted(await seen(db)) == sorted(orders)
    assert await dead(db) == {"demo:killer": "crash"}
    assert ledger.batches.count(["killer"]) == 2


async def test_a_process_killed_often_from_outside_gives_no_record_up(
    db: Database, ledger: Ledger
) -> None:
    bus = MemoryBus(partitions=2, lease_seconds=0.05)
    orders = [str(n) for n in range(6)]
    await put(bus, *orders)
    kills = [Killed() for _ in range(3)]
    ledger.fails = lambda _: kills.pop() if kills else None
    for _ in range(3):
        await die(db, bus, ledger)
        await asyncio.sleep(0.06)
    await work(db, bus, ledger)
    assert sorted(await seen(db)) == orders
    assert await dead(db) == {}


async def test_an_error_that_passes_never_makes_a_record_a_suspect(
    db: Database, ledger: Ledger
) -> None:
    bus = MemoryBus(partitions=1, lease_seconds=0.05)
    await put(bus, "1", "2")
    ledger.fails = lambda _: Killed()
    for _ in range(3):
        await die(db, bus, ledger)
        await asyncio.sleep(0.06)
    left = [Retry("away")] * 4
    ledger.fails = lambda _: left.pop() if left else None
    await work(db, bus, ledger)
    assert await seen(db) == ["1", "2"]
    assert await dead(db) == {}


# ---------------------------------------------------------------- replay


async def bury_one(db: Database, bus: MemoryBus, ledger: Ledger) -> int:
    ledger.fails = lambda _: GiveUp("not yet")
    await put(bus, "late")
    await work(db, bus, ledger)
    ledger.fails = lambda _: None
    return int(await db.fetchval("select id from dead_event"))


async def state_of(db: Database, dead_id: int) -> str:
    return str(await db.fetchval("select state from dead_event where id = $1", dead_id))


async def test_a_dead_event_is_replayed_once_even_by_two_at_once(
    open_database: Open, db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    dead_id = await bury_one(db, bus, ledger)
    other = await open_database()
    consumers = [Consumer(d, bus, "me", ["orders"], ledger) for d in (db, other)]
    done = await asyncio.gather(*(c.replay(dead_id) for c in consumers))
    assert sorted(done) == [False, True]
    assert await seen(db) == ["late"]
    assert await state_of(db, dead_id) == "replayed"
    assert not await consumers[0].replay(dead_id)


async def test_a_dead_event_that_fails_again_stays_open(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    dead_id = await bury_one(db, bus, ledger)
    ledger.fails = lambda _: GiveUp("still not")
    with pytest.raises(GiveUp):
        await Consumer(db, bus, "me", ["orders"], ledger).replay(dead_id)
    assert await state_of(db, dead_id) == "open"
    assert await seen(db) == []


async def test_a_dead_event_that_was_handled_in_another_way_is_not_handled_again(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    same = event(placed("late"))
    ledger.fails = lambda _: GiveUp("not yet")
    await put(bus, same)
    await work(db, bus, ledger)
    ledger.fails = lambda _: None
    await put(bus, same)
    await work(db, bus, ledger)
    dead_id = int(await db.fetchval("select id from dead_event"))
    assert await Consumer(db, bus, "me", ["orders"], ledger).replay(dead_id)
    assert await seen(db) == ["late"]


async def test_a_replay_of_an_erased_or_foreign_dead_event_is_refused(
    db: Database, bus: MemoryBus, ledger: Ledger
) -> None:
    dead_id = await bury_one(db, bus, ledger)
    consumer = Consumer(db, bus, "me", ["orders"], ledger)
    await db.execute("update dead_event set consumer = 'relay'")
    assert not await consumer.replay(dead_id)
    await db.execute("update dead_event set consumer = 'me', value = null")
    with pytest.raises(Malformed, match="erased"):
        await consumer.replay(dead_id)
    assert not await consumer.replay(12345)


async def test_two_members_share_the_work_and_nothing_is_handled_twice(
    open_database: Open, db: Database, ledger: Ledger
) -> None:
    bus = MemoryBus(partitions=4, lease_seconds=5)
    other = await open_database()
    ids = [str(uuid4())[:8] for _ in range(60)]
    await put(bus, *ids[:30])
    async with asyncio.TaskGroup() as group:
        group.create_task(work(db, bus, ledger))
        group.create_task(work(other, bus, ledger))
        await put(bus, *ids[30:])
    assert sorted(await seen(db)) == sorted(ids)
