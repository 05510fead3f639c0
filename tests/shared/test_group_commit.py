import asyncio
from collections.abc import Sequence

import pytest

from shared.group_commit import GroupCommit
from shared.life import Life


class Work:
    """Doubles numbers; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        await self.gate.wait()
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("thirteen")
        if 99 in items:
            raise ConnectionResetError("away")
        return [KeyError("seven") if n == 7 else 2 * n for n in items]


async def test_results_come_back_to_their_submitters_in_few_batches() -> None:
    work, life = Work(), Life()
    group = GroupCommit(work, size_max=50)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(group.run(life))
        results = await asyncio.gather(*(group.submit(n) for n in range(100, 220)))
        life.closing.set()
    assert results == [2 * n for n in range(100, 220)]
    assert [len(b) for b in work.batches] == [50, 50, 20]
    assert [n for b in work.batches for n in b] == list(range(100, 220))


async def test_an_exception_among_the_results_is_raised_at_its_submitter_only() -> None:
    life = Life()
    group = GroupCommit(Work())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(group.run(life))
        results = await asyncio.gather(
            *(group.submit(n) for n in (6, 7, 8)), return_exceptions=True
        )
        life.closing.set()
    assert (results[0], results[2]) == (12, 16)
    assert isinstance(results[1], KeyError)


async def test_when_the_work_raises_the_requests_are_tried_one_by_one() -> None:
    work, life = Work(), Life()
    group = GroupCommit(work)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(group.run(life))
        results = await asyncio.gather(
            *(group.submit(n) for n in (12, 13, 14)), return_exceptions=True
        )
        life.closing.set()
    assert (results[0], results[2]) == (24, 28)
    assert isinstance(results[1], ValueError)
    assert work.batches == [[12, 13, 14], [12], [13], [14]]


async def test_what_passes_by_itself_is_told_to_all_at_once() -> None:
    work, life = Work(), Life()
    group = GroupCommit(work)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(group.run(life))
        results = await asyncio.gather(*(group.submit(n) for n in (98, 99)), return_exceptions=True)
        life.closing.set()
    assert [type(r) for r in results] == [ConnectionResetError] * 2
    assert len(work.batches) == 1


async def test_a_submitter_that_went_away_does_not_disturb_the_others() -> None:
    work, life = Work(), Life()
    group = GroupCommit(work)
    work.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(group.run(life))
        gone = tasks.create_task(group.submit(1))
        stays = tasks.create_task(group.submit(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        assert await stays == 4
        life.closing.set()
    assert gone.cancelled()
    assert work.batches == [[1, 2]]


async def test_what_waits_is_finished_when_the_process_closes() -> None:
    work, life = Work(), Life()
    group = GroupCommit(work, size_max=3)
    waiting = [group.enqueue(n) for n in range(20, 30)]
    life.closing.set()
    await group.run(life)
    assert [f.result() for f in waiting] == [2 * n for n in range(20, 30)]


async def test_it_ends_when_the_process_closes_and_nothing_waits() -> None:
    life = Life()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(GroupCommit(Work()).run(life))
        await asyncio.sleep(0.01)
        life.closing.set()


async def test_requests_that_come_during_a_commit_share_the_next_one() -> None:
    work, life = Work(), Life()
    group = GroupCommit(work)
    work.gate.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(group.run(life))
        first = group.enqueue(1)
        await asyncio.sleep(0.01)
        rest = [group.enqueue(n) for n in (2, 3, 4)]
        work.gate.set()
        await asyncio.gather(first, *rest)
        life.closing.set()
    assert work.batches == [[1], [2, 3, 4]]


async def test_a_bug_in_the_work_ends_the_loop() -> None:
    async def too_few(items: Sequence[int]) -> list[int | Exception]:
        return []

    group = GroupCommit(too_few)
    group.enqueue(1)
    with pytest.raises(ValueError, match="zip"):
        await group.run(Life())
