"""Orders and scans come over a bus and shipments and deliveries go out on it: the same on both buses."""

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest

from shared.clock import now
from shared.events import CustomerErased, Event
from shared.testing import event

from .conftest import Front, Starter, order_events, scan

pytestmark = pytest.mark.timeout(300)  # on one broker, one at a time


@pytest.fixture(params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus_url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        return "postgres:"
    return f"kafka://{request.getfixturevalue('whole_kafka')}"


async def say(front: Front, *events: Event) -> None:
    """Put events on the bus, as the relay of order-events does."""
    async with front.db.transaction() as tx:
        refused = await front.running.service.bus.publish(tx, [e.to_record() for e in events])
    assert refused == {}


async def heard(front: Front, last: str, key: str) -> list[tuple[str, Any]]:
    """Read what tracking said about an order until it said this, and a moment longer."""
    found: list[tuple[str, Any]] = []
    subscription = await front.running.service.bus.subscribe("reader", ["shipments", "deliveries"])
    try:
        async with asyncio.timeout(60):
            quiet = False
            while not (quiet and last in dict(found)):
                records = await subscription.poll(100, 0.5)
                quiet = not records
                mine = [r for r in records if r.key == key]
                found += [(dict(r.headers)["ce_type"].decode(), r.value) for r in mine]
    finally:
        await subscription.close()
    return found


async def test_a_parcels_way_goes_over_the_bus_and_back(
    start: Starter, tracking_url: str, bus_url: str
) -> None:
    order_id = f"bus-{now():%H%M%S%f}"
    number = f"NB{now():%H%M%S%f}"
    async with start(tracking_url, bus=True, bus_url=bus_url) as made:
        await say(made, event(scan("in_transit", number, ago=5)))
        events = order_events(order_id, number)
        await say(made, *events)
        await say(made, *events, event(scan("out_for_delivery", number, ago=3)))
        await say(made, event(scan("delivered", number, ago=1)))
        told = await heard(made, "order.delivered.v1", f"demo:{order_id}")
        kinds = Counter(type_ for type_, _ in told)
        assert kinds["parcel.delivered.v1"] == kinds["order.delivered.v1"] == 1
        said = [orjson.loads(v)["state"] for t, v in told if t == "shipment.status_changed.v1"]
        assert said[-1] == "delivered"
        assert len(said) == len(set(said))


async def test_an_erasure_blanks_what_tracking_said_and_nothing_that_others_still_need(
    start: Starter, tracking_url: str
) -> None:
    async with start(tracking_url, bus=True) as made:
        await say(made, *order_events())
        await made.take(scan("out_for_delivery"))
        await heard(made, "shipment.status_changed.v1", "demo:1001")
        erased = event(CustomerErased(order_id="1001", at=now()))
        again, _ = order_events()
        await say(made, erased, again)

        async def blank() -> bool:
            return bool(await made.db.fetchval("select erased_at from orders"))

        async with asyncio.timeout(20):
            while not await blank():
                await asyncio.sleep(0.05)
        rows = await made.db.fetch(
            """select s.topic, r.value from bus.record r join bus.shard s on s.id = r.shard
               where r.key = 'demo:1001'"""
        )
        left = Counter((r["topic"], r["value"] is not None) for r in rows)
        assert left["shipments", True] == 0
        assert left["shipments", False] > 0
        assert left["orders", False] == 0  # the notifier may not have read them yet
