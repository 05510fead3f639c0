"""What operators read: an order's watching and its page, and a shop's past, parcel by parcel."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from shared.store import Database


async def find_time(db: Database) -> datetime:
    """Return the database's time, by which all waiting is counted."""
    at: datetime = await db.fetchval("select clock_timestamp()")
    return at


async def find_watching(db: Database, shop: str, refs: Sequence[str]) -> list[Any]:
    """Return how the watching of these numbers stands."""
    return await db.fetch(
        """select ref, provider, registered_at, watch_at as next_at, attempts, trouble, heard_at
           from track where shop = $1 and ref = any($2::text[]) order by ref""",
        shop,
        refs,
    )


async def find_pages(db: Database, shop: str, order_id: str) -> list[Any]:
    """Return until when the pages of an order may be opened; one for each link key."""
    return await db.fetch(
        """select expires_at, coalesce(expires_at > now(), true) as opens from page
           where shop = $1 and order_id = $2""",
        shop,
        order_id,
    )


async def next_orders(
    db: Database, shop: str, after: str, within: timedelta, limit: int
) -> list[str]:
    """Return the ids of a shop's next orders after an id that have a parcel which left so lately."""
    rows = await db.fetch(
        """select distinct order_id from parcel
           where shop = $1 and order_id > $2 and shipped_at > now() - $3::interval
           order by order_id limit $4""",
        shop,
        after,
        within,
        limit,
    )
    return [row["order_id"] for row in rows]
