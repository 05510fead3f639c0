"""What a wish to be forgotten takes, and what it must leave alone."""

import asyncio
import json
from typing import Any

import pytest

from order_events import erasure
from order_events.erasure import ShopErasure
from shared.bus.postgres import PostgresBus
from shared.events import TOPICS, Record, email_hash
from shared.relay import Relay
from shared.store import Database, words
from shared.testing import ADDRESS, MemoryBus, placed_body

from .conftest import Front, Starter, structured


async def place(front: Front, *numbers: str, email: str = ADDRESS) -> None:
    events = [structured(placed_body(n, customer={"email": email})) for n in numbers]
    assert (await front.batch(events)).status_code == 202


def forget(number: str, **changes: Any) -> dict[str, Any]:
    body = {"order_id": number, "at": "2026-11-20T10:00:00Z"} | changes
    return structured(body, type_="customer.erased.v1")


async def test_two_orders_of_one_person_forgotten_in_one_commit_are_both_told(
    front: Front,
) -> None:
    await place(front, "1", "2")
    hashed = email_hash(ADDRESS)
    wishes = [forget(number, email_hash=hashed) for number in ("1", "2")]
    assert (await front.batch(wishes)).status_code == 202
    told = [body["order_id"] for body in await front.bodies("customer.erased.v1")]
    assert sorted(told) == ["1", "2"]


async def quarantined(front: Front) -> list[bool]:
    """Whether each quarantined body is still there, oldest first."""
    rows = await front.db.fetch("select body from webhooks order by id")
    return [row["body"] is not None for row in rows]


async def test_only_what_is_about_the_order_or_names_the_address_is_blanked(front: Front) -> None:
    bodies = (
        b'{"id": 77123, "total": "1.00", "quantity": 1}',  # another order
        b'{"id": 1, "note": "x"}',
        b'{"id": 77123, "broken": ',  # nobody can tell whose, and no 1 stands alone
        b'{"id": 1, "broken": ',
        b'{"id": 5, "email": "Ana.Novak@Example.com"}',
        b'{"id": 6, "email": "not.ana.novak@example.com.org"}',
    )
    for body in bodies:
        await front.shopify("orders/new_topic", body)
    await place(front, "1")
    await front.shopify(
        "customers/redact", {"orders_to_redact": [1], "customer": {"email": ADDRESS}}
    )
    assert (await quarantined(front))[:6] == [True, False, True, False, False, True]


async def test_a_dead_event_without_a_key_is_blanked_when_it_names_the_person(
    front: Front,
) -> None:
    await place(front, "1001")
    async with front.db.transaction() as tx:
        for value in (b'{"order_id": "1001"', b'{"order_id": "21001"', ADDRESS.encode()):
            record = Record("orders.inbound", "", (), value)
            await tx.bury("order_events", [(record, "malformed", "because")])
    await front.shopify(
        "customers/redact", {"orders_to_redact": [1001], "customer": {"email": ADDRESS}}
    )
    rows = await front.db.fetch("select value is null as gone from dead_event order by id")
    assert [r["gone"] for r in rows] == [True, False, True]


async def test_a_whole_shop_is_forgotten_in_steps_each_order_once(
    start: Starter, orders_url: str
) -> None:
    async with start(orders_url) as front:
        await place(front, *(f"{n:02}" for n in range(23)))
        shops = ShopErasure(front.db, MemoryBus(), lambda: None, step=5)
        async with front.db.transaction() as tx:
            now = await tx.fetchval("select clock_timestamp() + interval '1 hour'")
            await erasure.note_shop(tx, "demo", now)  # the loop of the service leaves it alone
        await front.db.execute("update timer set due_at = now(), kind = kind")
        steps = 0
        while await shops.step():
            steps += 1
        left = await front.db.fetchval("select count(*) from orders where snapshot is not null")
        assert left == 0
        assert steps <= 5
        assert len(await front.bodies("customer.erased.v1")) == 23


class HeldBus(PostgresBus):
    """Holds a relay between reading the outbox and appending."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, TOPICS)
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def publish(self, tx: Any, records: Any) -> dict[int, str]:
        self.reached.set()
        await self.go_on.wait()
        return await super().publish(tx, records)


async def test_a_body_that_the_relay_holds_just_now_is_forgotten_too(front: Front) -> None:
    bus = HeldBus(front.db)
    await bus.start()
    await place(front, "1")
    async with asyncio.TaskGroup() as group:
        group.create_task(Relay(front.db, bus).publish_batch())
        await bus.reached.wait()
        wish = {"orders_to_redact": [1], "customer": {"email": ADDRESS}}
        erasing = group.create_task(front.shopify("customers/redact", wish))
        await asyncio.sleep(0.3)
        bus.go_on.set()
    assert erasing.result().status_code == 202
    values = await front.db.fetch("select value from bus.record")
    assert [row["value"] for row in values] == [None]


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("1", '{"id":1}', True),
        ("1", '{"total":1.00,"id":71,"x":"a1"}', False),
        ("a+b", "see a+b.", True),
        ("ü@x.si", '"ü@x.si"', True),
        ("a\\b", "a\\b", True),
    ],
)
async def test_a_word_is_found_as_a_whole_only(
    front: Front, word: str, text: str, *, found: bool
) -> None:
    pattern = words([word], "0-9A-Za-z._-")
    hit = await front.db.fetchval("select encode($1::bytea, 'escape') ~ $2", text.encode(), pattern)
    assert hit is found


async def test_a_redelivered_erasure_of_nobody_is_quiet(front: Front) -> None:
    answer = await front.shopify("customers/redact", json.dumps({"orders_to_redact": [5]}).encode())
    assert answer.status_code == 202
    assert await front.told() == []
