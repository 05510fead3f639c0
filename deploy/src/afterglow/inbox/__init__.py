"""The catcher's page and API: read what customers would have got, on a desk or a phone."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from afterglow.mailbox import Mail, Mailbox

_PAGE_MESSAGES = 200
_TEXT_CHARS = 2_000
_BODY_LIMIT = 64 * 1024
_HERE: Final = Path(__file__).parent
_ASSETS = {"inbox.css": "text/css; charset=utf-8", "inbox.js": "text/javascript; charset=utf-8"}
_PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "frame-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A message is a stranger's document: no scripts, no forms, nothing loaded from elsewhere.
_MESSAGE_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)
_VIEWS = ("html", "text", "headers")

Endpoint = Callable[[Request], Awaitable[Response]]


def inbox_app(mailbox: Mailbox) -> Starlette:
    """Build the app: pages at `/`, the JSON API at `/api`, all same-origin."""
    return Starlette(
        routes=[*_pages(mailbox), *_api(mailbox)],
        middleware=[
            # only by these names, so that no foreign page reaches it through a name of its own
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
        ],
    )


def _pages(mailbox: Mailbox) -> list[Route]:
    pages = Environment(
        loader=PackageLoader("afterglow.inbox", "."), autoescape=select_autoescape(["html"])
    )
    assets = {name: (_HERE / name).read_bytes() for name in _ASSETS}

    def page(name: str, **values: Any) -> Response:
        return _answer(pages.get_template(name).render(values), "text/html; charset=utf-8")

    async def listing(_: Request) -> Response:
        return page(
            "list.html",
            mails=mailbox.newest(_PAGE_MESSAGES),
            texts=mailbox.texts[::-1],
            count=len(mailbox),
            dropped=mailbox.dropped,
            version=mailbox.version,
        )

    async def message(request: Request) -> Response:
        mail = mailbox.get(request.path_params["id"])
        if mail is None:
            return _missing()
        views = [v for v in _VIEWS if v == "headers" or f"text/{_part(v)}" in mail.bodies]
        wanted = request.query_params.get("view", views[0])
        view = wanted if wanted in views else views[0]
        return page("message.html", mail=mail, view=view, views=views)

    async def body(request: Request) -> Response:
        mail = mailbox.get(request.path_params["id"])
        if mail is None or "text/html" not in mail.bodies:
            return _missing()
        return _answer(
            _links_outside(mail.bodies["text/html"]), "text/html; charset=utf-8", _MESSAGE_POLICY
        )

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        return _answer(assets[name], _ASSETS[name]) if name in assets else _missing()

    return [
        Route("/", listing),
        Route("/messages/{id}", message),
        Route("/messages/{id}/body", body),
        Route("/assets/{name}", asset),
    ]


def _api(mailbox: Mailbox) -> list[Route]:
    async def messages(request: Request) -> Response:
        if request.method == "DELETE":
            mailbox.clear()
            return Response(status_code=204)
        told = []
        for mail in mailbox:
            told.append(mail.as_json())
            await asyncio.sleep(0)  # reading thousands must not hold up the SMTP side
        return _json(told, {"X-Dropped": str(mailbox.dropped)})

    async def raw(request: Request) -> Response:
        mail = mailbox.get(request.path_params["id"])
        return _eml(mail) if mail else _missing()

    async def texts(request: Request) -> Response:
        if request.method == "POST":
            return await _take_text(mailbox, request)
        return _json(mailbox.texts)

    async def version(_: Request) -> Response:
        return _json({"version": mailbox.version, "messages": len(mailbox)})

    async def healthz(_: Request) -> Response:
        return _json({"status": "alive"})

    return [
        Route("/api/messages", messages, methods=["GET", "DELETE"]),
        Route("/api/messages/{id}.eml", raw),
        Route("/api/sms", texts, methods=["GET", "POST"]),
        Route("/api/version", version),
        Route("/healthz", healthz),
    ]


async def _take_text(mailbox: Mailbox, request: Request) -> Response:
    """Keep a text that a channel hands over as `{"to", "from", "text"}`."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_LIMIT:
            return _json({"error": "too_large"}, status=413)
    if not request.headers.get("content-type", "").startswith("application/json"):
        return _json({"error": "unsupported", "detail": "send application/json"}, status=415)
    try:
        said = orjson.loads(data)
        to, sender, text = said["to"], said.get("from", ""), said["text"]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return _json({"error": "invalid", "detail": "needs an object with to and text"}, status=422)
    if not all(isinstance(v, str) and len(v) <= _TEXT_CHARS for v in (to, sender, text)):
        return _json({"error": "invalid", "detail": "to, from and text are texts"}, status=422)
    return _json(mailbox.add_text(to, sender, text), status=201)


def _part(view: str) -> str:
    return "plain" if view == "text" else view


def _links_outside(html: str) -> str:
    """Let links open in a new tab: inside the frame they would replace the message."""
    return re.sub(r"(?i)(<head[^>]*>)", r'\1<base target="_blank">', html, count=1)


def _answer(body: str | bytes, media_type: str, policy: str = _PAGE_POLICY) -> Response:
    return Response(
        body,
        headers={
            "Content-Type": media_type,
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        },
    )


def _json(body: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    secure = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return Response(
        orjson.dumps(body), status, headers=secure | (headers or {}), media_type="application/json"
    )


def _eml(mail: Mail) -> Response:
    name = f'attachment; filename="message-{mail.id}.eml"'
    return Response(
        mail.raw, headers={"Content-Type": "message/rfc822", "Content-Disposition": name}
    )


def _missing() -> Response:
    return _json({"error": "not_found", "detail": "this message is not kept"}, status=404)
