"""What every bus must do: the same tests on the fake, on Postgres and on Kafka."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from shared.bus import VALUE_BYTES_MAX, Bus, Subscription
from shared.errors import BusUnavailable
from shared.events import Record
from shared.store import is_transient

from .conftest import PARTITIONS, Rig

PATIENCE_SECONDS = 40.0


def record(topic: str, key: str, value: bytes) -> Record:
    return Record(topic, key, (("ce_id", value), ("ce_type", b"order.placed.v1")), value)


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [r.value for r in records]


async def read(subscription: Subscription, number: int, *, batch: int = 100) -> list[Record]:
    """Poll until so many records came, riding out what passes."""
    found: list[Record] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(found) < number:
            try:
                found += await subscription.poll(min(batch, number - len(found)), 0.2)
            except BusUnavailable:
                await asyncio.sleep(0.1)
    return found


async def held(subscription: Subscription) -> set[tuple[str, int]]:
    await subscription.poll(1, 0.05)
    return set(await subscription.lag())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.02)


async def passes(work: Awaitable[object]) -> bool:
    """Tell whether this call worked; anything but an error that passes is a failure of the test."""
    try:
        await work
    except Exception as error:
        if not isinstance(error, BusUnavailable) and not is_transient(error):
            raise
        return False
    return True


async def fill(rig: Rig, bus: Bus, number: int, *, keys: int = 8) -> list[bytes]:
    """Publish this many records over some keys, in two calls; return their values."""
    records = [record(rig.topics[0], f"demo:{n % keys}", b"%d" % n) for n in range(number)]
    for part in (records[: number // 2], records[number // 2 :]):
        assert await rig.publish(bus, part) == {}
    return [r.value or b"" for r in records]


async def test_records_of_one_key_arrive_in_order(rig: Rig) -> None:
    bus = await rig.process()
    subscription = await bus.subscribe("reader", rig.topics)
    sent = await fill(rig, bus, 300)
    got = await read(subscription, 300, batch=37)
    assert sorted(values(got)) == sorted(sent)
    by_key: dict[str, list[int]] = defaultdict(list)
    places: dict[str, set[int]] = defaultdict(set)
    for r in got:
        by_key[r.key].append(int(r.value or b""))
        places[r.key].add(r.partition)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert all(len(partitions) == 1 for partitions in places.values())


async def test_a_new_group_starts_at_the_earliest_record(rig: Rig) -> None:
    bus = await rig.process()
    sent = await fill(rig, bus, 20)
    for group in ("first", "second"):
        subscription = await bus.subscribe(group, rig.topics)
        assert sorted(values(await read(subscription, 20))) == sorted(sent)


async def test_records_come_back_after_a_crash_before_the_commit(rig: Rig) -> None:
    bus, other = await rig.process(), await rig.process()
    sent = await fill(rig, bus, 40)
    subscription = await bus.subscribe("reader", rig.topics)
    await read(subscription, 40)
    await rig.cut_off(bus)
    successor = await other.subscribe("reader", rig.topics)
    assert sorted(values(await read(successor, 40))) == sorted(sent)


async def test_reading_resumes_at_the_commit_after_a_restart(rig: Rig) -> None:
    bus = await rig.process()
    sent = await fill(rig, bus, 60)
    subscription = await bus.subscribe("reader", rig.topics)
    done = await read(subscription, 25)
    await subscription.commit(done)
    await read(subscription, 10)
    await subscription.close()
    successor = await (await rig.process()).subscribe("reader", rig.topics)
    left = await read(successor, 35)
    assert sorted([*values(done), *values(left)]) == sorted(sent)
    assert await successor.poll(10, 0.3) == []


async def test_rewound_records_are_handed_out_again(rig: Rig) -> None:
    bus = await rig.process()
    await fill(rig, bus, 30)
    subscription = await bus.subscribe("reader", rig.topics)
    done = await read(subscription, 10)
    await subscription.commit(done)
    failed = await read(subscription, 20)
    await subscription.rewind(failed)
    again = await read(subscription, 20)
    assert sorted(values(again)) == sorted(values(failed))
    await subscription.commit(again)
    assert sum((await subscription.lag()).values()) == 0


async def test_members_share_all_partitions_and_take_over_what_a_leaver_held(rig: Rig) -> None:
    bus, other = await rig.process(), await rig.process()
    everything = {(topic, n) for topic in rig.topics for n in range(PARTITIONS)}
    first = await bus.subscribe("reader", rig.topics)
    second = await other.subscribe("reader", rig.topics)

    async def shared() -> bool:
        a, b = await asyncio.gather(held(first), held(second))
        return a | b == everything and not a & b and len(a) == len(b) == PARTITIONS

    await until(shared)
    await second.close()

    async def alone() -> bool:
        return await held(first) == everything

    started = asyncio.get_running_loop().time()
    await until(alone)
    assert asyncio.get_running_loop().time() - started < 5  # told, not found out by a lapsed lease
    sent = await fill(rig, bus, 20)
    assert sorted(values(await read(first, 20))) == sorted(sent)


async def test_two_members_read_every_record_between_them(rig: Rig) -> None:
    bus, other = await rig.process(), await rig.process()
    members = [await b.subscribe("reader", rig.topics) for b in (bus, other)]

    async def balanced() -> bool:
        a, b = await asyncio.gather(*(held(m) for m in members))
        return len(a) == len(b) == PARTITIONS

    await until(balanced)
    sent = await fill(rig, bus, 200, keys=40)
    got: list[list[Record]] = [[], []]

    async def complete() -> bool:
        for n, member in enumerate(members):
            got[n] += await member.poll(50, 0.05)
        return len(got[0]) + len(got[1]) >= len(sent)

    await until(complete)
    assert sorted(values([*got[0], *got[1]])) == sorted(sent)
    assert all(got)


async def test_a_late_commit_of_a_member_that_was_replaced_is_dropped(rig: Rig) -> None:
    bus, other = await rig.process(), await rig.process()
    sent = await fill(rig, bus, 40)
    late = await bus.subscribe("reader", rig.topics)
    seen = await read(late, 40)
    await rig.cut_off(bus)
    successor = await other.subscribe("reader", rig.topics)
    again = await read(successor, 40)
    done = again[:15]
    await successor.commit(done)
    await rig.revive(bus)
    await late.commit(seen)
    await successor.close()
    await late.close()
    third = await (await rig.process()).subscribe("reader", rig.topics)
    left = await read(third, 25)
    assert sorted([*values(done), *values(left)]) == sorted(sent)


async def test_a_record_that_is_no_event_passes_through_as_bytes(rig: Rig) -> None:
    bus = await rig.process()
    odd = [
        Record(rig.topics[0], "k", (("bin", bytes(range(256))), ("", b"")), b"\x00\xff{not json"),
        Record(rig.topics[0], "k", (), b""),
        Record(rig.topics[0], "k", (), None),
        Record(rig.topics[0], "ključ\u2028 😀", (("naïve", b"\x00"),), b"[" * 1000),
    ]
    assert await rig.publish(bus, odd) == {}
    subscription = await bus.subscribe("reader", rig.topics)
    got = await read(subscription, len(odd))
    seen = {(r.key, r.headers, r.value) for r in got}
    assert seen == {(r.key, r.headers, r.value) for r in odd}


async def test_records_refused_for_ever_are_named_and_the_others_stored(rig: Rig) -> None:
    bus = await rig.process()
    topic = rig.topics[0]
    refused = await rig.publish(
        bus,
        [
            record(topic, "k", b"0"),
            record(topic, "k", b"x" * (VALUE_BYTES_MAX + 1)),
            record(topic, "k\x00", b"2"),
            record("no-such-topic", "k", b"3"),
            record(topic, "\ud800", b"4"),
            Record(topic, "k", (("h", b"x" * 40_000),), b"5"),
            Record(topic, "k", (), b"x" * VALUE_BYTES_MAX),
            record(topic, "k", b"7"),
        ],
    )
    assert set(refused) == {1, 2, 3, 4, 5}
    assert all(refused.values())
    got = await read(await bus.subscribe("reader", rig.topics), 3)
    assert values(got) == [b"0", b"x" * VALUE_BYTES_MAX, b"7"]


async def test_lag_counts_what_this_member_has_not_read(rig: Rig) -> None:
    bus = await rig.process()
    subscription = await bus.subscribe("reader", rig.topics)
    await held(subscription)
    await fill(rig, bus, 30)
    await read(subscription, 12)
    assert sum((await subscription.lag()).values()) == 18


async def test_an_erased_key_keeps_its_place_and_loses_its_body(rig: Rig) -> None:
    bus = await rig.process()
    await fill(rig, bus, 16)
    await rig.erase(bus, ["demo:3", "demo:5"])
    got = await read(await bus.subscribe("reader", rig.topics), 16)
    blank = {r.key for r in got if r.value is None}
    assert blank == ({"demo:3", "demo:5"} if rig.can_erase else set())
    assert all(r.headers for r in got)


async def test_what_stands_in_other_topics_than_the_named_ones_is_not_erased(rig: Rig) -> None:
    bus = await rig.process()
    mine, other = rig.topics[:2]
    await rig.publish(bus, [record(topic, "demo:1", b"x") for topic in (mine, other)])
    await rig.erase(bus, ["demo:1"], [mine])
    got = await read(await bus.subscribe("reader", rig.topics), 2)
    assert {r.topic for r in got if r.value is None} == ({mine} if rig.can_erase else set())
    assert {r.topic for r in got if r.value is not None} >= {other}


async def test_everything_goes_on_after_the_other_side_was_away(rig: Rig) -> None:
    bus = await rig.process()
    subscription = await bus.subscribe("reader", rig.topics)
    sent = await fill(rig, bus, 20)
    done = await read(subscription, 20)
    await subscription.commit(done)
    await rig.take_away()
    batch = [record(rig.topics[0], f"demo:{n}", b"after %d" % n) for n in range(20)]
    for _ in range(2):
        assert not await passes(rig.publish(bus, batch))
        assert not await passes(bus.ready())
        await passes(subscription.poll(10, 0.1))  # a broker's client may wait instead of failing
    await rig.bring_back()

    await until(lambda: passes(rig.publish(bus, batch)))
    wanted = {r.value for r in batch}
    got: set[bytes | None] = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not wanted <= got:
            got |= set(values(await read(subscription, 1)))
    assert got - wanted <= set(sent)
    await bus.ready()


async def test_a_closed_subscription_reads_no_more(rig: Rig) -> None:
    bus = await rig.process()
    subscription = await bus.subscribe("reader", rig.topics)
    await subscription.poll(1, 0.05)
    await subscription.close()
    await subscription.close()
    try:
        await subscription.poll(1, 0.05)
    except BusUnavailable:
        return
    raise AssertionError
