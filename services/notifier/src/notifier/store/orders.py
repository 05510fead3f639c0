"""The projection: what the notifier knows of each order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from notifier.domain import Identity
from shared import facts
from shared.facts import Fact
from shared.store import PERSONAL_DAYS, Database, Tx, in_steps, save

Key = tuple[str, str]


@dataclass(slots=True)
class Order:
    """What is known of one order. `rows` are its journal rows by message key."""

    shop: str
    order_id: str
    facts: tuple[Fact, ...] = ()
    snapshot: str | None = None  # the body of order.placed as JSON, parsed by those who need it
    email_hash: str | None = None
    recipient_hash: str | None = None
    parcels: str | None = None  # how each parcel looks, as JSON: see handlers
    revision: datetime | None = None
    is_new: bool = True
    rows: dict[str, "Row"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row(Identity):
    """A journal row as the plan needs to see it."""

    id: int
    state: str


async def lock_orders(tx: Tx, keys: Iterable[Key]) -> dict[Key, Order]:
    """Lock the rows of these orders in sorted order; orders without a row come back as new."""
    wanted = sorted(set(keys))
    shops, ids = [s for s, _ in wanted], [i for _, i in wanted]
    rows = await tx.fetch(
        """select o.* from unnest($1::text[], $2::text[]) k(shop, order_id) cross join lateral (
             select o.shop, o.order_id, o.facts, o.snapshot, o.email_hash, o.recipient_hash,
                    o.parcels, o.revision
             from orders o
             where o.shop = k.shop and o.order_id = k.order_id for update) o""",
        shops,
        ids,
    )
    orders = {key: Order(*key) for key in wanted}
    for r in rows:
        orders[r["shop"], r["order_id"]] = Order(
            r["shop"],
            r["order_id"],
            facts.load(r["facts"]),
            r["snapshot"],
            email_hash=r["email_hash"],
            recipient_hash=r["recipient_hash"],
            parcels=r["parcels"],
            revision=r["revision"],
            is_new=False,
        )
    if rows:
        await _load_rows(tx, [o for o in orders.values() if not o.is_new], orders)
    return orders


async def _load_rows(tx: Tx, known: Sequence[Order], orders: Mapping[Key, Order]) -> None:
    rows = await tx.fetch(
        """select m.* from unnest($1::text[], $2::text[]) k(shop, order_id) cross join lateral (
             select m.key, m.shop, m.order_id, m.kind, m.subject, m.channel, m.role, m.round,
                    m.id, m.state
             from message m where m.shop = k.shop and m.order_id = k.order_id offset 0) m""",
        [o.shop for o in known],
        [o.order_id for o in known],
    )
    for r in rows:
        orders[r["shop"], r["order_id"]].rows[r["key"]] = Row(*r.values())


async def save_orders(tx: Tx, orders: Iterable[Order]) -> None:
    """Write orders back. Raises Retry when somebody else made the row of a new one meanwhile."""
    await save(
        tx,
        orders,
        _columns,
        """insert into orders (shop, order_id, facts, snapshot, revision, email_hash,
                               recipient_hash, parcels)
           select * from unnest($1::text[], $2::text[], $3::jsonb[], $4::jsonb[],
                                $5::timestamptz[], $6::text[], $7::text[], $8::jsonb[])""",
        """(shop, order_id) do update set
             facts = excluded.facts, snapshot = excluded.snapshot,
             revision = excluded.revision, email_hash = excluded.email_hash,
             recipient_hash = excluded.recipient_hash, parcels = excluded.parcels,
             updated_at = now()""",
    )


def _columns(orders: Sequence[Order]) -> tuple[list[Any], ...]:
    return (
        [o.shop for o in orders],
        [o.order_id for o in orders],
        [facts.dump(o.facts) for o in orders],
        [o.snapshot for o in orders],
        [o.revision for o in orders],
        [o.email_hash for o in orders],
        [o.recipient_hash for o in orders],
        [o.parcels for o in orders],
    )


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


async def forget_old(db: Database) -> None:
    """Forget what is personal 180 days after an order's last event; the journal's rows hold nothing personal.

    So too what a replica of an older version left of an erased one.
    """
    await in_steps(
        db,
        f"""update orders set snapshot = null, email_hash = null, recipient_hash = null,
              parcels = null where ctid = any(array(
              select ctid from orders
              where (updated_at < now() - interval '{PERSONAL_DAYS} days' or erased_at is not null)
                and (snapshot is not null or parcels is not null) limit 1000))""",
    )
