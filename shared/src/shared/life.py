"""The life of a process: when it is to stop, the proof that its loops still turn, and when to give up waiting."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

STUCK_EXIT_CODE = 70
log = structlog.get_logger(__name__)

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what work returns; TimeoutError when that takes longer, however long it takes to give up.

    A query whose server hangs asks that server to cancel it and waits for the answer, so that a plain
    `asyncio.timeout` lasts many times as long.
    """
    doing = asyncio.create_task(work)  # noqa: TID251 - its outcome is returned, or too late for anybody
    try:
        await asyncio.wait({doing}, timeout=seconds)
        if doing.done():
            return doing.result()
        raise TimeoutError
    finally:
        doing.cancel()
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())


class Life:
    """Shared by all loops of a process.

    A loop calls `turned` at each turn. A watchdog thread ends the process when one has not turned for
    `stuck_seconds`: a client library that hangs, or an event loop that is blocked, is cured by a restart.
    """

    def __init__(self, *, stuck_seconds: float = 120) -> None:
        self.stopping = asyncio.Event()  # take no new work
        self.closing = asyncio.Event()  # all work is done: what served it may end too
        self._turns: dict[str, float] = {}
        self._stuck_seconds = stuck_seconds

    def turned(self, name: str) -> None:
        """Note that this loop is alive."""
        self._turns[name] = time.monotonic()

    def ended(self, name: str) -> None:
        """Note that this loop ended as it should and is not to be watched."""
        self._turns.pop(name, None)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until the process is to stop."""
        await self.wait(self.stopping, seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, at most so many seconds."""
        if event.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass

    async def unless_stopping(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do this, or as much of it as there is time for until the process is to stop: then return None."""
        return await _unless(self.stopping, work)

    async def unless_closing(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do this, or as much of it as there is time for until the process closes: then return None."""
        return await _unless(self.closing, work)

    def stuck(self) -> str | None:
        """Return the name of a loop that has not turned in time."""
        limit = time.monotonic() - self._stuck_seconds
        return next((n for n, at in list(self._turns.items()) if at < limit), None)

    def watch(self, *, die: Callable[[int], object] = os._exit) -> None:
        """Start the watchdog, as a thread: a blocked event loop could not watch itself."""

        def guard() -> None:
            while True:
                time.sleep(min(5, self._stuck_seconds / 4))
                if (name := self.stuck()) is not None:
                    log.error("loop_is_stuck", loop=name, seconds=self._stuck_seconds)
                    die(STUCK_EXIT_CODE)
                    return

        threading.Thread(target=guard, name="watchdog", daemon=True).start()


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    try:
        async with asyncio.TaskGroup() as group:
            doing = group.create_task(work)
            ends = group.create_task(event.wait())
            await asyncio.wait([doing, ends], return_when=asyncio.FIRST_COMPLETED)
            doing.cancel()
            ends.cancel()
    except ExceptionGroup as failed:  # only the work can fail
        raise failed.exceptions[0] from None
    return None if doing.cancelled() else doing.result()
