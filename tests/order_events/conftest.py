"""An order-events service inside the test: two shops, their keys, and what came of what they said."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import orjson
import pytest

from order_events.app import create_app
from order_events.settings import Settings
from shared.store import Database
from shared.testing import Running, placed_body, running

API_KEY, OTHER_KEY = "agk_demo-key-of-the-tests", "agk_other-key-of-the-tests"
OPERATOR_KEY = "operator-key-of-the-tests"
SECRETS = {
    "shopify": "shopify-secret-one",
    "former": "shopify-secret-two",
    "woo": "woo-secret-12345",
}
SHOPS = f"""
[shops.demo]
name = "Demo"
mode = "live"
live_from = 2020-01-01T00:00:00Z
sender = {{ name = "Demo", address = "shop@demo.example.com" }}
reply_to = "help@demo.example.com"
time_zone = "Europe/Ljubljana"
api_keys = ["{hashlib.sha256(API_KEY.encode()).hexdigest()}"]
sources = ["/erp/demo"]
webhooks.shopify.secrets = ["file:shopify", "file:former"]
webhooks.woocommerce.secrets = ["file:woo"]
promises = [{{ days = [2, 4] }}]

[shops.other]
name = "Other"
sender = {{ name = "Other", address = "shop@other.example.com" }}
reply_to = "help@other.example.com"
api_keys = ["{hashlib.sha256(OTHER_KEY.encode()).hexdigest()}"]
webhooks.shopify.secrets = ["file:other"]
"""


def sign(body: bytes, secret: str) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()


@dataclass
class Front:
    """The service's two ports and its database."""

    running: Running
    public: httpx2.AsyncClient
    internal: httpx2.AsyncClient

    @property
    def db(self) -> Database:
        return self.running.service.db

    async def post(
        self,
        body: Any,
        *,
        path: str = "/v1/events",
        kind: str = "application/cloudevents+json",
        key: str = API_KEY,
        **headers: str,
    ) -> httpx2.Response:
        given = {"content-type": kind, "authorization": f"Bearer {key}"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.public.post(path, content=content, headers=given)

    async def batch(self, events: list[Any], **headers: str) -> httpx2.Response:
        return await self.post(events, kind="application/cloudevents-batch+json", **headers)

    async def shopify(
        self, topic: str, order: Any, *, secret: str = SECRETS["shopify"], shop: str = "demo"
    ) -> httpx2.Response:
        body = order if isinstance(order, bytes) else json.dumps(order).encode()
        headers = {"x-shopify-topic": topic, "x-shopify-hmac-sha256": sign(body, secret)}
        return await self.public.post(f"/webhooks/{shop}/shopify", content=body, headers=headers)

    async def woocommerce(self, topic: str, order: Any) -> httpx2.Response:
        body = order if isinstance(order, bytes) else json.dumps(order).encode()
        headers = {
            "x-wc-webhook-topic": topic,
            "x-wc-webhook-signature": sign(body, SECRETS["woo"]),
        }
        return await self.public.post("/webhooks/demo/woocommerce", content=body, headers=headers)

    async def ask(self, path: str, key: str = OPERATOR_KEY) -> httpx2.Response:
        return await self.internal.get(path, headers={"authorization": f"Bearer {key}"})

    async def told(self) -> list[tuple[str, str]]:
        """Type and key of everything in the outbox, in order."""
        rows = await self.db.fetch("select headers, key from outbox order by seq")
        return [(dict(orjson.loads(r["headers"]))["ce_type"], r["key"]) for r in rows]

    async def bodies(self, type_: str) -> list[dict[str, Any]]:
        """What stands in the outbox under a type, without what was blanked."""
        rows = await self.db.fetch("select headers, value from outbox order by seq")
        found = [r for r in rows if dict(orjson.loads(r["headers"]))["ce_type"] == type_]
        return [orjson.loads(r["value"]) for r in found if r["value"] is not None]

    async def webhooks(self) -> list[tuple[str, str | None]]:
        rows = await self.db.fetch("select outcome, reason from webhooks order by id")
        return [(r["outcome"], r["reason"]) for r in rows]


def structured(
    body: dict[str, Any] | None = None, type_: str = "order.placed.v1", **changes: Any
) -> dict[str, Any]:
    """Return one event in structured mode."""
    return {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/erp",
        "type": type_,
        "time": "2026-11-20T09:00:00Z",
        "data": placed_body() if body is None else body,
    } | changes


Starter = Callable[..., Any]


@pytest.fixture
def shops_file(tmp_path: Path) -> Path:
    for name, value in (SECRETS | {"other": "other-shopify-secret"}).items():
        (tmp_path / name).write_text(value)
    path = tmp_path / "shops.toml"
    path.write_text(SHOPS)
    return path


@pytest.fixture
def start(shops_file: Path) -> Starter:
    """Start the service on a migrated database; without a bus unless asked for."""

    @asynccontextmanager
    async def begin(url: str, *, bus: bool = False) -> AsyncIterator[Front]:
        settings = Settings(
            database_url=url,
            bus_url="postgres:",
            shops_file=shops_file,
            operator_keys=OPERATOR_KEY,
            link_keys="link-key-of-the-tests",
        )
        async with running(create_app(settings), bus=bus) as service:
            ports = [
                httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")
                for app in (service.public, service.internal)
            ]
            async with ports[0] as public, ports[1] as internal:
                yield Front(service, public, internal)

    return begin


@pytest.fixture
async def orders_url(migrated: Callable[[str], Awaitable[str]]) -> str:
    return await migrated("order_events")


@pytest.fixture
async def front(start: Starter, orders_url: str) -> AsyncIterator[Front]:
    async with start(orders_url) as made:
        yield made
