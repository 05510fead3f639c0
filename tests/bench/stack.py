"""What a round runs on: a durable Postgres, the sink, the services as processes, perhaps a broker."""

import asyncio
import contextlib
import mmap
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
from tests.bench import orders
from tests.bench.machine import ROOT, Child, cpu_seconds, end, listener, until

from afterglow.demo_shop import DemoShop, kept_secret, make_demo_shop
from afterglow.postgres import Postgres, free_port
from notifier.adapters.mime import Mail, build
from notifier.adapters.render import Renderer
from shared.shops import load

READY_SECONDS = 60
COMMITS = 150
_MODULES = {"order-events": "order_events", "tracking": "tracking", "notifier": "notifier"}


@dataclass
class Sink:
    """The mail server's process and its running count."""

    child: Child
    port: int
    counter: mmap.mmap
    folder: Path

    @property
    def count(self) -> int:
        return int.from_bytes(self.counter[:8], "little")

    def reset(self) -> None:
        self.child.tell("reset")
        self.child.hear()

    def dump(self) -> dict[str, Any]:
        path = self.folder / "dump.json"
        self.child.tell(f"dump {path}")
        self.child.hear()
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        return found


@dataclass
class Bench:
    """Everything that lives as long as the whole benchmark."""

    folder: Path
    postgres: Postgres
    sink: Sink
    shop: DemoShop
    kafka: str | None
    broker_pid: int | None
    mail: bytes  # one ready message, dots doubled
    next_order: int = 0
    notes: list[str] = field(default_factory=list)

    def take_orders(self, count: int) -> int:
        """Return the first of `count` order numbers that nobody has used."""
        first, self.next_order = self.next_order, self.next_order + count
        return first

    @property
    def postmaster(self) -> int:
        assert self.postgres.process is not None
        return self.postgres.process.pid


@contextlib.contextmanager
def bench(kafka: str | None) -> Iterator[Bench]:
    """Start what all rounds share."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="afterglow-bench-"))
        folder = Path(name)
        folder.chmod(0o711)
        postgres = stack.enter_context(Postgres(folder / "pg"))
        path = folder / "count"
        path.write_bytes(bytes(8))
        file = stack.enter_context(path.open("r+b"))
        counter = stack.enter_context(mmap.mmap(file.fileno(), 8))
        child = stack.enter_context(Child("tests.bench.sink", "--counter", str(path)))
        sink = Sink(child, child.hear()["port"], counter, folder)
        shop = make_demo_shop(folder)
        broker = listener(int(kafka.partition(",")[0].rpartition(":")[2])) if kafka else None
        made = Bench(folder, postgres, sink, shop, kafka, broker, _templates(folder, shop))
        if kafka and broker is None:
            made.notes.append("the broker is not on this machine: its CPU is NOT counted")
        yield made


def _templates(folder: Path, shop: DemoShop) -> bytes:
    """Write the tutorial's templates, as long as our own mail; return one ready message of ours.

    They are our rendered mail with the order's values put back as Jinja expressions.
    """
    shops = load(shop.shops_file, shop.products_file, {})
    found = shops.get(orders.SHOP)
    assert found is not None
    order = orders.order(0)
    content = Renderer(shops.products).render(
        "order_confirmed", order=order, shop=found, links={}, facts={"role": "buyer"}
    )
    places = {
        orders.number(0): "{{ order.number }}",
        orders.name(0): "{{ order.customer.name }}",
        orders.money(orders.total(0)): "{{ total }}",
        **{
            title: f"{{{{ order['items'][{i}].name }}}}"
            for i, (_, title, *_) in enumerate(orders.ITEMS)
        },
    }
    pattern = re.compile("|".join(map(re.escape, sorted(places, key=len, reverse=True))))
    (folder / "templates").mkdir()
    for suffix, text in (("txt", content.text), ("html", content.html)):
        template = pattern.sub(lambda match: places[match[0]], text)
        (folder / "templates" / f"order.{suffix}").write_text(template, encoding="utf-8")
    mail = Mail(
        kind="order_confirmed",
        sender=(found.sender.name, found.sender.address),
        recipient=(orders.name(0), orders.address(0)),
        reply_to=found.reply_to,
        content=content,
        message_id="<bench@afterglow.invalid>",
        date=datetime.fromisoformat(order["placed_at"]),
    )
    return build(mail, eight_bit=True)


@dataclass
class Stack:
    """Services on a database of their own."""

    bench: Bench
    database_url: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        """Start services and wait until they are ready."""
        internal = {}
        for name in names:
            self.ports[name], internal[name] = free_port(), free_port()
            ports = {"HTTP_PORT": self.ports[name], "INTERNAL_PORT": internal[name]}
            with (self.bench.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", _MODULES[name]],
                    env={**self.environment, **{k: str(v) for k, v in ports.items()}},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                )
        for name in names:
            ready = partial(self._ready, name, internal[name])
            until(ready, READY_SECONDS, f"{name} is ready", 0.1)

    def _ready(self, name: str, port: int) -> bool:
        if self.processes[name].poll() is not None:
            log = (self.bench.folder / f"{name}.log").read_text()
            raise RuntimeError(f"{name} ended at once: {log[-2000:]}")
        url = f"http://127.0.0.1:{port}/readyz"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def cpu(self) -> dict[str, float]:
        """Return CPU seconds so far by part: each service, Postgres, the broker."""
        parts = {name: cpu_seconds([p.pid]) for name, p in self.processes.items()}
        parts["postgres"] = cpu_seconds([self.bench.postmaster])
        if self.environment["BUS_URL"].startswith("kafka") and self.bench.broker_pid:
            parts["broker"] = cpu_seconds([self.bench.broker_pid])
        return parts

    def drained(self) -> bool:
        """Tell whether no event waits for the bus in any outbox."""
        return asyncio.run(self._drained())

    async def _drained(self) -> bool:
        conn = await asyncpg.connect(self.database_url)
        try:
            for schema in ("order_events", "tracking", "notifier"):
                table = f"{schema}.outbox_unpublished"
                if not await conn.fetchval("select to_regclass($1)", table):
                    continue
                if await conn.fetchval(f"select exists (select from {table})"):
                    return False
            return True
        finally:
            await conn.close()


@contextlib.contextmanager
def stack(bench: Bench, bus: str, **settings: str) -> Iterator[Stack]:
    """Make a database; whatever services are started on it end with the block."""
    name = f"b{uuid4().hex[:12]}"
    asyncio.run(_admin(bench.postgres.url, f"create database {name}", "checkpoint"))
    base = bench.postgres.url.rsplit("/", 1)[0]
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "DATABASE_URL": f"{base}/{name}",
        "BUS_URL": f"kafka://{bench.kafka}" if bus == "kafka" else "postgres:",
        "SHOPS_FILE": str(bench.shop.shops_file),
        "PRODUCTS_FILE": str(bench.shop.products_file),
        "SMTP_URL": f"smtp://127.0.0.1:{bench.sink.port}",
        "OPERATOR_KEYS": kept_secret(bench.folder, "operator_key"),
        "LINK_KEYS": kept_secret(bench.folder, "link_key"),
        "LOG_LEVEL": "warning",
        **settings,
    }
    made = Stack(bench, environment["DATABASE_URL"], environment)
    try:
        yield made
    finally:
        for process in made.processes.values():
            end(process)
        asyncio.run(_admin(bench.postgres.url, f"drop database {name} with (force)"))


async def _admin(url: str, *statements: str) -> None:
    conn = await asyncpg.connect(url)
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()


def commit_seconds(url: str) -> float:
    """Return the median time of one small durable commit on an otherwise idle connection."""
    return asyncio.run(_commits(url))


async def _commits(url: str) -> float:
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("create table if not exists bench_commit (n int)")
        times = []
        for n in range(COMMITS):
            began = time.perf_counter()
            await conn.execute("insert into bench_commit values ($1)", n)
            times.append(time.perf_counter() - began)
        return statistics.median(times)
    finally:
        await conn.close()


def faults(dump: Mapping[str, Any], wanted: Sequence[int]) -> list[str]:
    """Return what is wrong with the messages that the sink took: one for each order, saying it all."""
    seen = dump["seen"]
    found = []
    if sorted(n for _, n, _, _ in seen) != sorted(wanted):
        found.append(f"{len(seen)} messages for {len(wanted)} orders, or for others")
    if len({message_id for _, _, message_id, _ in seen}) != len(seen):
        found.append("a Message-ID came twice")
    for n, text in dump["kept"]:
        body = text.encode("latin-1")
        if body.startswith(b"..") or b"\r\n.." in body:
            body = body.replace(b"\r\n..", b"\r\n.")
        found += [f"order {n}: {problem}" for problem in orders.problems(body, n)]
    return found
