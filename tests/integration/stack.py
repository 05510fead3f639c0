"""The services as processes of their own, and everything they need, for one test."""

import asyncio
import base64
import hashlib
import hmac
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx2

from afterglow.postgres import free_port
from shared.settings import environment

API_KEY = "agk_demo-key-of-the-stories"
OPERATOR_KEY = "operator-key-of-the-stories"
LINK_KEY = "link-key-of-the-stories"
SHOPIFY_SECRET, WOO_SECRET = "shopify-secret-of-stories", "woocommerce-secret-of-stories"
EASYPOST_SECRET = "easypost-secret-of-stories"
SHOPS = f"""
[shops.demo]
name = "Leaf & Kettle"
mode = "live"
live_from = 2026-01-01T00:00:00Z
sender = {{ name = "Leaf & Kettle", address = "tea@demo.example.com" }}
reply_to = "help@demo.example.com"
api_keys = ["{hashlib.sha256(API_KEY.encode()).hexdigest()}"]
webhooks.shopify.secrets = ["env:TEST_SHOPIFY"]
webhooks.woocommerce.secrets = ["env:TEST_WOO"]
webhooks.easypost.secrets = ["env:TEST_EASYPOST"]
"""
STOP_SECONDS = 20


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 40) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.05)


class Process:
    """One service; `lines` is everything it wrote."""

    def __init__(self, module: str, env: dict[str, str]) -> None:
        self.module = module
        self.env = env
        self.public = f"http://127.0.0.1:{env['HTTP_PORT']}"
        self.internal = f"http://127.0.0.1:{env['INTERNAL_PORT']}"
        self.lines: list[str] = []
        self._child: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Future[None] | None = None

    @property
    def output(self) -> str:
        return "".join(self.lines)

    async def start(self) -> Self:
        self._child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.module,
            env=self.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 20,
        )
        return self

    async def read(self) -> None:
        """Collect what it writes until it ends."""
        assert self._child is not None
        assert self._child.stdout is not None
        async for line in self._child.stdout:
            self.lines.append(line.decode())

    async def ask(self, path: str, key: str = OPERATOR_KEY) -> httpx2.Response:
        # There is no TLS here: to load certificates takes a hundred times longer than to ask.
        async with httpx2.AsyncClient(verify=False) as client:
            headers = {"authorization": f"Bearer {key}"}
            return await client.get(self.internal + path, headers=headers)

    async def ready(self) -> bool:
        try:
            return (await self.ask("/readyz")).status_code == 200
        except httpx2.TransportError:
            assert self.alive, self.output
            return False

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.returncode is None

    def signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    async def ended(self, seconds: float = STOP_SECONDS) -> int:
        assert self._child is not None
        async with asyncio.timeout(seconds):
            return await self._child.wait()

    async def stop(self) -> int:
        if self.alive:
            self.signal(signal.SIGTERM)
        try:
            return await self.ended()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            raise


def service_env(folder: Path, database_url: str, **changes: str) -> dict[str, str]:
    """Return the environment of a service; its shop file is made where it is missing."""
    shops = folder / "shops.toml"
    if not shops.exists():
        shops.write_text(SHOPS)
    inherited = environment()
    return {
        **{k: inherited[k] for k in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if k in inherited},
        "DATABASE_URL": database_url,
        "BUS_URL": "postgres:",
        "SHOPS_FILE": str(shops),
        "OPERATOR_KEYS": OPERATOR_KEY,
        "LINK_KEYS": LINK_KEY,
        "HTTP_PORT": str(free_port()),
        "INTERNAL_PORT": str(free_port()),
        "TEST_SHOPIFY": SHOPIFY_SECRET,
        "TEST_WOO": WOO_SECRET,
        "TEST_EASYPOST": EASYPOST_SECRET,
        "SMTP_URL": "smtp://127.0.0.1:1",
        "SMTP_CONNECTIONS": "4",
        "LOG_LEVEL": "info",
        "PYTHONWARNINGS": "default",
        **changes,
    }


@asynccontextmanager
async def started(module: str, env: dict[str, str], *, wait: bool = True) -> AsyncIterator[Process]:
    """Run a service as a process; it is stopped when the block ends, if it still runs."""
    process = await Process(module, env).start()
    async with asyncio.TaskGroup() as group:
        group.create_task(process.read())
        try:
            if wait:
                await until(process.ready)
            yield process
        finally:
            await process.stop()


async def until_ready(*processes: Process) -> None:
    """Wait for processes that start at the same time."""
    for process in processes:
        await until(process.ready)


class Shop:
    """What a shop does: it states orders and signs webhooks."""

    def __init__(self, client: httpx2.AsyncClient, base: str) -> None:
        self._client = client
        self._base = base

    async def state(self, body: dict[str, Any], type_: str = "order.placed.v1") -> httpx2.Response:
        headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
        content = json.dumps(body).encode()
        path = f"{self._base}/v1/events/{type_}"
        return await self._client.post(path, content=content, headers=headers)

    async def shopify(self, topic: str, order: dict[str, Any]) -> httpx2.Response:
        return await self._hook("shopify", SHOPIFY_SECRET, order, {"x-shopify-topic": topic})

    async def woocommerce(self, topic: str, order: dict[str, Any]) -> httpx2.Response:
        return await self._hook("woocommerce", WOO_SECRET, order, {"x-wc-webhook-topic": topic})

    async def _hook(
        self, source: str, secret: str, order: dict[str, Any], headers: dict[str, str]
    ) -> httpx2.Response:
        body = json.dumps(order).encode()
        name = {"shopify": "x-shopify-hmac-sha256", "woocommerce": "x-wc-webhook-signature"}[source]
        headers[name] = base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()
        path = f"{self._base}/webhooks/demo/{source}"
        return await self._client.post(path, content=body, headers=headers)
