"""What was signed is never sent back: it is kept, shown, and read again when it can be."""

import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from order_events import api
from order_events.domain import Delivery, Erase, Snapshot
from order_events.handlers import Answer, Item, Orders, Webhook
from shared.clock import now
from shared.errors import GiveUp
from shared.events import OrderPlaced, rfc3339
from shared.observability import SCANS_UNMAPPED
from shared.store import Tx
from shared.testing import MemoryBus, placed, placed_body

from .conftest import SECRETS, Front, sign, structured
from .test_handlers import shopify_order

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_an_order_dated_far_ahead_is_taken_with_a_promise_from_today(front: Front) -> None:
    far = "2099-12-31T23:00:00Z"
    order = shopify_order(created_at=far, processed_at=far, updated_at=far)
    assert (await front.shopify("orders/create", order)).status_code == 202
    assert (await front.post(structured(placed_body("2", placed_at=far)))).status_code == 202
    for body in await front.bodies("order.placed.v1"):
        promised = datetime.fromisoformat(body["promise"]["to"]).replace(tzinfo=UTC)
        assert (promised - now()).days < 30
    shown = (await front.ask("/v1/orders/demo/2")).json()
    assert shown["facts"][0]["raw_at"] == far


class _Breaks:
    """A platform whose bodies always break the translator; it quotes what was sent."""

    @staticmethod
    def verify(*_: Any) -> bool:
        return True

    @staticmethod
    def read(body: bytes, *_: Any) -> Delivery:
        raise KeyError(body.decode())


async def test_a_fault_in_a_translator_is_quarantined_with_its_class(
    front: Front, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(api._SOURCES, "shopify", _Breaks)
    answer = await front.shopify("orders/create", b'{"id": 5, "name": "Ana Novak"}')
    assert (answer.status_code, answer.json()["outcome"]) == (200, "quarantined")
    assert await front.webhooks() == [("quarantined", "KeyError")]
    assert "Ana Novak" not in capsys.readouterr().out


async def submit_to(front: Front, error: Exception, hook: Webhook) -> Answer:
    async def submit(item: Item) -> Answer:
        assert isinstance(item, Webhook)
        if item.unusable is None:
            raise error
        return Answer((), outcome=f"{item.unusable} {len(item.delivery.statements)}")

    return await api._Ingest(submit, front.running.service.shops)._take(hook)


async def test_a_fault_in_the_transaction_is_quarantined_and_a_passing_one_is_not(
    front: Front,
) -> None:
    shop = front.running.service.shops.get("demo")
    assert shop is not None
    statements = (Erase(("1",), None),)
    hook = Webhook(shop, "shopify", Delivery("orders/create", None, "1", statements), b"{}")
    assert (await submit_to(front, ValueError("Ana"), hook)).outcome == "ValueError 0"
    assert (await submit_to(front, GiveUp("too large"), hook)).outcome == "too large 0"
    with pytest.raises(ConnectionResetError):  # a database that is away is told to the platform
        await submit_to(front, ConnectionResetError(), hook)


async def test_a_quarantined_delivery_stands_with_its_order(front: Front) -> None:
    await front.shopify("orders/create", {"id": 5001, "line_items": "broken"})
    await front.shopify("refunds/surprise", {"id": 9, "order_id": 5001})
    shown = (await front.ask("/v1/orders/demo/5001")).json()
    assert [h["outcome"] for h in shown["webhooks"]] == ["quarantined", "quarantined"]


async def replay(front: Front, number: int) -> tuple[int, Any]:
    headers = {"authorization": "Bearer operator-key-of-the-tests"}
    answer = await front.internal.post(f"/v1/quarantine/{number}/replay", headers=headers)
    return answer.status_code, answer.json()


async def test_a_delivery_is_read_again_when_it_is_understood(front: Front) -> None:
    await front.shopify("orders/create", b'{"id": 5001')
    assert (await replay(front, 1))[0] == 409
    assert (await replay(front, 77))[0] == 404
    await front.shopify("orders/unheard_of", shopify_order())
    row = "update webhooks set topic = 'orders/create' where id = $1 returning id"
    number = await front.db.fetchval(row, 2)  # as if a newer version knew the topic
    status, told = await replay(front, number)
    assert (status, told["outcome"]) == (200, "accepted")
    assert await front.told() == [("order.placed.v1", "demo:5001")]
    assert await front.db.fetchval("select body from webhooks where id = $1", number) is None
    assert (await replay(front, number))[0] == 404


async def test_a_webhooks_trace_goes_with_its_events(front: Front) -> None:
    body = json.dumps(shopify_order()).encode()
    headers = {
        "x-shopify-topic": "orders/create",
        "x-shopify-hmac-sha256": sign(body, SECRETS["shopify"]),
        "traceparent": TRACE,
    }
    await front.public.post("/webhooks/demo/shopify", content=body, headers=headers)
    headers = await front.db.fetchval("select headers from outbox")
    assert dict(json.loads(headers))["ce_traceparent"] == TRACE


async def test_a_scan_word_that_nobody_mapped_is_counted(front: Front) -> None:
    before = SCANS_UNMAPPED.labels("shopify")._value.get()
    scan = {"id": 1, "fulfillment_id": 88, "order_id": 5001, "created_at": rfc3339(now())}
    await front.shopify("fulfillment_events/create", scan | {"status": "in_transit"})
    await front.shopify("fulfillment_events/create", scan | {"status": "sent_to_the_moon"})
    assert SCANS_UNMAPPED.labels("shopify")._value.get() == before + 1


class _Contended(Orders):
    """Two of three transactions are in another's way."""

    tries = 0

    async def _open(self, tx: Tx, items: Any) -> Any:
        self.tries += 1
        if self.tries < 3:
            raise asyncpg.DeadlockDetectedError
        return await super()._open(tx, items)


async def test_a_deadlock_is_our_own_business(front: Front) -> None:
    service = front.running.service
    orders = _Contended(front.db, MemoryBus(), service.shops, lambda: None)
    shop = service.shops.get("demo")
    assert shop is not None
    snapshot = Snapshot(placed("5"), placed=True)
    hook = Webhook(shop, "shopify", Delivery("orders/create", None, "5", (snapshot,)), b"")
    [answer] = await orders.accept([hook])
    assert isinstance(answer, Answer)
    assert (answer.outcome, orders.tries) == ("accepted", 3)


async def test_no_error_of_an_event_quotes_a_person() -> None:
    with pytest.raises(ValueError, match="email") as caught:
        OrderPlaced.model_validate(placed_body(customer={"email": "Ana Novak"}))
    assert "Ana Novak" not in str(caught.value)
