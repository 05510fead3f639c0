"""One parcel's way, over real processes, on both buses: from dispatch to the doorstep."""

import asyncio
import hashlib
import hmac
import json
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from tests.chaos.sink import Sink

from shared.clock import now
from shared.events import rfc3339
from shared.testing import placed_body

from .stack import API_KEY, EASYPOST_SECRET, Process, Shop, service_env, started, until, until_ready

pytestmark = pytest.mark.timeout(300)  # on one broker, one at a time
LINK = re.compile(r"https?://\S+/t/([A-Za-z0-9_-]{22})")


@dataclass
class Stack:
    shop: Shop
    client: httpx2.AsyncClient
    sink: Sink
    tracking: Process
    run: str

    @property
    def customer(self) -> str:
        return f"ana-{self.run}@example.com"

    def order(self, name: str, locale: str = "en") -> dict[str, Any]:
        day = now().date()
        promise = {"from": str(day + timedelta(days=9)), "to": str(day + timedelta(days=11))}
        who = {"name": "Ana Novak", "email": self.customer, "locale": locale}
        return placed_body(f"{self.run}-{name}", promise=promise | {"source": "shop"}, customer=who)

    def shipped(self, name: str, number: str) -> dict[str, Any]:
        order_id = f"{self.run}-{name}"
        return {
            "order_id": order_id,
            "shipment_id": f"{order_id}/1",
            "carrier": "Hermes",
            "tracking_number": number,
            "items": [{"line_id": "1", "quantity": "2"}],
            "final": "yes",
            "shipped_at": rfc3339(now() - timedelta(seconds=40)),
        }

    async def scan(self, body: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
        content = json.dumps(body).encode()
        url = f"{self.tracking.public}/v1/scans"
        return await self.client.post(url, content=content, headers=headers)

    async def easypost(self, event: dict[str, Any]) -> httpx2.Response:
        body = json.dumps(event).encode()
        digest = hmac.digest(EASYPOST_SECRET.encode(), body, "sha256").hex()
        headers = {"x-hmac-signature": f"hmac-sha256-hex={digest}"}
        url = f"{self.tracking.public}/webhooks/demo/easypost"
        return await self.client.post(url, content=body, headers=headers)

    def mails(self, kind: str | None = None) -> list[EmailMessage]:
        """Return what customers of this test got: a broker may still hold what an earlier one said."""
        found = [
            message_from_bytes(m.content, policy=policy.default)  # type: ignore[arg-type, misc]
            for m in self.sink.accepted
            if m.rcpt == self.customer
        ]
        return [m for m in found if kind in {None, m["X-Afterglow-Kind"]}]

    async def mail(self, kind: str, count: int = 1) -> EmailMessage:
        async def there() -> bool:
            return len(self.mails(kind)) >= count

        try:
            await until(there, 60)
        except TimeoutError:
            kinds = Counter(str(m["X-Afterglow-Kind"]) for m in self.mails())
            pytest.fail(f"no {kind} mail; there are {dict(kinds)}")
        return self.mails(kind)[-1]


@asynccontextmanager
async def stack(folder: Path, database_url: str, **changes: str) -> AsyncIterator[Stack]:
    async with Sink(collect=True) as sink, httpx2.AsyncClient(timeout=30) as client:
        given = {"SMTP_URL": f"smtp://127.0.0.1:{sink.port}"} | changes
        envs = [service_env(folder, database_url, **given) for _ in range(3)]
        track_url = f"http://127.0.0.1:{envs[1]['HTTP_PORT']}"
        envs = [env | {"TRACK_URL": track_url} for env in envs]
        async with (
            started("order_events", envs[0], wait=False) as order_events,
            started("tracking", envs[1], wait=False) as tracking,
            started("notifier", envs[2], wait=False) as notifier,
        ):
            await until_ready(order_events, tracking, notifier)
            shop = Shop(client, order_events.public)
            yield Stack(shop, client, sink, tracking, uuid4().hex[:6])


@pytest.fixture(params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus_url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        return "postgres:"
    return f"kafka://{request.getfixturevalue('whole_kafka')}"


@pytest.fixture
async def url(migrated: Callable[..., Awaitable[str]]) -> str:
    return await migrated("order_events", "tracking", "notifier")


def scan(number: str, state: str, seconds_ago: float, **changes: Any) -> dict[str, Any]:
    return {
        "tracking_number": number,
        "state": state,
        "occurred_at": rfc3339(now() - timedelta(seconds=seconds_ago)),
        "source": "hermes",
    } | changes


async def page_of(made: Stack, mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    link = LINK.search(str(part.get_content()))
    assert link is not None
    answer = await made.client.get(link.group())
    assert answer.status_code == 200
    return link.group()


async def test_a_parcel_is_told_once_at_each_step_however_its_scans_arrive(
    tmp_path: Path, url: str, bus_url: str
) -> None:
    async with stack(tmp_path, url, BUS_URL=bus_url) as made:
        numbers = [f"HX{made.run}{n}" for n in range(6)]
        told: list[Any] = []
        for n, number in enumerate(numbers):
            moves = [
                scan(number, "label_created", 35),
                scan(number, "in_transit", 30, place="Maribor"),
                scan(number, "in_transit", 20, place="Ljubljana"),
                scan(number, "out_for_delivery", 10),
                scan(number, "delivered", 5, reason="neighbour"),
            ]
            told += [move for move in moves for _ in range(1 + n % 3)]
        random.Random(4).shuffle(told)
        for one in told[:10]:  # before anybody knows these parcels
            assert (await made.scan(one)).status_code == 202
        for n, number in enumerate(numbers):
            placed = await made.shop.state(made.order(str(n)))
            assert placed.status_code == 202
            answer = await made.shop.state(made.shipped(str(n), number), "order.shipped.v1")
            assert answer.status_code == 202
        assert (await made.scan(told[10:])).status_code == 202
        await made.mail("delivered", len(numbers))
        await asyncio.sleep(1.5)
        kinds = Counter(str(m["X-Afterglow-Kind"]) for m in made.mails())
        assert kinds["delivered"] == kinds["order_confirmed"] == len(numbers)
        assert kinds["out_for_delivery"] <= len(numbers)  # what came too late is not sent
        assert set(kinds) <= {"order_confirmed", "order_shipped", "out_for_delivery", "delivered"}
        ids = Counter(str(m["Message-ID"]) for m in made.mails())
        assert max(ids.values()) == 1
        for n in range(len(numbers)):
            answer = await made.tracking.ask(f"/v1/orders/demo/{made.run}-{n}")
            assert answer.status_code == 200
            assert '"delivered"' in answer.text


async def test_a_delay_is_told_before_she_asks_and_so_is_its_end(
    tmp_path: Path, url: str, bus_url: str
) -> None:
    # a date is believed when it has stood for three hours: a day of twenty seconds makes them short
    async with stack(tmp_path, url, BUS_URL=bus_url, DAY_SECONDS="20") as made:
        assert (await made.shop.state(made.order("1", "sl-SI"))).status_code == 202
        answer = await made.shop.state(made.shipped("1", f"HY{made.run}"), "order.shipped.v1")
        assert answer.status_code == 202
        page = await page_of(made, await made.mail("order_shipped"))
        late = tracker(f"HY{made.run}", now() + timedelta(days=16))
        for _ in range(3):
            assert (await made.easypost(late)).status_code == 202
        await made.mail("shipment_delayed")
        shown = (await made.client.get(page)).text
        fields = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', shown))
        choice = await made.client.post(
            page,
            data=fields | {"choice": "call_me"},
            headers={"origin": page.partition("/t/")[0]},
            follow_redirects=True,
        )
        assert choice.status_code == 200
        again = tracker(f"HY{made.run}", now() + timedelta(days=8), said="evt_2")
        assert (await made.easypost(again)).status_code == 202
        await made.mail("delay_over")
        await asyncio.sleep(1)
        kinds = Counter(str(m["X-Afterglow-Kind"]) for m in made.mails())
        assert kinds == {
            "order_confirmed": 1, "order_shipped": 1, "shipment_delayed": 1, "delay_over": 1,
        }  # fmt: skip


async def test_killing_tracking_between_scans_loses_and_doubles_nothing(
    tmp_path: Path, url: str, bus_url: str
) -> None:
    async with stack(tmp_path, url, BUS_URL=bus_url) as made:
        assert (await made.shop.state(made.order("1"))).status_code == 202
        answer = await made.shop.state(made.shipped("1", f"HZ{made.run}"), "order.shipped.v1")
        assert answer.status_code == 202
        await made.mail("order_shipped")
        assert (await made.scan(scan(f"HZ{made.run}", "out_for_delivery", 9))).status_code == 202
        made.tracking.signal(signal.SIGKILL)
        await made.tracking.ended()
        async with started("tracking", made.tracking.env) as second:
            made.tracking = second
            for _ in range(2):
                assert (await made.scan(scan(f"HZ{made.run}", "delivered", 3))).status_code == 202
            await made.mail("delivered")
            await asyncio.sleep(1)
            kinds = Counter(str(m["X-Afterglow-Kind"]) for m in made.mails())
            assert kinds["delivered"] == 1
            assert kinds["out_for_delivery"] <= 1


def tracker(number: str, eta: datetime, said: str = "evt_1") -> dict[str, Any]:
    at = rfc3339(now())
    detail = {
        "object": "TrackingDetail", "message": "Arrived", "status": "in_transit",
        "status_detail": "arrived_at_facility", "datetime": at, "source": "Hermes",
        "tracking_location": {"city": "Graz", "country": "AT"},
    }  # fmt: skip
    result = {
        "object": "Tracker", "id": "trk_1", "tracking_code": number, "carrier": "Hermes",
        "status": "in_transit", "status_detail": "arrived_at_facility",
        "est_delivery_date": rfc3339(eta), "updated_at": at, "tracking_details": [detail],
    }  # fmt: skip
    event = {"object": "Event", "id": said, "description": "tracker.updated", "result": result}
    return event | {"digest": hashlib.sha256(said.encode()).hexdigest()}
