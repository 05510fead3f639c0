"""What tracking is measured with: scans as fast as they are answered, and a million parcels watched.

The million are copies, made in the database, of orders that the service's own handler wrote; so they look
as the service left them, whatever its tables hold.
"""

import asyncio
import time
from datetime import date, timedelta
from typing import Any

import asyncpg
import orjson
from tests.bench import orders
from tests.bench.machine import until
from tests.bench.stack import Bench, Stack

from shared import migrations
from shared.clock import now
from shared.events import Event, EventData, OrderPlaced, OrderShipped, ScanReported, event_id
from tracking.app import create_app
from tracking.settings import Settings

IDLE_SECONDS = 65  # the gauges that are asked for once a minute included
SWEEP_SECONDS_MAX = 600
PREFILL_BATCH = 500

Numbers = dict[str, float]


def tracking_number(n: int) -> str:
    return f"BN{n:010d}SI"


def scan_request(n: int, api_key: str) -> bytes:
    """Return the whole HTTP request that tells one scan."""
    at = now().isoformat()
    body = {
        "carrier": "posta-slovenije",
        "tracking_number": tracking_number(n),
        "state": "in_transit",
        "occurred_at": at,
        "place": "Ljubljana",
        "source": "bench",
        "raw_status": "in_transit/arrived_at_facility",
    }
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    return orders.request("/v1/scans", headers, orjson.dumps(body))


def _stated(n: int, promised: date) -> list[Event]:
    at = now()
    placed = orders.order(n, at)
    placed["promise"] = {"from": str(promised), "to": str(promised), "source": "shop"}
    shipped = {
        "order_id": placed["order_id"],
        "shipment_id": "1/1",
        "carrier": "posta-slovenije",
        "tracking_number": tracking_number(n),
        "items": [{"line_id": i["line_id"], "quantity": i["quantity"]} for i in placed["items"]],
        "final": "yes",
        "shipped_at": at.isoformat(),
    }
    bodies: list[EventData] = [
        OrderPlaced.model_validate(placed),
        OrderShipped.model_validate(shipped),
    ]
    return [_event(data, f"{n}") for data in bodies]


def _event(data: EventData, said: str) -> Event:
    at = now()
    return Event.of(
        data,
        id=event_id(orders.SHOP, "bench", data.type, said),
        shop=orders.SHOP,
        source="/shops/demo/bench",
        time=at,
        recorded_at=at,
    )


async def fill(on: Stack, numbers: range, *, scanned: bool = False) -> None:
    """Let the service's own handler write these orders and their parcels, as if it had read events."""
    await migrations.ensure(on.database_url, "tracking")
    given = {name.lower(): value for name, value in on.environment.items()}
    service = create_app(Settings.model_validate(given))
    assert service.consumer is not None
    await service.db.open()
    promised = now().date() + timedelta(days=20)
    try:
        for start in range(0, len(numbers), PREFILL_BATCH):
            some = numbers[start : start + PREFILL_BATCH]
            events = [e for n in some for e in _stated(n, promised)]
            if scanned:
                events += [_event(_scan(n), f"{n}") for n in some]
            async with service.db.transaction() as tx:
                await service.consumer._handle(tx, events)
    finally:
        await service.db.close()


def _scan(n: int) -> ScanReported:
    at = now().isoformat()
    said: dict[str, Any] = {"tracking_number": tracking_number(n), "state": "in_transit"}
    return ScanReported.model_validate(said | {"occurred_at": at, "source": "bench"})


async def multiply(url: str, order_id: str, count: int) -> None:
    """Copy one order with all its rows so often; the copies come due over the next two days."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("set search_path to tracking; set synchronous_commit to off")
        tables: dict[str, str] = {
            "orders": """jsonb_build_object('order_id', 'w' || n,
                'check_at', now() + interval '1 hour' + n % 2000 * interval '1 minute')""",
            "parcel": """jsonb_build_object('order_id', 'w' || n, 'number_ref', 'W' || n,
                'body', jsonb_set(to_jsonb(t) -> 'body', '{tracking_number}', to_jsonb('W' || n)))""",
            "page": "jsonb_build_object('order_id', 'w' || n, 'token_hash', sha256(('w' || n)::bytea))",
        }
        for table, changes in tables.items():
            await conn.execute(
                f"""insert into {table} select made.* from {table} t, generate_series(1, {count}) n,
                      jsonb_populate_record(t, to_jsonb(t) || {changes}) made
                    where t.order_id = $1""",
                order_id,
                timeout=900,
            )
        await conn.execute(
            f"""insert into track select made.* from track t, generate_series(1, {count}) n,
                  jsonb_populate_record(t, to_jsonb(t) || jsonb_build_object('ref', 'W' || n)) made
                where t.ref = (select number_ref from parcel where order_id = $1)""",
            order_id,
            timeout=900,
        )
        for table in (
            *tables,
            "track",
        ):  # what the filling leaves behind is not what watching costs
            await conn.execute(f"vacuum (analyze) {table}", timeout=300)
        await conn.execute("checkpoint", timeout=300)
    finally:
        await conn.close()


def watch(on: Stack, bench: Bench, parcels: int, due: int) -> Numbers:
    """Watch so many parcels: CPU of a core while nothing is due, then the time of one sweep."""
    first = bench.take_orders(1)
    asyncio.run(fill(on, range(first, first + 1), scanned=True))
    asyncio.run(multiply(on.database_url, f"b{first}", parcels))
    on.start("tracking")
    time.sleep(5)
    before, began = on.cpu(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    seconds = time.monotonic() - began
    idle = {name: (spent - before[name]) / seconds * 100 for name, spent in on.cpu().items()}
    before, began = on.cpu(), time.monotonic()
    asyncio.run(_let_be_late(on.database_url, due))
    until(lambda: asyncio.run(_told(on.database_url)) >= due, SWEEP_SECONDS_MAX, "the sweep", 0.2)
    seconds = time.monotonic() - began
    spent = {name: cpu - before[name] for name, cpu in on.cpu().items()}
    return {
        "rate": due / seconds,
        "ms": sum(spent.values()) / due * 1000,
        **{f"ms_{name}": cpu / due * 1000 for name, cpu in spent.items()},
        "sweep_s": seconds,
        "idle_percent": sum(idle.values()),
        **{f"idle_{name}_percent": value for name, value in idle.items()},
    }


async def _let_be_late(url: str, due: int) -> None:
    """Turn so many orders into ones whose promised day passed yesterday, due now."""
    conn = await asyncpg.connect(url)
    yesterday = str(now().date() - timedelta(days=1))
    promise = orjson.dumps({"from": yesterday, "to": yesterday, "source": "shop"}).decode()
    try:
        await conn.execute(
            """update tracking.orders set check_at = now(), about = jsonb_set(about, '{promise}', $1)
               from generate_series(1, $2::int) n where shop = $3 and order_id = 'w' || n""",
            promise,
            due,
            orders.SHOP,
            timeout=300,
        )
    finally:
        await conn.close()


async def _told(url: str) -> int:
    """Return how many delays were told and are with the bus."""
    conn = await asyncpg.connect(url)
    try:
        return int(
            await conn.fetchval(
                """select count(*) from tracking.outbox o where o.topic = 'shipments'
                     and o.headers @> '[["ce_type", "shipment.delayed.v1"]]'
                     and not exists (
                       select from tracking.outbox_unpublished u where u.seq = o.seq)"""
            )
        )
    finally:
        await conn.close()
