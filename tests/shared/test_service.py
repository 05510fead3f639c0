"""A service as a process: how it starts, what it shows, what it hides, how it stops."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tests.integration.stack import (
    API_KEY,
    LINK_KEY,
    OPERATOR_KEY,
    SHOPIFY_SECRET,
    SHOPS,
    Process,
    Shop,
    service_env,
    started,
    until,
)

from afterglow.postgres import Postgres, free_port
from shared.errors import GiveUp, Refused, Retry
from shared.testing import ADDRESS, placed_body
from shared.web import http_app, json_response

Migrated = Callable[[str], Awaitable[str]]


# ---------------------------------------------------------------- one port


async def _answers(error: Exception | None) -> httpx2.Response:
    async def endpoint(_: Request) -> Response:
        if error is not None:
            raise error
        return json_response({"ok": True})

    app = http_app("test", [Route("/x", endpoint, methods=["POST"])])
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/x")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, 200, None),
        (Refused(418, "teapot", "short and stout", field="f", index=3), 418, "teapot"),
        (Retry("busy"), 503, "unavailable"),
        (ConnectionRefusedError("10.1.2.3:5432"), 503, "unavailable"),
        (GiveUp("too large"), 422, "unacceptable"),
        (KeyError("ana@example.com"), 500, "internal"),
        (ZeroDivisionError(), 500, "internal"),
    ],
)
async def test_every_error_becomes_a_plain_answer_that_hides_the_inside(
    error: Exception | None, status: int, code: str | None
) -> None:
    answer = await _answers(error)
    assert (answer.status_code, answer.json().get("error")) == (status, code)
    assert "ana@" not in answer.text
    assert "10.1.2.3" not in answer.text
    assert ("retry-after" in answer.headers) is (status == 503)
    if status == 418:
        assert (answer.json()["field"], answer.json()["index"]) == ("f", 3)


# ---------------------------------------------------------------- the start

WRONG: list[tuple[str, dict[str, str], str]] = [
    ("order_events", {"DATABASE_URL": ""}, "DATABASE_URL is not set"),
    ("order_events", {"BUS_URL": "amqp://x"}, "BUS_URL"),
    ("order_events", {"TEST_SHOPIFY": ""}, "shops.demo.webhooks.shopify"),
    ("notifier", {"SMTP_URL": "smtp://u:pass-in-url@h:25?x=y"}, "SMTP_URL"),
]


async def test_a_wrong_setting_ends_the_start_with_one_clear_line(tmp_path: Path) -> None:
    async def attempt(module: str, changes: dict[str, str], names: str) -> str | None:
        env = service_env(tmp_path, "postgresql://u:pass-of-db@127.0.0.1:1/x", **changes)
        process = await Process(module, env).start()
        await process.read()
        code, lines = await process.ended(), process.output.strip().splitlines()
        secrets = ("pass-of-db", "pass-in-url", LINK_KEY, OPERATOR_KEY, SHOPIFY_SECRET)
        fine = code == os.EX_CONFIG and len(lines) == 1 and names in lines[0]
        return None if fine and not any(s in process.output for s in secrets) else process.output

    found = await asyncio.gather(*(attempt(*case) for case in WRONG))
    assert [f for f in found if f] == []


# ---------------------------------------------------------------- a running one


@contextlib.asynccontextmanager
async def _order_events(
    url: str, folder: Path, **changes: str
) -> AsyncIterator[tuple[Process, Shop]]:
    env = service_env(folder, url, **changes)
    async with (
        started("order_events", env) as process,
        httpx2.AsyncClient() as client,
    ):
        yield process, Shop(client, process.public)


async def test_it_shows_its_state_on_the_internal_port_stops_on_sigterm_and_writes_no_secret(
    migrated: Migrated, tmp_path: Path
) -> None:
    url = await migrated("order_events")
    async with _order_events(url, tmp_path) as (process, shop):
        assert (await shop.state(placed_body())).status_code == 202
        assert (await shop.state(placed_body(order_id="a:b"))).status_code == 422
        assert (await shop.shopify("orders/create", {"email": ADDRESS})).status_code == 200
        assert (await process.ask("/healthz")).json() == {"status": "alive"}
        ready = (await process.ask("/readyz")).json()
        assert ready == {"status": "ready", "database": "ok", "bus": "ok"}
        assert "afterglow_http_requests_total" in (await process.ask("/metrics")).text
        async with httpx2.AsyncClient() as client:
            for path in ("/healthz", "/metrics", "/docs", "/openapi.json", "/v1/dead"):
                assert (await client.get(process.public + path)).status_code == 404
            shown = await client.get(process.internal + "/v1/dead")
            assert shown.status_code == 401
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    for secret in (
        ADDRESS,
        "Ana",
        API_KEY,
        OPERATOR_KEY,
        LINK_KEY,
        SHOPIFY_SECRET,
        "postgres:postgres",
    ):
        assert secret not in process.output
    assert '"event":"stopped"' in process.output
    assert "Warning" not in process.output


async def test_a_new_shop_file_is_taken_on_sighup_and_a_bad_one_is_refused(
    migrated: Migrated, tmp_path: Path
) -> None:
    async with _order_events(await migrated("order_events"), tmp_path) as (process, shop):
        path = tmp_path / "shops.toml"

        async def reload(text: str, said: str) -> None:
            path.write_text(text)
            seen = process.output.count(said)
            process.signal(signal.SIGHUP)

            async def heard() -> bool:
                return process.output.count(said) > seen

            await until(heard, 10)

        await reload(SHOPS + 'mode = "loud"\n', "shops_kept")
        assert (await shop.state(placed_body())).status_code == 202
        await reload(SHOPS.replace("api_keys", "# api_keys"), "shops_reloaded")
        assert (await shop.state(placed_body("2"))).status_code == 401
        await reload(SHOPS, "shops_reloaded")
        assert (await shop.state(placed_body("3"))).status_code == 202


async def test_a_loop_that_dies_takes_the_process_with_it(
    migrated: Migrated, tmp_path: Path
) -> None:
    url = await migrated("order_events")
    async with _order_events(url, tmp_path, FAILPOINTS="rl.after_publish=raise") as (process, shop):
        assert (await shop.state(placed_body())).status_code == 202
        assert await process.ended() == 1
    assert "process_dies" in process.output
    assert ADDRESS not in process.output


async def test_a_port_that_is_taken_ends_the_process(migrated: Migrated, tmp_path: Path) -> None:
    async def serve(_r: Any, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    env = service_env(tmp_path, await migrated("order_events"), HTTP_PORT=str(port))
    async with server, started("order_events", env, wait=False) as process:
        assert await process.ended() != 0
    assert "address already in use" in process.output


async def test_told_to_stop_before_the_database_was_there_it_stops_at_once(
    tmp_path: Path,
) -> None:
    env = service_env(tmp_path, f"postgresql://127.0.0.1:{free_port()}/x")
    async with started("notifier", env, wait=False) as process:

        async def waits() -> bool:
            return "start_waits" in process.output

        await until(waits)
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0


async def test_while_postgres_is_away_it_answers_503_and_recovers_alone(
    tmp_path: Path,
) -> None:
    with Postgres.temporary() as server:
        async with _order_events(server.url, tmp_path) as (process, shop):
            assert (await shop.state(placed_body("1"))).status_code == 202
            server.stop()
            answer = await shop.state(placed_body("2"))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert (await process.ask("/readyz")).status_code == 503
            assert (await process.ask("/healthz")).status_code == 200
            server.start()

            async def taken() -> bool:
                return (await shop.state(placed_body("2"))).status_code == 202

            await until(taken)
            assert process.alive


async def test_it_ends_in_time_although_postgres_is_away(tmp_path: Path) -> None:
    with Postgres.temporary() as server:
        async with _order_events(server.url, tmp_path, DRAIN_SECONDS="3") as (process, _):
            server.stop()
            process.signal(signal.SIGTERM)
            assert await process.ended() in {0, 1}
        server.start()
