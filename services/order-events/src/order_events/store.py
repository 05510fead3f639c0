"""The SQL of order-events. Nothing here decides anything."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from order_events.domain import Order
from shared import facts
from shared.store import PERSONAL_DAYS, Database, Tx, in_steps, save, words
from shared.webhook_log import WebhookLog

Key = tuple[str, str]

IDEMPOTENCY_DAYS = 30

webhooks = WebhookLog("order_id")


async def lock_orders(tx: Tx, keys: Iterable[Key]) -> tuple[datetime, dict[Key, Order]]:
    """Lock the rows of these orders in sorted order; return them and the database's time.

    Orders without a row come back as new: `save_orders` makes it.
    """
    wanted = sorted(set(keys))
    shops, ids = [s for s, _ in wanted], [i for _, i in wanted]
    rows = await tx.fetch(
        """select o.shop, o.order_id, o.facts, o.snapshot, o.revision, o.email_hash, o.told,
                  o.history, o.erased_at, clock_timestamp() as at
           from (select) always left join lateral (
             select f.* from unnest($1::text[], $2::text[]) k(shop, order_id) cross join lateral (
               select * from orders o
               where o.shop = k.shop and o.order_id = k.order_id for update) f) o on true""",
        shops,
        ids,
    )
    orders = {key: Order(*key) for key in wanted}
    orders.update({(r["shop"], r["order_id"]): _order(r) for r in rows if r["shop"] is not None})
    return rows[0]["at"], orders


def _order(row: Any) -> Order:
    return Order(
        shop=row["shop"],
        order_id=row["order_id"],
        facts=facts.load(row["facts"]),
        snapshot=row["snapshot"],
        revision=row["revision"],
        email_hash=row["email_hash"],
        told=orjson.loads(row["told"]),
        history=row["history"],
        erased_at=row["erased_at"],
        is_new=False,
    )


_INSERT = """
insert into orders (shop, order_id, facts, snapshot, revision, told, history, email_hash)
select * from unnest($1::text[], $2::text[], $3::jsonb[], $4::bytea[], $5::timestamptz[], $6::jsonb[],
                     $7::text[], $8::text[])"""


async def save_orders(tx: Tx, orders: Iterable[Order]) -> None:
    """Write changed orders. Raises Retry when somebody else made the row of a new one meanwhile."""
    changed = [o for o in orders if o.changed]
    await save(
        tx,
        changed,
        _columns,
        _INSERT,
        """(shop, order_id) do update set
             facts = excluded.facts, snapshot = excluded.snapshot, told = excluded.told,
             revision = excluded.revision, history = excluded.history,
             email_hash = excluded.email_hash, updated_at = now()""",
    )
    for order in changed:
        order.is_new = order.changed = False


def _columns(orders: Sequence[Order]) -> tuple[list[Any], ...]:
    return (
        [o.shop for o in orders],
        [o.order_id for o in orders],
        [facts.dump(o.facts) for o in orders],
        [o.snapshot for o in orders],
        [o.revision for o in orders],
        [orjson.dumps(o.told).decode() for o in orders],
        [o.history for o in orders],
        [o.email_hash for o in orders],
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """One idempotency key of a request: the same key with the same body is answered as before."""

    shop: str
    key: str
    body_sha256: bytes
    ids: tuple[UUID, ...]


async def claim_keys(tx: Tx, claims: Sequence[Claim]) -> dict[Key, Claim]:
    """Store keys that are new; return those that somebody had stored before."""
    if not claims:
        return {}
    claims = sorted(claims, key=lambda c: (c.shop, c.key))  # two batches never wait in a ring
    rows = await tx.fetch(
        """insert into idempotency (shop, key, body_sha256, ids)
           select shop, key, sha, string_to_array(ids, ',')::uuid[]
           from unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) as c(shop, key, sha, ids)
           on conflict do nothing returning shop, key""",
        [c.shop for c in claims],
        [c.key for c in claims],
        [c.body_sha256 for c in claims],
        [",".join(map(str, c.ids)) for c in claims],
    )
    new = {(r["shop"], r["key"]) for r in rows}
    old = [c for c in claims if (c.shop, c.key) not in new]
    if not old:
        return {}
    rows = await tx.fetch(
        """select i.* from unnest($1::text[], $2::text[]) k(shop, key) cross join lateral (
             select * from idempotency i where i.shop = k.shop and i.key = k.key offset 0) i""",
        [c.shop for c in old],
        [c.key for c in old],
    )
    return {
        (r["shop"], r["key"]): Claim(r["shop"], r["key"], bytes(r["body_sha256"]), tuple(r["ids"]))
        for r in rows
    }


async def release_keys(tx: Tx, claims: Sequence[Claim]) -> None:
    """Take keys back: the request they came with is refused as a whole."""
    await tx.execute(
        """delete from idempotency where ctid = any(array(
             select i.ctid from unnest($1::text[], $2::text[]) k(shop, key) cross join lateral (
               select i.ctid from idempotency i
               where i.shop = k.shop and i.key = k.key offset 0) i))""",
        [c.shop for c in claims],
        [c.key for c in claims],
    )


async def tombstones(tx: Tx, hashes: Sequence[tuple[str, str]]) -> dict[Key, datetime]:
    """Return when these addresses were erased, by (shop, hash of the address)."""
    if not hashes:
        return {}
    rows = await tx.fetch(
        """select e.* from unnest($1::text[], $2::text[]) k(shop, email_hash) cross join lateral (
             select e.shop, e.email_hash, e.erased_at from erased e
             where e.shop = k.shop and e.email_hash = k.email_hash offset 0) e""",
        [s for s, _ in hashes],
        [h for _, h in hashes],
    )
    return {(r["shop"], r["email_hash"]): r["erased_at"] for r in rows}


async def orders_to_erase(
    tx: Tx, shop: str, order_ids: Sequence[str], hashed: str | None
) -> list[str]:
    """Return and lock the ids of the known orders that a privacy request is about, in order."""
    rows = await tx.fetch(
        """select order_id from orders where shop = $1
             and (order_id = any($2::text[]) or email_hash = $3) order by order_id for update""",
        shop,
        order_ids,
        hashed,
    )
    return [r["order_id"] for r in rows]


async def next_orders(tx: Tx, shop: str, after: str, limit: int) -> tuple[datetime, list[str]]:
    """Lock a shop's next orders after an id; return the database's time and their ids, in order."""
    rows = await tx.fetch(
        """select order_id from orders where shop = $1 and order_id > $2
           order by order_id limit $3 for update""",
        shop,
        after,
        limit,
    )
    return await tx.fetchval("select clock_timestamp()"), [r["order_id"] for r in rows]


async def erase(tx: Tx, shop: str, order_ids: Sequence[str], hashes: Sequence[str]) -> list[str]:
    """Blank everything personal of these orders in every table; leave tombstones of the addresses.

    Returns the hashes of the addresses that are forgotten now.
    """
    keys = [f"{shop}:{i}" for i in order_ids]
    erased = await tx.fetch(
        """insert into erased (shop, email_hash)
           select $1, h from (
             select unnest($3::text[]) as h
             union select email_hash from orders
                   where shop = $1 and order_id = any($2::text[]) and email_hash is not null) e
           on conflict (shop, email_hash) do update set erased_at = clock_timestamp()
           returning email_hash""",
        shop,
        order_ids,
        hashes,
    )
    await tx.execute(
        """update orders set snapshot = null, email_hash = null, told = '{}', erased_at = now()
           where shop = $1 and order_id = any($2::text[])""",
        shop,
        order_ids,
    )
    await tx.execute(
        "update webhooks set body = null where shop = $1 and order_id = any($2::text[])",
        shop,
        order_ids,
    )
    # A request to forget holds nothing to forget, and must reach the other services.
    await tx.execute(
        """update outbox set value = null where key = any($1::text[]) and value is not null
             and not headers @> '[["ce_type", "customer.erased.v1"]]'""",
        keys,
    )
    await tx.execute("update dead_event set value = null where key = any($1::text[])", keys)
    return [r["email_hash"] for r in erased]


async def erase_unread(
    tx: Tx, shop: str, order_ids: Sequence[str], addresses: Sequence[str]
) -> None:
    """Blank what was never understood and is about these orders or names one of these addresses.

    That is quarantined deliveries, and dead events that lie under no order's key. The order of a delivery
    is mostly known; where it is not, its id must stand in the body as a whole word: a body is the only
    copy of what was acknowledged.
    """
    names_order = words(order_ids, r"0-9A-Za-z._-")
    names_address = words(addresses, r"0-9A-Za-z.+_-")
    await tx.execute(
        """update webhooks set body = null
           where shop = $1 and outcome = 'quarantined' and body is not null
             and (order_id = any($2::text[]) or encode(body, 'escape') ~* $4
                  or order_id is null and encode(body, 'escape') ~ $3)""",
        shop,
        order_ids,
        names_order,
        names_address,
    )
    await tx.execute(
        """update dead_event set value = null where value is not null
             and (encode(value, 'escape') ~* $2 or key = '' and encode(value, 'escape') ~ $1)""",
        names_order,
        names_address,
    )


async def erase_all_unread(tx: Tx, shop: str) -> None:
    """Blank everything of a shop that was never understood."""
    await tx.execute(
        """update webhooks set body = null
           where shop = $1 and outcome = 'quarantined' and body is not null""",
        shop,
    )
    await tx.execute(
        "update dead_event set value = null where key like $1 and value is not null",
        re.sub(r"([\\%_])", r"\\\1", shop) + ":%",
    )


async def forget_old(db: Database) -> None:
    """Forget what is personal 180 days after an order's last event, and logs that served their time."""
    await in_steps(
        db,
        f"""update orders set snapshot = null, email_hash = null, told = '{{}}' where ctid = any(array(
              select ctid from orders where updated_at < now() - interval '{PERSONAL_DAYS} days'
                and snapshot is not null limit 1000))""",
    )
    await in_steps(
        db,
        f"""delete from idempotency where ctid = any(array(select ctid from idempotency
              where created_at < now() - interval '{IDEMPOTENCY_DAYS} days' limit 5000))""",
    )
    await webhooks.forget_old(db)


async def find_order(db: Database, shop: str, order_id: str) -> Any:
    """Return an order's row, or None."""
    return await db.fetchrow(
        "select * from orders where shop = $1 and order_id = $2", shop, order_id
    )
