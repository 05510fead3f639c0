"""A notifier inside the test: facts go in by hand, mail comes out at a server that remembers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from notifier.app import create_app
from notifier.settings import Settings
from shared.consumer import Consumer
from shared.events import Event
from shared.service import Service
from shared.store import Database
from shared.testing import Running, running

OPERATOR_KEY = "operator-key-of-the-tests"
SHOP = """
[shops.{id}]
name = "Demo {id}"
sender = {{ name = "Demo", address = "shop@{id}.example.com" }}
reply_to = "help@{id}.example.com"
{more}
"""
LIVE = 'mode = "live"\nlive_from = 2020-01-01T00:00:00Z\n'
SHOPS = {
    "demo": LIVE,
    "other": LIVE,
    "shadow": "",
    "listed": 'mode = "allowlist"\nlive_from = 2020-01-01T00:00:00Z\nallowlist = ["*@good.example.com"]',
    "young": 'mode = "live"\nlive_from = 2026-11-01T00:00:00Z',
    "quiet": LIVE + 'kinds_off = ["order_confirmed"]',
}


@dataclass
class Desk:
    """A notifier's parts; nothing is sent unless the test runs the dispatcher."""

    service: Service
    settings: Settings

    @property
    def db(self) -> Database:
        return self.service.db

    @property
    def consumer(self) -> Consumer:
        assert self.service.consumer is not None
        return self.service.consumer

    async def hear(self, *events: Event) -> None:
        """Take events as the consumer would: one transaction, each event once."""
        async with self.db.transaction() as tx:
            fresh = await tx.first_time("notifier", [e.id for e in events])
            await self.consumer._handle(tx, [e for e in events if e.id in fresh])

    async def rows(self) -> list[tuple[str, str, str | None]]:
        found = await self.db.fetch("select order_id, state, reason from message order by id")
        return [tuple(r.values()) for r in found]

    async def outcomes(self) -> list[tuple[str, str | None]]:
        """What was told on topic `messages`, in order."""
        found = await self.db.fetch(
            "select headers, value from outbox where topic = 'messages' order by seq"
        )
        told = []
        for row in found:
            type_ = dict(orjson.loads(row["headers"]))["ce_type"]
            told.append((type_.split(".")[1], orjson.loads(row["value"])["reason"]))
        return told

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Running]:
        """Run the dispatcher, without a bus; the pool is open again afterwards."""
        await self.db.close()
        try:
            async with running(self.service, bus=False) as made:
                yield made
        finally:
            await self.db.open()


Make = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def make_desk(
    migrated: Callable[[str], Awaitable[str]], tmp_path: Path
) -> AsyncIterator[Make]:
    """Give notifiers on one database, as several processes would be."""
    url = await migrated("notifier")
    path = tmp_path / "shops.toml"
    path.write_text("".join(SHOP.format(id=name, more=more) for name, more in SHOPS.items()))
    made: list[Desk] = []

    async def make(**changes: Any) -> Desk:
        stated: dict[str, Any] = {
            "database_url": url,
            "bus_url": "postgres:",
            "shops_file": path,
            "operator_keys": OPERATOR_KEY,
            "link_keys": "link-key-of-the-tests",
            "smtp_url": "smtp://127.0.0.1:1",
            "smtp_connections": 2,
            "dispatcher_lease_seconds": 1,
            "smtp_reply_seconds": 2,
            "unknown_resend_after_seconds": 4,
        }
        settings = Settings(**(stated | changes))
        service = create_app(settings)
        await service.db.open()
        made.append(Desk(service, settings))
        return made[-1]

    yield make
    for desk in made:
        await desk.db.close()


@pytest.fixture
async def desk(make_desk: Make) -> Desk:
    return await make_desk()


@asynccontextmanager
async def operator(made: Running) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=made.internal)
    headers = {"authorization": f"Bearer {OPERATOR_KEY}"}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        yield client
