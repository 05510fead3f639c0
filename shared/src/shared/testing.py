"""What tests are made of: samples, a service run inside the test, and fakes.

Each fake passes the same tests as the real part it stands for.
"""

import asyncio
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from shared.bus import refusal
from shared.bus.postgres_reader import fair_share
from shared.clock import now
from shared.errors import BusUnavailable
from shared.events import TOPICS, Event, EventData, OrderPlaced, Record, rfc3339
from shared.life import Life
from shared.service import Service, internal_routes
from shared.store import Tx
from shared.web import http_app

Place = tuple[str, int]

ADDRESS = "ana.novak@example.com"


# ---------------------------------------------------------------- samples


def placed_body(order_id: str = "1001", **changes: Any) -> dict[str, Any]:
    """Return the body of an order placed a minute ago, as a shop would send it."""
    return {
        "order_id": order_id,
        "number": f"#{order_id}",
        "placed_at": rfc3339(now() - timedelta(minutes=1)),
        "customer": {"id": "1", "name": "Ana Novak", "email": ADDRESS, "locale": "en"},
        "ship_to": {"name": "Ana Novak", "lines": ["Slovenska cesta 1"], "country": "SI"},
        "items": [
            {"line_id": "1", "sku": "TEA-5", "name": "Sencha", "quantity": "2", "unit_price": 1250}
        ],
        "totals": {"currency": "EUR", "items": 2500, "shipping": 490, "total": 2990},
        "shipping_method": "standard",
    } | changes


def placed(order_id: str = "1001", **changes: Any) -> OrderPlaced:
    """Return the same body as an event's data."""
    return OrderPlaced.model_validate(placed_body(order_id, **changes))


def event(
    data: EventData, *, at: datetime | None = None, shop: str = "demo", said: UUID | None = None
) -> Event:
    """Put a body into an envelope of its own."""
    time = at or data.happened_at or now()
    return Event.of(
        data, id=said or uuid4(), shop=shop, source="/shops/demo/api", time=time, recorded_at=now()
    )


# ---------------------------------------------------------------- a service inside the test


@dataclass(frozen=True, slots=True)
class Running:
    """A service at work in this process: its two ports as ASGI apps, and its life."""

    service: Service
    life: Life
    public: Any
    internal: Any


@asynccontextmanager
async def running(service: Service, *, bus: bool = True) -> AsyncIterator[Running]:
    """Run a service whose schema is there already; it is drained when the block ends.

    `bus=False` leaves out relay and consumer, so that a test can look at the outbox.
    """
    life = Life()
    await service.db.open()
    try:
        async with asyncio.TaskGroup() as keepers:
            for gate in service.gates:
                keepers.create_task(gate.run(life))
            try:
                async with asyncio.TaskGroup() as work:
                    if bus:
                        await service.bus.start()
                        work.create_task(service.relay.run(life))
                        if service.consumer is not None:
                            work.create_task(service.consumer.run(life))
                    for loop in service.loops:
                        work.create_task(loop(life))
                    try:
                        yield Running(
                            service,
                            life,
                            http_app(service.name, service.public),
                            http_app(service.name, internal_routes(service)),
                        )
                    finally:
                        life.stopping.set()
            finally:
                life.closing.set()
    finally:
        await service.bus.stop()
        await service.db.close()


# ---------------------------------------------------------------- the bus


@dataclass
class _Claim:
    owner: UUID | None = None
    generation: int = 0
    committed: int = 0


@dataclass
class _Group:
    members: dict[UUID, tuple[tuple[str, ...], float]] = field(
        default_factory=dict
    )  # topics, expiry
    claims: dict[Place, _Claim] = field(default_factory=lambda: defaultdict(_Claim))


class MemoryBus:
    """A bus inside one event loop: log and groups live as long as this object.

    `away = True` makes every call fail like a bus that cannot be reached. A subscription that is no
    longer polled loses its partitions after `lease_seconds`, like a crashed process.
    """

    def __init__(
        self, topics: Sequence[str] = TOPICS, *, partitions: int = 12, lease_seconds: float = 10.0
    ) -> None:
        self.topics = tuple(topics)
        self.partitions = partitions
        self.lease_seconds = lease_seconds
        self.away = False
        self.counts: Counter[str] = Counter()
        self.log: dict[Place, list[Record]] = defaultdict(list)
        self.groups: dict[str, _Group] = defaultdict(_Group)
        self._arrivals = asyncio.Condition()

    async def start(self) -> None:
        """Connect: there is nothing to connect to."""
        await self.ready()

    async def stop(self) -> None:
        """Keep everything, so that a test can go on reading."""

    async def ready(self) -> None:
        """Raise BusUnavailable while `away`."""
        if self.away:
            raise BusUnavailable("memory: away")

    async def publish(self, tx: Tx | None, records: Sequence[Record]) -> dict[int, str]:  # noqa: ARG002
        """Append at once; like a broker it does not wait for `tx`."""
        await self.ready()
        refused: dict[int, str] = {}
        for index, record in enumerate(records):
            known = record.topic in self.topics
            if reason := refusal(record) if known else "its topic does not exist":
                refused[index] = reason
                continue
            partition = zlib.crc32(record.key.encode()) % self.partitions
            log = self.log[record.topic, partition]
            log.append(replace(record, partition=partition, offset=len(log)))
        await self.wake()
        return refused

    def records(self, topic: str) -> list[Record]:
        """Return what stands in a topic, partition by partition."""
        return [r for place in sorted(self.log) if place[0] == topic for r in self.log[place]]

    async def subscribe(self, group: str, topics: Sequence[str]) -> "MemorySubscription":
        """Return a member of the group; it joins with its first poll."""
        return MemorySubscription(self, group, topics)

    async def erase(
        self,
        tx: Tx | None,  # noqa: ARG002
        keys: Sequence[str],
        topics: Sequence[str] | None = None,
    ) -> None:
        """Take the body away from the records of these keys."""
        for (topic, _), log in self.log.items():
            if topics is None or topic in topics:
                log[:] = [replace(r, value=None) if r.key in keys else r for r in log]

    async def wake(self) -> None:
        """Let the waiting polls look again."""
        async with self._arrivals:
            self._arrivals.notify_all()

    async def arrival(self, seconds: float) -> None:
        """Wait until something changes, at most this long."""
        try:
            async with asyncio.timeout(seconds), self._arrivals:
                await self._arrivals.wait()
        except TimeoutError:
            return


class MemorySubscription:
    """One member of a group of a MemoryBus."""

    def __init__(self, bus: MemoryBus, group: str, topics: Sequence[str]) -> None:
        self._bus = bus
        self._group = group
        self._topics = tuple(topics)
        self._id = uuid4()
        self._held: dict[Place, tuple[int, int]] = {}  # generation, next offset
        self._closed = False

    async def poll(self, max_records: int, timeout_seconds: float) -> list[Record]:
        """Return the next records; empty after the timeout."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        while True:
            await self._bus.ready()
            if self._closed:
                raise BusUnavailable("the subscription is closed")
            if self._rebalance():
                await self._bus.wake()
            records = self._read(max_records)
            left = deadline - clock()
            if records or left <= 0:
                return records
            await self._bus.arrival(min(left, self._bus.lease_seconds / 3))

    def _rebalance(self) -> bool:
        """Renew the lease and move towards the fair share; True when others should look again."""
        group = self._bus.groups[self._group]
        now = asyncio.get_running_loop().time()
        changed = self._id not in group.members
        group.members[self._id] = (self._topics, now + self._bus.lease_seconds)
        for member in [m for m, (_, expiry) in group.members.items() if expiry < now]:
            del group.members[member]
        members = {member: topics for member, (topics, _) in group.members.items()}
        everywhere = {topic for topics in members.values() for topic in topics}
        share = fair_share(members, dict.fromkeys(everywhere, self._bus.partitions))[self._id]
        for topic, quota in share.items():
            places = [(topic, partition) for partition in range(self._bus.partitions)]
            mine = [p for p in places if group.claims[p].owner == self._id]
            free = [p for p in places if group.claims[p].owner not in members]
            for place in mine[quota:]:
                group.claims[place].owner = None
                changed = True
            for place in free[: max(0, quota - len(mine))]:
                group.claims[place].owner = self._id
                group.claims[place].generation += 1
        held = {}
        for place, claim in group.claims.items():
            if claim.owner == self._id:
                known = self._held.get(place)
                same = known is not None and known[0] == claim.generation
                held[place] = known if known and same else (claim.generation, claim.committed)
        self._held = held
        return changed

    def _read(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        for place, (generation, position) in self._held.items():
            found = self._bus.log[place][position : position + max_records - len(records)]
            records += found
            self._held[place] = (generation, position + len(found))
        return records

    async def commit(self, records: Sequence[Record]) -> None:
        """Store the positions after these records, unless another member has taken over since."""
        await self._bus.ready()
        claims = self._bus.groups[self._group].claims
        for place, offsets in _places(records):
            generation, _ = self._held.get(place, (-1, 0))
            claim = claims[place]
            if (claim.owner, claim.generation) == (self._id, generation):
                claim.committed = max(claim.committed, max(offsets) + 1)
            else:
                self._bus.counts["late_commits"] += 1

    async def rewind(self, records: Sequence[Record]) -> None:
        """Read again from the first of these records in each partition that is still held."""
        for place, offsets in _places(records):
            if place in self._held:
                generation, position = self._held[place]
                self._held[place] = (generation, min(position, *offsets))

    async def lag(self) -> dict[Place, int]:
        """Return how many records each held partition still has for this member."""
        await self._bus.ready()
        return {p: len(self._bus.log[p]) - position for p, (_, position) in self._held.items()}

    async def close(self) -> None:
        """Release everything at once."""
        self._closed = True
        group = self._bus.groups[self._group]
        group.members.pop(self._id, None)
        for claim in group.claims.values():
            if claim.owner == self._id:
                claim.owner = None
        await self._bus.wake()


def _places(records: Sequence[Record]) -> Iterator[tuple[Place, list[int]]]:
    offsets: dict[Place, list[int]] = defaultdict(list)
    for record in records:
        offsets[record.topic, record.partition].append(record.offset)
    yield from offsets.items()
