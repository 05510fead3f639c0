import asyncio
import threading
import time

import pytest

from shared.life import STUCK_EXIT_CODE, Life, within


async def test_sleep_ends_early_when_the_process_is_to_stop() -> None:
    life = Life()
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(life.sleep(30))
        await asyncio.sleep(0)
        life.stopping.set()
    assert time.monotonic() - began < 5


async def test_waiting_for_an_event_ends_after_the_given_time() -> None:
    life = Life()
    await life.wait(asyncio.Event(), 0.01)
    event = asyncio.Event()
    event.set()
    await life.wait(event, 30)


async def test_work_that_will_not_be_cancelled_is_not_waited_for_either() -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await released.wait()
            raise ConnectionResetError from None

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await within(0.01, stubborn())
    assert time.monotonic() - began < 5
    released.set()
    await asyncio.sleep(0.01)


async def test_work_that_ends_in_time_gives_its_result_or_its_error() -> None:
    async def fail() -> None:
        raise ConnectionResetError

    assert await within(30, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ConnectionResetError):
        await within(30, fail())


def test_a_loop_that_stopped_turning_is_named_and_one_that_ended_is_not() -> None:
    life = Life(stuck_seconds=0.02)
    life.turned("relay")
    life.turned("done")
    life.ended("done")
    life.ended("never began")
    assert life.stuck() is None
    time.sleep(0.05)
    assert life.stuck() == "relay"
    life.turned("relay")
    assert life.stuck() is None


def test_the_watchdog_ends_the_process_although_the_event_loop_is_blocked() -> None:
    life = Life(stuck_seconds=0.04)
    died = threading.Event()
    codes: list[int] = []

    def die(code: int) -> None:
        codes.append(code)
        died.set()

    life.turned("consumer")
    life.watch(die=die)
    assert died.wait(5)
    assert codes == [STUCK_EXIT_CODE]
