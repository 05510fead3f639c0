"""Facts in any order, twice, late, of a shop that may not send: which rows they make."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from prometheus_client import REGISTRY

from shared.clock import now
from shared.errors import GiveUp, Retry
from shared.events import (
    CustomerErased,
    Event,
    OrderCancelled,
    OrderDelayed,
    OrderShipped,
    OrderUpdated,
    Promise,
)
from shared.testing import ADDRESS, event, placed, placed_body

from .conftest import Desk, Make


def minutes_ago(minutes: float) -> datetime:
    return now() - timedelta(minutes=minutes)


def wire(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def story(order_id: str = "1001") -> list[Event]:
    """An order's facts: placed, corrected, delayed, shipped."""
    corrected = {"name": "Ana Novak", "email": "ana.corrected@example.com", "locale": "en"}
    update = placed_body(order_id, customer=corrected, revision=wire(minutes_ago(8)))
    moved = Promise.model_validate({"from": "2026-12-10", "to": "2026-12-12", "source": "shop"})
    return [
        event(placed(order_id), at=minutes_ago(10)),
        event(OrderUpdated.model_validate(update), at=minutes_ago(8)),
        event(OrderDelayed(order_id=order_id, promise=moved), at=minutes_ago(5)),
        event(OrderShipped(order_id=order_id, shipment_id="7/1"), at=minutes_ago(2)),
    ]


def cancelled(order_id: str = "1001", at: datetime | None = None) -> Event:
    return event(OrderCancelled(order_id=order_id), at=at or now())


def erased(order_id: str = "1001") -> Event:
    return event(CustomerErased(order_id=order_id), at=now())


async def test_any_order_of_the_facts_makes_the_same_rows_and_the_same_order(desk: Desk) -> None:
    seen = set()
    for number, places in enumerate(itertools.permutations(range(4))):
        order = f"o{number}"
        facts = story(order)
        for place in places:
            await desk.hear(facts[place])
            await desk.hear(facts[place], facts[place])
        row = await desk.db.fetchrow(
            "select snapshot, facts from orders where order_id = $1", order
        )
        snapshot = orjson.loads(row["snapshot"])
        types = tuple(f[0] for f in orjson.loads(row["facts"]))
        rows = await desk.db.fetch(
            "select kind, state, reason from message where order_id = $1 order by kind", order
        )
        contact, promise = snapshot["customer"]["email"], tuple(snapshot["promise"].values())
        seen.add((types, contact, promise, tuple(tuple(r.values()) for r in rows)))
    assert len(seen) == 1
    (_, contact, promise, rows) = seen.pop()
    assert contact == "ana.corrected@example.com"
    assert set(promise) >= {"2026-12-10", "2026-12-12"}
    assert rows == (
        ("order_confirmed", "pending", None),
        ("order_delayed", "suppressed", "overtaken"),
        ("order_shipped", "pending", None),
    )


def days(first: str, last: str) -> dict[str, str]:
    return {"from": first, "to": last, "source": "shop"}


@pytest.mark.parametrize(("said", "last"), [("2026-12-14", "2026-12-14"), (None, "2026-12-10")])
async def test_the_newer_word_of_the_shop_says_when_it_comes(
    desk: Desk, said: str | None, last: str
) -> None:
    first = days("2026-11-25", "2026-11-27")  # said again, it is no new word
    moved = Promise.model_validate(days("2026-12-10", "2026-12-10"))
    for number, places in enumerate(itertools.permutations(range(3))):
        order = f"o{number}"
        promise = days(said, said) if said else first
        body = placed_body(order, promise=promise, revision=wire(minutes_ago(3)))
        facts = [
            event(placed(order, promise=first), at=minutes_ago(10)),
            event(OrderDelayed(order_id=order, promise=moved), at=minutes_ago(5)),
            event(OrderUpdated.model_validate(body), at=minutes_ago(3)),
        ]
        for place in places:
            await desk.hear(facts[place])
        row = await desk.db.fetchrow("select snapshot from orders where order_id = $1", order)
        assert orjson.loads(row["snapshot"])["promise"]["to"] == last


async def test_facts_before_the_order_is_placed_are_kept_and_plan_nothing(desk: Desk) -> None:
    first, _, _, shipped = story()
    await desk.hear(shipped)
    assert await desk.rows() == []
    await desk.hear(first)
    assert await desk.rows() == [("1001", "pending", None)] * 2


async def test_the_same_order_told_by_platform_and_api_is_one_message(desk: Desk) -> None:
    await desk.hear(event(placed()), event(placed()))
    await desk.hear(event(placed(number="#other")))
    assert await desk.rows() == [("1001", "pending", None)]


@pytest.mark.parametrize(
    ("shop", "changes", "reason"),
    [
        ("shadow", {}, "shadow"),
        ("listed", {}, "not_on_allowlist"),
        ("quiet", {}, "kind_off"),
        ("demo", {"customer": {"name": "Ana"}}, "no_contact"),
    ],
)
async def test_what_may_not_be_sent_is_a_row_with_a_reason(
    desk: Desk, shop: str, changes: dict[str, object], reason: str
) -> None:
    await desk.hear(event(placed(**changes), shop=shop))
    assert await desk.rows() == [("1001", "suppressed", reason)]
    assert await desk.outcomes() == [("suppressed", reason)]


async def test_an_allowlisted_address_is_mailed(desk: Desk) -> None:
    await desk.hear(event(placed(customer={"email": "a@good.example.com"}), shop="listed"))
    assert await desk.rows() == [("1001", "pending", None)]


async def test_facts_older_than_the_shops_life_are_counted_and_make_no_row(desk: Desk) -> None:
    def counted() -> float:
        labels = {"type": "order.placed.v1"}
        return REGISTRY.get_sample_value("afterglow_history_facts_total", labels) or 0.0

    before = counted()
    old = datetime(2026, 10, 1, tzinfo=UTC)
    await desk.hear(event(placed(placed_at=wire(old)), at=old, shop="young"))
    assert await desk.rows() == []
    assert counted() == before + 1
    assert await desk.db.fetchval("select count(*) from orders") == 1


async def test_old_news_is_an_expired_row(desk: Desk) -> None:
    old = now() - timedelta(hours=25)
    await desk.hear(event(placed(placed_at=wire(old)), at=old))
    assert await desk.rows() == [("1001", "expired", "old_news")]
    assert await desk.outcomes() == [("expired", "old_news")]


async def test_an_order_cancelled_before_it_is_known_is_a_suppressed_row(desk: Desk) -> None:
    await desk.hear(cancelled())
    await desk.hear(event(placed()))
    assert await desk.rows() == [("1001", "suppressed", "cancelled")]


async def test_a_cancellation_takes_a_waiting_message_back_once(desk: Desk) -> None:
    await desk.hear(event(placed()))
    await desk.hear(cancelled())
    await desk.hear(cancelled())
    assert await desk.rows() == [("1001", "suppressed", "cancelled")]
    assert await desk.outcomes() == [("suppressed", "cancelled")]


async def test_an_erased_customer_leaves_no_trace_and_no_waiting_message(desk: Desk) -> None:
    await desk.hear(event(placed()), event(placed("2")))
    await desk.hear(event(OrderShipped(order_id="3", shipment_id="7/1")))
    await desk.db.execute(
        """insert into dead_event (consumer, topic, partition, "offset", key, headers, value,
                                   error_class, error_text)
           select 'notifier', 'orders', 0, n, 'demo:' || n, '[]', 'ana', 'x', 'y'
           from generate_series(1, 3) n"""
    )
    await desk.db.execute("update dead_event set key = 'demo:1001' where key = 'demo:1'")
    await desk.hear(erased("1001"), event(OrderShipped(order_id="3", shipment_id="7/2")))
    rows = await desk.db.fetch("select order_id, snapshot, erased_at from orders order by 1")
    assert [(r[0], r[1] is None, r[2] is not None) for r in rows] == [
        ("1001", True, True),
        ("2", False, False),
        ("3", True, False),
    ]
    dead = await desk.db.fetch("select key from dead_event where value is not null order by key")
    assert [d["key"] for d in dead] == ["demo:2", "demo:3"]
    assert (await desk.rows())[0] == ("1001", "suppressed", "erased")


async def test_an_erasure_that_comes_first_or_in_the_same_batch_is_final(desk: Desk) -> None:
    await desk.hear(event(placed("1")), erased("1"))
    await desk.hear(erased("2"))
    await desk.hear(event(placed("2")))
    assert await desk.rows() == []
    rows = await desk.db.fetch("select snapshot, erased_at is not null from orders")
    assert [tuple(r.values()) for r in rows] == [(None, True)] * 2


async def test_outcomes_carry_nothing_personal(desk: Desk) -> None:
    await desk.hear(event(placed(), shop="shadow"), event(placed("2")), cancelled("2"))
    values = await desk.db.fetch("select value, headers::text from outbox")
    assert len(values) == 2
    for row in values:
        text = bytes(row["value"]).decode() + row["headers"]
        assert ADDRESS not in text
        assert "Ana" not in text


async def test_an_unknown_shop_is_a_permanent_error(desk: Desk) -> None:
    with pytest.raises(GiveUp):
        await desk.hear(event(placed(), shop="nobody"))


async def test_an_older_revision_does_not_undo_a_newer_address(desk: Desk) -> None:
    _, newer, *_ = story()
    older = placed_body(revision=wire(minutes_ago(9)))
    await desk.hear(newer)
    await desk.hear(event(OrderUpdated.model_validate(older)))
    await desk.hear(event(placed(), at=minutes_ago(10)))
    snapshot = orjson.loads(await desk.db.fetchval("select snapshot from orders"))
    assert snapshot["customer"]["email"] == "ana.corrected@example.com"


async def test_two_consumers_that_hear_of_a_new_order_at_once_make_one_row(
    make_desk: Make,
) -> None:
    desks = [await make_desk() for _ in range(2)]

    async def hear(desk: Desk, number: str) -> None:
        said = event(placed(number=number))
        for _ in range(5):
            try:
                await desk.hear(said)
            except Retry:
                await asyncio.sleep(0.02)
            else:
                return

    await asyncio.gather(*(hear(d, f"#{n}") for n, d in enumerate(desks)))
    assert await desks[0].rows() == [("1001", "pending", None)]
