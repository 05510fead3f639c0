"""What is measured, one function for each: a round of it, as numbers by name.

Every function returns at least `rate` (messages or events a second) and `ms` (CPU milliseconds of all
processes involved for each of them, database and broker included, generator and sink not). A round in
which a message is missing, double or wrong raises WrongOutcome: its numbers mean nothing.
"""

import asyncio
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from tests.bench import orders, parcels
from tests.bench.machine import Child, cpu_seconds, rss_mb, until
from tests.bench.stack import Bench, Stack, commit_seconds, faults, stack

import afterglow
from notifier.app import create_app
from notifier.settings import Settings
from shared import migrations
from shared.clock import now
from shared.events import Event, OrderPlaced, event_id

CONNECTIONS = 32
WAIT_SECONDS = 120
LATENCY_RATE = 100.0
PREFILL_BATCH = 500

SHOPIFY_ORDER = Path(afterglow.__file__).parent / "demo_files" / "shopify_order.json"

Numbers = dict[str, float]


class WrongOutcome(Exception):
    """A round did not do its work."""


@dataclass(frozen=True)
class Size:
    """How many messages a round counts, and how many go before to warm up."""

    chain: int = 4000
    warm_up: int = 600
    dispatcher: int = 6000
    ingest: int = 5000
    latency: int = 1000
    tutorial: int = 600
    raw: int = 20_000
    parcels: int = 1_000_000
    due: int = 50_000


QUICK = Size(1500, 300, 2000, 2000, 300, 200, 5000, 100_000, 5000)


# ---------------------------------------------------------------- the whole chain


def chain(bench: Bench, size: Size, bus: str) -> Numbers:
    """HTTP to accepted, both services and everything they need."""
    with stack(bench, bus) as on:
        on.start("order-events", "notifier")
        _post(on, size.warm_up)
        before = on.cpu()
        first = bench.take_orders(size.chain)
        load = _post(on, size.chain, first)
        spent = _difference(on.cpu(), before)
        dump = bench.sink.dump()
        _check(dump, range(first, first + size.chain))
        found = _per_message(spent, size.chain)
        found["rate"] = size.chain / (max(at for at, *_ in dump["seen"]) - load["began"])
        found["ingest_p99_ms"] = _percentile(load["seconds"], 99) * 1000
        return found | _memory(on)


def _post(on: Stack, count: int, first: int | None = None, rate: float = 0) -> dict[str, Any]:
    """Post orders, wait until every one is accepted as a mail and nothing waits for the bus."""
    first = on.bench.take_orders(count) if first is None else first
    on.bench.sink.reset()
    load = _generate(on, first, count, rate=rate)
    until(lambda: on.bench.sink.count >= count, WAIT_SECONDS, f"{count} mails accepted")
    until(on.drained, WAIT_SECONDS, "the outboxes are empty", 0.05)
    return load


def _generate(
    on: Stack, first: int, count: int, *, rate: float = 0, kind: str = "events"
) -> dict[str, Any]:
    plan = {
        "port": on.ports["tracking" if kind == "scans" else "order-events"],
        "kind": kind,
        "first": first,
        "count": count,
        "connections": CONNECTIONS,
        "rate": rate,
        "api_key": on.bench.shop.api_key,
        "secret": on.bench.shop.webhook_secrets["shopify"],
        "template": orjson.loads(SHOPIFY_ORDER.read_bytes()),
    }
    with Child("tests.bench.load") as child:
        child.tell(orjson.dumps(plan))
        child.hear()
        child.tell("go")
        load = child.hear()
    if load["statuses"] != {"202": count}:
        raise WrongOutcome(f"answers by status: {load['statuses']}")
    return load


# ---------------------------------------------------------------- parts of it


def dispatcher(bench: Bench, size: Size) -> Numbers:
    """The journal is full, then the notifier starts: from the first tenth accepted to the last."""
    with stack(bench, "postgres") as on:
        first = bench.take_orders(size.dispatcher)
        numbers = range(first, first + size.dispatcher)
        asyncio.run(_fill_journal(on, numbers))
        bench.sink.reset()
        on.start("notifier")
        skipped = size.dispatcher // 10
        until(lambda: bench.sink.count >= skipped, WAIT_SECONDS, "the first mails", 0.0005)
        before, from_count, began = on.cpu(), bench.sink.count, time.monotonic()
        until(lambda: bench.sink.count >= size.dispatcher, WAIT_SECONDS, "the last mail", 0.0005)
        seconds = time.monotonic() - began
        spent = _difference(on.cpu(), before)
        _check(bench.sink.dump(), numbers)
        counted = size.dispatcher - from_count
        return _per_message(spent, counted) | {"rate": counted / seconds} | _memory(on)


async def _fill_journal(on: Stack, numbers: Sequence[int]) -> None:
    """Make rows with the notifier's own handler, as if it had read these events."""
    await migrations.ensure(on.database_url, "notifier")
    given = {name.lower(): value for name, value in on.environment.items()}
    service = create_app(Settings.model_validate(given))
    assert service.consumer is not None
    await service.db.open()
    try:
        for start in range(0, len(numbers), PREFILL_BATCH):
            events = [_placed(n) for n in numbers[start : start + PREFILL_BATCH]]
            async with service.db.transaction() as tx:
                await service.consumer._handle(tx, events)
    finally:
        await service.db.close()


def _placed(n: int) -> Event:
    at = now()
    return Event.of(
        OrderPlaced.model_validate(orders.order(n, at)),
        id=event_id(orders.SHOP, "bench", str(n)),
        shop=orders.SHOP,
        source="/shops/demo/bench",
        time=at,
        recorded_at=at,
    )


def ingest(bench: Bench, size: Size, kind: str) -> Numbers:
    """order-events with its relay, nobody reading: as fast as it answers."""
    with stack(bench, "postgres") as on:
        on.start("order-events")
        _generate(on, bench.take_orders(size.warm_up), size.warm_up, kind=kind)
        until(on.drained, WAIT_SECONDS, "the outbox is empty", 0.05)
        before = on.cpu()
        load = _generate(on, bench.take_orders(size.ingest), size.ingest, kind=kind)
        until(on.drained, WAIT_SECONDS, "the outbox is empty", 0.05)
        found = _per_message(_difference(on.cpu(), before), size.ingest)
        found["rate"] = size.ingest / (load["ended"] - load["began"])
        found["p50_ms"] = _percentile(load["seconds"], 50) * 1000
        found["p99_ms"] = _percentile(load["seconds"], 99) * 1000
        return found | _memory(on)


def scans(bench: Bench, size: Size) -> Numbers:
    """Scans of parcels under way, one a request, folded and told; nobody reads the bus."""
    with stack(bench, "postgres") as on:
        first = bench.take_orders(size.ingest + size.warm_up)
        asyncio.run(parcels.fill(on, range(first, first + size.ingest + size.warm_up)))
        on.start("tracking")
        _generate(on, first + size.ingest, size.warm_up, kind="scans")
        until(on.drained, WAIT_SECONDS, "the outbox is empty", 0.05)
        before = on.cpu()
        load = _generate(on, first, size.ingest, kind="scans")
        until(on.drained, WAIT_SECONDS, "the outbox is empty", 0.05)
        found = _per_message(_difference(on.cpu(), before), size.ingest)
        found["rate"] = size.ingest / (load["ended"] - load["began"])
        found["p50_ms"] = _percentile(load["seconds"], 50) * 1000
        found["p99_ms"] = _percentile(load["seconds"], 99) * 1000
        return found | _memory(on)


def watch(bench: Bench, size: Size) -> Numbers:
    """Very many parcels under way: what they cost while nothing is due, and when much is due at once."""
    with stack(bench, "postgres") as on:
        return parcels.watch(on, bench, size.parcels, size.due) | _memory(on)


def latency(bench: Bench, size: Size, bus: str) -> Numbers:
    """A hundred orders a second: from the request leaving to the mail accepted, beside one commit."""
    with stack(bench, bus) as on:
        on.start("order-events", "notifier")
        _post(on, size.warm_up)
        commit = [commit_seconds(on.database_url)]
        before = on.cpu()
        first = bench.take_orders(size.latency)
        load = _post(on, size.latency, first, LATENCY_RATE)
        spent = _difference(on.cpu(), before)
        commit.append(commit_seconds(on.database_url))
        dump = bench.sink.dump()
        _check(dump, range(first, first + size.latency))
        accepted = {n: at for at, n, _, _ in dump["seen"]}
        took = [accepted[n] - at for n, at in load["sent"]]
        return _per_message(spent, size.latency) | {
            "rate": LATENCY_RATE,
            "p50_ms": _percentile(took, 50) * 1000,
            "p99_ms": _percentile(took, 99) * 1000,
            "http_p50_ms": _percentile(load["seconds"], 50) * 1000,
            "commit_ms": statistics.mean(commit) * 1000,
        }


# ---------------------------------------------------------------- baselines


def tutorial(bench: Bench, size: Size, *, kept: bool) -> Numbers:
    """(a) One message at a time, as tutorials do it; from Kafka where there is a broker."""
    first = bench.take_orders(size.tutorial)
    numbers = range(first, first + size.tutorial)
    values = [orjson.dumps(orders.order(n)) for n in numbers]
    plan: dict[str, Any] = {
        "what": "tutorial",
        "kept": kept,
        "port": bench.sink.port,
        "templates": str(bench.folder / "templates"),
        "count": size.tutorial,
        "kafka": bench.kafka,
        "topic": f"bench-tutorial-{bench.folder.name}-{first}",
        "orders": [] if bench.kafka else [value.decode() for value in values],
    }
    if bench.kafka:
        asyncio.run(_fill_topic(bench.kafka, plan["topic"], values))
    found = _baseline(bench, plan, numbers, skip=size.tutorial // 10)
    _check(bench.sink.dump(), numbers)
    return found


async def _fill_topic(servers: str, topic: str, values: Iterable[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    for value in values:
        await producer.send(topic, value)
    await producer.flush()
    await producer.stop()


def raw(bench: Bench, size: Size) -> Numbers:
    """(b) What SMTP alone costs: one ready mail, pipelined over eight connections."""
    plan = {
        "what": "pipelined",
        "port": bench.sink.port,
        "count": size.raw,
        "mail": bench.mail.decode("latin-1"),
    }
    return _baseline(bench, plan, range(size.raw), skip=size.raw // 10)


def _baseline(
    bench: Bench, plan: Mapping[str, Any], numbers: Sequence[int], *, skip: int
) -> Numbers:
    bench.sink.reset()
    with Child("tests.bench.baselines") as child:
        pids = [child.pid, *([bench.broker_pid] if plan.get("kafka") and bench.broker_pid else [])]
        child.tell(orjson.dumps(plan))
        child.hear()
        child.tell("go")
        until(lambda: bench.sink.count >= skip, WAIT_SECONDS, "the first mails", 0.0005)
        before, from_count, began = cpu_seconds(pids), bench.sink.count, time.monotonic()
        until(lambda: bench.sink.count >= len(numbers), WAIT_SECONDS, "the last mail", 0.0005)
        seconds = time.monotonic() - began
        counted = len(numbers) - from_count
        spent = cpu_seconds(pids) - before
    return {"rate": counted / seconds, "ms": spent / counted * 1000}


# ---------------------------------------------------------------- arithmetic


def _difference(after: Mapping[str, float], before: Mapping[str, float]) -> Numbers:
    return {name: after[name] - before[name] for name in after}


def _per_message(spent: Mapping[str, float], count: int) -> Numbers:
    """Return CPU milliseconds for each message: of all parts together, and of each."""
    parts = {f"ms_{name}": seconds / count * 1000 for name, seconds in spent.items()}
    return {"ms": sum(parts.values()), **parts}


def _memory(on: Stack) -> Numbers:
    return {f"rss_{name}": rss_mb(process.pid) for name, process in on.processes.items()}


def _percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _check(dump: Mapping[str, Any], numbers: Sequence[int]) -> None:
    wrong = faults(dump, numbers)
    if wrong:
        raise WrongOutcome("; ".join(wrong[:5]))
