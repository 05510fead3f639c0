"""What operators ask of the journal and decide about it."""

from typing import Any

from shared.store import Database

OPEN_COUNT_MAX = 100_000  # a gauge is not worth reading a backlog of millions every few seconds


async def open_counts(db: Database) -> list[tuple[str, str, int]]:
    """Count the rows that are not final, by kind and state; beyond OPEN_COUNT_MAX rows it stops counting."""
    rows = await db.fetch(
        f"""select kind, state, count(*) from (
              select kind, state from message where queue is not null limit {OPEN_COUNT_MAX}) o
            group by 1, 2"""
    )
    return [(r["kind"], r["state"], r["count"]) for r in rows]


async def find_order(db: Database, shop: str, order_id: str) -> Any:
    """Return an order's projection, or None."""
    return await db.fetchrow(
        "select * from orders where shop = $1 and order_id = $2", shop, order_id
    )


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
        """select id, shop, order_id, kind, subject, channel, attempt as attempts, resends, revoked,
                  updated_at
           from message where queue = 'unknown' order by id limit 500"""
    )


async def settle_unknown(db: Database, number: int, *, resend: bool) -> bool:
    """Do what an operator decides about an unknown message; False when it is not unknown.

    One that was revoked meanwhile cannot be sent again either.
    """
    sql = (
        """update message set state = 'pending', due_at = now(), resends = resends + 1,
             expires_at = greatest(expires_at, now() + interval '1 hour'), updated_at = now()
           where id = $1 and state = 'unknown' and revoked is null"""
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
