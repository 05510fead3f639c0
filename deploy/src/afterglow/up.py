"""Everything on one machine: Postgres, the services and, for the demo, an inbox."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from afterglow import settings
from afterglow.children import Child, Children, Program, RunnerError, Say, supervised
from afterglow.demo_shop import DAY_SECONDS, SHOP, DemoShop, kept_secret, make_demo_shop
from afterglow.guardian import Guardian
from afterglow.postgres import Postgres, PostgresError
from afterglow.settings import HOST

DEFAULT_DATA = Path(".afterglow")
DEFAULT_BASE_PORT = 8000
CONNECTION_FILES = ("demo.json", "running.json")
_BASE_PORT_MAX = 65535 - 1004
_SMTP_OFFSET, _INBOX_OFFSET, _INTERNAL_OFFSET = 25, 80, 1000
_READY_SECONDS = 180.0
_POLL_SECONDS = 0.1
_WATCH_SECONDS = 0.5
_DRAIN_SECONDS = "10"


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the platform: its name, its module and its place in the row of ports."""

    name: str
    module: str
    place: int


SERVICES = (
    Service("order-events", "order_events", 1),
    Service("tracking", "tracking", 2),
    Service("notifier", "notifier", 4),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What `afterglow up` was asked for."""

    data: Path = DEFAULT_DATA
    base_port: int = DEFAULT_BASE_PORT
    demo: bool = False
    services: tuple[Service, ...] = SERVICES

    def public(self, place: int) -> str:
        """Return the public address of the service at this place."""
        return f"http://{HOST}:{self.base_port + place}"

    def internal(self, place: int) -> str:
        """Return the internal address of the service at this place."""
        return f"http://{HOST}:{self.base_port + _INTERNAL_OFFSET + place}"

    @property
    def smtp_port(self) -> int:
        """Return where the catcher takes mail."""
        return self.base_port + _SMTP_OFFSET

    @property
    def inbox_port(self) -> int:
        """Return where the catcher shows it."""
        return self.base_port + _INBOX_OFFSET

    def ports(self) -> dict[int, str]:
        """Return every port that is needed and what for."""
        wanted = {self.base_port + s.place: s.name for s in self.services}
        wanted |= {
            self.base_port + _INTERNAL_OFFSET + s.place: f"{s.name}, internal"
            for s in self.services
        }
        if self.demo:
            wanted |= {self.smtp_port: "mail catcher", self.inbox_port: "inbox"}
        return wanted


@dataclass(frozen=True, slots=True, repr=False)
class Running:
    """What runs, as demo.json tells it; holds secrets, so it has no repr."""

    options: Options
    connection: Mapping[str, Any]


@contextlib.asynccontextmanager
async def running(
    options: Options, env: Mapping[str, str], say: Say, hurry: asyncio.Event | None = None
) -> AsyncIterator[Running]:
    """Start everything, give it once all is ready, and stop everything on leaving.

    `env` is what the environment says. Raises RunnerError or PostgresError, alone or in a group,
    when something cannot run; setting `hurry` while it stops kills what still runs.
    """
    demo = _prepare(options, env)
    with contextlib.ExitStack() as stack:
        guardian = Guardian()
        stack.callback(guardian.close)
        postgres = None
        environment = _shared_environment(options, env, demo)
        if "DATABASE_URL" not in env:
            postgres = Postgres(options.data / "postgres", guardian=guardian)
        async with _server(postgres, say), supervised(guardian, say, hurry) as children:
            # Whoever waits for the file must not find that of an older run. Only now is the folder
            # known to be ours: the server's start refuses one that another copy uses.
            for name in CONNECTION_FILES:
                (options.data / name).unlink(missing_ok=True)
            if postgres:
                environment["DATABASE_URL"] = postgres.url
            await _start_all(options, environment, children, say)
            connection = _connection(options, environment, demo)
            file = options.data / CONNECTION_FILES[0 if options.demo else 1]
            _write_private(file, orjson.dumps(connection, option=orjson.OPT_INDENT_2))
            stack.callback(file.unlink, missing_ok=True)
            yield Running(options, connection)


def make_data_folder(folder: Path) -> None:
    """Make the data folder, closed to others unless it exists.

    As root the database runs as another user, who has to pass through, not to read.
    """
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o700 if os.getuid() else 0o711)


def taken_port(options: Options) -> tuple[int, str] | None:
    """Return the first port that is needed and in use, with what it is needed for."""
    for port, purpose in options.ports().items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                return port, purpose
    return None


def _prepare(options: Options, env: Mapping[str, str]) -> DemoShop | None:
    """Check what can be checked before anything starts, and write the demo's files."""
    if not 1 <= options.base_port <= _BASE_PORT_MAX:
        raise RunnerError(f"--base-port must be between 1 and {_BASE_PORT_MAX}")
    if not options.demo:
        for name, what in (
            ("SHOPS_FILE", "the path of your shops.toml"),
            ("SMTP_URL", "your mail server, as smtp://user:password@host:587"),
        ):
            if name not in env:
                raise RunnerError(f"{name} is not set: set it to {what}, or try --demo")
    if taken := taken_port(options):
        port, purpose = taken
        raise RunnerError(
            f"port {port} ({purpose}) is taken: stop what uses it or choose another --base-port"
        )
    make_data_folder(options.data)
    return make_demo_shop(options.data) if options.demo else None


def _shared_environment(
    options: Options, env: Mapping[str, str], demo: DemoShop | None
) -> dict[str, str]:
    found = dict(env)
    found.setdefault("BUS_URL", "postgres:")
    found.setdefault("OPERATOR_KEYS", kept_secret(options.data, "operator_key"))
    found.setdefault("LINK_KEYS", kept_secret(options.data, "link_key"))
    found.setdefault("DRAIN_SECONDS", _DRAIN_SECONDS)
    found.setdefault("PUBLIC_URL", options.public(1))
    found.setdefault("TRACK_URL", options.public(2))
    found.setdefault("SURVEY_URL", options.public(3))
    found.setdefault("PREFERENCES_URL", options.public(4))
    if demo:
        found["SHOPS_FILE"] = str(demo.shops_file.absolute())
        found["PRODUCTS_FILE"] = str(demo.products_file.absolute())
        found.setdefault("SMTP_URL", f"smtp://{HOST}:{options.smtp_port}")
        found.setdefault("DAY_SECONDS", str(DAY_SECONDS))
    return found | {"PYTHONUNBUFFERED": "1"}


async def _start(postgres: Postgres, say: Say) -> None:
    starting = asyncio.get_running_loop().run_in_executor(None, postgres.start)
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        # the thread goes on by itself; only when it is done can the server be stopped
        await asyncio.wait([starting])
        raise
    for note in postgres.notes:
        say("postgres", note)
    if postgres.binaries:
        major, source = postgres.binaries.major, postgres.binaries.source
        say("postgres", f"PostgreSQL {major} ({source}) on port {postgres.port}")


@contextlib.asynccontextmanager
async def _server(postgres: Postgres | None, say: Say) -> AsyncIterator[None]:
    """Keep the embedded server up while the body runs, and stop it afterwards."""
    if postgres is None:
        yield
        return
    try:
        await _start(postgres, say)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_restart_when_dead(postgres, say))
            try:
                yield
            finally:
                watch.cancel()
    finally:
        await asyncio.to_thread(postgres.stop)


async def _restart_when_dead(postgres: Postgres, say: Say) -> None:
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if postgres.process and postgres.process.poll() is not None:
            say("postgres", "ended by itself and is started again")
            try:
                await asyncio.to_thread(postgres.start)
            except PostgresError as error:
                raise RunnerError(str(error)) from error


async def _start_all(
    options: Options, environment: Mapping[str, str], children: Children, say: Say
) -> None:
    """Start the children and wait until each says that it is ready."""
    waiting: list[tuple[Child, str]] = []
    if options.demo:
        ports = ["--smtp-port", str(options.smtp_port), "--http-port", str(options.inbox_port)]
        command = [sys.executable, "-m", "afterglow.catcher", *ports]
        child = children.add(Program("inbox", command, environment))
        waiting.append((child, f"http://{HOST}:{options.inbox_port}/healthz"))
    for service in options.services:
        own = {
            "HTTP_HOST": HOST,
            "HTTP_PORT": str(options.base_port + service.place),
            "INTERNAL_HOST": HOST,
            "INTERNAL_PORT": str(options.base_port + _INTERNAL_OFFSET + service.place),
        }
        command = [sys.executable, "-m", service.module]
        child = children.add(Program(service.name, command, {**environment, **own}))
        waiting.append((child, f"{options.internal(service.place)}/readyz"))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        for child, url in waiting:
            try:
                async with asyncio.timeout(_READY_SECONDS):
                    await _until_ready(session, child, url)
            except TimeoutError:
                raise RunnerError(
                    f"{child.program.name} is not ready after {_READY_SECONDS:g} s: "
                    f"{child.last_line}"
                ) from None
            child.ready.set()
    say("afterglow", "all is ready")


async def _until_ready(session: aiohttp.ClientSession, child: Child, url: str) -> None:
    while True:
        if child.ended.is_set():
            raise RunnerError(f"{child.program.name} does not start: {child.last_line}")
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(url) as answer:
                if answer.ok:
                    return
        await asyncio.sleep(_POLL_SECONDS)


def _connection(
    options: Options, environment: Mapping[str, str], demo: DemoShop | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "public": {s.name: options.public(s.place) for s in options.services},
        "internal": {s.name: options.internal(s.place) for s in options.services},
        "operator_key": settings.operator_key(environment),
    }
    if demo:
        found |= {
            "smtp": environment["SMTP_URL"],
            "inbox": f"http://{HOST}:{options.inbox_port}",
            "shop": SHOP,
            "api_key": demo.api_key,
            "webhook_secrets": demo.webhook_secrets,
        }
    return found


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content + b"\n")
    Path(name).replace(path)
