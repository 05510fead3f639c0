import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from afterglow.__main__ import main
from afterglow.demo_shop import make_demo_shop
from shared import shops

pytestmark = pytest.mark.timeout(60)
KEY = "operator-key-for-tests"
BROKEN_OFF = object()
runner = CliRunner()


@dataclass
class Services:
    """Both services' internal ports in one: keeps what was asked, answers what it was told."""

    url: str = ""
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        body = await request.json() if request.method == "PUT" else None
        self.asked.append((request.method, request.raw_path, body))
        if request.raw_path not in self.answers:
            return web.json_response({"error": "not_found", "detail": "no such thing"}, status=404)
        answer = self.answers[request.raw_path]
        if answer is BROKEN_OFF:
            return await break_off(request)
        return web.Response(body=answer) if isinstance(answer, bytes) else web.json_response(answer)


async def break_off(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    await answer.write(b'{"id":"1/1"}\n')
    assert request.transport is not None
    request.transport.close()
    return answer


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    found = Services()
    loop, started = asyncio.new_event_loop(), threading.Event()
    stopping = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", found.handle)
        server = web.AppRunner(app)
        await server.setup()
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        host, port = server.addresses[0][:2]
        found.url = f"http://{host}:{port}"
        started.set()
        await stopping.wait()
        await server.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait(10)
    told = {"internal": {"order-events": found.url, "notifier": found.url}, "operator_key": KEY}
    (tmp_path / "demo.json").write_text(json.dumps(told))
    monkeypatch.delenv("OPERATOR_KEYS", raising=False)
    monkeypatch.chdir(tmp_path)
    yield found
    loop.call_soon_threadsafe(stopping.set)
    thread.join()
    loop.close()


def run(*arguments: str, code: int = 0) -> str:
    result = runner.invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_order_show_asks_every_service(services: Services) -> None:
    services.answers["/v1/orders/demo/A%2F1"] = {"order_id": "A/1"}
    out = run("order", "show", "demo", "A/1", "--json", "--data", ".")
    assert json.loads(out) == {name: {"order_id": "A/1"} for name in ("order-events", "notifier")}
    assert [path for _, path, _ in services.asked] == ["/v1/orders/demo/A%2F1"] * 2
    assert "Order A/1" in run("order", "show", "demo", "A/1", "--data", ".")


def test_a_service_that_is_away_is_told_and_the_others_are_shown(
    services: Services, tmp_path: Path
) -> None:
    services.answers["/v1/orders/demo/1"] = {"order_id": "1", "messages": []}
    away = {"internal": {"tracking": "http://127.0.0.1:9", "notifier": services.url}}
    (tmp_path / "demo.json").write_text(json.dumps(away | {"operator_key": KEY}))
    result = runner.invoke(main, ["order", "show", "demo", "1", "--data", "."])
    assert result.exit_code == 0
    assert "tracking does not answer" in result.stderr
    assert "Order 1" in result.stdout
    assert "does not answer" in run("order", "show", "demo", "2", "--data", ".", code=1)


@pytest.fixture
def tracking(services: Services, tmp_path: Path) -> Services:
    """The services with one more: tracking."""
    found = json.loads((tmp_path / "demo.json").read_text())
    found["internal"]["tracking"] = services.url
    (tmp_path / "demo.json").write_text(json.dumps(found))
    return services


def test_the_past_is_exported_line_by_line_as_it_comes(tracking: Services) -> None:
    lines = b'{"id":"1/1"}\n{"id":"2/1"}\n'
    tracking.answers["/v1/history/demo?days=90"] = lines
    tracking.answers["/v1/history/a%2Fb?days=7"] = b""
    assert run("delays", "export", "demo", "--data", ".").encode() == lines
    out = run("delays", "export", "a/b", "--days", "7", "--data", ".")
    assert out == "afterglow: no parcel of a/b left within 7 days\n"
    assert "no such thing" in run("delays", "export", "nobody", "--data", ".", code=1)


def test_an_export_that_broke_off_is_no_history(tracking: Services) -> None:
    tracking.answers["/v1/history/demo?days=90"] = BROKEN_OFF
    assert "is not whole" in run("delays", "export", "demo", "--data", ".", code=1)


def test_what_is_exported_can_be_replayed(tracking: Services, tmp_path: Path) -> None:
    parcel = {
        "id": "1/1",
        "placed_at": "2026-11-02T09:00:00Z",
        "shipped_at": "2026-11-02T14:00:00Z",
        "promise": {"from": "2026-11-04", "to": "2026-11-05"},
        "carrier": "gls",
        "ship_from_country": "SI",
        "ship_to_country": "SI",
        "scans": [],
        "delivered_at": "2026-11-04T10:00:00Z",
    }
    tracking.answers["/v1/history/demo?days=90"] = json.dumps(parcel).encode() + b"\n"
    file = tmp_path / "history.jsonl"
    file.write_text(run("delays", "export", "demo", "--data", "."))
    assert (
        json.loads(run("delays", "backtest", str(file), "--json").splitlines()[-1])["on_time"] == 1
    )


def test_an_order_nobody_knows_ends_with_a_line_and_a_code(services: Services) -> None:
    assert "no service knows order 7" in run("order", "show", "demo", "7", "--data", ".", code=1)
    assert services.asked


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["--all"], "/v1/pauses/all/-"),
        (["--shop", "demo"], "/v1/pauses/shop/demo"),
        (["--kind", "order_confirmed"], "/v1/pauses/kind/order_confirmed"),
        (["--channel", "email"], "/v1/pauses/channel/email"),
    ],
)
def test_pause_and_resume_name_one_scope(
    services: Services, arguments: list[str], path: str
) -> None:
    services.answers |= {path: {}, "/v1/pauses": {"pauses": [{"scope": "all", "reason": "test"}]}}
    out = run("pause", *arguments, "--reason", "test", "--data", ".")
    assert services.asked[0] == ("PUT", path, {"reason": "test"})
    assert "scope" in out
    run("resume", *arguments, "--data", ".")
    assert services.asked[2][:2] == ("DELETE", path)


def test_two_scopes_at_once_are_refused(services: Services) -> None:
    assert "choose one of" in run("pause", "--all", "--shop", "demo", "--data", ".", code=1)
    assert not services.asked
    assert "say what to resume" in run("resume", "--data", ".", code=1)


def test_unknown_and_dead_reach_their_addresses(services: Services) -> None:
    paths = ["/v1/unknown", "/v1/unknown/5/resend", "/v1/unknown/5/forget", "/v1/dead"]
    paths += ["/v1/dead/7", "/v1/dead/7/replay", "/v1/dead/7/discard"]
    services.answers |= {path: {"state": "done"} for path in paths}
    services.answers["/v1/dead"] = {"dead": []}
    run("unknown", "list", "--data", ".")
    run("unknown", "resend", "5", "--data", ".")
    run("unknown", "forget", "5", "--data", ".")
    assert run("dead", "list", "--data", ".").count("none") == 2
    for verb in ("show", "replay", "discard"):
        run("dead", verb, "notifier", "7", "--data", ".")
    assert [f"{method} {path}" for method, path, _ in services.asked] == [
        "GET /v1/unknown",
        "POST /v1/unknown/5/resend",
        "POST /v1/unknown/5/forget",
        "GET /v1/dead",
        "GET /v1/dead",
        "GET /v1/dead/7",
        "POST /v1/dead/7/replay",
        "POST /v1/dead/7/discard",
    ]


def test_quarantine_is_asked_of_all_and_replayed_at_one(services: Services) -> None:
    assert "bodies" not in run(
        "quarantine", "list", "--data", "."
    )  # a service that takes no webhooks
    row = {"id": 5, "source": "aftership", "topic": None, "body": "bodies hold names"}
    services.answers |= {
        "/v1/quarantine": {"quarantine": [row]},
        "/v1/quarantine/5/replay": {"outcome": "accepted"},
    }
    out = run("quarantine", "list", "--data", ".")
    assert out.count("aftership") == 2
    assert "bodies" not in out
    run("quarantine", "replay", "5", "--service", "notifier", "--data", ".")
    assert services.asked[-1][:2] == ("POST", "/v1/quarantine/5/replay")
    assert "topic" not in out  # none has one


def test_a_replay_finds_whose_number_it_is_and_guesses_nothing(
    services: Services, tmp_path: Path
) -> None:
    services.answers |= {
        "/v1/quarantine": {"quarantine": [{"id": 5}]},
        "/v1/quarantine/5/replay": {"outcome": "accepted"},
    }
    told = run("quarantine", "replay", "5", "--data", ".", code=1)
    assert "order-events and notifier has number 5" in told
    assert "no list that is shown has number 6" in run(
        "quarantine", "replay", "6", "--data", ".", code=1
    )
    one = {"internal": {"tracking": services.url}, "operator_key": KEY}
    (tmp_path / "demo.json").write_text(json.dumps(one))
    run("quarantine", "replay", "5", "--data", ".")
    assert services.asked[-1][:2] == ("POST", "/v1/quarantine/5/replay")


def test_the_environment_wins_over_the_folder(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.answers["/v1/unknown"] = {"unknown": []}
    monkeypatch.setenv("OPERATOR_KEYS", f"{KEY},older")
    monkeypatch.setenv("INTERNAL_URLS", f"notifier={services.url}/")
    assert run("unknown", "list", "--data", "/nowhere") == "none\n"


def test_a_folder_where_nothing_runs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPERATOR_KEYS", raising=False)
    assert "nothing runs from /nowhere" in run("unknown", "list", "--data", "/nowhere", code=1)


def test_check_takes_the_demos_files(tmp_path: Path) -> None:
    demo = make_demo_shop(tmp_path)
    out = run("check", "--shops", str(demo.shops_file), "--products", str(demo.products_file))
    assert "1 shop(s), 2 product rule(s): all right" in out


def test_check_names_every_key_at_fault(tmp_path: Path) -> None:
    file = tmp_path / "shops.toml"
    file.write_text('[shops.a]\nname = "A"\nmode = "loud"\n')
    out = run("check", "--shops", str(file), code=1)
    assert "shops.a.mode" in out
    assert "shops.a.sender" in out


def test_a_new_key_and_its_hash_fit() -> None:
    made, digest = (line.split(": ")[1].strip() for line in run("key", "new").splitlines())
    assert hashlib.sha256(made.encode()).hexdigest() == digest


def test_preview_writes_text_html_and_mail(tmp_path: Path) -> None:
    out = run("templates", "preview", "order_confirmed", "--language", "sl", "--out", str(tmp_path))
    files = [Path(line) for line in out.splitlines()]
    assert [file.suffix for file in files] == [".txt", ".html", ".eml"]
    assert all(file.stat().st_size for file in files)


def test_the_demo_shop_is_live_and_keeps_its_keys(tmp_path: Path) -> None:
    first, second = make_demo_shop(tmp_path), make_demo_shop(tmp_path)
    assert (first.api_key, first.webhook_secrets) == (second.api_key, second.webhook_secrets)
    found = shops.load(first.shops_file, first.products_file, {})
    shop = found.by_api_key(first.api_key)
    assert shop is not None
    assert (shop.id, shop.mode) == ("demo", "live")
    assert shop.quiet_hours is None
    assert not shop.kinds_off
    assert shop.webhook_secrets("shopify") == [first.webhook_secrets["shopify"].encode()]
