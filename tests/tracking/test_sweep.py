"""Time passes: what comes due is looked at once, by one of several processes."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from shared import failpoints
from shared.clock import now
from shared.testing import placed
from tracking.domain.profile import Profile
from tracking.handlers import LEARN_MAX
from tracking.sweep import Sweep

from .conftest import Front, Starter, order_events, scan, states


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.05)


def promised(order_id: str, days: int) -> Any:
    """An order that nothing was heard of, promised for a day."""
    day = str(now().date() + timedelta(days=days))
    return placed(order_id, promise={"from": day, "to": day})


async def test_an_order_that_is_not_sent_is_told_late_before_its_day_ends(
    start: Starter, tracking_url: str
) -> None:
    async with start(tracking_url, day_seconds=0.5) as made:  # with its loops
        await made.hear(promised("1", 2))

        async def told() -> bool:
            return "shipment.delayed.v1" in await made.told()

        await until(told)
        kinds = Counter(await made.told())
        assert kinds["shipment.delayed.v1"] == 1
        (body,) = [b for t, b in await made.published() if t == "shipment.delayed.v1"]
        assert body["cause"] == "not_shipped"
        assert await made.db.fetchval("select open from orders") == ["not_shipped/"]


async def test_the_word_that_we_write_again_is_kept(start: Starter, tracking_url: str) -> None:
    async with start(tracking_url, day_seconds=0.3) as made:
        await made.hear(promised("1", 2))

        async def told() -> bool:
            return (await made.told()).count("shipment.delay_update.v1") == 2

        await until(told)
        assert (await made.told())[0] == "shipment.delayed.v1"


async def test_several_processes_share_what_is_due_and_tell_it_once(
    start: Starter, tracking_url: str
) -> None:
    orders = [promised(str(n), 1) for n in range(40)]
    async with (
        start(tracking_url, loops=False, day_seconds=0.5) as one,
        start(tracking_url, loops=False, day_seconds=0.5) as two,
    ):
        await one.hear(*orders)
        swept: Counter[str] = Counter()

        async def sweep(name: str, front: Front) -> None:
            for _ in range(60):
                swept[name] += await front.tracking.sweep(5)
                await asyncio.sleep(0.02)

        await asyncio.gather(sweep("one", one), sweep("two", two))
        told = [b for t, b in await one.published() if t == "shipment.delayed.v1"]
        first = [b["order_id"] for b in told if b["episode"] == 1]  # slow ones come to a second
        assert sorted(first, key=int) == [str(n) for n in range(40)]
        assert min(swept.values()) > 0


async def test_nothing_due_is_nothing_done(still: Front) -> None:
    await still.hear(*order_events())
    assert await still.tracking.sweep() == 0
    assert await still.told() == []


async def test_a_check_that_says_nothing_is_put_into_the_future(still: Front) -> None:
    await still.hear(*order_events())
    await still.make_due()
    assert await still.tracking.sweep() == 1
    assert await still.tracking.sweep() == 0
    assert await still.db.fetchval("select check_at from orders") > now()


async def test_an_order_that_cannot_be_folded_does_not_stop_the_others(still: Front) -> None:
    await still.hear(*order_events("1", "A1"), promised("2", 3))
    await still.db.execute(
        "update orders set told = jsonb_set(told, '{episodes}', '7') where order_id = '1'"
    )
    await still.make_due()
    assert await still.tracking.sweep() == 2
    rows = await still.db.fetch("select order_id, check_at, told from orders order by order_id")
    assert rows[0]["check_at"] > now() + timedelta(minutes=50)
    assert orjson.loads(rows[0]["told"])["episodes"] == 7
    assert rows[1]["check_at"] > now()


async def test_a_check_set_behind_the_ones_swept_last_is_found(still: Front) -> None:
    await still.hear(*(promised(str(n), 3) for n in range(6)))
    await still.make_due()
    assert await still.tracking.sweep(3) == 3  # the next looks only at what is not much older
    await still.db.execute(
        "update orders set check_at = now() - interval '1 day' where order_id = any($1::text[])",
        [r["order_id"] for r in await still.db.fetch("select order_id from orders limit 2")],
    )
    for _ in range(4):
        await still.tracking.sweep(3)
    late = "select count(*) from orders where check_at <= now()"
    assert await still.db.fetchval(late) == 0


async def test_a_sweep_that_fails_before_its_commit_tells_later_and_once(
    start: Starter, tracking_url: str
) -> None:
    async with start(tracking_url, loops=False, day_seconds=0.5) as made:
        await made.hear(promised("1", 1))
        try:
            failpoints.arm("sw.before_commit=raise")
            with pytest.raises(RuntimeError):
                await until(made.tracking.sweep)
            assert await made.told() == []
            failpoints.arm("sw.after_commit=raise")
            with pytest.raises(RuntimeError):
                await made.tracking.sweep()
        finally:
            failpoints.arm("")
        await made.tracking.sweep()
        assert (await made.told()).count("shipment.delayed.v1") <= 1

        async def told() -> bool:
            await made.tracking.sweep()
            return "shipment.delayed.v1" in await made.told()

        await until(told)
        assert (await made.told()).count("shipment.delayed.v1") == 1


async def test_an_order_of_a_shop_that_is_gone_is_left_alone(still: Front) -> None:
    await still.hear(promised("1", 3))
    await still.db.execute("update orders set shop = 'gone'")
    await still.make_due()
    assert await still.tracking.sweep() == 1
    assert await still.db.fetchval("select check_at from orders") is None


async def test_a_sweep_does_not_make_an_order_younger(still: Front) -> None:
    await still.hear(promised("1", 3))
    before = await still.db.fetchval("select updated_at from orders")
    await still.make_due()
    await still.tracking.sweep()
    assert await still.db.fetchval("select updated_at from orders") == before


# ---------------------------------------------------------------- learning


def arrived(body: str) -> int:
    lanes = Profile.load(body).dump()
    return int(lanes["domestic"]["arrived"] + lanes["abroad"]["arrived"])


async def test_a_carriers_profile_learns_each_delivery_once(still: Front) -> None:
    await still.hear(*order_events("1", "A1"), *order_events("2", "A2"))
    await still.take(scan("in_transit", "A1", ago=6), scan("delivered", "A1"))
    assert await still.tracking.learn() == 1
    assert await still.tracking.learn() == 0
    await still.take(scan("in_transit", "A1", ago=5), scan("delivered", "A2"))
    assert await still.tracking.learn() == 1
    body = await still.db.fetchval("select body from profile where carrier = 'posta-slovenije'")
    assert arrived(body) == 2


async def test_two_processes_that_learn_at_once_lose_nothing(
    start: Starter, tracking_url: str
) -> None:
    async with (
        start(tracking_url, loops=False) as one,
        start(tracking_url, loops=False) as two,
    ):
        for n in range(12):
            await one.hear(*order_events(str(n), f"A{n}"))
            await one.take(scan("delivered", f"A{n}"))
        counts = await asyncio.gather(
            *(front.tracking.learn(2) for _ in range(4) for front in (one, two))
        )
        assert sum(counts) == 12
        body = await one.db.fetchval("select body from profile where carrier = 'posta-slovenije'")
        assert arrived(body) == 12


async def test_the_loop_learns_too_and_stops_when_told(start: Starter, tracking_url: str) -> None:
    async with start(tracking_url, loops=False) as made:
        await made.hear(*order_events())
        await made.take(scan("delivered"))
    async with start(tracking_url) as made:
        await until(lambda: made.db.fetchval("select count(*) from profile"))


@pytest.mark.parametrize("limit", [1, 3])
async def test_a_full_sweep_says_that_there_is_more(still: Front, limit: int) -> None:
    await still.hear(*(promised(str(n), 3) for n in range(2)))
    await still.make_due()
    assert await Sweep(still.tracking, limit=limit).step() is (limit == 1)


async def test_states_are_told_in_the_sweep_as_elsewhere(still: Front) -> None:
    await still.hear(*order_events())
    await still.take(scan("in_transit", ago=2))
    await still.make_due()
    await still.tracking.sweep()
    assert states(await still.published()) == ["in_transit"]


async def test_an_order_that_cannot_be_learned_from_does_not_stop_the_others(still: Front) -> None:
    for n in ("1", "2"):
        await still.hear(*order_events(n, f"A{n}"))
        await still.take(scan("delivered", f"A{n}"))
    await still.db.execute(
        "update orders set told = jsonb_set(told, '{learned}', '7') where order_id = '1'"
    )
    assert await still.tracking.learn() == 2
    assert await still.tracking.learn() == 0
    body = await still.db.fetchval("select body from profile where carrier = 'posta-slovenije'")
    assert arrived(body) == 1


async def test_learning_takes_few_orders_at_once_and_leaves_others_a_turn_after_each(
    still: Front,
) -> None:
    for n in range(LEARN_MAX + 1):
        await still.hear(*order_events(str(n), f"A{n}"))
        await still.take(scan("delivered", f"A{n}"))
    await still.db.execute("update orders set told = jsonb_set(told, '{learned}', '7')")
    seen = set()
    learned = asyncio.Event()

    async def others() -> None:
        while not learned.is_set():
            seen.add(len(logs))
            await asyncio.sleep(0)

    with capture_logs() as logs:  # each order that teaches nothing says so
        async with asyncio.TaskGroup() as group:
            group.create_task(others())
            assert await still.tracking.learn() == LEARN_MAX
            learned.set()
    assert seen == set(range(LEARN_MAX + 1))
    sweep = Sweep(still.tracking)
    assert await sweep.step()  # there is more to learn, and the loop comes round before it
    assert not await sweep.step()


# ---------------------------------------------------------------- two sweeps at once


async def test_a_sweep_that_fails_beside_another_leaves_nothing_unseen(still: Front) -> None:
    await still.hear(*(promised(str(n), 3) for n in range(8)))
    await still.db.execute(
        """update orders set check_at = now() - interval '1 hour' * (9 - order_id::int)
           where order_id::int < 8"""
    )
    try:
        failpoints.arm("sw.before_commit=raise@n=1")
        done = await asyncio.gather(
            still.tracking.sweep(2), still.tracking.sweep(2), return_exceptions=True
        )
    finally:
        failpoints.arm("")
    assert sorted(str(one) for one in done) == ["2", "failpoint sw.before_commit"]
    oldest = "select order_id from orders order by check_at limit 2"
    left = {row["order_id"] for row in await still.db.fetch(oldest)}
    assert await still.tracking.sweep(2) == 2
    assert left.isdisjoint({row["order_id"] for row in await still.db.fetch(oldest)})


async def test_the_lower_of_two_sweeps_at_once_says_where_the_next_begins(still: Front) -> None:
    await still.hear(*(promised(str(n), 3) for n in range(8)))
    await still.make_due()
    await still.db.execute(
        "update orders set check_at = check_at - interval '1 day' where order_id::int < 2"
    )
    old = await still.db.fetchval("select max(check_at) from orders where order_id::int < 2")
    assert await asyncio.gather(still.tracking.sweep(2), still.tracking.sweep(2)) == [2, 2]
    assert still.tracking._watermark.at is not None
    assert still.tracking._watermark.at <= old
