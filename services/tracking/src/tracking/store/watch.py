"""The SQL of watching: which numbers an aggregator is told of and asked about, and when next.

It stands in the watch columns of `track`: `provider` (who is asked), `watch_at` (when to look next,
null: not at all), `watched_as` (the carrier that was stated), `registered_at`, `attempts` (failures in
a row) and `trouble` (why it does not work).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from shared.shops import Shop
from shared.store import Database, Tx

Key = tuple[str, str]  # shop, ref

Aggregator = Literal["aftership", "easypost"]


def aggregator(shop: Shop) -> Aggregator | None:
    """Return who follows this shop's parcels: the first of its providers that can; None: nobody."""
    return next((n for n in shop.providers if n in {"aftership", "easypost"}), None)


# The newest parcel that is stated under number k.
_STATED: Final = """
  select p.order_id, p.body ->> 'tracking_number' as number, p.body ->> 'carrier' as carrier,
         p.shipped_at, p.state
  from parcel p where p.shop = k.shop and p.number_ref = k.ref and not p.withdrawn
  order by p.shipped_at desc nulls last limit 1"""


async def watch(tx: Tx, tracks: Iterable[Key], provider: str) -> None:
    """Have these numbers registered with an aggregator, as soon as may be.

    To be called when a parcel was stated and saved, with the refs of numbers only. One that is watched
    already is left as it is, so a parcel may be stated as often as one likes; another carrier than last
    time is a new beginning, also for a number that was given up.
    """
    wanted = sorted(set(tracks))
    if not wanted:
        return
    await tx.execute(
        f"""insert into track (shop, ref, provider, watch_at, watched_as)
           select k.shop, k.ref, $3, now(), p.carrier
           from unnest($1::text[], $2::text[]) k(shop, ref) left join lateral ({_STATED}) p on true
           on conflict (shop, ref) do update
             set provider = excluded.provider, watch_at = excluded.watch_at, attempts = 0,
                 trouble = null, registered_at = null, watched_as = excluded.watched_as
           where track.provider is distinct from excluded.provider
             or track.watched_as is distinct from excluded.watched_as""",
        [shop for shop, _ in wanted],
        [ref for _, ref in wanted],
        provider,
    )


@dataclass(frozen=True, slots=True)
class Watched:
    """One number whose time has come, with the newest parcel that was stated under it."""

    shop: str
    ref: str
    provider: Aggregator | None
    registered_at: datetime | None
    attempts: int
    trouble: str | None
    heard_at: datetime | None
    now: datetime
    order_id: str | None  # None: no parcel has this number any more
    number: str | None
    carrier: str | None
    shipped_at: datetime | None
    state: str | None


@dataclass(frozen=True, slots=True)
class Watch:
    """How the watching of a number stands: when to look again (None: never), and what is wrong."""

    again_at: datetime | None
    registered_at: datetime | None
    attempts: int = 0
    trouble: str | None = None
    provider: Aggregator | None = None  # None: nobody follows it any more


async def due(tx: Tx, shops: Sequence[str], limit: int) -> list[Watched]:
    """Lock numbers whose time has come and that nobody else has locked, of each shop so many."""
    rows = await tx.fetch(
        f"""with due as materialized (
             select t.* from unnest($1::text[]) s(shop) cross join lateral (
               select t.shop, t.ref, t.provider, t.registered_at, t.attempts, t.trouble,
                      t.heard_at, now() as now
               from track t where t.shop = s.shop and t.watch_at <= now()
               order by t.watch_at limit $2 for update skip locked) t)
           select k.*, p.* from due k left join lateral ({_STATED}) p on true""",
        shops,
        limit,
    )
    return [Watched(**row) for row in rows]


async def save(tx: Tx, found: Sequence[tuple[Watched, Watch]]) -> None:
    """Write down how the watching of locked numbers stands."""
    await tx.execute(
        """update track t set watch_at = n.watch_at, registered_at = n.registered_at,
             attempts = n.attempts, trouble = n.trouble, provider = n.provider
           from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::int[],
                       $6::text[], $7::text[])
             as n(shop, ref, watch_at, registered_at, attempts, trouble, provider)
           where t.shop = n.shop and t.ref = n.ref""",
        [one.shop for one, _ in found],
        [one.ref for one, _ in found],
        [to.again_at for _, to in found],
        [to.registered_at for _, to in found],
        [to.attempts for _, to in found],
        [to.trouble for _, to in found],
        [to.provider for _, to in found],
    )


async def record(db: Database, one: Watched, lease: datetime, found: Watch) -> bool:
    """Write down what a call came to; False when `lease` was over and somebody else has the number."""
    tag = await db.execute(
        """update track set watch_at = $4, registered_at = $5, attempts = $6, trouble = $7,
                            provider = $8
           where shop = $1 and ref = $2 and watch_at = $3""",
        one.shop,
        one.ref,
        lease,
        found.again_at,
        found.registered_at,
        found.attempts,
        found.trouble,
        found.provider,
    )
    return not tag.endswith(" 0")
