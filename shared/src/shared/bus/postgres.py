"""The bus of one machine: a durable partitioned log in Postgres, with consumer groups.

A record's offset comes from its partition's counter row, which stays locked until the publisher's
transaction commits. So offsets become visible in order, and a reader that has passed one can never
have a late commit land behind it; values of a sequence would not give that. Members of a group hold
partitions for as long as their lease is renewed; a commit names owner and generation and changes
nothing when another member has taken over since. All times are the database's.
"""

import asyncio
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson
import structlog

from shared.bus import refusal
from shared.bus.postgres_reader import CALL_SECONDS, CHANNEL, PostgresSubscription, database_errors
from shared.events import Record
from shared.store import Database, Tx, lock_relay

EXPIRE_SECONDS = 60.0  # so often one process looks for records past retention
EXPIRE_BATCH = 200  # records deleted per partition and statement
log = structlog.get_logger(__name__)

# Step n brings the schema from version n to n + 1; steps that ran anywhere are never edited.
_MIGRATIONS = (
    """
    create table bus.shard (
      id int generated always as identity primary key,
      topic text not null,
      partition int not null,
      next_offset bigint not null default 0,
      unique (topic, partition)
    ) with (fillfactor = 50);
    -- Bodies stay in the row, uncompressed: they are read once and gone within days.
    create table bus.record (
      shard int not null,
      "offset" bigint not null,
      key text not null,
      headers bytea not null,
      value bytea,
      recorded_at timestamptz not null default now(),
      primary key (shard, "offset")
    ) with (toast_tuple_target = 8160);
    alter table bus.record alter column value set storage external;
    create index record_key on bus.record (key);
    create table bus.member (
      id uuid primary key,
      group_name text not null,
      topics text[] not null,
      expires_at timestamptz not null
    ) with (fillfactor = 50);
    create table bus.claim (
      group_name text not null,
      shard int not null references bus.shard,
      "offset" bigint not null default 0,
      owner uuid,
      generation bigint not null default 0,
      primary key (group_name, shard)
    ) with (fillfactor = 50);
    """,
)

# The rows are locked in the order of their ids, so two publishers never wait for each other in a ring.
_APPEND = """
with locked as materialized (
  select id from bus.shard where id = any($1::int[]) order by id for update
), counted as (
  update bus.shard s set next_offset = s.next_offset + n.records
  from unnest($1::int[], $2::int[]) as n(id, records) join locked using (id)
  where s.id = n.id
  returning s.id, s.next_offset - n.records as first
), appended as (
  insert into bus.record (shard, "offset", key, headers, value)
  select r.shard, c.first + r.place, r.key, r.headers, r.value
  from unnest($3::int[], $4::int[], $5::text[], $6::bytea[], $7::bytea[])
    as r(shard, place, key, headers, value) join counted c on c.id = r.shard
)
select pg_notify($8, $9)
"""

_EXPIRE = """
with gone as (
  delete from bus.record d using (
    select r.shard, r."offset"
    from bus.shard s
    join lateral (
      select recorded_at from bus.record where shard = s.id order by "offset" limit 1
    ) oldest on oldest.recorded_at < now() - $1::interval
    cross join lateral (
      select shard, "offset", recorded_at from bus.record
      where shard = s.id order by "offset" limit $2
    ) r
    where r.recorded_at < now() - $1::interval
  ) old
  where d.shard = old.shard and d."offset" = old."offset"
  returning d.shard, d."offset"
)
select count(*) as gone, count(*) filter (where g."offset" >= c."offset") as unread
from gone g left join (
  select shard, min("offset") as "offset" from bus.claim group by shard) c using (shard)
"""


def _dump(headers: Sequence[tuple[str, bytes]]) -> bytes:
    """Pack headers into one value; latin-1 text stands for the raw bytes."""
    return orjson.dumps([(name, value.decode("latin-1")) for name, value in headers])


class PostgresBus:
    """A log in schema `bus` of the database that `db` names; publishing joins the caller's transaction.

    `lease_seconds` is how long a member that stopped polling keeps its partitions, and `retention` how
    long records stay, read or not. `counts` says what was dropped: late commits, records that
    expired before a group had read them.
    """

    def __init__(
        self,
        db: Database,
        topics: Sequence[str],
        *,
        partitions: int = 12,
        lease_seconds: float = 10.0,
        retention: timedelta = timedelta(days=7),
    ) -> None:
        self._db = db
        self._topics = tuple(topics)
        self._partitions = partitions
        self.lease_seconds = lease_seconds
        self.counts: Counter[str] = Counter()
        self._retention = retention
        self._expire_at = 0.0
        self._shards: dict[str, list[int]] = {}
        self._subscriptions: list[PostgresSubscription] = []

    async def start(self) -> None:
        """Make the schema and the topics; several processes may do so at the same time."""
        with database_errors():
            async with self._db.transaction() as tx:
                await tx.execute("select pg_advisory_xact_lock(hashtext('afterglow bus schema'))")
                await _migrate(tx)
                self._shards = await self._make_topics(tx)

    async def _make_topics(self, tx: Tx) -> dict[str, list[int]]:
        # A topic that exists keeps its number of partitions: another one would move its keys.
        await tx.execute(
            """insert into bus.shard (topic, partition)
               select t, p from unnest($1::text[]) t cross join generate_series(0, $2 - 1) p
               where not exists (select from bus.shard s where s.topic = t) order by t, p""",
            self._topics,
            self._partitions,
        )
        shards: dict[str, list[int]] = defaultdict(list)
        for row in await tx.fetch("select id, topic from bus.shard order by topic, partition"):
            shards[row["topic"]].append(row["id"])
        return dict(shards)

    async def stop(self) -> None:
        """Close all subscriptions."""
        for subscription in tuple(self._subscriptions):
            await subscription.close()

    async def ready(self) -> None:
        """Return when the database answers and the schema is there."""
        await self.shards()
        with database_errors():
            await self._db.fetchval("select count(*) from bus.shard where id = 1")

    async def shards(self) -> dict[str, list[int]]:
        """Return the ids of each topic's partitions, making them at the first call."""
        if not self._shards:
            await self.start()
        return self._shards

    async def publish(self, tx: Tx, records: Sequence[Record]) -> dict[int, str]:
        """Append within the caller's transaction; readers see the records once it commits."""
        shards = await self.shards()
        refused: dict[int, str] = {}
        rows: list[tuple[int, int, str, bytes, bytes | None]] = []
        places: Counter[int] = Counter()
        for index, record in enumerate(records):
            parts = shards.get(record.topic)
            reason = refusal(record) if parts else "its topic does not exist"
            if reason or not parts:
                refused[index] = str(reason)
                continue
            shard = parts[zlib.crc32(record.key.encode()) % len(parts)]
            rows.append((shard, places[shard], record.key, _dump(record.headers), record.value))
            places[shard] += 1
        if rows:
            topics = {record.topic for i, record in enumerate(records) if i not in refused}
            with database_errors():
                await tx.execute(
                    _APPEND,
                    [*places],
                    [*places.values()],
                    *zip(*rows, strict=True),
                    CHANNEL,
                    ",".join(topics),
                )
        return refused

    async def subscribe(self, group: str, topics: Sequence[str]) -> PostgresSubscription:
        """Return a member of the group; it joins with its first poll."""
        subscription = PostgresSubscription(self, self._db, group, topics)
        self._subscriptions.append(subscription)
        return subscription

    def shard_of(self, record: Record) -> int:
        """Return the id of the partition that this record was read from."""
        return self._shards[record.topic][record.partition]

    def forget(self, subscription: PostgresSubscription) -> None:
        """Strike a closed subscription off the list."""
        self._subscriptions.remove(subscription)

    async def erase(self, tx: Tx, keys: Sequence[str], topics: Sequence[str] | None = None) -> None:
        """Take the body away from the records of these keys; their ids and places stay.

        Waits for a relay that holds such a body in its hands just now.
        """
        await lock_relay(tx, wait=True)
        shards = await self.shards()  # at the very first start there may be no log yet
        within = [
            number
            for topic in (shards if topics is None else topics)
            for number in shards.get(topic, ())
        ]
        await tx.execute(
            """update bus.record set value = null
               where key = any($1::text[]) and value is not null
                 and shard + 0 = any($2::int[])""",  # by the index on the key, never by partition
            keys,
            within,
        )

    async def expire(self, conn: Any) -> None:
        """Delete a bounded number of records past retention, when it is time and nobody else does.

        As on a broker, a group that stayed away too long has lost what it did not read: counted.
        """
        now = asyncio.get_running_loop().time()
        if now < self._expire_at:
            return
        self._expire_at = now + EXPIRE_SECONDS
        async with conn.transaction():
            if not await conn.fetchval(
                "select pg_try_advisory_xact_lock(hashtext('afterglow bus expiry'))"
            ):
                return
            row = await conn.fetchrow(_EXPIRE, self._retention, EXPIRE_BATCH, timeout=CALL_SECONDS)
        if row["gone"] >= EXPIRE_BATCH:
            self._expire_at = now  # more are waiting: go on at the next heartbeat
        if row["unread"]:
            self.counts["expired_unread"] += row["unread"]
            log.error("bus_records_expired_unread", records=row["unread"])


async def _migrate(tx: Tx) -> None:
    if await tx.fetchval("select to_regclass('bus.version') is null"):
        await tx.execute("create schema if not exists bus")
        await tx.execute("create table bus.version (version int not null)")
        await tx.execute("insert into bus.version values (0)")
    version = await tx.fetchval("select version from bus.version")
    for step in _MIGRATIONS[version:]:
        await tx.execute(step)
    if version < len(_MIGRATIONS):
        await tx.execute("update bus.version set version = $1", len(_MIGRATIONS))
