"""Reading from the Postgres bus: leases, fair shares, fenced commits.

A member's partitions are rows that name it as owner; they are its own while its lease runs. A commit
names owner and generation, so one that comes after a takeover changes nothing.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import orjson
import structlog

from shared.errors import BusUnavailable
from shared.events import Record
from shared.store import Database, is_transient

if TYPE_CHECKING:
    from shared.bus.postgres import PostgresBus

CHANNEL = "afterglow_bus"
REFRESH = "group:"  # a notification with this prefix asks the members of one group to share anew
POLL_SECONDS = 0.25  # looked at so often even when no notification comes
CALL_SECONDS = 10.0  # no statement of a reader takes longer
log = structlog.get_logger(__name__)

_READ = """
select held.shard, r."offset", r.key, r.headers, r.value
from unnest($1::int[], $2::bigint[]) as held(shard, position)
cross join lateral (
  select "offset", key, headers, value from bus.record
  where shard = held.shard and "offset" >= held.position order by "offset" limit $3
) r
limit $3
"""

_COMMIT = """
update bus.claim c set "offset" = greatest(c."offset", n."offset")
from unnest($3::int[], $4::bigint[], $5::bigint[]) as n(shard, generation, "offset")
where c.group_name = $1 and c.owner = $2 and c.shard = n.shard and c.generation = n.generation
returning c.shard
"""

_LAG = """
select held.shard,
       s.next_offset - greatest(held.position, coalesce(r."offset", s.next_offset)) as records
from unnest($1::int[], $2::bigint[]) as held(shard, position)
join bus.shard s on s.id = held.shard
left join lateral (
  select "offset" from bus.record where shard = s.id order by "offset" limit 1) r on true
"""


def fair_share(
    members: Mapping[UUID, Collection[str]], partitions: Mapping[str, int]
) -> dict[UUID, dict[str, int]]:
    """Return how many partitions of each topic each member should hold.

    Every topic is shared among those who read it. What does not divide evenly goes round over all
    topics, so that totals differ by one at most when all members read the same topics.
    """
    share: dict[UUID, dict[str, int]] = {member: {} for member in members}
    turn = 0
    for topic in sorted(partitions):
        readers = sorted(m for m, topics in members.items() if topic in topics)
        if not readers:
            continue
        each, rest = divmod(partitions[topic], len(readers))
        for place, member in enumerate(readers):
            share[member][topic] = each + ((place - turn) % len(readers) < rest)
        turn += rest
    return share


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn what may pass into BusUnavailable; a mistake of ours stays what it is."""
    try:
        yield
    except Exception as error:
        if not is_transient(error):
            raise
        raise BusUnavailable(f"postgres: {type(error).__name__}") from error


def _load(packed: bytes) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode("latin-1")) for name, value in orjson.loads(packed))


@dataclass(slots=True)
class _Held:
    """A partition that this member may read, and the offset that it will read next."""

    topic: str
    partition: int
    generation: int
    position: int


class PostgresSubscription:
    """One member of a group, on a connection of its own that also listens for notifications.

    The lease is renewed while polling, so a member whose loop hangs loses its partitions like one
    that died.
    """

    def __init__(self, bus: "PostgresBus", db: Database, group: str, topics: Sequence[str]) -> None:
        self._bus = bus
        self._db = db
        self._group = group
        self._topics = sorted(set(topics))
        self._id = uuid4()
        self._lease = timedelta(seconds=bus.lease_seconds)
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._conn: Any = None
        self._held: dict[int, _Held] = {}
        self._last_read = (
            0  # shard served last; the next read starts behind it, so that none starves
        )
        self._renew_at = 0.0
        self._closed = False

    async def poll(self, max_records: int, timeout_seconds: float) -> list[Record]:
        """Return the next records, within a millisecond or so of their commit."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        while True:
            self._wake.clear()
            async with self._lock:
                with database_errors():
                    conn = await self._connected()
                    if clock() >= self._renew_at:
                        await self._renew(conn)
                        await self._bus.expire(conn)
                    records = await self._read(conn, max_records)
            left = min(deadline - clock(), POLL_SECONDS)
            if records or left <= 0:
                return records
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _connected(self) -> Any:
        if self._closed:
            raise BusUnavailable("the subscription is closed")
        if self._conn is None or self._conn.is_closed():
            await self._bus.shards()
            self._conn = conn = await self._db.connect()
            # A lost commit of an offset or a lease only means that records are handed out again.
            await conn.execute("set synchronous_commit = off")
            await conn.execute(
                """insert into bus.claim (group_name, shard)
                   select $1, id from bus.shard where topic = any($2::text[]) on conflict do nothing""",
                self._group,
                self._topics,
            )
            conn.add_termination_listener(lambda _: self._wake.set())
            await conn.add_listener(CHANNEL, self._notified)
            self._renew_at = 0.0
        return self._conn

    def _notified(self, _conn: Any, _pid: int, _channel: str, payload: str) -> None:
        if payload.startswith(REFRESH):
            if payload != REFRESH + self._group:
                return
            self._renew_at = 0.0
        elif not set(self._topics).intersection(payload.split(",")):
            return
        self._wake.set()

    async def _renew(self, conn: Any) -> None:
        """Renew the lease, then take or release partitions until this member has its fair share."""
        async with conn.transaction():
            await conn.execute(
                "select pg_advisory_xact_lock(hashtext('afterglow bus group'), hashtext($1))",
                self._group,
            )
            joined = await conn.fetchval(
                """insert into bus.member as m (id, group_name, topics, expires_at)
                   values ($1, $2, $3, clock_timestamp() + $4::interval)
                   on conflict (id) do update set expires_at = excluded.expires_at
                   returning xmax = 0""",
                self._id,
                self._group,
                self._topics,
                self._lease,
            )
            await conn.execute(
                "delete from bus.member where group_name = $1 and expires_at < clock_timestamp()",
                self._group,
            )
            released = await self._rebalance(conn)
            if joined or released:
                await conn.execute("select pg_notify($1, $2)", CHANNEL, REFRESH + self._group)
        self._renew_at = asyncio.get_running_loop().time() + self._lease.total_seconds() / 3

    async def _rebalance(self, conn: Any) -> bool:
        """Make the claims of this member its fair share; True when it gave some away."""
        members = {
            row["id"]: row["topics"]
            for row in await conn.fetch(
                "select id, topics from bus.member where group_name = $1", self._group
            )
        }
        claims = await conn.fetch(
            """select c.shard, c.owner, c.generation, c."offset", s.topic, s.partition
               from bus.claim c join bus.shard s on s.id = c.shard
               where c.group_name = $1 order by c.shard""",
            self._group,
        )
        share = fair_share(members, Counter(row["topic"] for row in claims))[self._id]
        release: list[int] = []
        take: list[int] = []
        for topic, quota in share.items():
            mine = [c["shard"] for c in claims if c["topic"] == topic and c["owner"] == self._id]
            free = [c["shard"] for c in claims if c["topic"] == topic and c["owner"] not in members]
            release += mine[quota:]
            take += free[: max(0, quota - len(mine))]
        if release:
            await self._give_up(conn, release)
        kept = {
            c["shard"]: c for c in claims if c["owner"] == self._id and c["shard"] not in release
        }
        if take:
            await conn.execute(
                """update bus.claim set owner = $2, generation = generation + 1
                   where group_name = $1 and shard = any($3::int[])""",
                self._group,
                self._id,
                take,
            )
            kept |= {c["shard"]: c for c in claims if c["shard"] in take}
        self._hold(kept, set(take))
        return bool(release)

    def _hold(self, claims: Mapping[int, Any], taken: set[int]) -> None:
        """Remember what is held; reading goes on where it was unless the claim is a new one."""
        held: dict[int, _Held] = {}
        for shard, claim in claims.items():
            generation = claim["generation"] + (shard in taken)
            known = self._held.get(shard)
            held[shard] = (
                known
                if known and known.generation == generation
                else _Held(claim["topic"], claim["partition"], generation, claim["offset"])
            )
        self._held = held

    async def _give_up(self, conn: Any, shards: Sequence[int]) -> None:
        await conn.execute(
            """update bus.claim set owner = null
               where group_name = $1 and owner = $2 and shard = any($3::int[])""",
            self._group,
            self._id,
            shards,
        )

    async def _read(self, conn: Any, max_records: int) -> list[Record]:
        if not self._held:
            return []
        order = sorted(self._held, key=lambda shard: (shard <= self._last_read, shard))
        positions = [self._held[shard].position for shard in order]
        rows = await conn.fetch(_READ, order, positions, max_records, timeout=CALL_SECONDS)
        records = []
        for shard, offset, key, headers, value in rows:
            held = self._held[shard]
            held.position = offset + 1
            self._last_read = shard
            records.append(Record(held.topic, key, _load(headers), value, held.partition, offset))
        return records

    async def commit(self, records: Sequence[Record]) -> None:
        """Store the positions after these records, unless another member has taken over since."""
        after: dict[int, int] = {}
        for shard, record in self._shards_of(records):
            after[shard] = max(after.get(shard, 0), record.offset + 1)
        mine = [shard for shard in after if shard in self._held]
        stored = 0
        if mine:
            with database_errors():
                async with self._lock:
                    conn = await self._connected()
                    rows = await conn.fetch(
                        _COMMIT,
                        self._group,
                        self._id,
                        mine,
                        [self._held[shard].generation for shard in mine],
                        [after[shard] for shard in mine],
                        timeout=CALL_SECONDS,
                    )
                    stored = len(rows)
        if stored < len(after):
            self._bus.counts["late_commits"] += len(after) - stored
            self._renew_at = 0.0  # what this member believes to hold is out of date
            log.warning("late_commit_dropped", group=self._group, partitions=len(after) - stored)

    async def rewind(self, records: Sequence[Record]) -> None:
        """Read again from the first of these records in each partition that is still held."""
        for shard, record in self._shards_of(records):
            if held := self._held.get(shard):
                held.position = min(held.position, record.offset)

    def _shards_of(self, records: Sequence[Record]) -> Iterator[tuple[int, Record]]:
        for record in records:
            yield self._bus.shard_of(record), record

    async def lag(self) -> dict[tuple[str, int], int]:
        """Return how many records each held partition still has for this member."""
        with database_errors():
            async with self._lock:
                conn = await self._connected()
                held = dict(self._held)
                rows = await conn.fetch(
                    _LAG, [*held], [h.position for h in held.values()], timeout=CALL_SECONDS
                )
        return {(held[r["shard"]].topic, held[r["shard"]].partition): r["records"] for r in rows}

    async def close(self) -> None:
        """Release everything at once; when the database is away, the lease runs out instead."""
        if self._closed:
            return
        self._closed = True
        self._bus.forget(self)
        self._wake.set()
        async with self._lock:
            conn, self._conn = self._conn, None
            if conn is None:
                return
            try:
                async with asyncio.timeout(2):
                    async with conn.transaction():
                        await self._give_up(conn, [*self._held])
                        await conn.execute("delete from bus.member where id = $1", self._id)
                        await conn.execute(
                            "select pg_notify($1, $2)", CHANNEL, REFRESH + self._group
                        )
                    await conn.close()
            except Exception as error:
                if not is_transient(error):
                    raise
                conn.terminate()
