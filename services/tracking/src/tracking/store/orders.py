"""Orders with their parcels, and the tracks of carriers' numbers.

Whoever writes locks in this order: orders, then tracks, both sorted; then asks once more who has these
numbers (`strangers`). A scan that comes while its parcel is being stated is thus seen by one of the two.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from shared import facts
from shared.events import OrderShipped
from shared.store import Database, Tx, save
from tracking.domain.model import About, Named, Order, Parcel, Track, is_own, shipment_ref

Key = tuple[str, str]  # shop and order id, or shop and ref

_ORDER = """o.shop, o.order_id, o.facts, o.about, o.revision, o.told, o.known_since, o.check_at, o.open,
  o.learn, o.erased_at"""
_OWN = shipment_ref("")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# ---------------------------------------------------------------- reading and locking


async def holders(tx: Tx, refs: Collection[Key]) -> set[Key]:
    """Return the orders that have a parcel under one of these refs."""
    numbers = sorted(key for key in refs if not is_own(key[1]))
    own = sorted((shop, ref.removeprefix(_OWN)) for shop, ref in refs if is_own(ref))
    found: set[Key] = set()
    for column, keys in (("number_ref", numbers), ("shipment_id", own)):
        if keys:
            rows = await tx.fetch(
                f"""select p.shop, p.order_id from unnest($1::text[], $2::text[]) k(shop, ref)
                    cross join lateral (select p.shop, p.order_id from parcel p
                      where p.shop = k.shop and p.{column} = k.ref offset 0) p""",
                *_pairs(keys),
            )
            found.update((row["shop"], row["order_id"]) for row in rows)
    return found


async def strangers(
    tx: Tx, refs: Collection[Key], named: Collection[Named], known: Mapping[Key, Order]
) -> bool:
    """Tell whether somebody has stated a parcel under one of these refs, or names, that is not among the known."""
    if refs and not await holders(tx, refs) <= known.keys():
        return True
    unseen = [one for one in named if one.shipment_id not in known[one[:2]].parcels]
    if not unseen:
        return False
    found = await tx.fetchval(
        """select exists (
             select from unnest($1::text[], $2::text[], $3::text[]) k(shop, order_id, shipment_id)
             cross join lateral (select from parcel p where p.shop = k.shop
               and p.order_id = k.order_id and p.shipment_id = k.shipment_id offset 0) p)""",
        *map(list, zip(*unseen, strict=True)),
    )
    return bool(found)


async def lock_orders(tx: Tx, keys: Iterable[Key]) -> tuple[datetime, dict[Key, Order]]:
    """Lock the rows of these orders in sorted order; return them with their parcels, and the time.

    It is the database's time, after the wait. Orders without a row come back as new: `save_orders` makes
    it.
    """
    wanted = sorted(set(keys))
    rows = await tx.fetch(
        f"""select o.*, clock_timestamp() as at
            from (select) always left join lateral (
              select f.* from unnest($1::text[], $2::text[]) k(shop, order_id) cross join lateral (
                select {_ORDER} from orders o
                where o.shop = k.shop and o.order_id = k.order_id for update) f) o on true""",
        *_pairs(wanted),
    )
    now = rows[0]["at"]
    orders = {key: Order(*key, known_since=now) for key in wanted}
    known = [_order(row) for row in rows if row["shop"] is not None]
    orders.update({(o.shop, o.order_id): o for o in known})
    await _load_parcels(tx, known)
    return now, orders


async def lock_due(
    tx: Tx, limit: int, since: datetime | None
) -> tuple[datetime, datetime | None, dict[Key, Order]]:
    """Lock orders whose check has come and that nobody else has locked.

    Returns the database's time, the time of the last check among them, and the orders with their parcels.
    Looks only at checks from `since` on.
    """
    rows = await tx.fetch(
        f"""select {_ORDER}, clock_timestamp() as at from orders o
            where o.check_at <= now() and o.check_at >= coalesce($2::timestamptz, '-infinity')
            order by o.check_at limit $1 for update skip locked""",
        limit,
        since,
    )
    if not rows:
        return EPOCH, None, {}
    orders = [_order(row) for row in rows]
    await _load_parcels(tx, orders)
    return rows[0]["at"], rows[-1]["check_at"], {(o.shop, o.order_id): o for o in orders}


async def lock_unlearned(tx: Tx, limit: int) -> tuple[datetime, list[Order]]:
    """Lock orders from which there is something to learn and that nobody else has locked; the time, too."""
    rows = await tx.fetch(
        f"""select {_ORDER}, clock_timestamp() as at from orders o where o.learn
            order by o.known_since limit $1 for update skip locked""",
        limit,
    )
    orders = [_order(row) for row in rows]
    await _load_parcels(tx, orders)
    await load_tracks(tx, orders)
    return rows[0]["at"] if rows else EPOCH, orders


async def lock_tracks(tx: Tx, refs: Collection[Key]) -> dict[Key, Track]:
    """Lock what stands under these refs in sorted order; what is not there comes back as new."""
    wanted = sorted(refs)
    tracks = {key: Track(*key) for key in wanted}
    if wanted:
        rows = await tx.fetch(
            """select t.* from unnest($1::text[], $2::text[]) k(shop, ref) cross join lateral (
                 select t.shop, t.ref, t.carrier, t.scans, t.heard_at from track t
                 where t.shop = k.shop and t.ref = k.ref for update) t""",
            *_pairs(wanted),
        )
        tracks.update({(row["shop"], row["ref"]): _track(row) for row in rows})
    return tracks


async def load_tracks(
    tx: Tx, orders: Iterable[Order], locked: Mapping[Key, Track] | None = None
) -> None:
    """Give the orders the tracks of all their parcels: the locked ones, and what else there is."""
    at_hand = locked or {}
    orders = list(orders)
    wanted = {(o.shop, ref) for o in orders for p in o.parcels.values() for ref in p.refs}
    found = {key: at_hand[key] for key in wanted & at_hand.keys()}
    if others := sorted(wanted - at_hand.keys()):
        rows = await tx.fetch(
            """select t.* from unnest($1::text[], $2::text[]) k(shop, ref) cross join lateral (
                 select t.shop, t.ref, t.carrier, t.scans, t.heard_at from track t
                 where t.shop = k.shop and t.ref = k.ref offset 0) t""",
            *_pairs(others),
        )
        found |= {(row["shop"], row["ref"]): _track(row) for row in rows}
    for order in orders:
        refs = (ref for parcel in order.parcels.values() for ref in parcel.refs)
        order.tracks = {ref: found[order.shop, ref] for ref in refs if (order.shop, ref) in found}


async def load_order(db: Database, shop: str, order_id: str) -> Order | None:
    """Return an order with its parcels and their tracks, for reading only; None when it is not known."""
    async with db.transaction() as tx:
        row = await tx.fetchrow(
            f"select {_ORDER} from orders o where o.shop = $1 and o.order_id = $2", shop, order_id
        )
        if row is None:
            return None
        order = _order(row)
        await _load_parcels(tx, [order])
        await load_tracks(tx, [order])
        return order


async def _load_parcels(tx: Tx, orders: Sequence[Order]) -> None:
    if not orders:
        return
    rows = await tx.fetch(
        """select p.* from unnest($1::text[], $2::text[]) k(shop, order_id) cross join lateral (
             select p.shop, p.order_id, p.shipment_id, p.body, p.stated_at, p.stated_rank, p.stated_id,
                    p.shipped_at, p.withdrawn, p.state, p.former
             from parcel p where p.shop = k.shop and p.order_id = k.order_id offset 0) p
           order by p.shop, p.order_id, p.shipped_at, p.shipment_id""",
        [o.shop for o in orders],
        [o.order_id for o in orders],
    )
    by_key = {(o.shop, o.order_id): o for o in orders}
    for row in rows:
        by_key[row["shop"], row["order_id"]].parcels[row["shipment_id"]] = Parcel(
            row["shipment_id"],
            OrderShipped.model_validate_json(row["body"]),
            (row["stated_at"], row["stated_rank"], row["stated_id"]),
            shipped_at=row["shipped_at"],
            withdrawn=row["withdrawn"],
            state=row["state"],
            former=tuple(row["former"] or ()),
            is_new=False,
        )


def _order(row: Any) -> Order:
    return Order(
        row["shop"],
        row["order_id"],
        row["known_since"],
        facts=facts.load(row["facts"]),
        about=About.model_validate_json(row["about"]) if row["about"] else None,
        revision=row["revision"],
        told=orjson.loads(row["told"]),
        check_at=row["check_at"],
        open=tuple(row["open"] or ()),
        learn=row["learn"],
        erased_at=row["erased_at"],
        is_new=False,
    )


def _track(row: Any) -> Track:
    return Track(
        row["shop"],
        row["ref"],
        facts.load(row["scans"]),
        carrier=row["carrier"],
        heard_at=row["heard_at"],
        is_new=False,
    )


def _pairs(keys: Iterable[Key]) -> tuple[list[str], list[str]]:
    keys = list(keys)
    return [first for first, _ in keys], [second for _, second in keys]


# ---------------------------------------------------------------- writing

_INSERT = """
insert into orders (shop, order_id, facts, about, revision, told, check_at, open, learn, erased_at,
                    known_since)
select shop, order_id, facts, about, revision, told, check_at,
       string_to_array(open, chr(10)), learn, erased_at, known_since
from unnest($1::text[], $2::text[], $3::jsonb[], $4::jsonb[], $5::timestamptz[], $6::jsonb[],
            $7::timestamptz[], $8::text[], $9::bool[], $10::timestamptz[], $11::timestamptz[])
  as o(shop, order_id, facts, about, revision, told, check_at, open, learn, erased_at, known_since)"""

_NOTES = """
insert into orders (shop, order_id, told, check_at, open, learn)
select shop, order_id, told, check_at, string_to_array(open, chr(10)), learn
from unnest($1::text[], $2::text[], $3::jsonb[], $4::timestamptz[], $5::text[], $6::bool[])
  as o(shop, order_id, told, check_at, open, learn)"""


async def save_orders(tx: Tx, orders: Iterable[Order], stated: Collection[Key] = ()) -> None:
    """Write the orders of which something was stated as a whole, of others what changed of their notes.

    Their parcels, too. Being stated is what lets the time until they are forgotten start anew. Raises Retry
    when somebody else made the row of a new one meanwhile.
    """
    orders = sorted(orders, key=lambda o: (o.shop, o.order_id))
    whole = [o for o in orders if (o.shop, o.order_id) in stated]
    await save(
        tx,
        whole,
        _columns,
        _INSERT,
        """(shop, order_id) do update set
             facts = excluded.facts, about = excluded.about, revision = excluded.revision,
             told = excluded.told, check_at = excluded.check_at, open = excluded.open,
             learn = excluded.learn, erased_at = excluded.erased_at, updated_at = now()""",
    )
    if noted := [o for o in orders if o.changed and (o.shop, o.order_id) not in stated]:
        await tx.execute(
            f"""{_NOTES} on conflict (shop, order_id) do update set
                  told = excluded.told, check_at = excluded.check_at, open = excluded.open,
                  learn = excluded.learn""",
            [o.shop for o in noted],
            [o.order_id for o in noted],
            [_json(o.told) for o in noted],
            [o.check_at for o in noted],
            ["\n".join(o.open) or None for o in noted],
            [o.learn for o in noted],
        )
    await _save_parcels(tx, [o for o in orders if any(p.changed for p in o.parcels.values())])
    for order in orders:
        order.is_new = order.changed = False


def _columns(orders: Sequence[Order]) -> tuple[list[Any], ...]:
    return (
        [o.shop for o in orders],
        [o.order_id for o in orders],
        [facts.dump(o.facts) for o in orders],
        [o.about.model_dump_json() if o.about else None for o in orders],
        [o.revision for o in orders],
        [_json(o.told) for o in orders],
        [o.check_at for o in orders],
        ["\n".join(o.open) or None for o in orders],
        [o.learn for o in orders],
        [o.erased_at for o in orders],
        [o.known_since for o in orders],
    )


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


async def put_off(tx: Tx, orders: Sequence[Order]) -> None:
    """Look again at these locked orders in an hour."""
    if orders:
        await tx.execute(
            """insert into orders (shop, order_id, check_at)
               select k.shop, k.order_id, now() + interval '1 hour'
               from unnest($1::text[], $2::text[]) k(shop, order_id)
               on conflict (shop, order_id) do update set check_at = excluded.check_at""",
            [o.shop for o in orders],
            [o.order_id for o in orders],
        )


async def _save_parcels(tx: Tx, orders: Sequence[Order]) -> None:
    if not orders:
        return
    rows = [(o, p) for o in orders for p in o.parcels.values() if p.changed]
    await tx.execute(
        """insert into parcel (shop, order_id, shipment_id, number_ref, carrier, body, stated_at,
                               stated_rank, stated_id, shipped_at, withdrawn, state, former)
           select shop, order_id, shipment_id, number_ref, carrier, body, stated_at, stated_rank,
                  stated_id, shipped_at, withdrawn, state, string_to_array(former, ' ')
           from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[],
                       $7::timestamptz[], $8::int[], $9::text[], $10::timestamptz[], $11::bool[],
                       $12::text[], $13::text[])
             as p(shop, order_id, shipment_id, number_ref, carrier, body, stated_at, stated_rank,
                  stated_id, shipped_at, withdrawn, state, former)
           on conflict (shop, order_id, shipment_id) do update set
             number_ref = excluded.number_ref, carrier = excluded.carrier, body = excluded.body,
             stated_at = excluded.stated_at, stated_rank = excluded.stated_rank,
             stated_id = excluded.stated_id, shipped_at = excluded.shipped_at,
             withdrawn = excluded.withdrawn, state = excluded.state, former = excluded.former""",
        [o.shop for o, _ in rows],
        [o.order_id for o, _ in rows],
        [p.shipment_id for _, p in rows],
        [p.number_ref for _, p in rows],
        [p.body.carrier for _, p in rows],
        [p.body.model_dump_json() for _, p in rows],
        [p.stated[0] for _, p in rows],
        [p.stated[1] for _, p in rows],
        [p.stated[2] for _, p in rows],
        [p.shipped_at for _, p in rows],
        [p.withdrawn for _, p in rows],
        [p.state for _, p in rows],
        [" ".join(p.former) or None for _, p in rows],
    )
    for _, parcel in rows:
        parcel.is_new = parcel.changed = False


async def save_tracks(tx: Tx, tracks: Iterable[Track]) -> None:
    """Write changed tracks. Raises Retry when somebody else made the row of a new one meanwhile."""
    changed = sorted((t for t in tracks if t.changed), key=lambda t: (t.shop, t.ref))
    await save(
        tx,
        changed,
        _said,
        """insert into track (shop, ref, carrier, scans, heard_at)
           select * from unnest($1::text[], $2::text[], $3::text[], $4::jsonb[], $5::timestamptz[])""",
        """(shop, ref) do update set
             carrier = excluded.carrier, scans = excluded.scans, heard_at = excluded.heard_at""",
    )
    for track in changed:
        track.is_new = track.changed = False


def _said(tracks: Sequence[Track]) -> tuple[list[Any], ...]:
    return (
        [t.shop for t in tracks],
        [t.ref for t in tracks],
        [t.carrier for t in tracks],
        [facts.dump(t.scans) for t in tracks],
        [t.heard_at for t in tracks],
    )
