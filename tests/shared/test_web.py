"""A port under strange callers: heads without end, too many at once, wrong addresses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared import web
from shared.life import Life
from shared.web import HEAD_BYTES_MAX, HEADERS_MAX, IN_FLIGHT_MAX, http_app, json_response, serve

HEAD = b"GET /hello/ana HTTP/1.1\r\nHost: x\r\n"


async def hello(request: Request) -> Response:
    return json_response({"hello": request.path_params["name"]})


async def broken(_: Request) -> Response:
    raise LookupError("a fault of ours")


ROUTES = [Route("/hello/{name}", hello), Route("/broken", broken, methods=["POST"])]


@asynccontextmanager
async def port() -> AsyncIterator[int]:
    """Serve ROUTES on a real socket."""
    life = Life()
    async with asyncio.TaskGroup() as group:
        holder = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        number = int(holder.sockets[0].getsockname()[1])
        holder.close()
        await holder.wait_closed()
        group.create_task(serve(life, http_app("test", ROUTES), "127.0.0.1", number))
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", number)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        try:
            yield number
        finally:
            life.stopping.set()


async def say(number: int, *parts: bytes) -> tuple[bytes, bytes]:
    """Send these bytes one after the other; return status line and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            return head.partition(b"\r\n")[0], await reader.readexactly(length)
    finally:
        writer.close()


async def test_an_ordinary_request_is_answered_also_when_it_comes_in_pieces() -> None:
    async with port() as number:
        head = HEAD + b"X: " + b"y" * 1000 + b"\r\n\r\n"
        for parts in ([head], [head[:7], head[7:60], head[60:]], [b"\r\n" + head]):
            status, body = await say(number, *parts)
            assert (status, json.loads(body)) == (b"HTTP/1.1 200 OK", {"hello": "ana"})


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + b"X: " + b"y" * HEAD_BYTES_MAX + b"\r\n\r\n"],
        [HEAD + b"X: ", *[b"y" * 8192] * (HEAD_BYTES_MAX // 8192 + 1)],
        [HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(HEADERS_MAX + 1)) + b"\r\n"],
        [b"GET /" + b"y" * HEAD_BYTES_MAX + b" HTTP/1.1\r\nHost: x\r\n\r\n"],
    ],
    ids=["one long header", "a header without end", "many headers", "a long address"],
)
async def test_a_head_without_end_is_refused(parts: list[bytes]) -> None:
    async with port() as number:
        status, body = await say(number, *parts)
        assert status.startswith(b"HTTP/1.1 431")
        assert json.loads(body)["error"] == "headers_too_large"


async def test_what_is_no_http_is_refused_in_our_words() -> None:
    async with port() as number:
        status, body = await say(number, b"EHLO example.com\r\n\r\n")
        assert status.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["error"] == "invalid_request"


async def test_a_head_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEAD_SECONDS_MAX", 0.2)
    async with port() as number:
        for parts in ([], [HEAD], [b"\r\n"]):
            status, _ = await say(number, *parts)
            assert status.startswith(b"HTTP/1.1 408")


def client(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")


async def test_too_many_at_once_are_told_to_come_again() -> None:
    release = asyncio.Event()

    async def slow(_: Request) -> Response:
        await release.wait()
        return json_response({})

    async with client(http_app("test", [Route("/slow", slow)])) as caller:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(caller.get("/slow")) for _ in range(IN_FLIGHT_MAX + 20)]
            while sum(call.done() for call in calls) < 20:
                await asyncio.sleep(0.01)
            release.set()
        answers = [call.result() for call in calls]
        refused = [a for a in answers if a.status_code == 503]
        assert len(refused) == 20
        assert {a.headers["retry-after"] for a in refused} == {"1"}
        assert refused[0].json()["error"] == "unavailable"
        assert (await caller.get("/slow")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/hello/ana", 405, "method_not_allowed"),
        ("POST", "/broken", 500, "internal"),
        ("GET", "/hello/a%00b", 404, "not_found"),
        ("GET", "/hello/ana?x=%00", 422, "invalid_text"),
        ("GET", "/openapi.json", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
    ],
)
async def test_every_error_has_the_same_shape(
    method: str, path: str, status: int, code: str
) -> None:
    async with client(http_app("test", ROUTES)) as caller:
        answer = await caller.request(method, path)
        assert (answer.status_code, answer.json()["error"]) == (status, code)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "fault of ours" not in answer.text
