import asyncio
from collections import defaultdict
from collections.abc import Sequence

import pytest

from shared.bus import VALUE_BYTES_MAX
from shared.errors import BusUnavailable
from shared.events import Event, Record
from shared.life import Life
from shared.relay import Relay
from shared.store import Database, Tx
from shared.testing import MemoryBus, event, placed

from .conftest import Open


async def publish(db: Database, *events: Event) -> None:
    async with db.transaction() as tx:
        await tx.publish(events)


def keys(bus: MemoryBus) -> list[str]:
    return [r.key for r in bus.records("orders")]


async def waiting(db: Database) -> int:
    return int(await db.fetchval("select count(*) from outbox_unpublished"))


async def test_events_reach_the_bus_in_the_order_of_the_outbox(db: Database) -> None:
    bus = MemoryBus(partitions=1)
    await publish(db, *(event(placed(str(n))) for n in range(20)))
    assert await Relay(db, bus).publish_batch() == 20
    assert keys(bus) == [f"demo:{n}" for n in range(20)]
    assert await Relay(db, bus).publish_batch() == 0


async def test_a_slow_transaction_with_a_low_number_is_not_skipped(open_database: Open) -> None:
    slow, fast = await open_database(), await open_database()
    bus = MemoryBus(partitions=1)
    relay = Relay(fast, bus)
    async with slow.transaction() as tx:
        await tx.publish([event(placed("slow"))])
        await publish(fast, event(placed("fast")))
        assert await relay.publish_batch() == 1
    assert await relay.publish_batch() == 1
    assert keys(bus) == ["demo:fast", "demo:slow"]


async def test_a_record_that_the_bus_refuses_becomes_a_dead_event_and_the_rest_moves_on(
    db: Database,
) -> None:
    bus = MemoryBus(partitions=1)
    await publish(db, *(event(placed(name)) for name in ("a", "large", "b")))
    large = b"x" * (VALUE_BYTES_MAX + 1)
    await db.execute("update outbox set value = $1 where key = 'demo:large'", large)
    await Relay(db, bus).publish_batch()
    assert keys(bus) == ["demo:a", "demo:b"]
    dead = await db.fetchrow("select key, error_class, error_text, value from dead_event")
    assert (dead["key"], dead["error_class"], dead["value"]) == (
        "demo:large",
        "refused_by_bus",
        large,
    )
    assert "bytes" in dead["error_text"]
    assert await waiting(db) == 0


async def test_while_the_bus_is_away_nothing_is_marked(db: Database) -> None:
    bus = MemoryBus()
    bus.away = True
    await publish(db, event(placed()))
    relay = Relay(db, bus)
    with pytest.raises(BusUnavailable):
        await relay.publish_batch()
    assert await waiting(db) == 1
    assert 0 <= await relay.oldest_seconds() < 60
    bus.away = False
    assert await relay.publish_batch() == 1
    assert await relay.oldest_seconds() == 0


class SlowBus(MemoryBus):
    async def publish(self, tx: Tx | None, records: Sequence[Record]) -> dict[int, str]:
        await asyncio.sleep(0.005)
        return await super().publish(tx, records)


async def test_two_relays_at_once_publish_each_event_once_and_in_order(
    open_database: Open,
) -> None:
    bus = SlowBus(partitions=1)
    life = Life()
    one, other = await open_database(), await open_database()
    async with asyncio.TaskGroup() as group:
        for db in (one, other):
            group.create_task(Relay(db, bus).run(life))
        for n in range(40):
            await publish(one, *(event(placed(f"{n}-{k}")) for k in range(5)))
        async with asyncio.timeout(20):
            while await waiting(one):
                await asyncio.sleep(0.02)
        life.stopping.set()
    assert keys(bus) == [f"demo:{n}-{k}" for n in range(40) for k in range(5)]


async def test_the_loop_waits_for_a_bus_that_is_away_and_goes_on_when_it_is_back(
    db: Database,
) -> None:
    bus = MemoryBus(partitions=1)
    bus.away = True
    life = Life()
    relay = Relay(db, bus)
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.run(life))
        await publish(db, event(placed("a")), event(placed("b")))
        relay.wake()
        await asyncio.sleep(0.2)
        assert keys(bus) == []
        bus.away = False
        async with asyncio.timeout(5):
            while await waiting(db):
                await asyncio.sleep(0.02)
        life.stopping.set()
    assert keys(bus) == ["demo:a", "demo:b"]
    assert life.stuck() is None


async def test_events_of_one_order_stay_in_order_whatever_fails_between(db: Database) -> None:
    class Flaky(MemoryBus):
        calls = 0

        async def publish(self, tx: Tx | None, records: Sequence[Record]) -> dict[int, str]:
            refused = await super().publish(tx, records)
            self.calls += 1
            if self.calls % 2:
                raise BusUnavailable("no answer, although it was stored")
            return refused

    bus = Flaky(partitions=3)
    events = [event(placed(str(n % 4), number=str(n))) for n in range(40)]
    await publish(db, *events)
    relay = Relay(db, bus)
    for _ in range(2):
        try:
            await relay.publish_batch()
        except BusUnavailable:
            continue
    told: dict[str, list[Record]] = defaultdict(list)
    for record in bus.records("orders"):
        told[record.key].append(record)
    for key, records in told.items():
        first_copies = list(dict.fromkeys(dict(r.headers)["ce_id"] for r in records))
        assert first_copies == [str(e.id).encode() for e in events if e.key == key]
