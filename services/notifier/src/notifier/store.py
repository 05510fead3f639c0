"""The SQL of the notifier: the order projection and the send journal. Nothing here decides anything."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from shared import facts
from shared.errors import Retry
from shared.facts import Fact
from shared.store import Database, Tx

Key = tuple[str, str]

NOT_PAUSED = """not exists (select from pause p where p.scope = 'all'
    or (p.scope = 'shop' and p.name = m.shop) or (p.scope = 'kind' and p.name = m.kind)
    or (p.scope = 'channel' and p.name = m.channel))"""


# ---------------------------------------------------------------- the projection


@dataclass(slots=True)
class Order:
    """What is known of one order. `rows` are its journal rows by message key."""

    shop: str
    order_id: str
    facts: tuple[Fact, ...] = ()
    snapshot: dict[str, Any] | None = None
    revision: datetime | None = None
    is_new: bool = True
    rows: dict[str, "Row"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A journal row as the plan needs to see it."""

    id: int
    kind: str
    subject: str
    channel: str
    role: str
    round: int
    state: str


async def lock_orders(tx: Tx, keys: Iterable[Key]) -> dict[Key, Order]:
    """Lock the rows of these orders in sorted order; orders without a row come back as new."""
    wanted = sorted(set(keys))
    shops, ids = [s for s, _ in wanted], [i for _, i in wanted]
    rows = await tx.fetch(
        """select o.shop, o.order_id, o.facts, o.snapshot, o.revision
           from orders o join unnest($1::text[], $2::text[]) k(shop, order_id)
             using (shop, order_id)
           order by o.shop, o.order_id for update of o""",
        shops,
        ids,
    )
    orders = {key: Order(*key) for key in wanted}
    for r in rows:
        snapshot = None if r["snapshot"] is None else orjson.loads(r["snapshot"])
        orders[r["shop"], r["order_id"]] = Order(
            r["shop"], r["order_id"], facts.load(r["facts"]), snapshot, r["revision"], is_new=False
        )
    if rows:
        await _load_rows(tx, [o for o in orders.values() if not o.is_new], orders)
    return orders


async def _load_rows(tx: Tx, known: Sequence[Order], orders: Mapping[Key, Order]) -> None:
    rows = await tx.fetch(
        """select m.id, m.key, m.shop, m.order_id, m.kind, m.subject, m.channel, m.role, m.round, m.state
           from message m join unnest($1::text[], $2::text[]) k(shop, order_id)
             using (shop, order_id)""",
        [o.shop for o in known],
        [o.order_id for o in known],
    )
    for r in rows:
        orders[r["shop"], r["order_id"]].rows[r["key"]] = Row(
            r["id"], r["kind"], r["subject"], r["channel"], r["role"], r["round"], r["state"]
        )


async def save_orders(tx: Tx, orders: Iterable[Order]) -> None:
    """Write orders back. Raises Retry when somebody else made the row of a new one meanwhile."""
    new = [o for o in orders if o.is_new]
    old = [o for o in orders if not o.is_new]
    if new:
        made = await tx.fetch(
            """insert into orders (shop, order_id, facts, snapshot, revision)
               select * from unnest($1::text[], $2::text[], $3::jsonb[], $4::jsonb[],
                                    $5::timestamptz[])
               on conflict do nothing returning 1""",
            *_columns(new),
        )
        if len(made) < len(new):
            raise Retry("another consumer made the same order")
    if old:
        await tx.execute(
            """update orders o set facts = n.facts, snapshot = n.snapshot, revision = n.revision,
                 updated_at = now()
               from unnest($1::text[], $2::text[], $3::jsonb[], $4::jsonb[], $5::timestamptz[])
                 as n(shop, order_id, facts, snapshot, revision)
               where o.shop = n.shop and o.order_id = n.order_id""",
            *_columns(old),
        )


def _columns(orders: Sequence[Order]) -> tuple[list[Any], ...]:
    return (
        [o.shop for o in orders],
        [o.order_id for o in orders],
        [facts.dump(o.facts) for o in orders],
        [None if o.snapshot is None else orjson.dumps(o.snapshot).decode() for o in orders],
        [o.revision for o in orders],
    )


# ---------------------------------------------------------------- rows of the journal


@dataclass(frozen=True, slots=True)
class Message:
    """A journal row to be made."""

    key: str
    shop: str
    order_id: str
    kind: str
    subject: str
    channel: str
    role: str
    round: int
    state: str
    reason: str | None
    fact_at: datetime
    recorded_at: datetime
    expires_at: datetime


_FIELDS = tuple(Message.__slots__)


async def make_messages(tx: Tx, messages: Sequence[Message]) -> set[str]:
    """Make journal rows, due at once; return the keys that did not exist. A key has one row for ever.

    A row whose life is over by the database clock is made as expired.
    """
    if not messages:
        return set()
    rows = await tx.fetch(
        """insert into message (key, shop, order_id, kind, subject, channel, role, round, state, reason,
                                fact_at, recorded_at, expires_at, due_at)
           select key, shop, order_id, kind, subject, channel, role, round,
                  case when state = 'pending' and expires_at <= now() then 'expired' else state end,
                  case when state = 'pending' and expires_at <= now() then 'old_news' else reason end,
                  fact_at, recorded_at, expires_at, now()
           from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                       $8::int[], $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[],
                       $13::timestamptz[])
             as n(key, shop, order_id, kind, subject, channel, role, round, state, reason, fact_at,
                  recorded_at, expires_at)
           on conflict (key) do nothing returning key, state""",
        *([getattr(m, name) for m in messages] for name in _FIELDS),
    )
    return {r["key"] for r in rows if r["state"] == "expired"}


async def suppress(tx: Tx, ids: Sequence[int], reasons: Sequence[str]) -> list[int]:
    """Take back messages that have not left; return those that were still ours to take back."""
    rows = await tx.fetch(
        """update message m set state = 'suppressed', reason = j.reason, owner = null, updated_at = now()
           from unnest($1::bigint[], $2::text[]) j(id, reason)
           where m.id = j.id and m.state in ('pending', 'claimed', 'held') returning m.id""",
        ids,
        reasons,
    )
    return [r["id"] for r in rows]


async def erase_orders(tx: Tx, keys: Sequence[Key]) -> None:
    """Blank what is personal of these orders beside their own row."""
    await tx.execute(
        "update orders set erased_at = now() where (shop, order_id) in "
        "(select * from unnest($1::text[], $2::text[]))",
        [s for s, _ in keys],
        [i for _, i in keys],
    )
    names = [f"{s}:{i}" for s, i in keys]
    await tx.execute("update dead_event set value = null where key = any($1::text[])", names)


# ---------------------------------------------------------------- claim, mark, record


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed message: `attempt` is the fencing token that its mark and its record carry."""

    id: int
    attempt: int
    key: str
    shop: str
    order_id: str
    kind: str
    subject: str
    channel: str
    role: str
    round: int
    fact_at: datetime
    recorded_at: datetime
    created_at: datetime
    resends: int
    snapshot: str | None
    suppressed_by: str | None


async def claim(db: Database, owner: UUID, limit: int, not_before: datetime | None) -> list[Job]:
    """Claim due messages, fairly over the shops, oldest first; never two of one order and channel.

    Of an order only an earlier message that is due now, or on its way, holds a later one back.
    `not_before` spares the scan over index entries of rows that left long ago.
    """
    rows = await db.fetch(
        f"""with recursive shops as (
              (select shop from message where state = 'pending' order by shop limit 1)
              union all
              select (select n.shop from message n where n.state = 'pending' and n.shop > s.shop
                      order by n.shop limit 1) from shops s where s.shop is not null),
            shares as (select shop, greatest(1, ceil($2::numeric / count(*) over ()))::int as share
                       from shops where shop is not null),
            due as (select d.id from shares cross join lateral (
              select m.id from message m
              where m.state = 'pending' and m.shop = shares.shop and m.due_at <= now()
                and m.due_at >= coalesce($3, '-infinity'::timestamptz)
                and m.expires_at > now() and {NOT_PAUSED}
                and not exists (select from message e
                  where e.shop = m.shop and e.order_id = m.order_id and e.channel = m.channel
                    and e.id < m.id and (e.state in ('claimed', 'dispatching')
                                         or (e.state = 'pending' and e.due_at <= now())))
              order by m.due_at, m.id limit shares.share for update skip locked) d
              limit $2),
            claimed as (
              update message m set state = 'claimed', owner = $1, attempt = m.attempt + 1,
                                   updated_at = now()
              from due where m.id = due.id returning m.*)
            select c.id, c.attempt, c.key, c.shop, c.order_id, c.kind, c.subject, c.channel, c.role,
                   c.round, c.fact_at, c.recorded_at, c.created_at, c.resends, o.snapshot::text,
                   s.cause as suppressed_by
            from claimed c join orders o using (shop, order_id)
            left join suppression s on s.shop = c.shop and s.channel = c.channel
              and s.address_hash = encode(sha256(convert_to(lower(btrim(
                    coalesce(o.snapshot #>> '{{customer,email}}', ''))), 'UTF8')), 'hex')
            order by c.id""",  # noqa: S608 - only the constant above is put in
        owner,
        limit,
        not_before,
    )
    return [Job(*r.values()) for r in rows]


async def mark_dispatching(tx: Tx, owner: UUID, jobs: Sequence[Job]) -> set[int]:
    """Make it durable that the dot of these messages will be written now; return those that may.

    Refused are messages taken back, paused or out of date, and everything of an owner whose lease ran
    out: somebody else may have them by now.
    """
    rows = await tx.fetch(
        f"""update message m set state = 'dispatching', updated_at = now()
            from unnest($2::bigint[], $3::int[]) j(id, attempt)
            where m.id = j.id and m.attempt = j.attempt and m.owner = $1 and m.state = 'claimed'
              and m.expires_at > clock_timestamp() and {NOT_PAUSED}
              and exists (select from dispatcher d
                          where d.owner = $1 and d.lease_until > clock_timestamp())
            returning m.id""",  # noqa: S608 - only the constant above is put in
        owner,
        [j.id for j in jobs],
        [j.attempt for j in jobs],
    )
    return {r["id"] for r in rows}


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an attempt. `retry_seconds` delays the next one, by the database clock."""

    job: Job
    state: str  # sent, pending, failed, unknown, suppressed
    reason: str | None = None
    reply: str | None = None
    retry_seconds: float = 0
    suppress_hash: str | None = None


async def record(tx: Tx, owner: UUID, results: Sequence[Result]) -> set[int]:
    """Write results; return the ids that changed.

    That the server accepted a message is believed whoever holds the row by now; everything else only
    from the attempt that still owns it.
    """
    rows = await tx.fetch(
        """update message m set state = j.state, reason = j.reason, reply = coalesce(j.reply, m.reply),
             due_at = now() + make_interval(secs => j.seconds), owner = null, updated_at = now()
           from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::float8[])
             as j(id, attempt, state, reason, reply, seconds)
           where m.id = j.id and case when j.state = 'sent' then m.state <> 'sent'
             else m.attempt = j.attempt and m.owner = $1 and m.state in ('claimed', 'dispatching') end
           returning m.id""",
        owner,
        [r.job.id for r in results],
        [r.job.attempt for r in results],
        [r.state for r in results],
        [r.reason for r in results],
        [r.reply for r in results],
        [r.retry_seconds for r in results],
    )
    bounced = [r for r in results if r.suppress_hash]
    if bounced:
        await tx.execute(
            """insert into suppression (shop, channel, address_hash, cause)
               select *, 'hard_bounce' from unnest($1::text[], $2::text[], $3::text[])
               on conflict do nothing""",
            [r.job.shop for r in bounced],
            [r.job.channel for r in bounced],
            [r.suppress_hash for r in bounced],
        )
    return {r["id"] for r in rows}


# ---------------------------------------------------------------- leases and the sweeper


async def renew_lease(db: Database, owner: UUID, seconds: float) -> None:
    """Say that this dispatcher lives; its claims are its own until the lease runs out."""
    await db.execute(
        """insert into dispatcher (owner, lease_until)
           values ($1, clock_timestamp() + make_interval(secs => $2))
           on conflict (owner) do update set lease_until = excluded.lease_until""",
        owner,
        seconds,
    )


async def end_lease(db: Database, owner: UUID) -> None:
    """Give back what is claimed and not begun, and end the lease; what is at the dot stays for the sweeper."""
    await db.execute(
        "update message set state = 'pending', owner = null where owner = $1 and state = 'claimed'", owner
    )
    await db.execute("delete from dispatcher where owner = $1", owner)


_SWEPT = "m.id, m.key, m.shop, m.order_id, m.kind, m.subject, m.channel, m.role, m.round, m.state, m.reason, m.attempt"


async def sweep(
    tx: Tx, resend_kinds: Sequence[str], resend_after_seconds: float
) -> list[Mapping[str, Any]]:
    """Move on what nobody works on any more; return the rows that came to a state worth telling.

    Claims of dead dispatchers become pending, dots of unknown fate `unknown`; what outlived its use
    expires; an unknown message of a kind that may be resent becomes pending again, once.
    """
    dead = """m.owner is not null and not exists (select from dispatcher d
                where d.owner = m.owner and d.lease_until > clock_timestamp())"""
    await tx.execute(
        f"""update message m set state = 'pending', owner = null, updated_at = now()
            where m.id = any(array(select m.id from message m where m.state = 'claimed' and {dead}
                                   limit 1000 for update skip locked))"""  # noqa: S608
    )
    moved = await tx.fetch(
        f"""update message m set state = 'unknown', reason = 'no_reply', owner = null, updated_at = now()
            where m.id = any(array(select m.id from message m where m.state = 'dispatching' and {dead}
                                   limit 1000 for update skip locked))
            returning {_SWEPT}"""  # noqa: S608
    )
    moved += await tx.fetch(
        f"""update message m set state = 'expired', reason = coalesce(m.reason, 'too_late'),
              updated_at = now()
            where m.id = any(array(select m.id from message m
                                   where m.state = 'pending' and m.expires_at <= now()
                                   limit 1000 for update skip locked))
            returning {_SWEPT}"""  # noqa: S608
    )
    await tx.execute(
        """update message m set state = 'pending', resends = 1, due_at = now(), updated_at = now()
           where m.id = any(array(select m.id from message m
             where m.state = 'unknown' and m.resends = 0 and m.kind = any($1::text[])
               and m.updated_at < now() - make_interval(secs => $2)
             limit 1000 for update skip locked))""",
        resend_kinds,
        resend_after_seconds,
    )
    await tx.execute("delete from dispatcher where lease_until < now() - interval '1 hour'")
    return [dict(r) for r in moved]


# ---------------------------------------------------------------- operators


async def open_counts(db: Database) -> list[tuple[str, str, int]]:
    """Count the rows that are not final, by kind and state."""
    rows = await db.fetch(
        """select kind, state, count(*) from message where state = 'pending' group by 1, 2
           union all select kind, state, count(*) from message
             where state in ('claimed', 'dispatching') and owner is not null group by 1, 2
           union all select kind, state, count(*) from message where state = 'unknown' group by 1, 2"""
    )
    return [(r["kind"], r["state"], r["count"]) for r in rows]


async def find_order(db: Database, shop: str, order_id: str) -> Any:
    """Return an order's projection, or None."""
    return await db.fetchrow("select * from orders where shop = $1 and order_id = $2", shop, order_id)


async def find_messages(db: Database, shop: str, order_id: str) -> list[Any]:
    """Return the journal of an order, oldest first."""
    return await db.fetch(
        """select id, kind, subject, channel, role, round, state, reason, attempt as attempts, resends,
                  reply, fact_at, due_at, expires_at, created_at, updated_at
           from message where shop = $1 and order_id = $2 order by id""",
        shop,
        order_id,
    )


async def find_unknown(db: Database) -> list[Any]:
    """Return the messages whose fate the mail server never told."""
    return await db.fetch(
        """select id, shop, order_id, kind, subject, channel, attempt as attempts, resends, updated_at
           from message where state = 'unknown' order by id limit 500"""
    )


async def settle_unknown(db: Database, number: int, *, resend: bool) -> bool:
    """Do what an operator decides about an unknown message; False when it is not unknown."""
    sql = (
        """update message set state = 'pending', due_at = now(), resends = resends + 1,
             expires_at = greatest(expires_at, now() + interval '1 hour'), updated_at = now()
           where id = $1 and state = 'unknown'"""
        if resend
        else """update message set state = 'forgotten', reason = 'operator', updated_at = now()
                where id = $1 and state = 'unknown'"""
    )
    return not (await db.execute(sql, number)).endswith(" 0")


async def pauses(db: Database) -> list[Any]:
    """Return what is paused."""
    return await db.fetch("select scope, name, reason, since from pause order by scope, name")


async def set_pause(db: Database, scope: str, name: str, reason: str) -> None:
    """Stop new dots of a scope; those already marked still go."""
    await db.execute(
        """insert into pause (scope, name, reason) values ($1, $2, $3)
           on conflict (scope, name) do update set reason = excluded.reason""",
        scope,
        name,
        reason,
    )


async def end_pause(db: Database, scope: str, name: str) -> bool:
    """Let a scope send again; False when it was not paused."""
    tag = await db.execute("delete from pause where scope = $1 and name = $2", scope, name)
    return not tag.endswith(" 0")
