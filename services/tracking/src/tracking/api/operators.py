"""What operators may ask: all that is known of an order and why, what was not understood, and the past."""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import fields
from datetime import date, timedelta
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shared import ingest
from shared.errors import Refused
from shared.facts import Fact
from shared.shops import Shop, Shops
from shared.store import Database
from shared.web import json_response
from tracking import store
from tracking.api.ingest import Submit, read_webhook
from tracking.domain import episodes
from tracking.domain.advance import look
from tracking.domain.fold import fold
from tracking.domain.model import About, Order, Parcel
from tracking.domain.orders import fold_order
from tracking.domain.pace import REAL_DAY_SECONDS, Pace
from tracking.domain.situation import Situation
from tracking.handlers import Delivery
from tracking.store import history

HISTORY_DAYS: Final = 90  # unless asked for other ones
_HISTORY_DAYS_MAX: Final = 3650
_LOST_AFTER: Final = timedelta(days=30)  # a parcel nobody promised, and that never came
_ORDERS_AT_ONCE: Final = 200


def internal_routes(
    db: Database, submit: Submit, shops: Shops, day_seconds: float = REAL_DAY_SECONDS
) -> list[Route]:
    """Return what the internal port answers about parcels."""
    profiles = store.Profiles()

    async def order(http: Request) -> Response:
        shop, order_id = http.path_params["shop"], http.path_params["order_id"]
        known = await store.load_order(db, shop, order_id)
        if known is None:
            raise Refused(404, "not_found", "this order is not known here")
        refs = sorted({ref for parcel in known.parcels.values() for ref in parcel.refs})
        watching = {row["ref"]: row for row in await history.find_watching(db, shop, refs)}
        body = _order(known) | {
            "parcels": [
                _parcel(known, p, [watching[ref] for ref in p.refs if ref in watching])
                for p in known.parcels.values()
            ],
            "pages": [dict(p) for p in await history.find_pages(db, shop, order_id)],
            "webhooks": [dict(h) for h in await store.webhooks.about(db, shop, refs)],
            "delays": await delays(known),
        }
        return json_response(body)

    async def delays(known: Order) -> list[dict[str, Any]]:
        """Return what is told of its parcels next, or why nothing is."""
        shop = shops.get(known.shop)
        if shop is None:
            return []
        async with db.transaction() as tx:
            await profiles.load(tx, [known])
        now, pace = await history.find_time(db), Pace(known.known_since, day_seconds)
        habits = profiles.of(known.shop)
        return episodes.why(Situation(known, *look(known), shop, now, pace, habits))

    async def past(http: Request) -> Response:
        shop = shops.get(http.path_params["shop"])
        if shop is None:
            raise Refused(404, "not_found", "no such shop")
        days = _days(http.query_params.get("days", str(HISTORY_DAYS)))
        lines = _past(db, shop, days, day_seconds)
        return StreamingResponse(lines, media_type="application/jsonl")

    def read(row: Any, shop: Shop) -> Delivery:
        return read_webhook(row["source"], bytes(row["body"]), {}, shop)

    return [
        Route("/v1/orders/{shop}/{order_id:path}", order),
        Route("/v1/history/{shop}", past),
        *ingest.quarantine_routes(db, store.webhooks, shops, read, submit),
    ]


def _order(order: Order) -> dict[str, Any]:
    told = dict(order.told)
    return {
        "shop": order.shop,
        "order_id": order.order_id,
        "order": order.about and order.about.model_dump(mode="json"),
        "state": _plain(fold_order(order)),
        "facts": [_fact(f) for f in order.facts],
        "known_since": order.known_since,
        "check_at": order.check_at,
        "erased_at": order.erased_at,
        "episodes": told.pop("episodes", None),
        "choices": told.pop("choices", None),
        "told": told,
    }


def _parcel(order: Order, parcel: Parcel, watching: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Show a parcel: as the shop stated it, what its scans add up to, and all that was said of it."""
    said = order.scans(parcel)
    return _plain(fold(parcel, said), "parcel", "scans") | {
        "shipment_id": parcel.shipment_id,
        "stated": parcel.body.model_dump(mode="json"),
        "shipped_at": parcel.shipped_at,
        "withdrawn": parcel.withdrawn,
        "scans": [_fact(scan) for scan in said],
        "watching": [dict(one) for one in watching],
    }


def _plain(record: Any, *without: str) -> dict[str, Any]:
    """Return a dataclass as an object, its event bodies as they stand on the wire."""
    named = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in without}
    return {
        name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        for name, value in named.items()
    }


def _fact(one: Fact) -> dict[str, Any]:
    day = {"precision": "day"} if one.day else {}
    return {"type": one.type, "at": one.at, "id": one.id, **day, **dict(one.extra)}


# ---------------------------------------------------------------- the past, for `afterglow delays backtest`


def _days(text: str) -> timedelta:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:5]) <= _HISTORY_DAYS_MAX):
        raise Refused(422, "invalid_days", f"days must be 1 to {_HISTORY_DAYS_MAX}", field="days")
    return timedelta(days=int(text[:5]))


async def _past(
    db: Database, shop: Shop, days: timedelta, day_seconds: float
) -> AsyncIterator[bytes]:
    """Yield a line of JSON for each parcel that left within so many days, order by order."""
    now, after = await history.find_time(db), ""
    while ids := await history.next_orders(db, shop.id, after, days, _ORDERS_AT_ONCE):
        for order_id in ids:
            order = await store.load_order(db, shop.id, order_id)
            if order is None:
                continue
            today = Pace(order.known_since, day_seconds).calendar(now)
            day = today.astimezone(order.zone(shop.zone)).date()
            for parcel in _past_parcels(order, shop, day):
                yield orjson.dumps(parcel, option=orjson.OPT_UTC_Z) + b"\n"
        after = ids[-1]


def _past_parcels(order: Order, shop: Shop, today: date) -> Iterator[dict[str, Any]]:
    """Return the parcels of an order as a history holds them: what was known when, and nobody's name.

    A history says "never" of what has no delivery, so a parcel that may still come in time is none yet.
    """
    about = order.about
    if about is None:
        return
    origin = shop.delays.ship_from or shop.calendar("default").holidays
    for parcel in order.parcels.values():
        if parcel.withdrawn:
            continue
        said = order.scans(parcel)
        seen = fold(parcel, said)
        if seen.delivered_at is None and not seen.terminal and _may_come(about, parcel, today):
            continue
        yield {
            "id": parcel.shipment_id,
            "placed_at": about.placed_at,
            "shipped_at": parcel.shipped_at,
            "promise": about.promise and about.promise.model_dump(include={"from_", "to"}),
            "carrier": parcel.body.carrier,
            "method": about.method,
            "ship_from_country": origin and origin[:2],
            "ship_to_country": about.country,
            "scans": [_past_scan(scan) for scan in said],
            "delivered_at": seen.delivered_at,
        }


def _may_come(about: About, parcel: Parcel, today: date) -> bool:
    if about.promise is not None:
        return today <= about.promise.to
    return parcel.shipped_at is not None and today <= parcel.shipped_at.date() + _LOST_AFTER


def _past_scan(scan: Fact) -> dict[str, Any]:
    said = dict(scan.extra)
    eta = {"from": said.get("eta_from"), "to": said.get("eta_to")}
    return {
        "state": said.get("state"),
        "reason": said.get("reason"),
        "action_required": bool(said.get("action")),
        "occurred_at": scan.at,
        "precision": "day" if scan.day else "second",
        "eta": eta if any(eta.values()) else None,
        "place": said.get("place"),
        "source": said.get("source"),
        "raw_status": said.get("raw"),
        "received_at": said.get("received"),
    }
