"""Deliveries that come late, twice, broken or after the customer asked to be forgotten."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import afterglow
from order_events.api import inbound_event
from shared.clock import now
from shared.errors import UnknownType
from shared.events import Record, email_hash, event_id, rfc3339
from shared.testing import ADDRESS, placed_body

from .conftest import SECRETS, Front, Starter, structured

SAMPLE = Path(str(afterglow.__file__)).parent / "demo_files" / "shopify_order.json"
OWNER = "maja.kranjc@example.com"


def shopify_order(number: int = 5001, *, minutes: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a real order's body, placed so many minutes ago."""
    at = rfc3339(now() - timedelta(minutes=minutes))
    order: dict[str, Any] = json.loads(SAMPLE.read_text())
    order |= {"id": number, "name": f"#{number}", "email": OWNER, "contact_email": OWNER}
    order |= {"created_at": at, "processed_at": at, "updated_at": at}
    order["customer"] |= {"email": OWNER}
    return order | changes


def woo_order(number: int = 7001, status: str = "processing") -> dict[str, Any]:
    at = (now() - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S")
    person = {"first_name": "Jan", "last_name": "Kos", "email": OWNER, "country": "SI"}
    line = {"id": 1, "name": "Tea", "quantity": 1, "total": "10.00", "price": 10, "sku": "T"}
    return {
        "id": number, "number": str(number), "status": status, "currency": "EUR", "total": "10.00",
        "date_created_gmt": at, "date_modified_gmt": at, "date_paid_gmt": at, "billing": person,
        "shipping": person, "line_items": [line], "refunds": [], "shipping_total": "0.00",
        "total_tax": "0.00", "discount_total": "0.00", "payment_method": "bacs", "meta_data": [],
    }  # fmt: skip


def fulfilment(number: int = 5001, tracking: str = "AB123456789SI") -> dict[str, Any]:
    at = rfc3339(now() - timedelta(seconds=30))
    return {
        "id": 88, "order_id": number, "status": "success", "created_at": at, "updated_at": at,
        "tracking_numbers": [tracking], "tracking_company": "Pošta Slovenije", "line_items": [],
    }  # fmt: skip


async def types(front: Front) -> list[str]:
    return [type_ for type_, _ in await front.told()]


# ---------------------------------------------------------------- deliveries


async def test_the_same_delivery_five_times_is_one_event(front: Front) -> None:
    order = shopify_order()
    answers = [await front.shopify("orders/create", order) for _ in range(5)]
    assert {a.status_code for a in answers} == {202}
    assert await types(front) == ["order.placed.v1"]
    assert [outcome for outcome, _ in await front.webhooks()] == ["accepted"] + ["duplicate"] * 4


async def test_the_same_delivery_at_once_at_two_replicas_is_one_event(
    start: Starter, orders_url: str
) -> None:
    order = shopify_order()
    async with start(orders_url) as one, start(orders_url) as other:
        answers = await asyncio.gather(
            *(f.shopify("orders/create", order) for f in (one, other) for _ in range(10))
        )
        assert {a.status_code for a in answers} == {202}
        assert await types(one) == ["order.placed.v1"]


async def test_a_rotated_secret_is_good_beside_the_new_one(front: Front) -> None:
    order = shopify_order()
    for secret in (SECRETS["shopify"], SECRETS["former"]):
        answer = await front.shopify("orders/create", order, secret=secret)
        assert answer.status_code == 202
    assert await types(front) == ["order.placed.v1"]


async def test_one_shops_secret_opens_nothing_at_another(front: Front) -> None:
    answer = await front.shopify("orders/create", shopify_order(), shop="other")
    assert (answer.status_code, await front.told()) == (401, [])


async def test_what_is_signed_but_not_understood_is_kept_and_answered_200(front: Front) -> None:
    bodies: list[tuple[str, Any]] = [
        ("orders/create", b"{"),
        ("orders/create", b"<html>oops</html>"),
        ("orders/create", b""),
        ("orders/create", b"\xff\xfe"),
        ("orders/create", b'{"id": NaN}'),
        ("orders/create", b"[" * 50_000),
        ("orders/create", b'{"id": "\\u0000"}'),
        ("orders/create", []),
        ("orders/create", shopify_order(currency="XXX", presentment_currency="XXX")),
        ("orders/new_topic", shopify_order()),
        ("customers/redact", {"customer": {}}),
    ]
    for topic, body in bodies:
        answer = await front.shopify(topic, body)
        assert (answer.status_code, answer.json()["outcome"]) == (200, "quarantined"), body
    assert await front.told() == []
    kept = await front.db.fetch("select body, reason from webhooks order by id")
    assert bytes(kept[1]["body"]) == b"<html>oops</html>"
    assert all(k["reason"] for k in kept)
    assert not any(OWNER in k["reason"] for k in kept)


async def test_the_unsigned_ping_of_woocommerce_is_answered_and_says_nothing(
    front: Front,
) -> None:
    path = "/webhooks/demo/woocommerce"
    assert (await front.public.post(path, content=b"webhook_id=7")).status_code == 200
    assert (await front.public.post(path, content=b"webhook_id=7&x=1")).status_code == 401
    assert (await front.woocommerce("order.created", woo_order())).status_code == 202
    assert await types(front) == ["order.placed.v1"]


async def test_an_order_too_large_for_a_webhook_is_refused(front: Front) -> None:
    assert (await front.shopify("orders/create", b" " * 300_000)).status_code == 413


async def test_an_order_that_changes_there_and_back_is_told_each_time(front: Front) -> None:
    for minute, city in enumerate(("Maribor", "Celje", "Maribor", "Celje")):
        order = shopify_order(minutes=10)
        order["shipping_address"] |= {"city": city}
        order["updated_at"] = rfc3339(now() - timedelta(minutes=9 - minute))
        await front.shopify("orders/updated", order)
    assert await types(front) == ["order.placed.v1"] + ["order.updated.v1"] * 3
    last = (await front.bodies("order.updated.v1"))[-1]
    assert last["ship_to"]["city"] == "Celje"


async def test_a_delivery_that_comes_late_does_not_undo_a_newer_one(front: Front) -> None:
    newer = shopify_order(minutes=10)
    newer["shipping_address"] |= {"city": "Celje"}
    newer["updated_at"] = rfc3339(now() - timedelta(minutes=1))
    await front.shopify("orders/updated", newer)
    await front.shopify("orders/create", shopify_order(minutes=10))
    shown = (await front.ask("/v1/orders/demo/5001")).json()
    assert shown["order"]["ship_to"]["city"] == "Celje"
    assert await types(front) == ["order.placed.v1"]


async def test_a_platform_that_redates_an_unchanged_order_tells_nothing(front: Front) -> None:
    order = shopify_order(minutes=10)
    for minutes in (9, 8, 7):
        order["updated_at"] = rfc3339(now() - timedelta(minutes=minutes))
        await front.shopify("orders/updated", order)
    assert await types(front) == ["order.placed.v1"]


async def test_a_test_order_is_history_and_a_cancelled_one_tells_of_its_end_only(
    front: Front,
) -> None:
    await front.shopify("orders/create", shopify_order(test=True))
    at = rfc3339(now())
    await front.shopify("orders/cancelled", shopify_order(5002, cancelled_at=at))
    assert (await front.webhooks())[0] == ("history", "test order")
    assert "order.placed.v1" not in await types(front)


async def test_two_shops_may_use_the_same_order_number(front: Front) -> None:
    await front.shopify("orders/create", shopify_order())
    await front.shopify(
        "orders/create", shopify_order(), shop="other", secret="other-shopify-secret"
    )
    assert await front.told() == [
        ("order.placed.v1", "demo:5001"),
        ("order.placed.v1", "other:5001"),
    ]


async def test_a_fulfilment_before_its_order_is_kept_for_it(front: Front) -> None:
    await front.shopify("fulfillments/create", fulfilment())
    await front.shopify("orders/create", shopify_order())
    assert await types(front) == ["order.shipped.v1", "order.placed.v1"]
    shown = (await front.ask("/v1/orders/demo/5001")).json()
    assert shown["state"]["stage"] == "shipped"


# ---------------------------------------------------------------- erasure


async def everything(front: Front) -> str:
    """All text in the service's schema and in the bus log."""
    tables = await front.db.fetch(
        """select format('%I.%I', table_schema, table_name) t from information_schema.tables
           where table_schema in ('order_events', 'bus')"""
    )
    found = []
    for row in tables:
        rows = await front.db.fetch(f"select t.* from {row['t']} t")
        for r in rows:
            found += [bytes(v).decode("latin-1") if isinstance(v, bytes) else str(v) for v in r]
    return "\n".join(found)


def redact(*orders: int, email: str | None = OWNER) -> dict[str, Any]:
    return {"shop_id": 1, "customer": {"id": 1, "email": email}, "orders_to_redact": list(orders)}


async def published(front: Front) -> None:
    async with asyncio.timeout(20):
        while await front.db.fetchval("select count(*) from outbox_unpublished"):
            await asyncio.sleep(0.02)


async def test_an_erased_customer_is_gone_from_every_table_and_from_the_bus(
    start: Starter, orders_url: str
) -> None:
    async with start(orders_url, bus=True) as front:
        await front.shopify("orders/create", shopify_order())
        await front.shopify("fulfillments/create", fulfilment())
        await front.shopify("orders/create", shopify_order(5002))
        await front.shopify("orders/create", json.dumps(shopify_order(5003))[:-9].encode())
        await front.shopify("orders/new_topic", shopify_order(5004))
        await published(front)
        assert OWNER in await everything(front)
        answer = await front.shopify("customers/redact", redact(5001))
        assert answer.status_code == 202
        left = await everything(front)
        for personal in (OWNER, "Kranjc", "AB123456789SI", "Prešernova"):
            assert personal not in left
            assert personal not in left.encode("latin-1", "ignore").decode("utf-8", "ignore")
        await published(front)
        erased = [key for type_, key in await front.told() if type_ == "customer.erased.v1"]
        assert sorted(erased) == ["demo:5001", "demo:5002"]
        shown = (await front.ask("/v1/orders/demo/5001")).json()
        assert shown["order"] is None
        assert shown["erased_at"] is not None


async def test_after_an_erasure_older_facts_are_dropped_and_a_later_purchase_works(
    front: Front,
) -> None:
    await front.shopify("orders/create", shopify_order())
    await front.shopify("customers/redact", redact(5001))
    before = await types(front)
    await front.shopify("orders/updated", shopify_order(note="late"))
    await front.shopify("orders/create", shopify_order(4999, minutes=60))
    await front.shopify("fulfillments/create", fulfilment())
    await front.post(structured(placed_body("77", customer={"email": OWNER})))
    assert await types(front) == before
    assert OWNER not in await everything(front)
    await front.shopify("orders/create", shopify_order(6000, minutes=0))
    assert (await front.told())[-1] == ("order.placed.v1", "demo:6000")


async def test_an_order_and_the_wish_to_forget_it_in_one_commit_leave_nothing(
    front: Front,
) -> None:
    answers = await asyncio.gather(
        front.shopify("orders/create", shopify_order()),
        front.shopify("orders/create", shopify_order(5002)),
        front.shopify("customers/redact", redact(email=OWNER)),
        front.shopify("orders/updated", shopify_order(5002, minutes=2)),
    )
    assert {a.status_code for a in answers} == {202}
    assert OWNER not in await everything(front)
    assert (await types(front)).count("customer.erased.v1") == 2


async def test_a_whole_shop_can_be_forgotten_and_another_stays(front: Front) -> None:
    await front.shopify("orders/create", shopify_order())
    await front.shopify("orders/create", b"{broken" + OWNER.encode())
    await front.shopify(
        "orders/create", shopify_order(9), shop="other", secret="other-shopify-secret"
    )
    wish = {"shop_id": 1, "shop_domain": "demo.myshopify.com"}
    assert (await front.shopify("shop/redact", wish)).status_code == 202
    async with asyncio.timeout(20):
        while await front.db.fetchval("select count(*) from timer"):
            await asyncio.sleep(0.05)
    rows = await front.db.fetch("select shop, snapshot is null as gone from orders order by shop")
    assert [tuple(r.values()) for r in rows] == [("demo", True), ("other", False)]
    bodies = await front.db.fetchval("select count(*) from webhooks where body is not null")
    assert bodies == 0


async def test_a_shop_may_have_one_order_or_one_address_forgotten_by_event(front: Front) -> None:
    for number in ("1", "2", "3"):
        email = ADDRESS if number != "3" else OWNER
        await front.post(structured(placed_body(number, customer={"email": email})))
    erase = {"order_id": "3", "at": "2026-11-20T10:00:00Z"}
    await front.post(structured(erase, type_="customer.erased.v1"))
    left = await everything(front)
    assert OWNER not in left
    assert ADDRESS in left
    erase |= {"order_id": "1", "email_hash": email_hash(ADDRESS)}
    await front.post(structured(erase, type_="customer.erased.v1"))
    assert ADDRESS not in await everything(front)
    erased = [key for type_, key in await front.told() if type_ == "customer.erased.v1"]
    assert sorted(erased) == ["demo:1", "demo:2", "demo:3"]


async def test_to_be_forgotten_twice_or_unknown_changes_nothing(front: Front) -> None:
    await front.shopify("orders/create", shopify_order())
    for _ in range(2):
        assert (await front.shopify("customers/redact", redact(5001))).status_code == 202
    answer = await front.shopify("customers/redact", redact(123, email="nobody@example.com"))
    assert answer.status_code == 202
    assert (await types(front)).count("customer.erased.v1") == 1 or (
        await front.bodies("customer.erased.v1")
    )


# ---------------------------------------------------------------- orders.inbound


def inbound(said: str = "a1", source: str = "/erp/demo", **changes: Any) -> Record:
    body = placed_body(**changes)
    headers = {
        "ce_specversion": "1.0",
        "ce_id": said,
        "ce_type": "order.placed.v1",
        "ce_source": source,
        "ce_time": body["placed_at"],
        "content-type": "application/json",
    }
    raw = tuple((n, v.encode()) for n, v in headers.items())
    return Record("orders.inbound", f"demo:{body['order_id']}", raw, json.dumps(body).encode())


async def put(front: Front, *records: Record) -> None:
    async with front.db.transaction() as tx:
        await front.running.service.bus.publish(tx, records)
    lag = "select coalesce(sum(s.next_offset), 0) from bus.shard s where topic = 'orders.inbound'"
    read = """select coalesce(sum(c."offset"), 0) from bus.claim c join bus.shard s on s.id = c.shard
              where s.topic = 'orders.inbound'"""
    async with asyncio.timeout(20):
        while await front.db.fetchval(read) < await front.db.fetchval(lag):
            await asyncio.sleep(0.02)


async def test_a_shops_own_system_may_put_its_orders_on_the_bus(
    start: Starter, orders_url: str
) -> None:
    async with start(orders_url, bus=True) as front:
        unknown = inbound("a2", type="x")
        sung = tuple((n, b"order.sung.v1" if n == "ce_type" else v) for n, v in unknown.headers)
        await put(
            front,
            inbound("a1"),
            inbound("a1"),
            inbound("b1", source="/somebody/else", order_id="2"),
            Record("orders.inbound", "demo:9", inbound().headers, inbound().value),
            Record("orders.inbound", "demo:3", sung, b"{}"),
            inbound("c1", order_id="3", customer={"name": "a\0b"}),
            inbound("d1", order_id="4"),
        )
        assert sorted(await front.told()) == [
            ("order.placed.v1", "demo:1001"),
            ("order.placed.v1", "demo:4"),
        ]
        dead = await front.db.fetch("select error_text from dead_event order by id")
        assert len(dead) == 3
        assert (await front.ask("/v1/orders/demo/4")).json()["state"]["stage"] == "placed"


async def test_an_event_said_by_http_and_by_bus_is_one_event(
    start: Starter, orders_url: str
) -> None:
    async with start(orders_url, bus=True) as front:
        body = placed_body()
        await front.post(structured(body, id="a1", source="/erp/demo", time=body["placed_at"]))
        await put(front, inbound("a1", placed_at=body["placed_at"]))
        assert await types(front) == ["order.placed.v1"]
        (row,) = await front.db.fetch("select event_id from outbox")
        assert row["event_id"] == event_id("demo", "/erp/demo", "a1")


async def test_an_older_fact_about_an_erased_customer_is_dropped_on_the_bus_too(
    start: Starter, orders_url: str
) -> None:
    async with start(orders_url, bus=True) as front:
        await front.shopify("customers/redact", redact(email=ADDRESS))
        await put(front, inbound("late"))
        assert await front.told() == []
        assert ADDRESS not in await front.db.fetchval(
            "select coalesce(max(told::text), '') from orders"
        )


async def test_an_inbound_record_may_be_structured(front: Front) -> None:
    event = structured(id="s1", source="/erp/demo")
    record = Record(
        "orders.inbound",
        "demo:1001",
        (("content-type", b"application/cloudevents+json"),),
        json.dumps(event).encode(),
    )
    read = inbound_event(record, front.running.service.shops)
    assert (read.shop, read.type, read.time) == (
        "demo",
        "order.placed.v1",
        datetime(2026, 11, 20, 9, tzinfo=UTC),
    )
    wrong = json.dumps(event | {"type": "message.sent.v1"}).encode()
    try:
        inbound_event(
            Record("orders.inbound", "", record.headers, wrong), front.running.service.shops
        )
    except UnknownType:
        return
    raise AssertionError("a type that a shop may not state was read")


# ---------------------------------------------------------------- forgetting by itself


async def test_what_is_personal_leaves_by_itself_half_a_year_after_the_last_event(
    front: Front,
) -> None:
    await front.post(structured())
    await front.post(structured(placed_body("2", customer={"email": OWNER})))
    await front.db.execute(
        "update orders set updated_at = now() - interval '181 days' where order_id = '1001'"
    )
    tidy = front.running.service.tidy
    assert tidy is not None
    await tidy()
    rows = await front.db.fetch("select order_id from orders where snapshot is not null")
    assert [r["order_id"] for r in rows] == ["2"]
