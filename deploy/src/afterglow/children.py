"""Keeps child processes running: prefixed output, restart with backoff, an orderly end."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from afterglow.guardian import Guardian
from shared.errors import AfterglowError

BACKOFF_SECONDS = 0.25
BACKOFF_SECONDS_MAX = 15.0
LIVED_LONG_SECONDS = 30.0
FAILED_STARTS_MAX = 3
STOP_SECONDS = 30.0
_LINE_LIMIT = 4 * 1024 * 1024

Say = Callable[[str, str], None]
"""Takes a source's name and one line of what it says."""


class RunnerError(AfterglowError):
    """The runner cannot go on; the message is one line for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: a name for people, the command, and the whole environment it gets."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass
class Child:
    """One program and the process that runs it at the moment."""

    program: Program
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    last_line: str = ""

    def signal(self, number: signal.Signals) -> None:
        """Signal the process and whatever it started."""
        if self.process and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


class Children:
    """The running children, in the order of starting. Make one with `supervised()`."""

    def __init__(self, guardian: Guardian, say: Say, group: asyncio.TaskGroup) -> None:
        self._guardian = guardian
        self._say = say
        self._group = group
        self._all: list[Child] = []

    def add(self, program: Program) -> Child:
        """Start a program and keep it running until `stop()`."""
        child = Child(program)
        self._all.append(child)
        self._group.create_task(self._keep(child))
        return child

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Ask the children to end, the last started first, each before the next; `hurry` kills."""
        for child in reversed(self._all):
            child.stopping.set()
            child.signal(signal.SIGTERM)
            await self._wait_or_kill(child, hurry or asyncio.Event())
        self._all.clear()

    async def _wait_or_kill(self, child: Child, hurry: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(event.wait()) for event in (child.ended, hurry)]
            await asyncio.wait(waits, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        if not child.ended.is_set():
            self._say(child.program.name, "does not end in time and is killed")
            child.signal(signal.SIGKILL)
            await child.ended.wait()

    async def _keep(self, child: Child) -> None:
        """Run the program again and again until it is to stop, or has never come up."""
        backoff, failures = BACKOFF_SECONDS, 0
        try:
            while not child.stopping.is_set():
                began = time.monotonic()
                code = await self._run_once(child)
                if child.stopping.is_set():
                    return
                lived = time.monotonic() - began
                if lived > LIVED_LONG_SECONDS:
                    backoff = BACKOFF_SECONDS
                failures += 1
                hopeless = code == os.EX_CONFIG or failures >= FAILED_STARTS_MAX
                if not child.ready.is_set() and hopeless:
                    return
                how = f"signal {-code}" if code < 0 else f"code {code}"
                self._say(child.program.name, f"ended ({how}), starts again in {backoff:g} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(child.stopping.wait(), backoff)
                backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)
        finally:
            child.ended.set()

    async def _run_once(self, child: Child) -> int:
        program = child.program
        process = await asyncio.create_subprocess_exec(
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=program.environment,
            limit=_LINE_LIMIT,
            # its own session: Ctrl-C on the terminal reaches only the runner, which ends them in order
            start_new_session=True,
        )
        child.process = process
        child.starts += 1
        self._guardian.watch(process.pid)
        try:
            if child.stopping.is_set():  # asked to stop while it was being started
                child.signal(signal.SIGTERM)
            await self._pass_on(child, process)
            return await process.wait()
        finally:
            if process.returncode is None:
                child.signal(signal.SIGKILL)
                await process.wait()
            self._guardian.forget(process.pid)

    async def _pass_on(self, child: Child, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line over the limit; the reader has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text:
                child.last_line = text
                self._say(child.program.name, text)


@contextlib.asynccontextmanager
async def supervised(
    guardian: Guardian, say: Say, hurry: asyncio.Event | None = None
) -> AsyncIterator[Children]:
    """Give a `Children`; on leaving, however it comes about, none of them is left."""
    async with asyncio.TaskGroup() as group:
        children = Children(guardian, say, group)
        try:
            yield children
        finally:
            await children.stop(hurry)
