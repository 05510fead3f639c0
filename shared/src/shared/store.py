"""Postgres: connections, transactions, and the tables that every service has in its own schema.

One event = one transaction: the "seen it" mark (inbox), the state and the outgoing events (outbox)
commit together. SQL of a service stands in that service's store.py; here stands only what is shared.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

import asyncpg
import orjson

from shared.errors import Retry
from shared.events import Event, Record

INBOX_DAYS = 30  # longer than any bus keeps a record
OUTBOX_DAYS = 7  # as long as a lost broker can be rebuilt from it
PERSONAL_DAYS = 180  # after an order's last event
_TRANSIENT = (
    OSError,
    TimeoutError,
    asyncpg.exceptions.InterfaceError,
    asyncpg.exceptions.InternalClientError,  # the server ended this connection and it is used before that shows
    asyncpg.PostgresConnectionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.LockNotAvailableError,
    asyncpg.InternalServerError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,  # a server that was the primary a moment ago
)

CONTENTION = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Two transactions were in each other's way: the same one succeeds when it is simply run again."""


def is_transient(error: BaseException) -> bool:
    """Tell whether the same transaction may succeed later: the database is away, full or contended."""
    return isinstance(error, _TRANSIENT)


class Tx:
    """One open transaction. It commits when the block that opened it ends, and only there."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.fetch = conn.fetch
        self.fetchrow = conn.fetchrow
        self.fetchval = conn.fetchval
        self.execute = conn.execute

    async def publish(self, events: Sequence[Event]) -> None:
        """Put events into the outbox; the relay hands them to the bus after the commit."""
        if not events:
            return
        await self.conn.execute(
            """with made as (
                 insert into outbox (event_id, topic, key, headers, value)
                 select e.* from unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::bytea[])
                   as e(event_id, topic, key, headers, value)
                 on conflict (event_id) do nothing returning seq)
               insert into outbox_unpublished select seq from made""",
            *outbox_columns(events),
        )

    async def first_time(self, consumer: str, ids: Sequence[UUID]) -> set[UUID]:
        """Mark events as seen by this consumer; return those that it had not seen before."""
        rows = await self.conn.fetch(
            """insert into inbox (consumer, event_id) select $1, unnest($2::uuid[])
               on conflict do nothing returning event_id""",
            consumer,
            ids,
        )
        return {row["event_id"] for row in rows}

    async def bury(self, consumer: str, dead: Iterable[tuple[Record, str, str]]) -> None:
        """Keep records that can never be handled, each with a class of error and a reason."""
        for record, error_class, reason in dead:
            await self.conn.execute(
                """insert into dead_event (consumer, topic, partition, "offset", key, headers, value,
                                           error_class, error_text)
                   values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                   on conflict (consumer, topic, partition, "offset") where "offset" >= 0
                   do update set attempts = dead_event.attempts + 1, last_at = now()""",
                consumer,
                record.topic,
                record.partition,
                record.offset,
                record.key.replace("\0", ""),
                dump_headers(record.headers),
                record.value,
                error_class,
                reason[:500],
            )


def outbox_columns(events: Sequence[Event]) -> tuple[list[Any], ...]:
    """Return event_id, topic, key, headers and value of each event, as columns for `unnest`."""
    records = [e.to_record() for e in events]
    return (
        [e.id for e in events],
        [r.topic for r in records],
        [r.key for r in records],
        [dump_headers(r.headers) for r in records],
        [r.value for r in records],
    )


def dump_headers(headers: Iterable[tuple[str, bytes]]) -> str:
    """Write record headers as a JSON list of pairs, latin-1 text standing for the raw bytes.

    NULs are left out: Postgres cannot hold one in a text.
    """
    pairs = [(n.replace("\0", ""), v.replace(b"\0", b"").decode("latin-1")) for n, v in headers]
    return orjson.dumps(pairs).decode()


def load_headers(text: str) -> tuple[tuple[str, bytes], ...]:
    """Read what dump_headers wrote."""
    return tuple((n, v.encode("latin-1")) for n, v in orjson.loads(text))


async def _keep_session(_: Any) -> None:
    """Skip asyncpg's reset on release: it costs a round trip, and nothing here changes a session."""


class Database:
    """A pool of connections whose search path is one service's schema.

    Every transaction is READ COMMITTED and durable (synchronous_commit=on). A statement may take 30 s,
    a transaction may idle 60 s.
    """

    def __init__(self, url: str, schema: str, *, pool_size: int = 8) -> None:
        self.url = url
        self.schema = schema
        self._size = pool_size
        self._pool: Any = None

    async def open(self) -> None:
        """Connect; raises OSError or an asyncpg error when the server is not there."""
        self._pool = await asyncpg.create_pool(
            self.url,
            min_size=1,
            max_size=self._size,
            timeout=10,
            command_timeout=60,
            max_inactive_connection_lifetime=300,
            reset=_keep_session,
            server_settings={
                "search_path": self.schema,
                "application_name": f"afterglow-{self.schema}",
                "statement_timeout": "30s",
                "idle_in_transaction_session_timeout": "60s",
                "timezone": "UTC",
                "jit": "off",
                # Every statement is a short one on indexed keys, planned once. Tables that were empty a
                # moment ago make the planner guess wrong, so scans are forbidden here, and look-ups by
                # arrays are laterals or `= any(array)`: the index is then the only sensible plan.
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
            },
        )

    async def close(self) -> None:
        """Close all connections, waiting at most five seconds for those in use."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 5)
            except TimeoutError:
                self._pool.terminate()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Open a transaction; it commits when the block ends and rolls back when it raises."""
        async with self._pool.acquire(timeout=10) as conn, conn.transaction():
            yield Tx(conn)

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement in a transaction of its own."""
        async with self._pool.acquire(timeout=10) as conn:
            return list(await conn.fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Return the first row of one statement, or None."""
        async with self._pool.acquire(timeout=10) as conn:
            return await conn.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first value of one statement, or None."""
        async with self._pool.acquire(timeout=10) as conn:
            return await conn.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        """Run one statement for its effect; return its command tag."""
        async with self._pool.acquire(timeout=10) as conn:
            return str(await conn.execute(sql, *args))

    async def connect(self) -> Any:
        """Return a connection of its own, for LISTEN; the caller closes it."""
        return await asyncpg.connect(self.url, timeout=10, command_timeout=60)


@dataclass(frozen=True, slots=True)
class Timer:
    """Look at this subject again at `due_at`; what to do then is decided from the state then."""

    key: str
    kind: str
    due_at: datetime
    payload: dict[str, Any]


async def set_timers(tx: Tx, timers: Sequence[Timer]) -> None:
    """Set timers by their business key; one that exists is moved, of two with one key the last counts."""
    last = {t.key: t for t in timers}
    timers = [last[key] for key in sorted(last)]
    await tx.execute(
        """insert into timer (key, kind, due_at, payload)
           select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::jsonb[])
           on conflict (key) do update
             set kind = excluded.kind, due_at = excluded.due_at, payload = excluded.payload""",
        [t.key for t in timers],
        [t.kind for t in timers],
        [t.due_at for t in timers],
        [orjson.dumps(t.payload).decode() for t in timers],
    )


async def cancel_timers(tx: Tx, keys: Sequence[str]) -> None:
    """Forget timers; those that are not set do not matter."""
    await tx.execute("delete from timer where key = any($1::text[])", keys)


async def take_due_timers(tx: Tx, limit: int, *, kind: str | None = None) -> list[Timer]:
    """Take timers (of one kind) that are due by the database clock; gone when `tx` commits, not before."""
    rows = await tx.fetch(
        """delete from timer where key = any(array(
             select key from timer where due_at <= now() and ($2::text is null or kind = $2)
             order by due_at limit $1 for update skip locked))
           returning key, kind, due_at, payload""",
        limit,
        kind,
    )
    found = [Timer(r["key"], r["kind"], r["due_at"], orjson.loads(r["payload"])) for r in rows]
    return sorted(found, key=lambda t: (t.due_at, t.key))


async def lock_relay(tx: Tx, *, wait: bool) -> bool:
    """Hold this service's relay still until `tx` ends; False when another transaction does (no `wait`).

    The relay itself holds it for each batch. Whoever blanks what stands in the outbox waits for it, so
    that no relay appends a body it read a moment before.
    """
    keys = "(hashtext('relay'), hashtext(current_schema()))"
    if wait:
        await tx.execute(f"select pg_advisory_xact_lock{keys}")
        return True
    return bool(await tx.fetchval(f"select pg_try_advisory_xact_lock{keys}"))


class Kept(Protocol):
    """What becomes one row of a table, and knows whether it was one when it was read."""

    is_new: bool


_K = TypeVar("_K", bound=Kept)


async def save(
    tx: Tx,
    kept: Iterable[_K],
    columns: Callable[[Sequence[_K]], Sequence[list[Any]]],
    insert: str,
    on_conflict: str,
) -> None:
    """Insert what is new and update the rest. Raises Retry when somebody else made a new one meanwhile.

    `insert` takes what `columns` returns as arrays; `on_conflict` names its key and what is updated.
    """
    new: list[_K] = []
    old: list[_K] = []
    for one in kept:
        (new if one.is_new else old).append(one)
    if new:
        made = await tx.fetch(f"{insert} on conflict do nothing returning 1", *columns(new))
        if len(made) < len(new):
            raise Retry("somebody else made the same row")
    if old:
        # an upsert of rows that exist: it goes by the key whatever the planner believes
        await tx.execute(f"{insert} on conflict {on_conflict}", *columns(old))


def words(texts: Sequence[str], inside: str) -> str | None:
    """Return a pattern that finds one of these texts, not as a part of a longer word; None for no text.

    It is for text that `encode(…, 'escape')` made of bytes.
    """
    written = [
        "".join(chr(b) if b < 128 else f"\\{b:03o}" for b in t.replace("\\", "\\\\").encode())  # noqa: PLR2004 - ASCII
        for t in texts
    ]
    one_of = "|".join(re.escape(w) for w in written)
    return f"(?<![{inside}])(?:{one_of})(?!\\.?[0-9A-Za-z_-])" if written else None


async def in_steps(db: Database, sql: str) -> None:
    """Repeat a bounded delete or update until it finds nothing: no statement holds many locks."""
    while not (await db.execute(sql)).endswith(" 0"):  # noqa: ASYNC110 - it polls nothing
        await asyncio.sleep(0.05)  # others want the disk too


async def clean_up(db: Database) -> None:
    """Drop what has outlived its use from the tables that every service has."""
    await in_steps(
        db,
        f"""delete from inbox where ctid = any(array(select ctid from inbox
              where recorded_on < current_date - {INBOX_DAYS} limit 5000))""",
    )
    await in_steps(
        db,
        f"""delete from outbox where seq = any(array(select seq from outbox o
              where created_at < now() - interval '{OUTBOX_DAYS} days'
                and not exists (select from outbox_unpublished u where u.seq = o.seq)
              limit 5000))""",
    )
    await in_steps(
        db,
        f"""update dead_event set value = null where id = any(array(select id from dead_event
              where value is not null and last_at < now() - interval '{PERSONAL_DAYS} days'
              limit 1000))""",
    )
