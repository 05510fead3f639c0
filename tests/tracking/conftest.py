"""A tracking service inside the test: two shops, their keys, and what came of what they said."""

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest

from shared.clock import now
from shared.events import Event, EventData, OrderPlaced, OrderShipped, ScanReported, rfc3339
from shared.shops import Shop
from shared.store import Database
from shared.testing import Running, event, placed, placed_body, running
from tracking.app import create_app
from tracking.handlers import Answer, Choice, Delivery, Tracking
from tracking.settings import Settings

API_KEY, OTHER_KEY = "agk_demo-key-of-the-tests", "agk_other-key-of-the-tests"
OPERATOR_KEY = "operator-key-of-the-tests"
SOURCES = ("aftership", "easypost", "shippo", "seventeentrack", "shipengine", "sendcloud")
SECRETS = {name: f"{name}-secret-of-the-tests" for name in SOURCES}
NUMBER = "AB123456789SI"
SHOPS = f"""
[shops.demo]
name = "Demo"
mode = "live"
live_from = 2020-01-01T00:00:00Z
sender = {{ name = "Demo", address = "shop@demo.example.com" }}
reply_to = "help@demo.example.com"
time_zone = "Europe/Ljubljana"
api_keys = ["{hashlib.sha256(API_KEY.encode()).hexdigest()}"]
promises = [{{ days = [2, 4] }}]
delays = {{ eta_hours = 0 }}
"""
OTHER = f"""
[shops.other]
name = "Other"
sender = {{ name = "Other", address = "shop@other.example.com" }}
reply_to = "help@other.example.com"
api_keys = ["{hashlib.sha256(OTHER_KEY.encode()).hexdigest()}"]
"""
MORE = """
[shops.watched]
name = "Watched"
sender = { name = "Watched", address = "shop@watched.example.com" }
reply_to = "help@watched.example.com"
providers.easypost = { key = "file:easypost" }

[shops.new]
name = "New"
mode = "live"
live_from = 2099-01-01T00:00:00Z
sender = { name = "New", address = "shop@new.example.com" }
reply_to = "help@new.example.com"
"""


# ---------------------------------------------------------------- samples


def scan_body(state: str = "in_transit", **changes: Any) -> dict[str, Any]:
    """Return a scan of this moment as a shop's own system states it."""
    return {
        "carrier": "posta-slovenije",
        "tracking_number": NUMBER,
        "state": state,
        "occurred_at": rfc3339(now()),
    } | changes


def scan(
    state: str = "in_transit", number: str | None = NUMBER, *, ago: float = 1, **changes: Any
) -> ScanReported:
    """Return a scan of so many hours ago."""
    at = rfc3339(now() - timedelta(hours=ago))
    body = scan_body(state, tracking_number=number, occurred_at=at, place="Ljubljana")
    return ScanReported.model_validate(body | changes)


def structured(body: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return one scan in structured mode."""
    return {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/erp",
        "type": ScanReported.type,
        "time": rfc3339(now()),
        "data": scan_body() if body is None else body,
    } | changes


def shipped(order_id: str = "1001", number: str | None = NUMBER, **changes: Any) -> OrderShipped:
    """Return the one parcel of an order, sent now."""
    body = {
        "order_id": order_id,
        "shipment_id": f"{order_id}/1",
        "carrier": "posta-slovenije",
        "tracking_number": number,
        "shipped_at": rfc3339(now()),
    }
    return OrderShipped.model_validate(body | changes)


def order_events(
    order_id: str = "1001", number: str | None = NUMBER, **changes: Any
) -> tuple[Event, Event]:
    """Return what the shop says of an order that left yesterday in one parcel, promised soon."""
    soon = str(now().date() + timedelta(days=3))
    times = [rfc3339(now() - timedelta(hours=hours)) for hours in (30, 24)]
    order = {"placed_at": times[0], "promise": {"from": soon, "to": soon}} | changes
    parcel = shipped(order_id, number, shipped_at=times[1], final="yes")
    return event(placed(order_id, **order)), event(parcel)


def states(published: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return the states that were told, in order."""
    told = (body for type_, body in published if type_ == "shipment.status_changed.v1")
    return [body["state"] for body in told if body]


# ---------------------------------------------------------------- the service


@dataclass
class Front:
    """The service's two ports, its database, and its handlers to be called directly."""

    running: Running
    public: httpx2.AsyncClient
    internal: httpx2.AsyncClient

    @property
    def db(self) -> Database:
        return self.running.service.db

    @property
    def tracking(self) -> Tracking:
        consumer = self.running.service.consumer
        assert consumer is not None
        handler = getattr(consumer._handle, "__self__", None)
        assert isinstance(handler, Tracking)
        return handler

    def shop(self, name: str = "demo") -> Shop:
        shop = self.running.service.shops.get(name)
        assert shop is not None
        return shop

    async def post(
        self,
        body: Any,
        *,
        path: str = "/v1/scans",
        kind: str = "application/json",
        key: str | None = API_KEY,
        **headers: str,
    ) -> httpx2.Response:
        given = {"content-type": kind} | ({"authorization": f"Bearer {key}"} if key else {})
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.public.post(path, content=content, headers=given)

    async def ask(
        self, path: str, *, method: str = "GET", key: str = OPERATOR_KEY
    ) -> httpx2.Response:
        return await self.internal.request(method, path, headers={"authorization": f"Bearer {key}"})

    async def hear(self, *said: Event | EventData, shop: str = "demo") -> None:
        """Take events as the consumer does: in one transaction."""
        events = [one if isinstance(one, Event) else event(one, shop=shop) for one in said]
        async with self.db.transaction() as tx:
            await self.tracking.receive(tx, events)
        self.tracking.received()

    async def state(self, *bodies: EventData, shop: str = "demo") -> None:
        """Let the shop say something about orders, as it comes over the bus."""
        await self.hear(*bodies, shop=shop)

    async def order(self, order_id: str = "1001", number: str | None = NUMBER) -> None:
        """Let the shop place and ship an order."""
        placed = OrderPlaced.model_validate(placed_body(order_id))
        await self.state(placed, shipped(order_id, number))

    async def take(
        self, *scans: ScanReported, shop: str = "demo", source: str = "test", **changes: Any
    ) -> Answer:
        """Submit scans as one delivery."""
        return await self.submit(
            Delivery(self.shop(shop), source, scans, **({"log": False} | changes))
        )

    async def submit(self, item: Delivery | Choice) -> Answer:
        (answer,) = await self.tracking.accept([item])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def told(self, order_id: str | None = None) -> list[str]:
        """Types of everything in the outbox (of one order), in order."""
        return [type_ for type_, _ in await self.published(order_id)]

    async def published(self, order_id: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Types and bodies of what stands in the outbox (of one order), in order."""
        rows = await self.db.fetch("select headers, key, value from outbox order by seq")
        return [
            (dict(orjson.loads(r["headers"]))["ce_type"], orjson.loads(r["value"] or b"{}"))
            for r in rows
            if order_id is None or r["key"].endswith(f":{order_id}")
        ]

    async def parcel_state(self, shipment_id: str = "1001/1") -> str | None:
        found: str | None = await self.db.fetchval(
            "select state from parcel where shipment_id = $1", shipment_id
        )
        return found

    async def make_due(self) -> None:
        """Let every check that is set come now."""
        await self.db.execute("update orders set check_at = now() where check_at is not null")


Starter = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Starter:
    """Start the service on a migrated database; without a bus unless asked for."""

    @asynccontextmanager
    async def begin(
        url: str, *, bus: bool = False, loops: bool = True, more: str = "", **settings: Any
    ) -> AsyncIterator[Front]:
        for name, value in (SECRETS | {"former": "former-secret-of-the-tests"}).items():
            (tmp_path / name).write_text(value)
        webhooks = "".join(
            f'webhooks.{name}.secrets = ["file:{name}", "file:former"]\n' for name in SOURCES
        )
        shops_file = tmp_path / "shops.toml"
        shops_file.write_text(SHOPS + webhooks + more + OTHER)
        given = {
            "database_url": url,
            "bus_url": "postgres:",
            "shops_file": shops_file,
            "operator_keys": OPERATOR_KEY,
            "link_keys": "link-key-of-the-tests",
        }
        service = create_app(Settings.model_validate(given | settings))
        if not loops:
            service.loops = ()
        async with running(service, bus=bus) as run:
            ports = [
                httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")
                for app in (run.public, run.internal)
            ]
            async with ports[0] as public, ports[1] as internal:
                yield Front(run, public, internal)

    return begin


@pytest.fixture
async def tracking_url(migrated: Callable[[str], Awaitable[str]]) -> str:
    return await migrated("tracking")


@pytest.fixture
async def front(start: Starter, tracking_url: str) -> AsyncIterator[Front]:
    async with start(tracking_url) as made:
        yield made


@pytest.fixture
async def still(start: Starter, tracking_url: str) -> AsyncIterator[Front]:
    """The service without its loops, so that time passes only where a test says so; two more shops."""
    async with start(tracking_url, loops=False, more=MORE) as made:
        yield made
