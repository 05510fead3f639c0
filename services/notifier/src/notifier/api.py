"""What operators may ask and do; the notifier takes no public request yet."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from notifier import domain, policy, store
from shared import facts
from shared.errors import Refused
from shared.security import read_json
from shared.shops import KINDS, Shop, Shops
from shared.store import Database
from shared.web import json_response

_SCOPES = frozenset({"all", "shop", "kind", "channel"})
_NAME_MAX = 100


def internal_routes(
    db: Database, shops: Shops, kinds: Collection[str], wake: Callable[[], None]
) -> list[Route]:
    """Return the operator API: timeline, pauses, unknown messages; `kinds` can be rendered here."""
    return [*_timeline(db, shops, kinds), *_pauses(db, wake), *_unknown(db, wake)]


def _why_silent(shop: Shop | None, state: domain.State) -> str | None:
    """Return why an order has no message at all, where no row says so."""
    if shop is None:
        return "this shop is not in shops.toml"
    if state.placed_at is None:
        return "not placed yet: facts are kept, nothing is planned"
    if policy.is_history(shop, state.placed_at):
        return f"history: placed before the shop's live_from ({shop.live_from})"
    return None


def _message(row: Mapping[str, Any], kinds: Collection[str]) -> dict[str, Any]:
    """Show a journal row; one that waits for a newer process says so."""
    waits = row["state"] == "pending" and row["kind"] not in kinds
    return dict(row) | ({"reason": "kind_unknown_here"} if waits else {})


def _timeline(db: Database, shops: Shops, kinds: Collection[str]) -> list[Route]:
    async def order(http: Request) -> Response:
        shop, order_id = http.path_params["shop"], http.path_params["order_id"]
        row = await store.find_order(db, shop, order_id)
        if row is None:
            raise Refused(404, "not_found", "this order is not known here")
        known = facts.load(row["facts"])
        messages = await store.find_messages(db, shop, order_id)
        return json_response(
            {
                "shop": shop,
                "order_id": order_id,
                "erased_at": row["erased_at"],
                "facts": [{"type": f.type, "at": f.at, "id": f.id, **dict(f.extra)} for f in known],
                "messages": [_message(m, kinds) for m in messages],
                "silent": None if messages else _why_silent(shops.get(shop), domain.fold(known)),
            }
        )

    return [Route("/v1/orders/{shop}/{order_id:path}", order)]


def _scope(http: Request) -> tuple[str, str]:
    scope, name = http.path_params["scope"], http.path_params["name"]
    if scope not in _SCOPES:
        raise Refused(422, "invalid_scope", f"scope must be one of {', '.join(sorted(_SCOPES))}")
    if len(name) > _NAME_MAX:
        raise Refused(422, "invalid_name", f"a name has at most {_NAME_MAX} characters")
    if scope == "kind" and name not in KINDS:
        raise Refused(422, "invalid_name", "no message kind has this name", field="name")
    return scope, "-" if scope == "all" else name


def _pauses(db: Database, wake: Callable[[], None]) -> list[Route]:
    async def listing(_: Request) -> Response:
        return json_response({"pauses": [dict(r) for r in await store.pauses(db)]})

    async def put(http: Request) -> Response:
        scope, name = _scope(http)
        body = await http.body()
        stated = read_json(body) if body else {}
        reason = stated.get("reason", "") if isinstance(stated, dict) else None
        if not isinstance(reason, str) or len(reason) > 500:  # noqa: PLR2004
            detail = "must be a text of at most 500 characters"
            raise Refused(422, "invalid_reason", detail, field="reason")
        await store.set_pause(db, scope, name, reason)
        return json_response({"scope": scope, "name": name, "paused": True})

    async def delete(http: Request) -> Response:
        scope, name = _scope(http)
        if not await store.end_pause(db, scope, name):
            raise Refused(404, "not_found", "this is not paused")
        wake()
        return json_response({"scope": scope, "name": name, "paused": False})

    path = "/v1/pauses/{scope}/{name}"
    return [
        Route("/v1/pauses", listing),
        Route(path, put, methods=["PUT"]),
        Route(path, delete, methods=["DELETE"]),
    ]


def _unknown(db: Database, wake: Callable[[], None]) -> list[Route]:
    async def listing(_: Request) -> Response:
        return json_response({"unknown": [dict(r) for r in await store.find_unknown(db)]})

    def settle(*, resend: bool) -> Callable[[Request], object]:
        async def endpoint(http: Request) -> Response:
            text = http.path_params["id"]
            number = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004
            if not await store.settle_unknown(db, number, resend=resend):
                raise Refused(404, "not_found", "no unknown message has this number")
            wake()
            return json_response({"state": "pending" if resend else "forgotten"})

        return endpoint

    return [
        Route("/v1/unknown", listing),
        Route("/v1/unknown/{id}/resend", settle(resend=True), methods=["POST"]),
        Route("/v1/unknown/{id}/forget", settle(resend=False), methods=["POST"]),
    ]
