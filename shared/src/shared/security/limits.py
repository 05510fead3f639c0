"""ASGI middleware around every application: how much body, how long, and which headers go out."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import Refused
from shared.events import MAX_BODY_BYTES

BODY_BYTES_MAX = MAX_BODY_BYTES
BODY_SECONDS_MAX = 15.0
LINGER_BYTES = 1024 * 1024
LINGER_SECONDS = 1.0

RawHeaders = Iterable[tuple[bytes, bytes]]


def refusal_body(refused: Refused) -> bytes:
    """The one shape of every error answer, as JSON; `field` and `index` only where they are known."""
    told = {
        "error": refused.code,
        "detail": refused.detail,
        "field": refused.field,
        "index": refused.index,
    }
    return json.dumps({name: value for name, value in told.items() if value is not None}).encode()


class BodyLimit:
    """ASGI middleware that starts the application only once the whole body is here.

    Servers put no limit on a body, and Content-Length alone is passed by by chunked encoding, so the
    streamed bytes are counted. Refuses a coded body (415), one over `max_bytes` (413, before reading
    where Content-Length tells), and one that takes over `max_seconds` (408); after a refusal the
    connection is closed, so a slow sender does not hold it.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int = BODY_BYTES_MAX,
        max_seconds: float = BODY_SECONDS_MAX,
        refused: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Take the application, the bounds, and who is told the status of each refusal."""
        self.app = app
        self.refused = refused
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check_headers(scope["headers"])
            body = await self._read(receive)
        except Refused as error:
            self.refused(error.status)
            await _answer(error, receive, send)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)

    def _check_headers(self, headers: RawHeaders) -> None:
        for name, value in headers:
            if name == b"content-encoding" and value.strip().lower() != b"identity":
                raise Refused(415, "unsupported_encoding", "send the body without Content-Encoding")
            if name == b"content-length":
                # Digits are counted first: int() of a long header is slow and may raise.
                if not value.isdigit():
                    raise Refused(400, "invalid_length", "Content-Length is not a number")
                if len(value) > len("1000000000") or int(value) > self.max_bytes:
                    raise self._too_large()

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, or None when the client went away."""
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self.max_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > self.max_bytes:
                        raise self._too_large()
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            detail = f"the body took over {self.max_seconds:g} s"
            raise Refused(408, "body_timeout", detail) from None

    def _too_large(self) -> Refused:
        return Refused(413, "body_too_large", f"the body is over {self.max_bytes} bytes")


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _answer(refused: Refused, receive: Receive, send: Send) -> None:
    body = refusal_body(refused)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if refused.status != HTTPStatus.REQUEST_TIMEOUT:
        await _discard(receive)
    await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive) -> None:
    """Take a little more of what is being sent.

    Closing with unread bytes resets the connection, and the answer is lost on a caller who is still
    writing.
    """
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while size < LINGER_BYTES:
                message = await receive()
                if not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))


class SecurityHeaders:
    """ASGI middleware that adds the headers of a closed API to every answer.

    A route that sets one of them itself keeps its own: a page brings its Content-Security-Policy.
    Outermost, so that the answers of `BodyLimit` and of the error handlers carry them too.
    """

    HEADERS = (
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                names = {name.lower() for name, _ in own}
                missing = [pair for pair in self.HEADERS if pair[0] not in names]
                message = {**message, "headers": own + missing}
            await send(message)

        await self.app(scope, receive, send_with_headers)
