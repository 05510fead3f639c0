"""What tracking keeps beside orders and tracks: pages; forgetting; and counting."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shared.store import PERSONAL_DAYS, Database, Tx, in_steps, words
from shared.webhook_log import WebhookLog
from tracking.domain.model import shipment_ref
from tracking.store.orders import Key, holders

PAGE_LIFE: Final = timedelta(days=90)  # after delivery
TIDY_STEP: Final = 500

webhooks = WebhookLog("ref")

# ---------------------------------------------------------------- pages


async def add_pages(tx: Tx, pages: Iterable[tuple[bytes, str, str]]) -> None:
    """Keep the token hashes of orders, each with shop and order id; one that is there is left alone."""
    rows = sorted(set(pages))
    if rows:
        await tx.execute(
            """insert into page (token_hash, shop, order_id)
               select * from unnest($1::bytea[], $2::text[], $3::text[]) on conflict do nothing""",
            *map(list, zip(*rows, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Handover:
    """Something of an order was handed over; `whole`: it was the last parcel."""

    shop: str
    order_id: str
    at: datetime
    whole: bool


async def expire_pages(tx: Tx, handovers: Sequence[Handover]) -> None:
    """Let pages end so long after the whole order came; a parcel that comes after that moves the end."""
    if handovers:
        await tx.execute(
            """update page set expires_at = greatest(page.expires_at, h.ends)
               from (select p.token_hash, h.ends
                     from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bool[])
                       h(shop, order_id, ends, whole)
                     cross join lateral (
                       select p.token_hash from page p
                       where p.shop = h.shop and p.order_id = h.order_id
                         and (h.whole or p.expires_at is not null) offset 0) p) h
               where page.token_hash = h.token_hash""",
            [h.shop for h in handovers],
            [h.order_id for h in handovers],
            [h.at + PAGE_LIFE for h in handovers],
            [h.whole for h in handovers],
        )


async def find_page(db: Database, token_hash: bytes) -> Key | None:
    """Return shop and order id of a page that has not expired."""
    row = await db.fetchrow(
        """select shop, order_id from page
           where token_hash = $1 and (expires_at is null or expires_at > now())""",
        token_hash,
    )
    return (row["shop"], row["order_id"]) if row else None


# ---------------------------------------------------------------- forgetting


async def forget(tx: Tx, keys: Collection[Key]) -> set[Key]:
    """Blank what is personal of these locked orders: snapshot, parcels, what was said of them, pages.

    Returns the refs under which nothing stands any more; a number that another order has as well keeps
    what was said of it.
    """
    shops, ids = [s for s, _ in sorted(keys)], [i for _, i in sorted(keys)]
    await tx.execute(
        f"""update orders set about = null, check_at = null, open = null, learn = false
            where ctid = any(array({_of("orders")}))""",
        shops,
        ids,
    )
    await tx.execute(f"delete from page where ctid = any(array({_of('page')}))", shops, ids)
    rows = await tx.fetch(
        f"""delete from parcel where ctid = any(array({_of("parcel")}))
            returning shop, shipment_id, number_ref, former""",
        shops,
        ids,
    )
    refs = {(r["shop"], shipment_ref(r["shipment_id"])) for r in rows}
    refs |= {(r["shop"], n) for r in rows for n in (r["number_ref"], *(r["former"] or ())) if n}
    refs = {ref for ref in refs if not await holders(tx, [ref])}
    wanted = sorted(refs)
    await tx.execute(
        """delete from track where ctid = any(array(
             select t.ctid from unnest($1::text[], $2::text[]) k(shop, ref) cross join lateral (
               select t.ctid from track t where t.shop = k.shop and t.ref = k.ref offset 0) t))""",
        [shop for shop, _ in wanted],
        [ref for _, ref in wanted],
    )
    return refs


def _of(table: str) -> str:
    """Return a query for the places of all rows of the given orders, by the index."""
    return f"""select r.ctid from unnest($1::text[], $2::text[]) k(shop, order_id)
      cross join lateral (select r.ctid from {table} r
        where r.shop = k.shop and r.order_id = k.order_id offset 0) r"""


async def erase(
    tx: Tx, shop: str, order_id: str, numbers: Collection[str], erased_at: datetime
) -> tuple[list[str], set[Key]]:
    """Forget a locked order everywhere in this service; `numbers` are those its parcels have and had.

    That is beside the order what waits in the outbox, dead events, and deliveries that were not understood
    and name the order or one of the numbers. Returns the keys of their records on the bus, and the refs
    under which nothing stands any more.
    """
    gone = await forget(tx, [(shop, order_id)])
    keys = [f"{shop}:{one}" for one in (order_id, *sorted(numbers))]
    names = words([order_id, *sorted(numbers)], "0-9A-Za-z._-")
    await tx.execute(
        "update orders set erased_at = $3 where shop = $1 and order_id = $2",
        shop,
        order_id,
        erased_at,
    )
    await tx.execute("update outbox set value = null where key = any($1::text[])", keys)
    await tx.execute(
        """update webhooks set body = null where shop = $1 and body is not null
             and outcome = 'quarantined'
             and (ref = any($2::text[]) or encode(body, 'escape') ~* $3)""",
        shop,
        sorted(numbers),
        names,
    )
    await tx.execute(
        "update webhooks set ref = null where shop = $1 and ref = any($2::text[])",
        shop,
        sorted(numbers),
    )
    await tx.execute(
        """update dead_event set value = null where value is not null
             and (key = any($1::text[]) or encode(value, 'escape') ~* $2)""",
        keys,
        names,
    )
    return keys, gone


async def tidy(db: Database) -> None:
    """Forget what is personal 180 days after an order's last event, and logs that served their time."""
    for which in (_PLACED, _NEVER_PLACED):
        while await _forget_some(db, which) == TIDY_STEP:
            pass
    await in_steps(
        db,
        f"""delete from track where ctid = any(array(
              select t.ctid from track t where t.made_at < now() - interval '{PERSONAL_DAYS} days'
                and coalesce(t.heard_at, t.made_at) < now() - interval '{PERSONAL_DAYS} days'
                and not exists (select from parcel p where p.shop = t.shop and p.number_ref = t.ref)
                and not exists (select from parcel p where p.shop = t.shop
                                  and p.shipment_id = substr(t.ref, 2))
              limit 1000))""",
    )
    await in_steps(
        db,
        """delete from page where ctid = any(array(
             select ctid from page where expires_at < now() limit 5000))""",
    )
    await webhooks.forget_old(db)


_PLACED: Final = "select o.shop, o.order_id from orders o where o.about is not null"
_NEVER_PLACED: Final = f"""
  select o.shop, o.order_id from (
    select distinct p.shop, p.order_id from parcel p
    where p.stated_at < now() - interval '{PERSONAL_DAYS} days') old
  join orders o on o.shop = old.shop and o.order_id = old.order_id
  where o.about is null"""


async def _forget_some(db: Database, which: str) -> int:
    async with db.transaction() as tx:
        rows = await tx.fetch(
            f"""{which} and o.known_since < now() - interval '{PERSONAL_DAYS} days'
                  and o.updated_at < now() - interval '{PERSONAL_DAYS} days'
                  and not exists (
                    select from parcel p join track t on t.shop = p.shop and t.ref = p.number_ref
                    where p.shop = o.shop and p.order_id = o.order_id
                      and t.heard_at > now() - interval '{PERSONAL_DAYS} days')
                limit {TIDY_STEP} for update of o skip locked"""
        )
        if rows:
            await forget(tx, [(row["shop"], row["order_id"]) for row in rows])
        return len(rows)


# ---------------------------------------------------------------- gauges


async def count_parcels(db: Database) -> dict[str, int]:
    """Return how many parcels are under way, by state."""
    rows = await db.fetch(
        """select state, count(*) from parcel
           where not withdrawn and state not in ('delivered', 'returned', 'cancelled', 'expired')
           group by state"""
    )
    return {row["state"]: row["count"] for row in rows}


async def count_open_delays(db: Database) -> dict[tuple[str, str], int]:
    """Return how many delays are not over, by cause and carrier ("" before anything is sent)."""
    rows = await db.fetch(
        """select unnest(open) as what, count(*) from orders where open is not null group by 1"""
    )
    counts = {}
    for row in rows:
        cause, _, carrier = row["what"].partition("/")
        counts[cause, carrier] = row["count"]
    return counts
