"""`make demo`: everything on this machine, one story told in the terminal, then links to look at."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from afterglow.children import RunnerError
from afterglow.parcel_story import ParcelStory, Told
from afterglow.postgres import Postgres
from afterglow.stage import Stage
from afterglow.story import Expected, Story
from afterglow.terminal import Interrupted, LogFile, run_until_interrupted
from afterglow.up import DEFAULT_DATA, Options, make_data_folder, running, taken_port
from shared.errors import AfterglowError

# Ports of two copies never meet: nine steps of 100, since internal ports stand 1,000 above.
_BASE_PORTS: tuple[int, ...] = (
    *range(8000, 9000, 100),
    *range(12_000, 13_000, 100),
    *range(14_000, 15_000, 100),
)
_LOG_LINES_TOLD = 40
# The story is told about its own shop and inbox, wherever this terminal's settings point.
_NOT_OURS = ("SHOPS_FILE", "PRODUCTS_FILE", "SMTP_URL")


def play(env: Mapping[str, str], *, once: bool, base_port: int | None, data: Path | None) -> None:
    """Start everything, play and check the story; then wait for Ctrl-C, or stop when `once`.

    Raises StoryFailed, RunnerError or PostgresError with a reason, Interrupted after a signal.
    """
    console = Console(highlight=False)
    env = {name: value for name, value in env.items() if name not in _NOT_OURS}
    with _data_folder(data, once=once) as folder:
        options = Options(folder, _free_base_port(base_port), demo=True)
        with LogFile(folder / "demo.log") as log:
            try:
                run_until_interrupted(
                    lambda hurry: _perform(options, env, log, console, hurry, once=once)
                )
            except Interrupted:
                raise
            except AfterglowError:
                _tell_log(log, console)
                raise


async def _perform(
    options: Options,
    env: Mapping[str, str],
    log: LogFile,
    console: Console,
    hurry: asyncio.Event,
    *,
    once: bool,
) -> None:
    console.print("Starting Postgres, the services and an inbox …")
    async with running(options, env, log.say, hurry) as run:
        console.print("[green]✓[/] Postgres, the services and the inbox are up")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            stage = Stage(
                run.connection, session, lambda line: console.print(f"[green]✓[/] {line}")
            )
            orders = await Story(stage).play()
            parcel = await ParcelStory(stage).play()
        if once:
            return
        _print_links(console, options, run.connection, orders, parcel)
        await asyncio.Event().wait()


def _print_links(
    console: Console,
    options: Options,
    connection: Mapping[str, Any],
    orders: list[Expected],
    parcel: Told,
) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_row("inbox", connection["inbox"])
    table.add_row(f"tracking page, {parcel.number}", parcel.page)
    for name, url in connection["internal"].items():
        table.add_row(f"{name}, metrics", f"{url}/metrics")
        table.add_row(f"{name}, ready?", f"{url}/readyz")
    known = [(order.number, order.order_id) for order in orders]
    for number, order_id in (*known, (parcel.number, parcel.order_id)):
        command = f"{_own_name()} order show {connection['shop']} {order_id}"
        where = "" if options.data == DEFAULT_DATA else f" --data {options.data}"
        table.add_row(f"order {number}", command + where)
    table.add_row("keys, addresses", str(options.data / "demo.json"))
    table.add_row("log", str(options.data / "demo.log"))
    console.print()
    console.print(table, soft_wrap=True)
    console.print("\nCtrl-C stops everything.")


def _own_name() -> str:
    """Return how this program was called, as a person would type it again here."""
    program = Path(sys.argv[0]).absolute()
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)


def _tell_log(log: LogFile, console: Console) -> None:
    for line in log.tail(_LOG_LINES_TOLD):
        console.print(line, style="dim", markup=False, soft_wrap=True)


@contextlib.contextmanager
def _data_folder(data: Path | None, *, once: bool) -> Iterator[Path]:
    """Give the folder to keep things in; for `once` without a wish a temporary one."""
    if data is not None or not once:
        folder = data or DEFAULT_DATA
        make_data_folder(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="afterglow-demo-") as name:
        Path(name).chmod(0o711)  # the database may run as another user, who has to pass through
        try:
            yield Path(name)
        finally:
            # where that user cannot come in all the same, the database was kept elsewhere
            shutil.rmtree(Postgres(Path(name) / "postgres").home, ignore_errors=True)


def _free_base_port(wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    for candidate in _BASE_PORTS:
        if not taken_port(Options(base_port=candidate, demo=True)):
            return candidate
    raise RunnerError("no free row of ports found: choose one with --base-port")
