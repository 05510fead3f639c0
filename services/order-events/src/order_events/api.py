"""The HTTP side: who calls, what they sent, one answer. Also what a shop's own system puts on the bus."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from order_events import domain, store
from order_events.adapters import reading, shopify, woocommerce
from order_events.handlers import Answer, Item, Request, Stated, Webhook
from order_events.store import Claim
from shared import facts, ingest
from shared.clock import now
from shared.errors import Malformed, Refused
from shared.events import (
    INBOUND_TYPES,
    Event,
    Inbound,
    Record,
    event_id,
    event_key,
    from_bare,
    read_inbound,
    traceparent_or_none,
)
from shared.security import media_type, read_json
from shared.shops import Shop, Shops
from shared.store import Database
from shared.web import json_response

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_SOURCES: Mapping[str, Any] = {"shopify": shopify, "woocommerce": woocommerce}
_TOPIC_HEADERS = {"shopify": "x-shopify-topic", "woocommerce": "x-wc-webhook-topic"}

Submit = Callable[[Item], Awaitable[Answer]]


def public_routes(submit: Submit, shops: Shops) -> list[Route]:
    """Return what shop platforms may call."""
    ways = _Ingest(submit, shops)
    return [
        Route("/v1/events", ways.events, methods=["POST"]),
        Route("/v1/events/{type}", ways.bare, methods=["POST"]),
        Route("/webhooks/{shop}/{source}", ways.webhook, methods=["POST"]),
    ]


class _Ingest:
    """The three ways in. Each ends with `submit`, which returns when the transaction is durable."""

    def __init__(self, submit: Submit, shops: Shops) -> None:
        self._submit = ingest.in_time(submit)
        self._shops = shops

    async def events(self, http: HttpRequest) -> Response:
        """Take one event (structured mode) or a batch of them, all or nothing."""
        shop = ingest.caller(http, self._shops)
        kind = media_type(http.headers.get("content-type"), (ingest.SINGLE, ingest.BATCH))
        body = await http.body()
        whole = _idempotency_key(http, shop, body)
        inbound = ingest.read_events(kind, read_json(body), shop, INBOUND_TYPES)
        bodies = [e.data.model_dump_json().encode() for e in inbound]
        claims = [
            Claim(shop.id, f"ce:{e.ce_source}:{e.ce_id}", _sha256_of(e, body), (_id_of(shop, e),))
            for e, body in zip(inbound, bodies, strict=True)
        ]
        trace = _trace(http)
        events = tuple(
            Stated(claim.ids[0], e.data, e.time, e.ce_source, e.traceparent or trace, body)
            for e, claim, body in zip(inbound, claims, bodies, strict=True)
        )
        if whole is not None:
            whole = replace(whole, ids=tuple(e.id for e in events))
        return ingest.accepted(await self._submit(Request(shop, events, tuple(claims), whole)))

    async def bare(self, http: HttpRequest) -> Response:
        """Take one body of the type in the path; its time stands in `CE-Time` or in the body."""
        shop = ingest.caller(http, self._shops)
        media_type(http.headers.get("content-type"), ("application/json",))
        body = await http.body()
        name = http.path_params["type"]
        given = _idempotency_key(http, shop, body)
        event = from_bare(
            name, read_json(body), allowed=INBOUND_TYPES, time=http.headers.get("ce-time")
        )
        said_at = http.headers.get("ce-time", "")
        key = given.key if given else f"body:{name}:{said_at}:{hashlib.sha256(body).hexdigest()}"
        said = event_id(shop.id, key)
        claim = Claim(shop.id, key, hashlib.sha256(name.encode() + b"\n" + body).digest(), (said,))
        stated = Stated(said, event.data, event.time, f"/shops/{shop.id}/api", _trace(http))
        return ingest.accepted(await self._submit(Request(shop, (stated,), (claim,))))

    async def webhook(self, http: HttpRequest) -> Response:
        """Take a platform's webhook: verified on the raw bytes, then kept whatever it says."""
        shop, source, secrets = ingest.webhook_address(http, self._shops, _SOURCES)
        body = await http.body()
        adapter = _SOURCES[source]
        if adapter is woocommerce and woocommerce.is_ping(body, http.headers):
            return json_response({"status": "pong"})
        if not adapter.verify(body, http.headers, secrets):
            raise ingest.refuse_signature(source, "bad_signature")
        return ingest.webhook_taken(
            await self._take(_read_webhook(source, body, http.headers, shop))
        )

    async def _take(self, hook: Webhook) -> Answer:
        def unusable(reason: str) -> Webhook:
            nothing = replace(hook.delivery, statements=())
            return replace(hook, delivery=nothing, unusable=reason)

        return await ingest.submit_or_quarantine(self._submit, hook, hook.source, unusable)


def _idempotency_key(http: HttpRequest, shop: Shop, body: bytes) -> Claim | None:
    given = http.headers.get("idempotency-key")
    if given is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(given):
        detail = "must be 1 to 255 printable ASCII characters"
        raise Refused(400, "invalid_idempotency_key", detail, field="Idempotency-Key")
    return Claim(shop.id, f"key:{given}", hashlib.sha256(body).digest(), ())


def _id_of(shop: Shop, inbound: Inbound) -> Any:
    return event_id(shop.id, inbound.ce_source, inbound.ce_id)


def _sha256_of(inbound: Inbound, body: bytes) -> bytes:
    said = f"{inbound.type}\n{inbound.time.isoformat()}\n"
    return hashlib.sha256(said.encode() + body).digest()


def _trace(http: HttpRequest) -> str | None:
    return traceparent_or_none(http.headers.get("traceparent"))


def _read_webhook(source: str, body: bytes, headers: Mapping[str, str], shop: Shop) -> Webhook:
    trace = traceparent_or_none(headers.get("traceparent"))
    try:
        delivery = _SOURCES[source].read(body, headers, shop)
    except Exception as error:  # noqa: BLE001 - no body of a platform may end as an error at the platform
        reason = ingest.fault(error, source)
    else:
        return Webhook(shop, source, delivery, body, traceparent=trace)
    topic = str(headers.get(_TOPIC_HEADERS[source], ""))[:100]
    nothing = domain.Delivery(topic, None, reading.order_id_of(topic, body), ())
    return Webhook(shop, source, nothing, body, reason, trace)


def inbound_event(record: Record, shops: Shops) -> Event:
    """Read what a shop's own system put on `orders.inbound`; its source says which shop it is."""
    inbound = read_inbound(record, INBOUND_TYPES)
    shop = shops.by_source(inbound.ce_source)
    if shop is None:
        raise Malformed("no shop has this ce_source among its sources")
    if record.key and record.key != event_key(shop.id, inbound.data):
        raise Malformed("the key is not shop:order_id, so the order of events is not kept")
    return Event.of(
        inbound.data,
        id=_id_of(shop, inbound),
        shop=shop.id,
        source=inbound.ce_source,
        time=inbound.time,
        recorded_at=now(),
        traceparent=inbound.traceparent,
    )


# ---------------------------------------------------------------- operators


def internal_routes(db: Database, submit: Submit, shops: Shops) -> list[Route]:
    """Return what operators may ask."""

    async def order(http: HttpRequest) -> Response:
        shop, order_id = http.path_params["shop"], http.path_params["order_id"]
        row = await store.find_order(db, shop, order_id)
        hooks = await store.webhooks.about(db, shop, [order_id])
        if row is None and not hooks:
            raise Refused(404, "not_found", "this order is not known here")
        body: dict[str, Any] = {"shop": shop, "order_id": order_id}
        if row is not None:
            known = facts.load(row["facts"])
            body |= {
                "order": row["snapshot"] and orjson.loads(row["snapshot"]),
                "state": domain.fold(known),
                "history": row["history"],
                "erased_at": row["erased_at"],
                "facts": [{"type": f.type, "at": f.at, "id": f.id, **dict(f.extra)} for f in known],
            }
        body["webhooks"] = [dict(h) for h in hooks]
        return json_response(body)

    def read(row: Any, shop: Shop) -> Webhook:
        headers = {_TOPIC_HEADERS[row["source"]]: row["topic"]}
        return _read_webhook(row["source"], bytes(row["body"]), headers, shop)

    return [
        Route("/v1/orders/{shop}/{order_id:path}", order),
        *ingest.quarantine_routes(db, store.webhooks, shops, read, submit),
    ]
