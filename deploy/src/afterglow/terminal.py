"""What a person at the terminal sees and types: prefixed lines, a log file, Ctrl-C."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import IO, ParamSpec, Self

import typer

from shared.errors import AfterglowError

_COLOURS = ("36", "33", "35", "32", "34", "31")
_NAME_WIDTH = 12
_EXIT_INTERRUPTED = 130

P = ParamSpec("P")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(AfterglowError):
    """Somebody pressed Ctrl-C or sent SIGTERM, and everything has been stopped."""


class PrefixedOutput:
    """Writes each line behind the name of who said it, in colour on a terminal."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._colours: dict[str, str] = {}

    def __call__(self, name: str, line: str) -> None:
        """Write one line."""
        label = f"{name:<{_NAME_WIDTH}} |"
        if self._out.isatty():
            colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
            label = f"\x1b[{colour}m{label}\x1b[0m"
        try:
            self._out.write(f"{label} {line}\n")
            self._out.flush()
        except (BrokenPipeError, ValueError):
            return  # whoever read the output is gone; the services go on


class LogFile:
    """Writes the same lines to a file, for when the terminal shows something better."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open(
            "a", encoding="utf-8"
        )  # the log of a crash must outlive the next start
        self.say = PrefixedOutput(self._file)

    def tail(self, lines: int) -> list[str]:
        """Return the last lines, for when it matters after all."""
        self._file.flush()
        return self.path.read_text(encoding="utf-8").splitlines()[-lines:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def run_until_interrupted(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `work`; the first signal cancels it and lets it clean up, a second sets its event: hurry.

    Raises Interrupted after a signal, else what the work raised, out of its groups.
    """
    try:
        asyncio.run(_run(work))
    except BaseExceptionGroup as group:
        raise _first_told(group) from None


async def _run(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:

        async def whole() -> None:
            await work(hurry)

        task = group.create_task(whole())

        def interrupted() -> None:
            if task.cancelling():
                hurry.set()
            else:
                task.cancel()

        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupted)
    if task.cancelled():
        raise Interrupted("interrupted")


def _first_told(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error that was raised on purpose; the group itself when there is none."""
    told, _ = group.split(AfterglowError)
    error: BaseException | None = told
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error or group


def tell_error(line: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"afterglow: {line}\n")


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Turn an error raised on purpose into one line and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except Interrupted:
            raise typer.Exit(_EXIT_INTERRUPTED) from None
        except AfterglowError as error:
            tell_error(str(error))
            raise typer.Exit(1) from None

    return run
