"""What a process does beside its work when the world around it changes: versions, partitions, the end."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared import migrations, service
from shared.bus import open_bus
from shared.consumer import Consumer
from shared.errors import AfterglowError
from shared.events import from_record
from shared.life import Life
from shared.observability import CONSUMER_LAG
from shared.settings import Settings
from shared.shops import ShopsInvalid, parse
from shared.store import Database, is_transient
from shared.testing import MemoryBus, event, placed

SMALL = """
[shops.x]
name = "X"
sender = { name = "X", address = "x@example.com" }
reply_to = "x@example.com"
"""


async def test_a_schema_newer_than_the_code_is_left_alone(
    migrated: Callable[[str], Awaitable[str]],
) -> None:
    url = await migrated("order_events")
    conn = await asyncpg.connect(url)
    await conn.execute("update order_events.alembic_version set version_num = '9999'")
    await migrations.ensure(url, "order_events")
    assert await conn.fetchval("select version_num from order_events.alembic_version") == "9999"
    await conn.close()


async def test_a_topic_whose_partitions_went_elsewhere_has_no_lag(db: Database) -> None:
    bus = MemoryBus(["orders"])
    reader = Consumer(db, bus, "lagging", ["orders"], lambda *_: asyncio.sleep(0))
    reader.subscription = await bus.subscribe("lagging", ["orders"])
    gauge = CONSUMER_LAG.labels("lagging", "orders")
    gauge.set(77)
    parts: Any = service.Service("lagging", *([None] * 5), consumer=reader)  # type: ignore[arg-type]
    await service._measure_lag(parts)
    assert gauge._value.get() == 0


async def test_work_that_can_wait_ends_with_the_process() -> None:
    life, done = Life(), []

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        done.append(seconds)

    await life.unless_stopping(work(0))
    life.stopping.set()
    async with asyncio.timeout(5):
        await life.unless_stopping(work(60))
    assert done == [0]

    async def fails() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Life().unless_stopping(fails())


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_tls_files_that_cannot_be_used_are_one_clear_line(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    settings = Settings(
        database_url="postgresql://x",
        bus_url="kafka://localhost:9092",
        kafka_tls_ca_file=file,
        link_keys="link-key-of-the-tests",
        operator_keys="operator-key-of-the-tests",
        shops_file=file,
    )
    with pytest.raises(AfterglowError, match="KAFKA_TLS"):
        open_bus(settings, Database("postgresql://x", "x"))


def test_a_shops_name_is_one_that_its_events_can_carry() -> None:
    with pytest.raises(ShopsInvalid):
        parse(SMALL.replace("[shops.x]", "[shops.-x]"))
    assert parse(SMALL).get("x")
    assert from_record(event(placed(), shop="1x-").to_record()).shop == "1x-"


def test_a_server_that_is_no_longer_the_primary_is_waited_for() -> None:
    assert is_transient(asyncpg.ReadOnlySQLTransactionError())
