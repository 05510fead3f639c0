"""The customer's page `/t/{token}`: whoever has the link may look, and choose while a delay is open.

A GET changes nothing: mail scanners open links. Every token that opens nothing, whyever, gets the same
answer after the same look-up.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.clock import now
from shared.errors import Retry
from shared.languages.brand import clean
from shared.life import within
from shared.security import token_hash
from shared.shops import Shop, Shops
from shared.store import Database, is_transient
from tracking import store
from tracking.adapters.page import Notice, Pages, Rendered
from tracking.adapters.story import Subject
from tracking.domain import choices, episodes
from tracking.domain.advance import look
from tracking.domain.model import Order
from tracking.domain.pace import REAL_DAY_SECONDS, Pace
from tracking.handlers import Answer, Choice

ANSWER_SECONDS: Final = 5.0  # a page that hangs is worse than one that says so
RETRY_AFTER_SECONDS: Final = 60
_FORM: Final = "application/x-www-form-urlencoded"
_FORM_BYTES_MAX: Final = 16_384
_FIELDS_MAX: Final = 10
_EPISODE_MAX: Final = 6  # digits
_HEADERS: Final = {
    "Cache-Control": "private, no-store",
    "X-Robots-Tag": "noindex, nofollow, noarchive",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STATUS: Final[dict[Notice, int]] = {
    "not_found": 404,
    "unavailable": 503,
    "failed": 500,
    "elsewhere": 403,
    "unreadable": 400,
    "nothing_to_choose": 409,
    "too_often": 429,
}
log = structlog.get_logger(__name__)

Submit = Callable[[Choice], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class _Form:
    wish: choices.Wish
    shipment_id: str | None
    episode: int
    note: str | None


def page_routes(
    submit: Submit, db: Database, shops: Shops, day_seconds: float = REAL_DAY_SECONDS
) -> list[Route]:
    """Return what a customer may open."""
    page = _Page(submit, db, shops, day_seconds)
    path = "/t/{token:path}"  # so that a token with a slash in it is as unknown as any other
    return [Route(path, page.show), Route(path, page.choose, methods=["POST"])]


class _Page:
    """The page of an order and its one form."""

    def __init__(self, submit: Submit, db: Database, shops: Shops, day_seconds: float) -> None:
        self._submit = submit
        self._db = db
        self._shops = shops
        self._day_seconds = day_seconds
        self._pages = Pages()

    async def show(self, http: Request) -> Response:
        """Answer GET and HEAD."""
        return await self._guard(http, self._show)

    async def choose(self, http: Request) -> Response:
        """Take a choice, then lead back to the page, so that a reload asks for nothing again."""
        return await self._guard(http, self._choose)

    async def _guard(
        self, http: Request, answer: Callable[[Request], Coroutine[Any, Any, Response]]
    ) -> Response:
        try:
            return await within(ANSWER_SECONDS, answer(http))
        except Exception as error:
            if is_transient(error) or isinstance(error, (Retry, TimeoutError)):
                log.warning("page_unavailable", reason=type(error).__name__)
                return self._notice(http, "unavailable")
            log.exception("page_failed")
            return self._notice(http, "failed")

    async def _show(self, http: Request) -> Response:
        found = await self._find(http)
        if found is None:
            return self._notice(http, "not_found")
        shop, order = found
        state, shipments = look(order)
        subject = Subject(
            order=order,
            state=state,
            shipments=shipments,
            delays=episodes.open_(order),
            shop=shop,
            now=now(),
            pace=Pace(order.known_since, self._day_seconds),
        )
        return _answer(self._pages.page(subject), 200)

    async def _choose(self, http: Request) -> Response:
        if not _from_here(http):
            return self._notice(http, "elsewhere")
        found = await self._find(http)
        if found is None:
            return self._notice(http, "not_found")
        shop, order = found
        token = http.path_params["token"]
        form = await _read(http)
        if form is None:
            return self._notice(http, "unreadable", shop, order, token)
        asked = Choice(shop, order.order_id, form.wish, form.shipment_id, form.episode, form.note)
        try:
            await self._submit(asked)
        except choices.NothingToChoose:
            return self._notice(http, "nothing_to_choose", shop, order, token)
        except choices.TooOften:
            return self._notice(http, "too_often", shop, order, token)
        # Relative, so that it holds behind any gateway.
        return Response(status_code=303, headers=_HEADERS | {"Location": f"{token}#asked"})

    async def _find(self, http: Request) -> tuple[Shop, Order] | None:
        """Return whose page this is; also a malformed token is hashed and looked up."""
        key = await store.find_page(self._db, token_hash(http.path_params["token"]))
        shop = self._shops.get(key[0]) if key else None
        order = await store.load_order(self._db, *key) if key else None
        if shop is None or order is None or order.about is None:  # not known, or forgotten
            return None
        return shop, order

    def _notice(
        self,
        http: Request,
        notice: Notice,
        shop: Shop | None = None,
        order: Order | None = None,
        back: str = "",
    ) -> Response:
        wish = http.headers.get("accept-language")
        if shop and order and order.about:
            wish = order.about.locale
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if notice == "unavailable" else {}
        return _answer(self._pages.notice(notice, wish, shop, back), _STATUS[notice], headers)


def _answer(page: Rendered, status: int, headers: dict[str, str] | None = None) -> Response:
    own = {"Content-Security-Policy": page.policy, "Content-Language": page.language}
    all_headers = _HEADERS | own | (headers or {})
    return Response(page.html, status, all_headers, media_type="text/html; charset=utf-8")


def _from_here(http: Request) -> bool:
    """Tell whether a form was sent by our own page.

    With `Referrer-Policy: no-referrer` browsers send `Origin: null`, so the newer header decides where
    there is one (Fetch Metadata); the token, which nobody can guess, is what protects in any case.
    """
    site = http.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = http.headers.get("origin", "null")
    return origin == "null" or urlsplit(origin).netloc == http.headers.get("host")


async def _read(http: Request) -> _Form | None:
    """Return the form, None when it is none of ours."""
    body = await http.body()
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM or len(body) > _FORM_BYTES_MAX:
        return None
    try:
        text = body.decode("ascii")
        fields = dict(parse_qsl(text, max_num_fields=_FIELDS_MAX, errors="replace"))
    except ValueError:
        return None
    wish, episode = fields.get("choice"), fields.get("episode", "")
    if wish not in choices.WISHES or not (episode.isascii() and episode.isdigit()):
        return None
    if len(episode) > _EPISODE_MAX:
        return None
    note = clean(fields.get("note", "")[: 2 * choices.NOTE_CHARS_MAX])
    return _Form(wish, fields.get("shipment") or None, int(episode), note or None)
