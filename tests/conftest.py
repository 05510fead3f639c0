"""What tests stand on: a real Postgres for each session, a fresh database for each test, a broker."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from afterglow.postgres import Postgres


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


def _docker_runs() -> bool:
    if shutil.which("docker") is None:
        return False
    probe = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20)
    return probe.returncode == 0


@pytest.fixture(scope="session")
def kafka_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real broker: KAFKA_BOOTSTRAP_SERVERS, else a container, else a skip that says so."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield servers
        return
    if not _docker_runs():
        pytest.skip("no broker: KAFKA_BOOTSTRAP_SERVERS is not set and Docker does not run")
    from testcontainers.community.kafka import KafkaContainer  # noqa: PLC0415 - only with Docker

    with KafkaContainer("confluentinc/cp-kafka:7.6.0").with_kraft() as broker:
        yield broker.get_bootstrap_server()


@pytest.fixture
def chromium() -> Path:
    """A browser for pages and messages, or a skip that says what is missing."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    pytest.skip("no browser: chromium is not installed")
