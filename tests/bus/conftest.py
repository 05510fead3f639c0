"""Rigs: one way to run each bus as several processes would, and to take the other side away."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Protocol
from uuid import uuid4

import pytest

from shared.bus import Bus
from shared.bus.kafka import KafkaBus
from shared.bus.postgres import PostgresBus
from shared.events import Record
from shared.store import Database
from shared.testing import MemoryBus

PARTITIONS = 4


class Rig(Protocol):
    """What the conformance tests need of a bus beside the bus itself."""

    topics: tuple[str, str]
    lease_seconds: float
    can_erase: bool

    async def process(self) -> Bus:
        """Return a started bus, as a further process would have it."""

    async def publish(self, bus: Bus, records: Sequence[Record]) -> dict[int, str]:
        """Publish in a transaction that commits."""

    async def erase(
        self, bus: Bus, keys: Sequence[str], topics: Sequence[str] | None = None
    ) -> None:
        """Erase in a transaction that commits."""

    async def cut_off(self, bus: Bus) -> None:
        """Let this process fall silent without a goodbye; a test must also stop polling it."""

    async def revive(self, bus: Bus) -> None:
        """Let a silent process speak again, late."""

    async def take_away(self) -> None:
        """Make the broker or database vanish for everybody."""

    async def bring_back(self) -> None:
        """Make it answer again."""

    async def close(self) -> None:
        """End everything."""


class MemoryRig:
    """The fake: process and broker are one object."""

    lease_seconds = 0.6
    can_erase = True

    def __init__(self) -> None:
        self.topics = ("orders", "scans")
        self._bus = MemoryBus(self.topics, partitions=PARTITIONS, lease_seconds=self.lease_seconds)

    async def process(self) -> Bus:
        return self._bus

    async def publish(self, bus: Bus, records: Sequence[Record]) -> dict[int, str]:
        return await self._bus.publish(None, records)

    async def erase(
        self, bus: Bus, keys: Sequence[str], topics: Sequence[str] | None = None
    ) -> None:
        await self._bus.erase(None, keys, topics)

    async def cut_off(self, bus: Bus) -> None:
        pass

    async def revive(self, bus: Bus) -> None:
        pass

    async def take_away(self) -> None:
        self._bus.away = True

    async def bring_back(self) -> None:
        self._bus.away = False

    async def close(self) -> None:
        pass


class PostgresRig:
    """Each process has its own pool; the database is taken away by refusing and killing connections."""

    lease_seconds = 0.9
    can_erase = True

    def __init__(self, url: str) -> None:
        self.topics = ("orders", "scans")
        self._url = url
        self._processes: list[tuple[PostgresBus, Database]] = []

    async def process(self) -> Bus:
        db = Database(self._url, "public")
        await db.open()
        bus = PostgresBus(db, self.topics, partitions=PARTITIONS, lease_seconds=self.lease_seconds)
        self._processes.append((bus, db))
        await bus.start()
        return bus

    async def publish(self, bus: Bus, records: Sequence[Record]) -> dict[int, str]:
        async with self.database(bus).transaction() as tx:
            return await bus.publish(tx, records)

    async def erase(
        self, bus: Bus, keys: Sequence[str], topics: Sequence[str] | None = None
    ) -> None:
        async with self.database(bus).transaction() as tx:
            await bus.erase(tx, keys, topics)

    def database(self, bus: Bus) -> Database:
        return next(db for known, db in self._processes if known is bus)

    async def cut_off(self, bus: Bus) -> None:
        pass

    async def revive(self, bus: Bus) -> None:
        pass

    async def _admin(self, *statements: str) -> None:
        head, _, name = self._url.rpartition("/")
        admin = Database(f"{head}/template1", "public", pool_size=1)
        await admin.open()
        try:
            for statement in statements:
                await admin.execute(statement.format(name=name))
        finally:
            await admin.close()

    async def take_away(self) -> None:
        await self._admin(
            "alter database {name} allow_connections false",
            "select pg_terminate_backend(pid, 1000) from pg_stat_activity where datname = '{name}'",
            "alter database {name} rename to {name}_away",
        )

    async def bring_back(self) -> None:
        await self._admin(
            "alter database {name}_away rename to {name}",
            "alter database {name} allow_connections true",
        )

    async def close(self) -> None:
        for bus, db in self._processes:
            await bus.stop()
            await db.close()


class KafkaProxy:
    """A TCP proxy in front of one broker that can be cut.

    A broker tells its clients where to connect, so the port in its answers is replaced by ours.
    """

    def __init__(self, servers: str) -> None:
        self.host, _, port = servers.partition(":")
        self._upstream = int(port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection(self.host, self._upstream)
            self._writers |= {writer, upstream}
            await asyncio.gather(self._copy(reader, upstream), self._rewrite(answers, writer))
        except (OSError, EOFError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def _rewrite(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = self.host.encode() + struct.pack(">i", self._upstream)
        ours = self.host.encode() + struct.pack(">i", self.port)
        while True:
            head = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(head, "big"))
            writer.write(head + body.replace(theirs, ours))
            await writer.drain()


class KafkaRig:
    """Each process talks through a proxy of its own; topics are fresh ones of a real broker."""

    lease_seconds = 6.0  # brokers allow no shorter session
    can_erase = False

    def __init__(self, servers: str) -> None:
        if "," in servers:
            pytest.skip("the proxy in front of the broker knows one broker only")
        suffix = uuid4().hex[:8]
        self.topics = (f"orders-{suffix}", f"scans-{suffix}")
        self._servers = servers
        self._processes: list[tuple[KafkaBus, KafkaProxy]] = []

    async def process(self) -> Bus:
        proxy = KafkaProxy(self._servers)
        await proxy.open()
        bus = KafkaBus(
            f"{proxy.host}:{proxy.port}",
            self.topics,
            partitions=PARTITIONS,
            session_seconds=self.lease_seconds,
            publish_seconds=3,
            connect_seconds=10,
            stall_seconds=5,
        )
        self._processes.append((bus, proxy))
        await bus.start()
        return bus

    async def publish(self, bus: Bus, records: Sequence[Record]) -> dict[int, str]:
        tx: Any = None  # a broker takes no part in transactions
        return await bus.publish(tx, records)

    async def erase(
        self, bus: Bus, keys: Sequence[str], topics: Sequence[str] | None = None
    ) -> None:
        tx: Any = None
        await bus.erase(tx, keys, topics)

    def proxy(self, bus: Bus) -> KafkaProxy:
        return next(proxy for known, proxy in self._processes if known is bus)

    async def cut_off(self, bus: Bus) -> None:
        await self.proxy(bus).cut()

    async def revive(self, bus: Bus) -> None:
        await self.proxy(bus).open()

    async def take_away(self) -> None:
        for _, proxy in self._processes:
            await proxy.cut()

    async def bring_back(self) -> None:
        for _, proxy in self._processes:
            with suppress(OSError):
                await proxy.open()

    async def close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for bus, _ in self._processes:
                group.create_task(bus.stop())
        for _, proxy in self._processes:
            await proxy.cut()


@pytest.fixture(params=["memory", "postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def unopened_rig(request: pytest.FixtureRequest) -> Rig:
    """Ask for the database or broker outside the event loop, and only when it is needed."""
    if request.param == "memory":
        return MemoryRig()
    if request.param == "postgres":
        return PostgresRig(request.getfixturevalue("database_url"))
    return KafkaRig(request.getfixturevalue("kafka_servers"))


@pytest.fixture
async def rig(unopened_rig: Rig) -> AsyncIterator[Rig]:
    """Return each bus in turn."""
    yield unopened_rig
    await unopened_rig.close()
