"""The HTTP side: who calls, what they sent, one answer. Also what a shop's own system puts on the bus."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from traceback import format_tb
from typing import Any

import orjson
import structlog
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from order_events import domain, store
from order_events.adapters import reading, shopify, woocommerce
from order_events.handlers import Answer, Item, Request, Stated, Webhook
from order_events.store import Claim
from shared import facts
from shared.clock import now
from shared.errors import GiveUp, Malformed, Refused, Retry
from shared.events import (
    INBOUND_TYPES,
    Event,
    Inbound,
    Record,
    event_id,
    event_key,
    from_bare,
    from_http,
    read_inbound,
    traceparent_or_none,
)
from shared.observability import WEBHOOKS
from shared.security import bearer_token, media_type, read_json, unauthorized
from shared.shops import Shop, Shops
from shared.store import Database, is_transient
from shared.web import json_response, row_number

BATCH_MAX = 500
ANSWER_SECONDS = (
    4.5  # Shopify gives up after five; a store that hangs must not keep callers waiting
)
_SINGLE = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_SOURCES: Mapping[str, Any] = {"shopify": shopify, "woocommerce": woocommerce}
_TOPIC_HEADERS = {"shopify": "x-shopify-topic", "woocommerce": "x-wc-webhook-topic"}
log = structlog.get_logger(__name__)

Submit = Callable[[Item], Awaitable[Answer]]


def public_routes(submit: Submit, shops: Shops) -> list[Route]:
    """Return what shop platforms may call."""
    ingest = _Ingest(submit, shops)
    return [
        Route("/v1/events", ingest.events, methods=["POST"]),
        Route("/v1/events/{type}", ingest.bare, methods=["POST"]),
        Route("/webhooks/{shop}/{source}", ingest.webhook, methods=["POST"]),
    ]


class _Ingest:
    """The three ways in. Each ends with `submit`, which returns when the transaction is durable."""

    def __init__(self, submit: Submit, shops: Shops) -> None:
        async def in_time(item: Item) -> Answer:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await submit(item)

        self._submit = in_time
        self._shops = shops

    async def events(self, http: HttpRequest) -> Response:
        """Take one event (structured mode) or up to BATCH_MAX (batch mode), all or nothing."""
        shop = self._caller(http)
        kind = media_type(http.headers.get("content-type"), (_SINGLE, _BATCH))
        body = await http.body()
        whole = _idempotency_key(http, shop, body)
        stated = read_json(body)
        if kind == _SINGLE:
            inbound = [from_http(stated, shop=shop.id, allowed=INBOUND_TYPES)]
        else:
            inbound = _batch(stated, shop)
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
        return _accepted(await self._submit(Request(shop, events, tuple(claims), whole)))

    async def bare(self, http: HttpRequest) -> Response:
        """Take one body of the type in the path; its time stands in `CE-Time` or in the body."""
        shop = self._caller(http)
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
        return _accepted(await self._submit(Request(shop, (stated,), (claim,))))

    async def webhook(self, http: HttpRequest) -> Response:
        """Take a platform's webhook: verified on the raw bytes, then kept whatever it says."""
        source = http.path_params["source"]
        shop = self._shops.get(http.path_params["shop"])
        adapter = _SOURCES.get(source)
        if shop is None or adapter is None or not (secrets := shop.webhook_secrets(source)):
            raise Refused(404, "not_found", "no such webhook address")
        body = await http.body()
        if adapter is woocommerce and woocommerce.is_ping(body, http.headers):
            return json_response({"status": "pong"})
        if not adapter.verify(body, http.headers, secrets):
            WEBHOOKS.labels(source, "bad_signature").inc()
            raise Refused(401, "bad_signature", "the signature does not fit the body")
        answer = await self._take(_read_webhook(source, body, http.headers, shop))
        status = 200 if answer.outcome == "quarantined" else 202
        ids = [str(i) for i in answer.ids]
        return json_response({"outcome": answer.outcome, "ids": ids}, status)

    async def _take(self, hook: Webhook) -> Answer:
        """Keep a signed delivery; what cannot be carried out is quarantined, never sent back."""
        try:
            return await self._submit(hook)
        except (Refused, Retry):
            raise
        except Exception as error:
            if is_transient(error):
                raise
            reason = _fault(error, hook.source)
        nothing = replace(hook.delivery, statements=())
        return await self._submit(replace(hook, delivery=nothing, unusable=reason))

    def _caller(self, http: HttpRequest) -> Shop:
        shop = self._shops.by_api_key(bearer_token(http.scope))
        if shop is None:
            raise unauthorized()
        return shop


def _batch(stated: Any, shop: Shop) -> list[Inbound]:
    if not isinstance(stated, list):
        raise Refused(422, "invalid_batch", "a batch is a JSON array of events")
    if not 1 <= len(stated) <= BATCH_MAX:
        raise Refused(422, "invalid_batch", f"a batch holds 1 to {BATCH_MAX} events")
    return [
        from_http(one, shop=shop.id, allowed=INBOUND_TYPES, index=index)
        for index, one in enumerate(stated)
    ]


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


def _accepted(answer: Answer) -> Response:
    body = {"ids": [str(i) for i in answer.ids], "replayed": answer.replayed}
    return json_response(body, 202)


def _read_webhook(source: str, body: bytes, headers: Mapping[str, str], shop: Shop) -> Webhook:
    trace = traceparent_or_none(headers.get("traceparent"))
    try:
        delivery = _SOURCES[source].read(body, headers, shop)
    except Exception as error:  # noqa: BLE001 - no body of a platform may end as an error at the platform
        reason = _fault(error, source)
    else:
        return Webhook(shop, source, delivery, body, traceparent=trace)
    topic = str(headers.get(_TOPIC_HEADERS[source], ""))[:100]
    nothing = domain.Delivery(topic, None, reading.order_id_of(topic, body), ())
    return Webhook(shop, source, nothing, body, reason, trace)


def _fault(error: Exception, source: str) -> str:
    """Say why a delivery is quarantined; a fault of ours is logged, without what it says of a person."""
    if isinstance(error, domain.Unusable | GiveUp):
        return str(error) or "not understood"
    where = "".join(format_tb(error.__traceback__)[-4:])  # the message may quote the body
    log.error("delivery_fails", source=source, error=type(error).__name__, where=where)
    return type(error).__name__


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
        hooks = await store.find_webhooks(db, shop, order_id)
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

    async def quarantine(_: HttpRequest) -> Response:
        rows = await store.find_quarantine(db)
        shown = [
            dict(r) | {"body": r["body"] and bytes(r["body"]).decode(errors="replace")}
            for r in rows
        ]
        return json_response({"quarantine": shown})

    async def replay(http: HttpRequest) -> Response:
        number = row_number(http)
        row = await store.find_quarantined(db, number)
        if row is None or (shop := shops.get(row["shop"])) is None:
            raise Refused(
                404, "not_found", "no quarantined delivery of a known shop has this number"
            )
        headers = {_TOPIC_HEADERS[row["source"]]: row["topic"]}
        hook = _read_webhook(row["source"], bytes(row["body"]), headers, shop)
        if hook.unusable is not None:
            raise Refused(409, "still_unusable", hook.unusable)
        answer = await submit(hook)
        await store.settle_quarantined(db, number)
        return json_response({"outcome": answer.outcome, "ids": [str(i) for i in answer.ids]})

    return [
        Route("/v1/orders/{shop}/{order_id:path}", order),
        Route("/v1/quarantine", quarantine),
        Route("/v1/quarantine/{id}/replay", replay, methods=["POST"]),
    ]
