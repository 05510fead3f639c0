"""The command line: `afterglow …`, or `python -m afterglow …`."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer
from rich.console import Console

from afterglow import demo as demo_play, settings
from afterglow.advice import advice
from afterglow.console import Data, NotFound, Operator, connect, find_order, print_rows
from afterglow.delays import delays, promises
from afterglow.order_page import page_console, print_order
from afterglow.terminal import Interrupted, PrefixedOutput, run_until_interrupted, tell_error, told
from afterglow.up import DEFAULT_BASE_PORT, DEFAULT_DATA, Options, running
from shared import shops
from shared.errors import AfterglowError
from shared.security import new_api_key
from shared.shops import ShopsInvalid

_NOTIFIER = "notifier"
# What a table says of a quarantined webhook: no body, which holds names.
_QUARANTINED = ("id", "received_at", "shop", "source", "topic", "ref", "reason")

Id = Annotated[str, typer.Argument(help="The number in the list.")]
ServiceName = Annotated[str, typer.Argument(help="order-events, notifier, …")]

main = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
key = typer.Typer(no_args_is_help=True, help="API keys of shops.")
templates = typer.Typer(no_args_is_help=True, help="What messages look like.")
order = typer.Typer(no_args_is_help=True, help="What the services know about one order.")
unknown = typer.Typer(no_args_is_help=True, help="Messages whose acceptance nobody could see.")
dead = typer.Typer(no_args_is_help=True, help="Events that could not be handled.")
quarantine = typer.Typer(no_args_is_help=True, help="Signed webhooks that were not understood.")
for _name, _commands in (
    ("key", key),
    ("templates", templates),
    ("order", order),
    ("unknown", unknown),
    ("dead", dead),
    ("delays", delays),
    ("promises", promises),
    ("quarantine", quarantine),
):
    main.add_typer(_commands, name=_name)


@main.command()
@told
def up(
    data: Data = DEFAULT_DATA,
    base_port: Annotated[
        int, typer.Option(help="Public ports stand above it, internal ones 1,000 higher.")
    ] = DEFAULT_BASE_PORT,
    *,
    demo: Annotated[
        bool, typer.Option("--demo", help="With a shop of its own and an inbox.")
    ] = False,
) -> None:
    """Run everything on this machine until Ctrl-C."""
    say = PrefixedOutput(sys.stdout)
    options = Options(data, base_port, demo)

    async def work(hurry: asyncio.Event) -> None:
        async with running(options, settings.environment(), say, hurry) as run:
            for name, url in run.connection["public"].items():
                say("afterglow", f"{name}: {url}")
            if demo:
                say("afterglow", f"inbox: {run.connection['inbox']}, keys: {data / 'demo.json'}")
            await asyncio.Event().wait()

    try:
        run_until_interrupted(work)
    except Interrupted:
        say("afterglow", "stopped")


@main.command()
@told
def demo(
    data: Annotated[Path | None, typer.Option(help="Default: ./.afterglow.")] = None,
    base_port: Annotated[int | None, typer.Option(help="Default: the first free row.")] = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Play, check, stop.")] = False,
) -> None:
    """Play the story of an order: from the shop to the customer's inbox."""
    demo_play.play(settings.environment(), once=once, base_port=base_port, data=data)


@main.command()
@told
def check(
    shops_file: Annotated[Path | None, typer.Option("--shops", help="Default: SHOPS_FILE.")] = None,
    products_file: Annotated[
        Path | None, typer.Option("--products", help="Default: PRODUCTS_FILE.")
    ] = None,
) -> None:
    """Say whether shops.toml and products.toml can be used, and if not, each key at fault.

    Of a file that can be used it says what the shop will miss by what is left out.
    """
    env = settings.environment()
    file = shops_file or Path(env.get("SHOPS_FILE", "shops.toml"))
    named = products_file or (Path(env["PRODUCTS_FILE"]) if "PRODUCTS_FILE" in env else None)
    try:
        found = shops.load(file, named, env)
    except ShopsInvalid as error:
        for problem in error.problems:
            tell_error(problem)
        raise typer.Exit(1) from None
    for shop in found:
        Console().print(f"{shop.id}: {shop.name}, {shop.mode}", markup=False)
        for line in advice(shop):
            Console().print(f"  think of {line}", markup=False, highlight=False)
    Console().print(f"{len(found)} shop(s), {len(found.products)} product rule(s): all right")


@key.command("new")
def key_new() -> None:
    """Make an API key: the key for the shop's system, its hash for shops.toml."""
    made, digest = new_api_key()
    typer.echo(f"API key, shown once:      {made}")
    typer.echo(f"for api_keys in the file: {digest}")


@templates.command("preview")
@told
def templates_preview(
    kind: Annotated[str, typer.Argument(help="order_confirmed, …")],
    language: Annotated[str, typer.Option(help="en, ru, pl or sl.")] = "en",
    sample: Annotated[str, typer.Option(help="The order it is about.")] = "tea",
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("preview"),
) -> None:
    """Write a message as it would be sent: text, HTML and the whole mail."""
    from notifier.adapters.render import preview  # noqa: PLC0415 - heavy, and only this needs it

    made: Mapping[str, str | bytes] = preview(kind, language, sample)
    out.mkdir(parents=True, exist_ok=True)
    for part, suffix in (("text", "txt"), ("html", "html"), ("eml", "eml")):
        content = made[part]
        path = out / f"{kind}.{language}.{sample}.{suffix}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        typer.echo(str(path))


@order.command("show")
@told
def order_show(
    shop: str,
    order_id: str,
    data: Data = DEFAULT_DATA,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="The services' answers as they are, by service.")
    ] = False,
) -> None:
    """Print where an order stands, what every service did about it and why. Times are UTC."""
    known, silent = find_order(_operator(data), shop, order_id)
    for line in silent:
        tell_error(line)
    if as_json:
        typer.echo(orjson.dumps(known, option=orjson.OPT_INDENT_2).decode())
    else:
        print_order(known, page_console())


Shop = Annotated[str | None, typer.Option(help="Only this shop.")]
Kind = Annotated[str | None, typer.Option(help="Only this kind of message.")]
Channel = Annotated[str | None, typer.Option(help="Only this channel.")]
All = Annotated[bool, typer.Option("--all", help="Everything.")]


@main.command()
@told
def pause(
    shop: Shop = None,
    kind: Kind = None,
    channel: Channel = None,
    reason: Annotated[str, typer.Option(help="Told to whoever asks.")] = "",
    data: Data = DEFAULT_DATA,
    *,
    everything: All = False,
) -> None:
    """Stop sending within two seconds; without a scope: list what is paused."""
    operator = _operator(data)
    if (chosen := _scope(shop, kind, channel, everything=everything)) is not None:
        operator.ask(_NOTIFIER, "PUT", f"/v1/pauses/{chosen}", {"reason": reason})
    print_rows(operator.ask(_NOTIFIER, "GET", "/v1/pauses"), Console())


@main.command()
@told
def resume(
    shop: Shop = None,
    kind: Kind = None,
    channel: Channel = None,
    data: Data = DEFAULT_DATA,
    *,
    everything: All = False,
) -> None:
    """Send again what a pause held back, as far as it still lives."""
    chosen = _scope(shop, kind, channel, everything=everything)
    if chosen is None:
        raise AfterglowError("say what to resume: --all, --shop, --kind or --channel")
    operator = _operator(data)
    operator.ask(_NOTIFIER, "DELETE", f"/v1/pauses/{chosen}")
    print_rows(operator.ask(_NOTIFIER, "GET", "/v1/pauses"), Console())


@unknown.command("list")
@told
def unknown_list(data: Data = DEFAULT_DATA) -> None:
    """List messages that may or may not have been accepted."""
    print_rows(_operator(data).ask(_NOTIFIER, "GET", "/v1/unknown"), Console())


@unknown.command("resend")
@told
def unknown_resend(number: Id, data: Data = DEFAULT_DATA) -> None:
    """Send it once more: the customer may get it twice."""
    _print(_operator(data).ask(_NOTIFIER, "POST", f"/v1/unknown/{quote(number, safe='')}/resend"))


@unknown.command("forget")
@told
def unknown_forget(number: Id, data: Data = DEFAULT_DATA) -> None:
    """Leave it: the customer may never get it."""
    _print(_operator(data).ask(_NOTIFIER, "POST", f"/v1/unknown/{quote(number, safe='')}/forget"))


@dead.command("list")
@told
def dead_list(data: Data = DEFAULT_DATA) -> None:
    """List the dead events of every service."""
    operator, console = _operator(data), Console()
    for service in operator.internal:
        console.rule(service)
        print_rows(operator.ask(service, "GET", "/v1/dead"), console)


@dead.command("show")
@told
def dead_show(service: ServiceName, number: Id, data: Data = DEFAULT_DATA) -> None:
    """Print one dead event with its body, which holds personal data."""
    _print(_operator(data).ask(service, "GET", f"/v1/dead/{quote(number, safe='')}"))


@dead.command("replay")
@told
def dead_replay(service: ServiceName, number: Id, data: Data = DEFAULT_DATA) -> None:
    """Handle it again."""
    _print(_operator(data).ask(service, "POST", f"/v1/dead/{quote(number, safe='')}/replay"))


@dead.command("discard")
@told
def dead_discard(service: ServiceName, number: Id, data: Data = DEFAULT_DATA) -> None:
    """Take it off the list for good."""
    _print(_operator(data).ask(service, "POST", f"/v1/dead/{quote(number, safe='')}/discard"))


@quarantine.command("list")
@told
def quarantine_list(data: Data = DEFAULT_DATA) -> None:
    """List the newest ones of every service that takes webhooks, without their bodies."""
    console = page_console()
    for service, rows in _quarantined(_operator(data)).items():
        console.rule(service)
        print_rows([{name: row.get(name) for name in _QUARANTINED} for row in rows], console)


@quarantine.command("replay")
@told
def quarantine_replay(
    number: Id,
    service: Annotated[
        str | None, typer.Option(help="Whose list, where two have this number.")
    ] = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Read one again, when a newer version understands it."""
    operator = _operator(data)
    if service is None:
        lists = _quarantined(operator).items()
        having = [name for name, rows in lists if number in {str(row.get("id")) for row in rows}]
        if len(having) != 1:
            who = " and ".join(having) or "no list that is shown"
            raise AfterglowError(f"{who} has number {number}: say whose it is with --service")
        service = having[0]
    path = f"/v1/quarantine/{quote(number, safe='')}/replay"
    _print(operator.ask(service, "POST", path))


def _quarantined(operator: Operator) -> dict[str, list[dict[str, Any]]]:
    """Return the lists of the services that take webhooks."""
    lists = {}
    for service in operator.internal:
        with suppress(NotFound):  # it takes none
            lists[service] = operator.ask(service, "GET", "/v1/quarantine")["quarantine"]
    return lists


def _operator(data: Path) -> Operator:
    return connect(data, settings.environment())


def _scope(
    shop: str | None, kind: str | None, channel: str | None, *, everything: bool
) -> str | None:
    """Return the pause's `scope/name`; None when none was chosen."""
    chosen = [
        f"{scope}/{quote(name, safe='')}"
        for scope, name in (
            ("all", "-" if everything else None),
            ("shop", shop),
            ("kind", kind),
            ("channel", channel),
        )
        if name
    ]
    if len(chosen) > 1:
        raise AfterglowError("choose one of --all, --shop, --kind and --channel")
    return chosen[0] if chosen else None


def _print(told: Any) -> None:
    print_rows(told, Console())


if __name__ == "__main__":
    main()
