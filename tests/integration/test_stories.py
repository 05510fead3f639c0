"""One order's way, over real processes, on both buses: from the shop's request to the customer's inbox."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from tests.bus.conftest import KafkaProxy
from tests.chaos.sink import Sink

import afterglow
from afterglow.postgres import Postgres
from shared.clock import now
from shared.events import rfc3339
from shared.testing import placed_body

from .stack import Process, Shop, service_env, started, until, until_ready

pytestmark = pytest.mark.timeout(300)  # on one broker, one at a time
DEMO_FILES = Path(str(afterglow.__file__)).parent / "demo_files"


@dataclass
class Stack:
    shop: Shop
    sink: Sink
    order_events: Process
    notifier: Process

    def mails(self) -> list[EmailMessage]:
        return [
            message_from_bytes(m.content, policy=policy.default)  # type: ignore[arg-type, misc]
            for m in self.sink.accepted
        ]

    async def mail(self, count: int, seconds: float = 60) -> list[EmailMessage]:
        async def there() -> bool:
            return len(self.sink.accepted) >= count

        await until(there, seconds)
        return self.mails()

    async def quiet(self) -> None:
        """Wait until everything that was said has become what it becomes."""
        await asyncio.sleep(1.5)


@asynccontextmanager
async def stack(folder: Path, database_url: str, **changes: str) -> AsyncIterator[Stack]:
    async with Sink(collect=True) as sink, httpx2.AsyncClient(timeout=30) as client:
        smtp = f"smtp://127.0.0.1:{sink.port}"
        first, second = (
            service_env(folder, database_url, **({"SMTP_URL": smtp} | changes)) for _ in range(2)
        )
        async with (
            started("order_events", first, wait=False) as order_events,
            started("notifier", second, wait=False) as notifier,
        ):
            await until_ready(order_events, notifier)
            yield Stack(Shop(client, order_events.public), sink, order_events, notifier)


Start = Callable[..., Any]


@pytest.fixture(params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus_url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        return "postgres:"
    return f"kafka://{request.getfixturevalue('whole_kafka')}"


@pytest.fixture
async def all_migrated(migrated: Callable[..., Awaitable[str]]) -> str:
    return await migrated("order_events", "tracking", "notifier")


def shopify_order(number: int, **changes: Any) -> dict[str, Any]:
    at = rfc3339(now() - timedelta(minutes=1))
    order: dict[str, Any] = json.loads((DEMO_FILES / "shopify_order.json").read_text())
    order |= {"id": number, "name": f"#{number}", "email": "maja@example.com"}
    order |= {"created_at": at, "processed_at": at, "updated_at": at}
    order["customer"] |= {"email": "maja@example.com"}
    return order | changes


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    return re.sub(r"\s+", " ", str(part.get_content()))


async def test_an_order_becomes_one_mail_in_her_language_however_often_it_is_told(
    tmp_path: Path, all_migrated: str, bus_url: str
) -> None:
    async with stack(tmp_path, all_migrated, BUS_URL=bus_url) as made:
        names = {"en": "Ana Novak", "ru": "Анна Иванова", "pl": "Łucja Żak", "sl": "Špela Čuk"}
        for number, (language, name) in enumerate(names.items()):
            who = {"name": name, "email": f"{language}@example.com", "locale": language}
            totals = {"currency": "EUR", "items": 2500, "shipping": 490, "total": 1234567}
            order = placed_body(f"{number}-{language}", customer=who, totals=totals)
            assert (await made.shop.state(order)).status_code == 202
            assert (await made.shop.state(order | {"number": "#again"})).status_code == 202
        order = shopify_order(5001)
        for _ in range(5):
            assert (await made.shop.shopify("orders/create", order)).status_code == 202
        who = {"name": "Maja", "email": "maja@example.com"}
        before = rfc3339(now() - timedelta(minutes=5))  # older than what the platform said of it
        same = placed_body("5001", customer=who, placed_at=before)
        assert (await made.shop.state(same)).status_code == 202
        old = shopify_order(5002, created_at="2025-01-01T00:00:00Z")
        old |= {"processed_at": old["created_at"]}
        assert (await made.shop.shopify("orders/create", old)).status_code == 202
        people = {*(f"{language}@example.com" for language in names), "maja@example.com"}

        def mailed() -> Counter[str]:  # a broker may still hold what another test's shop said
            return Counter(m.rcpt for m in made.sink.accepted if m.rcpt in people)

        async def all_mailed() -> bool:
            return mailed().keys() == people

        await until(all_mailed, 60)
        await made.quiet()
        found = {str(m["To"].addresses[0].addr_spec): m for m in made.mails()}
        assert mailed() == Counter(people)
        total = {"en": r"12,345\.67", "ru": r"12 345,67", "pl": r"12 345,67", "sl": r"12\.345,67"}
        for language, name in names.items():
            mail = found[f"{language}@example.com"]
            text = text_of(mail)
            assert "Sencha" in text
            assert re.search(total[language], text), text
            assert "€" in text
            assert name.split()[0] in text or name in str(mail["To"])
        assert "52,40" in text_of(found["maja@example.com"])
        assert "Gyokuro" in text_of(found["maja@example.com"])
        for process in (made.order_events, made.notifier):
            assert "maja@example.com" not in process.output
            assert "Novak" not in process.output


async def state_orders(made: Stack, seconds: float, per_second: float) -> list[int]:
    """State orders at a rate; return the answers."""
    answers: list[int] = []

    async def one(number: int) -> None:
        who = {"name": "Ana", "email": f"c{number}@example.com"}
        answers.append((await made.shop.state(placed_body(str(number), customer=who))).status_code)

    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * per_second)):
            group.create_task(one(number))
            await asyncio.sleep(1 / per_second)
    return answers


async def _broker_away(folder: Path, url: str, servers: str, seconds: float, rate: float) -> None:
    proxy = KafkaProxy(servers)
    await proxy.open()
    async with stack(folder, url, BUS_URL=f"kafka://{proxy.host}:{proxy.port}") as made:
        assert (await made.shop.state(placed_body("first"))).status_code == 202
        await made.mail(1)
        await proxy.cut()
        answers = await state_orders(made, seconds, rate)
        assert set(answers) == {202}
        assert (await made.order_events.ask("/readyz")).json()["database"] == "ok"
        await proxy.open()
        await made.mail(1 + len(answers), 120)
        await made.quiet()
        assert len({m.rcpt for m in made.sink.accepted}) == len(made.sink.accepted)
    await proxy.cut()


@pytest.mark.kafka
async def test_while_the_broker_is_away_orders_are_taken_and_their_mails_follow(
    tmp_path: Path, all_migrated: str, whole_kafka: str
) -> None:
    await _broker_away(tmp_path, all_migrated, whole_kafka, 8, 20)


@pytest.mark.kafka
@pytest.mark.soak
@pytest.mark.timeout(400)
async def test_while_the_broker_is_away_for_a_minute_under_load_every_mail_follows(
    request: pytest.FixtureRequest, tmp_path: Path, all_migrated: str
) -> None:
    servers = request.getfixturevalue("whole_kafka")
    await _broker_away(tmp_path, all_migrated, servers, 60, 100)


async def test_after_postgres_was_away_every_acknowledged_order_becomes_its_mail(
    tmp_path: Path,
) -> None:
    with Postgres.temporary() as server:
        async with stack(tmp_path, server.url) as made:
            taken: list[str] = []

            async def state(number: str) -> int:
                who = {"name": "Ana", "email": f"c{number}@example.com"}
                answer = await made.shop.state(placed_body(number, customer=who))
                if answer.status_code == 202:
                    taken.append(number)
                else:
                    assert answer.status_code == 503
                    assert answer.headers["retry-after"]
                return answer.status_code

            for number in range(10):
                assert await state(str(number)) == 202
            server.stop()
            assert await state("away") == 503
            server.start()

            async def back() -> bool:
                return await state("back") == 202

            await until(back)
            await made.mail(11)
            await made.quiet()
            assert Counter(m.rcpt for m in made.sink.accepted) == Counter(
                f"c{number}@example.com" for number in set(taken)
            )
            assert made.order_events.alive
            assert made.notifier.alive


async def test_an_erased_customer_gets_no_mail_and_leaves_no_address_behind(
    tmp_path: Path, all_migrated: str
) -> None:
    async with stack(tmp_path, all_migrated, SMTP_URL="smtp://127.0.0.1:1") as made:
        answer = await made.shop.shopify("orders/create", shopify_order(5001))
        assert answer.status_code == 202

        async def told() -> bool:
            return (await made.notifier.ask("/v1/orders/demo/5001")).status_code == 200

        await until(told)
        redact = {
            "shop_id": 1,
            "orders_to_redact": [5001],
            "customer": {"email": "maja@example.com"},
        }
        assert (await made.shop.shopify("customers/redact", redact)).status_code == 202

        async def erased() -> bool:
            shown = (await made.notifier.ask("/v1/orders/demo/5001")).json()
            return shown["erased_at"] and shown["messages"][0]["state"] == "suppressed"

        await until(erased)
        conn = await asyncpg.connect(all_migrated)
        try:
            tables = await conn.fetch(
                """select format('%I.%I', table_schema, table_name) t from information_schema.tables
                   where table_schema in ('order_events', 'notifier', 'bus')"""
            )
            for row in tables:
                left = await conn.fetchval(
                    f"""select count(*) from {row["t"]} t
                        where position('maja@example.com' in t::text) > 0
                           or position(encode('maja@example.com', 'hex') in t::text) > 0"""
                )
                assert left == 0, row["t"]
        finally:
            await conn.close()
