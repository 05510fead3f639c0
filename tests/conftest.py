"""What tests stand on: a real Postgres for each session, a fresh database for each test, a broker."""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import structlog

from afterglow.postgres import Postgres
from shared import migrations

# What structlog prints while nobody set it up: a traceback with all variables takes a second to draw.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One server whose data may be lost; each test gets a database of its own in it."""
    with Postgres.temporary() as server:
        yield server


@pytest.fixture
async def database_url(postgres_server: Postgres) -> AsyncIterator[str]:
    """A fresh, empty database on a real Postgres."""
    name = f"t{uuid4().hex}"
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"create database {name}")
    yield postgres_server.url.rsplit("/", 1)[0] + f"/{name}"
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    """Names of the databases that hold migrated, empty schemas: made once a session."""
    return {}


Migrated = Callable[..., Awaitable[str]]


@pytest.fixture
async def migrated(postgres_server: Postgres, templates: dict[str, str]) -> AsyncIterator[Migrated]:
    """Make a fresh database with the schemas of the named services at their newest revisions."""
    server = postgres_server.url.rsplit("/", 1)[0]
    admin = await asyncpg.connect(postgres_server.url)
    made = []

    async def make(*packages: str) -> str:
        wanted = " ".join(packages)
        if wanted not in templates:
            name = f"template_{uuid4().hex}"
            await admin.execute(f"create database {name}")
            for package in packages:
                await migrations.ensure(f"{server}/{name}", package)
            templates[wanted] = name
        made.append(name := f"t{uuid4().hex}")
        await admin.execute(
            f"create database {name} template {templates[wanted]} strategy file_copy"
        )
        return f"{server}/{name}"

    yield make
    for name in made:
        await admin.execute(f"drop database {name} with (force)")
    await admin.close()


KAFKA_IMAGE = "confluentinc/cp-kafka:7.6.0"


def _docker(*arguments: str, timeout: float = 20) -> str | None:
    """What `docker …` printed, None when it failed, took too long or is not there."""
    if shutil.which("docker") is None:
        return None
    command = ["docker", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None
    return None if done.returncode else done.stdout.strip()


@pytest.fixture(scope="session")
def kafka_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real broker: KAFKA_BOOTSTRAP_SERVERS, else a container, else a skip that says so."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield servers
        return
    engine = _docker("info", "--format", "{{.Name}}")
    if engine is None:
        pytest.skip("no broker: KAFKA_BOOTSTRAP_SERVERS is not set and Docker does not run")
    image = ("image", "inspect", KAFKA_IMAGE)
    if _docker(*image) is None and _docker("pull", "--quiet", KAFKA_IMAGE, timeout=90) is None:
        pytest.skip(f"no broker: {KAFKA_IMAGE} is neither here nor to be had")
    if engine == socket.gethostname():
        # Ports are published here, even where this machine looks like a container to testcontainers.
        os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - only with Docker

    with KafkaContainer(KAFKA_IMAGE).with_kraft() as broker:
        yield broker.get_bootstrap_server()


@pytest.fixture
def whole_kafka(kafka_servers: str) -> Iterator[str]:
    """The broker for one test at a time: services of two tests would be members of one group."""
    lock = Path(tempfile.gettempdir()) / "afterglow-tests-kafka.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield kafka_servers


@pytest.fixture(scope="session")
def chromium() -> Path:
    """A browser for pages and messages, or a skip that says what is missing."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return Path(found)
    pytest.skip("no browser: chromium is not installed")


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Any]:
    """A running browser. It holds the thread's event loop: an asynchronous test cannot run beside it."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


Window = Callable[..., Any]


@pytest.fixture(scope="module")
def window(browser: Any) -> Window:
    """Give the one window in the size and colours asked for: opening another takes ten times longer.

    `asked` and `complaints` are what its page asks of the network and complains of from here on;
    `scripts=True` gives a second window, in which a script of the test may pass the page's policy.
    """

    @cache
    def opened(scripts: bool) -> Any:  # noqa: FBT001
        page = browser.new_context(bypass_csp=scripts).new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        return page

    def show(*, width: int = 360, scheme: str = "light", scripts: bool = False) -> Any:
        page = opened(scripts)
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.asked.clear()
        page.complaints.clear()
        return page

    return show


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and say so, what takes minutes, unless it is asked for (`make soak`)."""
    if "soak" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: run by make soak"))
