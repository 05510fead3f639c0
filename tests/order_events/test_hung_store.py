import asyncio
import hashlib
import time

import httpx2

from order_events.api import public_routes
from order_events.handlers import Answer, Item
from shared.shops import parse
from shared.testing import placed_body
from shared.web import http_app

KEY = "agk_key-of-the-hung-store"
SHOPS = f"""
[shops.demo]
name = "Demo"
sender = {{ name = "Demo", address = "shop@demo.example.com" }}
reply_to = "help@demo.example.com"
api_keys = ["{hashlib.sha256(KEY.encode()).hexdigest()}"]
"""


async def never(_: Item) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_store_that_hangs_is_a_503_before_a_platform_gives_up_after_five_seconds() -> None:
    app = http_app("order_events", public_routes(never, parse(SHOPS)))
    transport = httpx2.ASGITransport(app=app)
    began = time.monotonic()
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://test", timeout=10
    ) as client:
        answer = await client.post(
            "/v1/events/order.placed.v1",
            json=placed_body(),
            headers={"Authorization": f"Bearer {KEY}"},
        )
    assert time.monotonic() - began < 5
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
