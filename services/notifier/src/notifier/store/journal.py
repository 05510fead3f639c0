"""The send journal: rows made, claimed, marked before the dot, recorded, swept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.store import Database, Tx

NOT_PAUSED = """not exists (select from pause p where p.scope = 'all'
    or (p.scope = 'shop' and p.name = m.shop) or (p.scope = 'kind' and p.name = m.kind)
    or (p.scope = 'channel' and p.name = m.channel))"""


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
            order by c.id""",
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
            returning m.id""",
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
        "update message set state = 'pending', owner = null where owner = $1 and state = 'claimed'",
        owner,
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
                                   limit 1000 for update skip locked))"""
    )
    moved = await tx.fetch(
        f"""update message m set state = 'unknown', reason = 'no_reply', owner = null, updated_at = now()
            where m.id = any(array(select m.id from message m where m.state = 'dispatching' and {dead}
                                   limit 1000 for update skip locked))
            returning {_SWEPT}"""
    )
    moved += await tx.fetch(
        f"""update message m set state = 'expired', reason = coalesce(m.reason, 'too_late'),
              updated_at = now()
            where m.id = any(array(select m.id from message m
                                   where m.state = 'pending' and m.expires_at <= now()
                                   limit 1000 for update skip locked))
            returning {_SWEPT}"""
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
