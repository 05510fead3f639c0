"""`afterglow delays …` and `afterglow promises …`: the delay rules and promises, tried on the past."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Final
from urllib.parse import quote

import orjson
import typer
from rich.console import Console
from rich.table import Table

from afterglow import settings
from afterglow.console import Data, connect
from afterglow.terminal import tell_error, told
from afterglow.up import DEFAULT_DATA
from shared import shops
from shared.errors import AfterglowError
from shared.shops import Shop
from tracking import promises as past_promises
from tracking.backtest import DEFINITIONS, Replay, read, summary

delays = typer.Typer(no_args_is_help=True, help="The rules that find delays.")
promises = typer.Typer(no_args_is_help=True, help="The promised delivery days.")

_NO_SHOP: Final = """
[shops.none]
name = "none"
reply_to = "nobody@example.com"
sender = { name = "none", address = "nobody@example.com" }
"""

History = Annotated[
    Path,
    typer.Argument(
        help="JSON lines, one object per parcel; - reads standard input.", allow_dash=True
    ),
]
ShopId = Annotated[
    str | None, typer.Option("--shop", help="With this shop's thresholds; default: none are set.")
]
ShopsFile = Annotated[Path | None, typer.Option("--shops", help="Default: SHOPS_FILE.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")]


@delays.command("backtest")
@told
def backtest(
    file: History, shop: ShopId = None, shops_file: ShopsFile = None, *, as_json: AsJson = False
) -> None:
    """Replay past parcels in time and say what the warnings would have been worth.

    A parcel: id, placed_at, shipped_at, promise {from, to}, carrier, ship_from_country,
    ship_to_country, scans (bodies of scan.reported, each with received_at), delivered_at (null: never).
    With --json: a line for each parcel, {"id", "warnings": [{"at", "cause", "new_date"}],
    "recovered_at"}, then the summary.
    """
    chosen = _shop(shop, shops_file)
    with _lines(file) as lines:
        verdicts = Replay(chosen).run(read(lines))
    found = summary(verdicts)
    if as_json:
        for one in verdicts:
            _write(one.as_json())
        _write(found)
        return
    _print_summary(found, Console())


@delays.command("export")
@told
def export(
    shop: Annotated[str, typer.Argument(help="The shop's id.")],
    days: Annotated[int, typer.Option(help="Parcels that left so lately.", min=1, max=3650)] = 90,
    data: Data = DEFAULT_DATA,
) -> None:
    """Print the past parcels of a shop as `delays backtest` and `promises suggest` read them.

    JSON lines, one object per parcel, nobody's name or address in them.
    """
    path = f"/v1/history/{quote(shop, safe='')}?days={days}"
    operator = connect(data, settings.environment())
    if not operator.copy("tracking", path, sys.stdout.buffer):
        tell_error(f"no parcel of {shop} left within {days} days")


@promises.command("suggest")
@told
def suggest(file: History, *, as_json: AsJson = False) -> None:
    """Print, per method and destination, the working days that would have held for 95 %.

    Reads the file of `delays backtest`, where `method` may name the shipping method. Days count from
    the order to the delivery. A promise kept for less than 90 % is marked.
    """
    with _lines(file) as lines:
        found = past_promises.suggest(read(lines))
    if as_json:
        for one in found:
            _write({
                "method": one.method, "country": one.country, "parcels": one.parcels,
                "days": one.days, "promised": one.promised, "kept": one.kept,
                "too_few": one.is_guess, "broken": one.is_broken,
            })  # fmt: skip
        return
    _print_suggestions(found, Console())


@contextmanager
def _lines(file: Path) -> Iterator[IO[bytes]]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = file.open("rb")
    except OSError as error:
        raise AfterglowError(f"{file}: {error.strerror or 'cannot be read'}") from None
    with opened:
        yield opened


def _shop(shop_id: str | None, shops_file: Path | None) -> Shop:
    if shop_id is None:
        return next(iter(shops.parse(_NO_SHOP)))
    env = settings.environment()
    file = shops_file or Path(env.get("SHOPS_FILE", "shops.toml"))
    found = shops.load(file, None, env).get(shop_id)
    if found is None:
        raise AfterglowError(f"{file} has no shop {shop_id}")
    return found


def _write(value: Mapping[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value).decode() + "\n")


def _print_summary(found: Mapping[str, Any], console: Console) -> None:
    table = Table("figure", "value", "what it is", title="What the warnings were worth")
    for name, value in found.items():
        if name != "causes":
            table.add_row(name, _shown(value), DEFINITIONS.get(name, ""))
    console.print(table)
    by_cause = Table("first warning", "right", "of them in time", "false")
    for cause, counts in found["causes"].items():
        by_cause.add_row(cause, *(str(counts[name]) for name in ("right", "in_time", "false")))
    console.print(by_cause)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    return "–" if value is None else str(value)


def _print_suggestions(found: list[past_promises.Suggestion], console: Console) -> None:
    table = Table("method", "to", "parcels", "days that hold for 95 %", "promise kept", "")
    for one in found:
        notes = []
        if one.is_broken:
            notes.append("the promise is kept for less than 90 %")
        if one.is_guess:
            notes.append(f"too few parcels to say (under {past_promises.ENOUGH})")
        elif one.days is None:
            notes.append("more than one of twenty never came")
        kept = "–" if one.kept is None else f"{one.kept:.0%} of {one.promised}"
        days = "–" if one.days is None else str(one.days)
        table.add_row(one.method, one.country, str(one.parcels), days, kept, "; ".join(notes))
    console.print(table)
