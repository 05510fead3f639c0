"""The HTTP side of a service: routes with uniform errors, and a server with bounds.

What a route matches is answered right here. Everything else goes to the FastAPI application that
stands behind: unknown addresses, wrong methods, and pages that need more of a framework.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson
import structlog
import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import GiveUp, Refused, Retry
from shared.life import Life
from shared.observability import HTTP_REQUESTS
from shared.security import BodyLimit, SecurityHeaders, refusal_body
from shared.store import is_transient

RETRY_AFTER_SECONDS = 5
IN_FLIGHT_MAX = 500  # requests whose body is here and whose answer is not: 128 MB of bodies at most
HEAD_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
HEAD_SECONDS_MAX = 15.0
BIGINT_DIGITS = 18
log = structlog.get_logger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with JSON; datetimes in RFC 3339, in UTC."""
    return Response(
        orjson.dumps(body, option=orjson.OPT_UTC_Z | orjson.OPT_SORT_KEYS, default=str),
        status,
        headers=headers,
        media_type="application/json",
    )


def row_number(request: Request) -> int:
    """Return the `id` of the address as a number that the database takes; raises Refused 404."""
    text = request.path_params["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= BIGINT_DIGITS):
        raise Refused(404, "not_found", "no such number")
    return int(text)


def _refused(error: Refused) -> Response:
    return Response(
        refusal_body(error), error.status, headers=error.headers, media_type="application/json"
    )


async def _http_error(_: Request, error: Any) -> Response:
    names = {404: "not_found", 405: "method_not_allowed"}
    code = names.get(error.status_code, "refused")
    return _refused(Refused(error.status_code, code, error.detail, headers=error.headers))


def _unavailable(detail: str, seconds: int) -> Response:
    headers = {"Retry-After": str(seconds)}
    return _refused(Refused(503, "unavailable", detail, headers=headers))


def _check_texts(request: Request) -> None:
    """Refuse a NUL in an address: no id holds one, and no text of the database can."""
    if any("\0" in str(text) for text in request.path_params.values()):
        raise Refused(404, "not_found", "no such address")
    query = request.scope["query_string"]
    if b"%00" in query or b"\0" in query:
        raise Refused(422, "invalid_text", "a parameter contains the NUL character")


class _Answers:
    """One route as an ASGI application.

    It counts its answers, turns a database that is away into 503, and hides every fault of ours.
    """

    def __init__(self, service: str, route: Route) -> None:
        self._service = service
        self._path = route.path
        self._endpoint: Endpoint = route.endpoint
        self._counts: dict[int, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive, send))
        count = self._counts.get(response.status_code)
        if count is None:
            count = HTTP_REQUESTS.labels(self._service, self._path, str(response.status_code))
            self._counts[response.status_code] = count
        count.inc()
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            _check_texts(request)
            return await self._endpoint(request)
        except Refused as error:
            return _refused(error)
        except GiveUp as error:
            return _refused(Refused(422, "unacceptable", str(error)))
        except Exception as error:
            if is_transient(error) or isinstance(error, Retry):
                log.warning("request_unavailable", route=self._path, reason=type(error).__name__)
                detail = "the store cannot be reached; send it again later"
                return _unavailable(detail, RETRY_AFTER_SECONDS)
            log.exception("request_failed", route=self._path)
            return _refused(Refused(500, "internal", "this is our fault; it has been logged"))


class _Front:
    """Hands a request to the route that matches it, at most IN_FLIGHT_MAX at a time."""

    def __init__(self, routes: Sequence[Route], behind: ASGIApp) -> None:
        self._routes = routes
        self._behind = behind
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._in_flight >= IN_FLIGHT_MAX:
            busy = _unavailable("too many requests at once; send it again in a moment", 1)
            await busy(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._application(scope)(scope, receive, send)
        finally:
            self._in_flight -= 1

    def _application(self, scope: Scope) -> ASGIApp:
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return route.app
        return self._behind


def http_app(service: str, routes: Sequence[Route]) -> ASGIApp:
    """Build one port's ASGI app: routes, uniform errors, bounded bodies, security headers."""
    counted = [
        Route(r.path, _Answers(service, r), methods=sorted(r.methods or {"GET"}), name=r.name)
        for r in routes
    ]
    app = FastAPI(title=f"afterglow {service}", openapi_url=None)
    app.router.routes.extend(counted)
    app.add_exception_handler(HTTPException, _http_error)

    def refused(status: int) -> None:
        HTTP_REQUESTS.labels(service, "refused", str(status)).inc()

    return SecurityHeaders(BodyLimit(_Front(counted, app), refused=refused))


# ---------------------------------------------------------------- the server


class _HeadTooLarge(Exception):
    """Raised inside the parser, which then gives up on the connection."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with bounded heads: bytes, number of headers and time. Its parser bounds none.

    A head over HEAD_BYTES_MAX or HEADERS_MAX is answered 431 (RFC 6585), one that takes over
    HEAD_SECONDS_MAX 408; then the connection is closed.
    """

    _in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _refusal: Refused | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first head its time."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, self._head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete yet."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head or self.cycle is None or self.cycle.response_complete:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(_too_large())
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, self._head_timeout)

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Look at the head as a whole before anything is done for it."""
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEAD_BYTES_MAX or len(self.headers) > HEADERS_MAX:
            self._refusal = _too_large()
            raise _HeadTooLarge
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse in our words what the parser did not take."""
        self._refuse(self._refusal or Refused(400, "invalid_request", msg))

    def _head_timeout(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(Refused(408, "header_timeout", "the headers took too long"))

    def _refuse(self, refused: Refused) -> None:
        body = refusal_body(refused)
        head = f"HTTP/1.1 {refused.status} Refused\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _too_large() -> Refused:
    detail = f"the headers are over {HEAD_BYTES_MAX} bytes or more than {HEADERS_MAX}"
    return Refused(431, "headers_too_large", detail)


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: the process decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGTERM and SIGINT to whoever runs the server."""
        yield


async def serve(life: Life, app: Any, host: str, port: int) -> None:
    """Serve a port until the process is to stop; raises RuntimeError when the server ends before."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        http=BoundedProtocol,  # not h11, which takes a length beside chunked encoding
        proxy_headers=False,  # nothing here asks who the client is
        server_header=False,
        date_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        backlog=1024,
    )
    server = Server(config)

    async def stop() -> None:
        await life.stopping.wait()
        server.should_exit = True

    async with asyncio.TaskGroup() as group:
        group.create_task(stop())
        await server.serve()
        if not life.stopping.is_set():
            message = f"the HTTP server on port {port} ended by itself"
            raise RuntimeError(message)
