"""What every way in from outside has in common: who calls, how much at once, how long an answer may take.

Two sides with two rules. A shop's own system is told at once what is wrong with what it sends. A signed
webhook is never sent back for what it says: what is not understood is quarantined, to be read again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from traceback import format_tb
from typing import Any, Final, Protocol, TypeVar, cast
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.errors import GiveUp, Refused, Retry
from shared.events import Inbound, from_http
from shared.observability import WEBHOOKS
from shared.security import bearer_token, unauthorized
from shared.shops import Shop, Shops, WebhookSource
from shared.store import Database, is_transient
from shared.web import json_response, row_number
from shared.webhook_log import WebhookLog

BATCH_MAX: Final = 500
ANSWER_SECONDS: Final = (
    4.5  # Shopify gives up after five; a store that hangs must not keep callers waiting
)
SINGLE: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Answer(Protocol):
    """What a service tells a sender: event ids, how many of them were known, what became of it."""

    @property
    def ids(self) -> tuple[UUID, ...]: ...
    @property
    def replayed(self) -> int: ...
    @property
    def outcome(self) -> str: ...


class Hook(Protocol):
    """One webhook delivery as a service submits it; `unusable` says why it was not understood."""

    @property
    def unusable(self) -> str | None: ...


def in_time(submit: Callable[[T], Awaitable[R]]) -> Callable[[T], Awaitable[R]]:
    """Give up on a submit after ANSWER_SECONDS; its TimeoutError becomes a 503."""

    async def submit_in_time(item: T) -> R:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await submit(item)

    return submit_in_time


# ---------------------------------------------------------------- a shop's own system


def caller(http: Request, shops: Shops) -> Shop:
    """Return the shop whose API key came with a request. Raises Refused 401."""
    shop = shops.by_api_key(bearer_token(http.scope))
    if shop is None:
        raise unauthorized()
    return shop


def batch(stated: object) -> list[Any]:
    """Return the members of a batch. Raises Refused 422 when it is none, empty or too long."""
    if not isinstance(stated, list):
        raise Refused(422, "invalid_batch", "a batch is a JSON array of events")
    if not 1 <= len(stated) <= BATCH_MAX:
        raise Refused(422, "invalid_batch", f"a batch holds 1 to {BATCH_MAX} events")
    return stated


def read_events(kind: str, stated: Any, shop: Shop, allowed: frozenset[str]) -> list[Inbound]:
    """Read one event in structured mode, or a batch of them when `kind` is BATCH; all or none."""
    if kind == SINGLE:
        return [from_http(stated, shop=shop.id, allowed=allowed)]
    return [
        from_http(one, shop=shop.id, allowed=allowed, index=index)
        for index, one in enumerate(batch(stated))
    ]


def accepted(answer: Answer) -> Response:
    """Tell a shop's system that all it sent is durable."""
    body = {"ids": [str(i) for i in answer.ids], "replayed": answer.replayed}
    return json_response(body, 202)


# ---------------------------------------------------------------- webhooks


def webhook_address(
    http: Request, shops: Shops, sources: Collection[str]
) -> tuple[Shop, str, Sequence[bytes]]:
    """Return whose webhook an address is, its source and the secrets it signs with.

    Raises Refused 404 when no such source is taken here, or not by this shop.
    """
    source = http.path_params["source"]
    shop = shops.get(http.path_params["shop"])
    if shop is not None and source in sources:
        secrets = shop.webhook_secrets(cast("WebhookSource", source))
        if secrets:
            return shop, source, secrets
    raise Refused(404, "not_found", "no such webhook address")


def refuse_signature(source: str, reason: str, detail: str | None = None) -> Refused:
    """Count a delivery that nobody vouches for, and return what to raise."""
    WEBHOOKS.labels(source, reason).inc()
    return Refused(401, reason, detail or "the signature does not fit the body")


async def submit_or_quarantine(
    submit: Callable[[T], Awaitable[R]], hook: T, source: str, unusable: Callable[[str], T]
) -> R:
    """Keep a signed delivery; what cannot be carried out is quarantined as `unusable(reason)`."""
    try:
        return await submit(hook)
    except (Refused, Retry):
        raise
    except Exception as error:
        if is_transient(error):
            raise
        reason = fault(error, source)
    return await submit(unusable(reason))


def fault(error: Exception, source: str) -> str:
    """Say why a delivery is quarantined; a fault of ours is logged, without what it says of a person."""
    if isinstance(error, GiveUp):
        return str(error) or "not understood"
    where = "".join(format_tb(error.__traceback__)[-4:])  # the message may quote the body
    log.error("delivery_fails", source=source, error=type(error).__name__, where=where)
    return type(error).__name__


def webhook_taken(answer: Answer) -> Response:
    """Tell a platform that its delivery is kept: 202, or 200 where it lies in quarantine."""
    status = 200 if answer.outcome == "quarantined" else 202
    return json_response({"outcome": answer.outcome, "ids": [str(i) for i in answer.ids]}, status)


def quarantine_routes(
    db: Database,
    webhooks: WebhookLog,
    shops: Shops,
    read: Callable[[Any, Shop], Hook],
    submit: Callable[[Any], Awaitable[Answer]],
) -> list[Route]:
    """Return what operators may do with quarantined deliveries; `read` reads a row of the log again."""

    async def quarantine(_: Request) -> Response:
        rows = await webhooks.quarantine(db)
        shown = [
            dict(r) | {"body": r["body"] and bytes(r["body"]).decode(errors="replace")}
            for r in rows
        ]
        return json_response({"quarantine": shown})

    async def replay(http: Request) -> Response:
        number = row_number(http)
        row = await webhooks.quarantined(db, number)
        if row is None or (shop := shops.get(row["shop"])) is None:
            detail = "no quarantined delivery of a known shop has this number"
            raise Refused(404, "not_found", detail)
        hook = read(row, shop)
        if hook.unusable is not None:
            raise Refused(409, "still_unusable", hook.unusable)
        answer = await submit(hook)
        await webhooks.settle(db, number)
        return json_response({"outcome": answer.outcome, "ids": [str(i) for i in answer.ids]})

    return [
        Route("/v1/quarantine", quarantine),
        Route("/v1/quarantine/{id}/replay", replay, methods=["POST"]),
    ]
