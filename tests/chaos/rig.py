"""The machines of a run: Postgres, two of each service, mail server, aggregator; what is done to them.

All are real processes. They are killed and frozen by id, never by name, and none outlives the run,
even when the run itself is killed.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from tests.chaos.aggregator import Aggregator
from tests.chaos.load import Load, Tales, Taste
from tests.chaos.posts import Shop
from tests.chaos.process import ROOT, SERVICES, Process

from afterglow.demo_shop import make_demo_shop
from afterglow.guardian import Guardian
from afterglow.postgres import Postgres, free_port
from shared.failpoints import POINTS

SCHEMAS = tuple(SERVICES.values())
HOSTS = {
    "orders": ("oe", "rl"),
    "tracking": ("tr", "sw", "wa", "co", "rl"),
    "notifier": ("di", "co"),
}
"""Whose processes come by which failpoints."""

EVERYWHERE = tuple(
    f"{kind}/{point}"
    for kind, groups in HOSTS.items()
    for point in sorted(POINTS)
    if point.partition(".")[0] in groups
)
READY_SECONDS = 90.0
PROGRESS_SECONDS = 30.0
ONE_STAYS = 0.8  # how often one is spared while the other of its service is not ready
UNREADY = 0.3  # else: how often one that still starts may be struck
VISITED = 4  # so many places of a service are visited one after the other
ORDERLY = 0.4  # of those that start again to die at a failpoint: they are asked to end
ARMED_SECONDS = 20.0  # so long may a failpoint take to be reached before the process is dealt with
FAULTS = (
    "drop@accepted=0.002;slow@accepted:0.004=0.25;slow@accepted:0.012=0.25;slow@accepted:0.02=0.2;"
    "drop@dot=0.002;refuse@dot:451 4.3.0 not now=0.004;drop@body=0.002;drop@data=0.002;"
    "refuse@data:451 4.3.0 not now=0.003;refuse@rcpt:450 4.2.1 greylisted=0.003;"
    "refuse@rcpt:550 5.1.1 nobody here=0.002;refuse@mail:421 4.3.2 closing=0.003;"
    "refuse@mail:452 4.3.1 full=0.002;drop@idle=0.002;drop@greeting=0.01"
)
SWEPT_SECONDS = 4.0  # after so long in the calm no new check is waited for
PASSES = {"notifier": 3, "tracking": 4}  # at a failpoint, until one dies there; else 8
SECRET = "0123456789abcdef"
MESSAGE_ID_DOMAIN = "chaos.test"

AUDIT = """
create schema chaos;
create table chaos.change (
  id bigint generated always as identity primary key, message bigint, old text, new text,
  attempt int, at timestamptz not null default clock_timestamp());
create table chaos.cancelled (
  shop text, order_id text, at timestamptz not null default clock_timestamp(),
  primary key (shop, order_id));
create function chaos.note_change() returns trigger language plpgsql as $$ begin
  insert into chaos.change (message, old, new, attempt)
    values (new.id, case when tg_op = 'UPDATE' then old.state end, new.state, new.attempt);
  return null; end $$;
create function chaos.note_cancelled() returns trigger language plpgsql as $$ begin
  insert into chaos.cancelled (shop, order_id) values (new.shop, new.order_id)
    on conflict do nothing;
  return null; end $$;
create trigger chaos_made after insert on notifier.message for each row
  execute function chaos.note_change();
create trigger chaos_changed after update on notifier.message for each row
  when (old.state is distinct from new.state or old.attempt is distinct from new.attempt)
  execute function chaos.note_change();
create trigger chaos_cancelled after insert or update of facts on notifier.orders for each row
  when (new.facts @> '[["order.cancelled.v1"]]') execute function chaos.note_cancelled();
"""
"""The database's own log of every change: a later state cannot hide an earlier one."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A defect to plant: in this file of the source tree, `old` becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does. `seconds` is how long the storm lasts at least, `kills` how often it kills."""

    bus_url: str
    seed: int
    orders: int
    kills: int
    seconds: float
    storm_seconds_max: float
    drain_seconds: float = 90.0
    per_second: float = 150.0
    pause: tuple[float, float] = (0.5, 1.6)
    connections: int = 8
    lease_seconds: float = 3.0
    faults: str = FAULTS
    taste: Taste = field(default_factory=Taste)
    dice: Mapping[str, float] = field(
        default_factory=lambda: {"kill": 0.8, "freeze": 0.13, "hang": 0.07}
    )
    points: tuple[str, ...] = EVERYWHERE
    restarts: int = 1  # of Postgres, without a shutdown
    patches: tuple[Patch, ...] = ()
    again: bool = False  # die at the points over and over, not once at each
    orders_points: str = ""  # FAILPOINTS of the first order service, all the time
    tracking_points: str = ""  # and of the first tracking service
    day_seconds: float = 1.5  # what the calendar calls a day, so that parcels are late within a run
    notifier_env: Mapping[str, str] = field(default_factory=dict)
    tracking_frozen: float = 0.3  # of those frozen
    calm_seconds: float = 0.0  # between two deaths of readers of the same group
    victims: Mapping[str, float] = field(
        default_factory=lambda: {"notifier": 0.4, "tracking": 0.3, "orders": 0.3}
    )


def copy_sources(target: Path, patches: tuple[Patch, ...]) -> Path:
    """Copy what the services run from, so that nobody edits it meanwhile, and plant defects in it.

    Raises ValueError when a patch does not fit exactly once.
    """
    for part in ("shared", "services/order-events", "services/tracking", "services/notifier"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / part / "src", target / part / "src", ignore=ignored)
    for patch in patches:
        file = target / patch.file
        text = file.read_text()
        if text.count(patch.old) != 1:
            raise ValueError(f"the patch does not fit {patch.file}: {patch.old!r}")
        file.write_text(text.replace(patch.old, patch.new))
    return target


def _shop_file(text: str, shop: str) -> str:
    """Return the demo's shop under another name, with an aggregator and without promised days.

    A promise is the order's own: days pass so fast that each order would be late otherwise.
    """
    text = re.sub(r"\[\[shops\.demo\.promises\]\]\n(?:[^\[\n].*\n?|\n)*", "", text)
    text += '\n[shops.demo.providers.aftership]\nkey = "file:secrets/aftership"\n'
    return text.replace("shops.demo", f"shops.{shop}")


class Rig:
    """Everything that runs, its counters, and the storm over it."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.folder = folder
        self.say = say
        self.dice = random.Random(plan.seed)
        self._sources = copy_sources(folder / "sources", plan.patches)
        self.guardian = Guardian()
        self.postgres = Postgres(folder / "postgres", guardian=self.guardian)
        token = secrets.token_hex(3)
        demo = make_demo_shop(folder)
        self.shop = Shop(
            f"c{token}",
            demo.api_key,
            demo.webhook_secrets["shopify"],
            demo.webhook_secrets["woocommerce"],
            int(token, 16) * 1_000_000_000 + 10**17,
            demo.webhook_secrets["easypost"],
        )
        demo.shops_file.write_text(_shop_file(demo.shops_file.read_text(), self.shop.id))
        self.shops_file, self.products_file = demo.shops_file, demo.products_file
        self.link_key = hashlib.sha256(token.encode()).hexdigest()
        self.hosts: dict[str, list[Process]] = {kind: [] for kind in SERVICES}
        self.aggregator = Aggregator(plan.seed)
        self.sink: asyncio.subprocess.Process | None = None
        self.sink_struck: dict[str, int] = {}
        self.freezes = 0
        self.restarts = 0
        self.log: list[str] = []
        self._to_fire = list(plan.points)
        self.dice.shuffle(self._to_fire)
        self._storming = False
        self._began = time.monotonic()

    @property
    def record(self) -> Path:
        return self.folder / "accepted.jsonl"

    @property
    def api_log(self) -> Path:
        return self.folder / "api.jsonl"

    @property
    def services(self) -> list[Process]:
        return [process for processes in self.hosts.values() for process in processes]

    @property
    def kills(self) -> int:
        return sum(p.kills for p in self.services)

    @property
    def fired(self) -> Counter[str]:
        return sum((p.fired for p in self.services), Counter())

    def note(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self._began:8.2f} s  {text}")

    # ------------------------------------------------------------ start and stop

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Rig"]:
        """Start everything; stop everything on leaving, however that happens."""
        try:
            await asyncio.to_thread(self._start_postgres)
            await self._start_sink()
            await self.aggregator.start()
            async with asyncio.TaskGroup() as group:
                for process in self._programs():
                    group.create_task(process.keep())
                try:
                    await self._until_ready()
                    await self._install_audit()
                    yield self
                finally:
                    await self._stop_services()
        finally:
            await self.aggregator.stop()
            await self.stop_sink()
            await asyncio.to_thread(self.postgres.stop)
            self.guardian.close()

    def _start_postgres(self) -> None:
        self.folder.chmod(0o711)
        self.postgres.start()
        self.postgres.stop()
        with (self.postgres.data / "postgresql.auto.conf").open("a") as conf:
            conf.write("track_commit_timestamp = on\n")  # the checker asks when something committed
        self.postgres.start()

    async def _start_sink(self) -> None:
        command = ["-m", "tests.chaos.sink", "--record", str(self.record), "--seed"]
        self.sink = await asyncio.create_subprocess_exec(
            sys.executable, *command, str(self.plan.seed), "--faults", self.plan.faults,
            stdout=asyncio.subprocess.PIPE, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        self.guardian.watch(self.sink.pid)
        assert self.sink.stdout is not None
        line = await asyncio.wait_for(self.sink.stdout.readline(), 20)
        self.sink_port = int(line.rsplit(b":", 1)[1])

    async def stop_sink(self) -> None:
        if self.sink is None or self.sink.returncode is not None:
            return
        self.sink.terminate()
        try:
            async with asyncio.timeout(5):
                out, _ = await self.sink.communicate()
            self.sink_struck = json.loads(out)["struck"]
        except (TimeoutError, ValueError):
            with contextlib.suppress(ProcessLookupError):
                self.sink.kill()
        self.guardian.forget(self.sink.pid)

    def _environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG", "TMPDIR"}}
        env["PYTHONPATH"] = os.pathsep.join(str(p) for p in sorted(self._sources.glob("**/src")))
        return env | {
            "DATABASE_URL": self.postgres.url,
            "BUS_URL": self.plan.bus_url,
            "SHOPS_FILE": str(self.shops_file),
            "PRODUCTS_FILE": str(self.products_file),
            "OPERATOR_KEYS": SECRET * 2,
            "LINK_KEYS": self.link_key,
            "SMTP_URL": f"smtp://127.0.0.1:{self.sink_port}",
            "SMTP_CONNECTIONS": str(self.plan.connections),
            "SMTP_REPLY_SECONDS": "20",
            "MESSAGE_ID_DOMAIN": MESSAGE_ID_DOMAIN,
            "DISPATCHER_LEASE_SECONDS": str(self.plan.lease_seconds),
            "UNKNOWN_RESEND_KINDS": "none",
            "DAY_SECONDS": str(self.plan.day_seconds),
            "AFTERSHIP_URL": self.aggregator.url,
            "LOG_LEVEL": "warning",
            "PYTHONUNBUFFERED": "1",
        }

    def _programs(self) -> list[Process]:
        taken: set[int] = set()

        def port() -> str:
            while (found := free_port()) in taken:
                continue
            taken.add(found)
            return str(found)

        tracking = [port(), port()]
        points = {"orders": self.plan.orders_points, "tracking": self.plan.tracking_points}
        for kind, processes in self.hosts.items():
            for number in (1, 2):
                public = tracking[number - 1] if kind == "tracking" else port()
                env = self._environment() | {"HTTP_PORT": public, "INTERNAL_PORT": port()}
                env |= {"TRACK_URL": f"http://127.0.0.1:{tracking[0]}"}
                env |= self.plan.notifier_env if kind == "notifier" else {}
                if number == 1:
                    env["FAILPOINTS"] = points.get(kind, "")
                processes.append(Process(kind, number, env, self.folder, self.guardian))
        return self.services

    async def _until_ready(self) -> None:
        async with asyncio.timeout(READY_SECONDS):
            while not all(process.ready for process in self.services):
                for process in self.services:
                    if process.crashes:
                        raise RuntimeError(process.crashes[0])
                await asyncio.sleep(0.1)

    async def _install_audit(self) -> None:
        conn = await self.connect()
        await conn.execute(AUDIT)
        await conn.close()

    async def connect(self) -> Any:
        """Return a connection to the run's database."""
        return await asyncpg.connect(self.postgres.url, timeout=10, command_timeout=60)

    async def _stop_services(self) -> None:
        async with asyncio.TaskGroup() as group:
            for process in self.services:
                if process.frozen and process.process:
                    process.process.send_signal(signal.SIGCONT)
                group.create_task(process.stop())

    def load(self) -> Load:
        """Return the run's load, told to both order services and both tracking services."""
        servers = {
            kind: [f"http://127.0.0.1:{p.env['HTTP_PORT']}" for p in self.hosts[kind]]
            for kind in ("orders", "tracking")
        }
        tales = Tales(self.shop, self.plan.seed, self.plan.taste)
        plan = self.plan
        return Load(tales, servers, self.api_log, orders=plan.orders, per_second=plan.per_second)

    # ------------------------------------------------------------ the storm

    async def storm(self, load: Load) -> None:
        """Kill, freeze and restart until the plan is fulfilled, or its time is up."""
        began = time.monotonic()
        plan, restarts_left, told_at = self.plan, self.plan.restarts, 0.0
        self._storming = True
        async with asyncio.TaskGroup() as group:
            for kind in HOSTS:
                mine = [p for p in self._to_fire if p.partition("/")[0] == kind]
                lines = 1 + (len(mine) > VISITED)
                for line in range(lines):
                    group.create_task(self._visit(self.hosts[kind], mine[line::lines]))
            while (lasted := time.monotonic() - began) < plan.storm_seconds_max:
                missing = [p for p in self._to_fire if not self.fired[p] or plan.again]
                enough = lasted >= plan.seconds and self.kills >= plan.kills
                if enough and (not missing or plan.again) and load.told >= plan.orders:
                    break
                await asyncio.sleep(self.dice.uniform(*plan.pause))
                if lasted > told_at + PROGRESS_SECONDS:
                    told_at = lasted
                    self.say(f"{lasted:.0f} s: {load.told} orders told, {self.kills} kills")
                share = (plan.restarts - restarts_left + 1) / (plan.restarts + 1)
                if restarts_left and lasted > share * max(plan.seconds, 20):
                    restarts_left -= 1
                    await self._restart_postgres()
                    continue
                names, weights = zip(*plan.dice.items(), strict=True)
                action = self.dice.choices(names, weights)[0]
                self._act(action, group)
            self._storming = False
        load.hurry.set()
        self.say(f"storm over after {time.monotonic() - began:.0f} s, {self.kills} kills")

    def _act(self, action: str, group: asyncio.TaskGroup) -> None:
        lease = self.plan.lease_seconds
        notifiers, tracking = self.hosts["notifier"], self.hosts["tracking"]
        if action == "freeze":
            frozen = tracking if self.dice.random() < self.plan.tracking_frozen else notifiers
            if free := self._free(frozen, deadly=False):
                victim, seconds = self.dice.choice(free), lease + self.dice.uniform(0.8, 2.5)
                self.note(f"freeze {victim.name} for {seconds:.1f} s")
                self.freezes += 1
                group.create_task(victim.freeze(seconds))
        elif action == "hang" and (free := self._free(notifiers)):
            victim = self.dice.choice(free)
            where = self.dice.choice(("di.before_mark", "di.after_mark", "di.after_dot"))
            points = f"{where}=hang:{2 * lease:g}@n={self.dice.randint(3, 40)}"
            self.note(f"kill {victim.name}, then {points}")
            self.freezes += 1
            victim.kill(points)
        else:
            kinds = list(self.plan.victims)
            kind = self.dice.choices(kinds, [self.plan.victims[k] for k in kinds])[0]
            if free := self._free(self.hosts[kind]):
                victim = self.dice.choice(free)
                self.note(f"kill {victim.name}")
                victim.kill()

    async def _visit(self, hosts: list[Process], places: list[str]) -> None:
        """Let a process die at each of these places in turn; again where none came by in time."""
        waiting = deque(places)
        while self._storming and waiting:
            place = waiting.popleft()
            before = self.fired[place]
            if free := self._free(hosts):
                victim = self.dice.choice(free)
                point = place.partition("/")[2]
                how = f"{point}=kill@n={self.dice.randint(1, PASSES.get(victim.kind, 8))}"
                self.note(f"start {victim.name} anew with {how}")
                if self.dice.random() < ORDERLY:
                    await victim.renew(how)
                else:
                    victim.kill(how)
                deadline = time.monotonic() + ARMED_SECONDS
                while self._storming and self.fired[place] == before:
                    if time.monotonic() > deadline:
                        break
                    await asyncio.sleep(0.1)
            if self.fired[place] == before or self.plan.again:
                waiting.append(place)
            await asyncio.sleep(self.dice.uniform(*self.plan.pause))

    def _free(self, processes: list[Process], *, deadly: bool = True) -> list[Process]:
        """Return who may be struck now: ready, as a rule, not frozen, not on its way to a failpoint.

        Readers of a bus that takes long to notice a death must get to read between two deaths.
        """
        now = time.monotonic()
        if deadly and not all(p.ready for p in processes) and self.dice.random() < ONE_STAYS:
            return []
        if deadly and processes is not self.hosts["orders"]:
            last = max(p.ended_at for p in processes)
            if now - last < self.plan.calm_seconds or any(p.ending for p in processes):
                return []
        return [
            p
            for p in processes
            if p.alive
            and (p.ready or self.dice.random() < UNREADY)
            and not p.ending
            and not p.frozen
            and not (p.armed and now - p.armed_at < ARMED_SECONDS)
        ]

    async def _restart_postgres(self) -> None:
        """End the database without a shutdown, and start it again."""
        process = self.postgres.process
        if process is None:
            return
        self.restarts += 1
        self.note("restart of Postgres")
        process.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(process.wait, 30)
        await asyncio.sleep(self.dice.uniform(0.2, 1.5))
        await asyncio.to_thread(self.postgres.start)

    # ------------------------------------------------------------ the calm after it

    async def drain(self) -> bool:
        """Wait until nothing is left to do; False when for long nothing of it gets done."""
        async with asyncio.TaskGroup() as group:
            for process in self.services:
                if process.armed:
                    group.create_task(process.renew(""))
        began = moved = time.monotonic()
        left: Mapping[str, int] = {}
        conn = await self.connect()
        try:
            while (clock := time.monotonic()) - moved < self.plan.drain_seconds:
                await self._hurry(conn, later=clock - began > SWEPT_SECONDS)
                before, left = left, dict(await conn.fetchrow(LEFT))
                if not any(left.values()):
                    return True
                moved = clock if left != before else moved
                await asyncio.sleep(1)
        finally:
            await conn.close()
        self.say(f"NOT drained: {left}")
        return False

    async def _hurry(self, conn: Any, *, later: bool) -> None:
        """Let what would wait for long be due now; `later`: let no new check come, as if it were over."""
        await conn.execute(
            """update notifier.message set due_at = now()
               where state = 'pending' and due_at > now() and attempt > 0"""
        )
        if later:
            await conn.execute("update tracking.orders set check_at = null where check_at > now()")

    def unknown_max(self) -> int:
        """Return how many messages of unknown fate the run explains."""
        notifiers = self.hosts["notifier"]
        interrupted = sum(p.kills for p in notifiers) + self.freezes
        interrupted += self.restarts * len(notifiers)
        lost = sum(n for name, n in self.sink_struck.items() if name in LOST_REPLIES)
        return interrupted * self.plan.connections + lost


LOST_REPLIES = frozenset({"drop@accepted", "drop@dot"})
LEFT = """
select (select count(*) from order_events.outbox_unpublished) as order_outbox,
       (select count(*) from tracking.outbox_unpublished) as tracking_outbox,
       (select count(*) from notifier.outbox_unpublished) as notifier_outbox,
       (select count(*) from order_events.outbox o where o.topic in ('orders', 'scans')
        and not exists (select from tracking.inbox i
          where i.consumer = 'tracking' and i.event_id = o.event_id)
        and not exists (select from tracking.dead_event d where d.key = o.key)) as unread_by_tracking,
       (select count(*) from (
          select event_id, key from order_events.outbox where topic = 'orders' union all
          select event_id, key from tracking.outbox) o
        where not exists (select from notifier.inbox i
          where i.consumer = 'notifier' and i.event_id = o.event_id)
        and not exists (select from notifier.dead_event d where d.key = o.key)) as unread_by_notifier,
       (select count(*) from tracking.orders where check_at is not null) as unswept,
       (select count(*) from notifier.message
          where state in ('pending', 'claimed', 'dispatching')) as unsent
"""
