"""The send journal: rows made, claimed, marked before the dot, recorded, swept."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from notifier.domain import Identity
from shared.events import Event
from shared.store import Database, Tx, outbox_columns

NOT_PAUSED = """not exists (select from pause p where p.scope = 'all'
    or (p.scope = 'shop' and p.name = m.shop) or (p.scope = 'kind' and p.name = m.kind)
    or (p.scope = 'channel' and p.name = m.channel))"""


@dataclass(frozen=True, slots=True)
class Message(Identity):
    """A journal row to be made."""

    message_id: str
    state: str
    reason: str | None
    fact_at: datetime
    recorded_at: datetime
    expires_at: datetime


_FIELDS = tuple(f.name for f in fields(Message))


async def make_messages(tx: Tx, messages: Sequence[Message]) -> set[str]:
    """Make journal rows, due at once; return the keys of those whose life is over already.

    Over by the database clock: such a row is made as expired. A key has one row for ever.
    """
    if not messages:
        return set()
    rows = await tx.fetch(
        """insert into message (key, shop, order_id, kind, subject, channel, role, round, message_id,
                                state, reason, fact_at, recorded_at, expires_at, due_at)
           select key, shop, order_id, kind, subject, channel, role, round, message_id,
                  case when state = 'pending' and expires_at <= now() then 'expired' else state end,
                  case when state = 'pending' and expires_at <= now() then 'old_news' else reason end,
                  fact_at, recorded_at, expires_at, now()
           from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                       $7::text[], $8::int[], $9::text[], $10::text[], $11::text[],
                       $12::timestamptz[], $13::timestamptz[], $14::timestamptz[])
             as n(key, shop, order_id, kind, subject, channel, role, round, message_id, state, reason,
                  fact_at, recorded_at, expires_at)
           on conflict (key) do nothing returning key, state""",
        *([getattr(m, name) for m in messages] for name in _FIELDS),
    )
    return {r["key"] for r in rows if r["state"] == "expired"}


async def suppress(tx: Tx, ids: Sequence[int], reasons: Sequence[str]) -> list[int]:
    """Take back messages that have not left; return those that were still ours to take back.

    One that is at the dot, or of unknown fate, cannot be taken back; it is noted as revoked, and is not
    offered again.
    """
    rows = await tx.fetch(
        """update message m set revoked = j.reason,
             state = case when left_us then m.state else 'suppressed' end,
             reason = case when left_us then m.reason else j.reason end,
             owner = case when left_us then m.owner end,
             updated_at = case when left_us then m.updated_at else now() end
           from unnest($1::bigint[], $2::text[]) j(id, reason)
           where m.id = any($1) and m.id = j.id and m.revoked is null
             and m.state in ('pending', 'claimed', 'held', 'dispatching', 'unknown')
           returning m.id, m.state""".replace("left_us", "m.state in ('dispatching', 'unknown')"),
        ids,
        reasons,
    )
    return [r["id"] for r in rows if r["state"] == "suppressed"]


# ---------------------------------------------------------------- claim, mark, record


@dataclass(frozen=True, slots=True)
class Job(Identity):
    """A claimed message: `attempt` is the fencing token that its mark and its record carry."""

    id: int
    message_id: str
    attempt: int
    tries: int  # attempts that count for the backoff
    fact_at: datetime
    recorded_at: datetime
    created_at: datetime
    resends: int
    snapshot: str | None
    parcels: str | None
    facts: str | None  # None for order_confirmed, which tells nothing of them
    suppressed_by: str | None

    @property
    def token(self) -> tuple[int, int]:
        """Return what tells this attempt from every other one."""
        return self.id, self.attempt


_CLAIM = """with recursive paused as materialized (
    select coalesce(bool_or(scope = 'all'), false) as everything,
           coalesce(array_agg(name) filter (where scope = 'shop'), '{}') as shops,
           coalesce(array_agg(name) filter (where scope = 'kind'), '{}') as kinds,
           coalesce(array_agg(name) filter (where scope = 'channel'), '{}') as channels
    from pause),
  shops as (
    (select shop from message where queue = 'due' order by shop limit 1)
    union all
    select (select n.shop from message n where n.queue = 'due' and n.shop > s.shop
            order by n.shop limit 1) from shops s where s.shop is not null),
  busy as (
    select s.shop, p.kinds, p.channels from shops s cross join paused p
    where s.shop is not null and not p.everything and s.shop <> all (p.shops)
      and (select true from message m where m.queue = 'due' and m.shop = s.shop
             and m.due_at <= now() and m.state = 'pending' limit 1)
      and exists (select from dispatcher d
                  where d.owner = $1 and d.lease_until > clock_timestamp())),
  shares as (select *, greatest(1, ceil($2::numeric / count(*) over ()))::int as share
             from busy),
  due as (select d.id from shares cross join lateral (
    select m.id from message m
    where m.queue = 'due' and m.shop = shares.shop and m.state = 'pending'
      and m.due_at <= now() and m.due_at >= coalesce($3, '-infinity'::timestamptz)
      and m.expires_at > now()
      and m.kind = any ($5) and m.kind <> all (shares.kinds) and m.channel <> all (shares.channels)
      and (select e.id from message e
           where e.shop = m.shop and e.order_id = m.order_id and e.channel = m.channel
             and e.id < m.id and (e.state in ('claimed', 'dispatching')
                                  or (e.state = 'pending' and e.due_at <= now()
                                      and e.kind = any ($5)))
           limit 1) is null
    order by m.due_at, m.id limit shares.share for update skip locked) d
    order by shares.shop <= $4, shares.shop
    limit $2),
  claimed as (
    update message m set state = 'claimed', owner = $1, attempt = m.attempt + 1,
                         updated_at = now()
    where m.id = any(array(select id from due)) returning m.*)
  select c.key, c.shop, c.order_id, c.kind, c.subject, c.channel, c.role, c.round,
         c.id, c.message_id, c.attempt, c.tries, c.fact_at, c.recorded_at, c.created_at, c.resends,
         o.snapshot, o.parcels, case when c.kind <> 'order_confirmed' then o.facts end,
         s.cause as suppressed_by
  from claimed c
  cross join lateral (select o.snapshot, o.parcels, o.facts,
                             case c.role when 'recipient' then o.recipient_hash
                                         else o.email_hash end as contact_hash
                      from orders o
                      where o.shop = c.shop and o.order_id = c.order_id limit 1) o
  left join lateral (select s.cause from suppression s
                     where s.shop = c.shop and s.channel = c.channel
                       and s.address_hash = o.contact_hash limit 1) s on true
  order by c.shop <= $4, c.shop, c.id"""


async def claim(
    db: Database,
    owner: UUID,
    limit: int,
    kinds: Sequence[str],
    *,
    not_before: datetime | None = None,
    after_shop: str = "",
) -> list[Job]:
    """Claim due messages, fairly over the shops, oldest first; never two of one order and channel.

    Only of these `kinds`: during an update a newer process has made rows that this one cannot render; they
    stay for it, and hold nothing back here.

    Every shop with something due gets an equal share, in a round that begins behind `after_shop`. Of an
    order only an earlier message that is due now, or on its way, holds a later one back. Without a lease
    nothing is claimed: the sweeper finds what a dead dispatcher held by its lease. `not_before` spares
    the scan over index entries of rows that left long ago.
    """
    rows = await db.fetch(_CLAIM, owner, limit, not_before, after_shop, kinds)
    return [Job(*r.values()) for r in rows]


async def give_back(db: Database, owner: UUID, held: Sequence[int]) -> None:
    """Make claims pending again that their owner does not know of: the answer to a claim got lost."""
    await db.execute(
        """update message set state = 'pending', owner = null
           where queue = 'due' and owner = $1 and state = 'claimed' and id <> all ($2::bigint[])""",
        owner,
        held,
    )


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an attempt. `retry_seconds` delays the next one, by the database clock."""

    job: Job
    state: str  # sent, pending, failed, unknown, suppressed
    reason: str | None = None
    reply: str | None = None
    retry_seconds: float = 0
    suppress_hash: str | None = None
    charged: bool = False  # whether a retry counts for the backoff


_COMMIT = f"""with changed as (
    update message m set
      state = case when j.state = 'pending' and m.revoked is not null
                   then 'suppressed' else j.state end,
      reason = case when j.state = 'pending' then coalesce(m.revoked, j.reason)
                    else j.reason end,
      reply = coalesce(j.reply, m.reply), tries = m.tries + j.charged::int,
      due_at = case when j.state = 'pending'
                    then now() + make_interval(secs => j.seconds) else m.due_at end,
      owner = null, updated_at = now()
    from unnest($2::bigint[], $3::int[], $4::text[], $5::text[], $6::text[], $7::float8[],
                $8::bool[])
      as j(id, attempt, state, reason, reply, seconds, charged)
    where m.id = any($2) and m.id = j.id and case when j.state = 'sent' then m.state <> 'sent'
      else m.attempt = j.attempt and m.owner = $1
           and m.state in ('claimed', 'dispatching') end
    returning m.id, j.attempt, m.state, m.reason),
  told as (
    insert into outbox (event_id, topic, key, headers, value)
    select e.event_id, e.topic, e.key, e.headers, e.value
    from unnest($9::bigint[], $10::text[], $11::uuid[], $12::text[], $13::text[],
                $14::jsonb[], $15::bytea[])
      as e(id, state, event_id, topic, key, headers, value)
    join changed using (id, state)
    on conflict (event_id) do nothing returning seq),
  queued as (insert into outbox_unpublished select seq from told),
  bounced as (
    insert into suppression (shop, channel, address_hash, cause)
    select b.*, 'hard_bounce' from unnest($16::text[], $17::text[], $18::text[]) b
    on conflict do nothing),
  marked as (
    update message m set state = 'dispatching', updated_at = now()
    from unnest($19::bigint[], $20::int[]) j(id, attempt)
    where m.id = any($19) and m.id = j.id and m.attempt = j.attempt and m.owner = $1
      and m.state = 'claimed'
      and m.expires_at > clock_timestamp() and {NOT_PAUSED}
      and exists (select from dispatcher d
                  where d.owner = $1 and d.lease_until > clock_timestamp())
    returning m.id, j.attempt)
  select id, attempt, state, reason from changed
  union all select id, attempt, 'dispatching', null from marked"""


async def commit(
    db: Tx | Database,
    owner: UUID,
    results: Sequence[Result],
    events: Sequence[tuple[int, str, Event]],
    marks: Sequence[Job],
) -> dict[tuple[int, int], tuple[str, str | None]]:
    """Write results, their events and marks in one statement; return state and reason by attempt.

    An attempt is (row id, attempt): a process that was frozen may hold an old and a new one of one row,
    and only the new one may act on the answer.

    A result: that the server accepted a message is believed whoever holds the row by now; everything
    else only from the attempt that still owns it. One that was revoked at the dot does not become due
    again. An event (of row id and state) goes to the outbox if its row came to that state.

    A mark makes it durable that the dot of a message will be written now. Refused are messages taken
    back, paused or out of date, and everything of an owner whose lease ran out: somebody else may have
    them by now.
    """
    bounced = [r for r in results if r.suppress_hash]
    rows = await db.fetch(
        _COMMIT,
        owner,
        [r.job.id for r in results],
        [r.job.attempt for r in results],
        [r.state for r in results],
        [r.reason for r in results],
        [r.reply for r in results],
        [r.retry_seconds for r in results],
        [r.charged for r in results],
        [i for i, _, _ in events],
        [state for _, state, _ in events],
        *outbox_columns([e for _, _, e in events]),
        [r.job.shop for r in bounced],
        [r.job.channel for r in bounced],
        [r.suppress_hash for r in bounced],
        [j.id for j in marks],
        [j.attempt for j in marks],
    )
    return {(r["id"], r["attempt"]): (r["state"], r["reason"]) for r in rows}


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
    await give_back(db, owner, [])
    await db.execute(
        "update dispatcher set lease_until = clock_timestamp() where owner = $1", owner
    )


@dataclass(frozen=True, slots=True)
class Swept(Identity):
    """A row that the sweeper moved to a state worth telling."""

    state: str
    reason: str | None
    attempt: int


_SWEPT = ", ".join(f"m.{f.name}" for f in fields(Swept))


async def sweep_dead_owners(tx: Tx) -> list[Swept]:
    """Take over from dispatchers whose lease ran out; return the rows whose fate nobody knows.

    Their claims become pending, their dots `unknown`. A dead dispatcher is forgotten when it holds
    nothing any more.
    """
    dead = await tx.fetch(
        """select owner from dispatcher where lease_until < clock_timestamp()
           order by owner limit 100 for update skip locked"""
    )
    if not dead:
        return []
    owners = [r["owner"] for r in dead]
    moved = await tx.fetch(
        f"""update message m set owner = null, updated_at = now(),
              state = case m.state when 'claimed' then 'pending' else 'unknown' end,
              reason = case m.state when 'claimed' then m.reason else 'no_reply' end
            where m.id = any(array(select m.id from message m
                                   where m.queue = 'due' and m.owner = any($1::uuid[])
                                   order by m.id limit 1000 for update))
            returning {_SWEPT}""",
        owners,
    )
    await tx.execute(
        """delete from dispatcher d where d.owner = any($1::uuid[])
             and not exists (select from message m where m.queue = 'due' and m.owner = d.owner)""",
        owners,
    )
    return [Swept(*r.values()) for r in moved if r["state"] == "unknown"]


async def expire(tx: Tx) -> list[Swept]:
    """Expire pending messages whose life is over; return them."""
    rows = await tx.fetch(
        f"""update message m set state = 'expired', reason = 'too_late',
              updated_at = now()
            where m.id = any(array(select m.id from message m
                                   where m.queue = 'due' and m.state = 'pending'
                                     and m.expires_at <= now()
                                   limit 1000 for update skip locked))
            returning {_SWEPT}"""
    )
    return [Swept(*r.values()) for r in rows]


async def resend_unknown(tx: Tx, kinds: Sequence[str], after_seconds: float) -> None:
    """Make unknown messages of these kinds pending again, once, when the time to find out is over."""
    await tx.execute(
        """update message m set state = 'pending', resends = 1, due_at = now(), updated_at = now()
           where m.id = any(array(select m.id from message m
             where m.queue = 'unknown' and m.resends = 0 and m.revoked is null
               and m.expires_at > now()
               and m.kind = any($1::text[])
               and m.updated_at < now() - make_interval(secs => $2)
             limit 1000 for update skip locked))""",
        kinds,
        after_seconds,
    )
