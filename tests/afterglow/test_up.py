import contextlib
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from afterglow import cluster, settings
from afterglow.up import Options, taken_port

pytestmark = pytest.mark.timeout(120)
ELSEWHERE = "postgresql://elsewhere/x"  # no database of our own is needed or started
STAND_INS = Path(__file__).parent
RUNNER = """
import asyncio, sys
from pathlib import Path
from afterglow import settings
from afterglow.children import RunnerError
from afterglow.terminal import Interrupted, PrefixedOutput, run_until_interrupted
from afterglow.up import Options, Service, running
from shared.errors import AfterglowError

services = (Service("order-events", "stand_in_service", 1), Service("notifier", "stand_in_service", 4))
options = Options(Path(sys.argv[1]), int(sys.argv[2]), demo="--demo" in sys.argv, services=services)

async def work(hurry):
    async with running(options, settings.environment(), PrefixedOutput(sys.stdout), hurry):
        await asyncio.Event().wait()

try:
    run_until_interrupted(work)
except Interrupted:
    print("stopped")
except AfterglowError as error:
    sys.exit(f"afterglow: {error}")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="afterglow-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def base_port(worker_id: str) -> int:
    """A row of ports; each worker has its own, nine at most since internal ports stand 1,000 above."""
    worker = int(worker_id.removeprefix("gw")) if worker_id != "master" else 0
    for step in range(9):
        candidate = 12_000 + worker % 8 * 2000 + step * 100
        if not taken_port(Options(base_port=candidate, demo=True)):
            return candidate
    pytest.skip("no free row of ports")


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(folder: Path, base_port: int) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        env = {**settings.environment(), "PYTHONPATH": str(STAND_INS), **environment}
        for name in ("DATABASE_URL", "BUS_URL", "SHOPS_FILE", "SMTP_URL", "OPERATOR_KEYS"):
            if name not in environment:
                env.pop(name, None)
        with (folder / "out").open("w") as out:
            runner = subprocess.Popen(
                [sys.executable, "-c", RUNNER, str(folder / "data"), str(base_port), *arguments],
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(runner)
        return runner

    yield run
    for runner in started:
        if runner.poll() is None:
            runner.kill()
        runner.wait()
    wait_for(lambda: not left_over(folder))


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    return condition()


def ready(folder: Path) -> dict[str, Any]:
    file = folder / "data" / "demo.json"
    assert wait_for(file.exists), (folder / "out").read_text()
    told: dict[str, Any] = json.loads(file.read_text())
    return told


def ask(url: str, method: str = "GET") -> Any:
    """The answer's JSON; None when nobody answers."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request(method, f"/{path}")
        return json.loads(connection.getresponse().read())
    return None


def left_over(folder: Path) -> list[str]:
    """Processes that were started from this folder's runner: by command line or working folder."""
    found = [str(pid) for pid in cluster.processes_in(folder / "data" / "postgres" / "data")]
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            if f"SHOPS_FILE={folder}" in environment:
                found.append((entry / "cmdline").read_bytes().decode().replace("\0", " "))
    return found


def test_demo_json_tells_what_runs_once_all_is_ready(
    start: Start, folder: Path, base_port: int
) -> None:
    start("--demo")
    told = ready(folder)
    assert told["public"] == {
        "order-events": f"http://127.0.0.1:{base_port + 1}",
        "notifier": f"http://127.0.0.1:{base_port + 4}",
    }
    assert told["internal"]["notifier"] == f"http://127.0.0.1:{base_port + 1004}"
    assert told["smtp"] == f"smtp://127.0.0.1:{base_port + 25}"
    assert told["inbox"] == f"http://127.0.0.1:{base_port + 80}"
    assert told["shop"] == "demo"
    assert len(told["api_key"]) > 30
    assert set(told["webhook_secrets"]) == {
        "shopify", "woocommerce",
        "aftership", "easypost", "shippo", "seventeentrack", "shipengine", "sendcloud",
    }  # fmt: skip
    assert stat.S_IMODE((folder / "data" / "demo.json").stat().st_mode) == 0o600
    assert ask(told["inbox"] + "/api/messages") == []
    seen = ask(told["public"]["notifier"])
    assert seen["BUS_URL"] == "postgres:"
    assert seen["DATABASE_URL"].startswith("postgresql://")
    with socket.create_connection(("127.0.0.1", base_port + 25)) as smtp:
        assert smtp.recv(100).startswith(b"220 ")


def test_sigterm_stops_everything_and_leaves_no_process_and_no_port(
    start: Start, folder: Path, base_port: int
) -> None:
    runner = start("--demo")
    ready(folder)
    assert left_over(folder)
    runner.terminate()
    assert runner.wait(20) == 0
    assert not left_over(folder)
    assert taken_port(Options(base_port=base_port, demo=True)) is None
    assert not (folder / "data" / "demo.json").exists()
    out = (folder / "out").read_text()
    assert out.endswith("stopped\n")
    assert out.count("stand-in stops") == 2


def test_a_crashed_service_is_started_again(start: Start, folder: Path) -> None:
    start("--demo", DATABASE_URL=ELSEWHERE)
    url = ready(folder)["public"]["order-events"]
    first = ask(url)["pid"]
    ask(url, "POST")
    assert wait_for(lambda: (ask(url) or {}).get("pid", first) != first)
    assert "ended (code 3), starts again" in (folder / "out").read_text()


def test_a_killed_database_comes_back_at_the_same_address(start: Start, folder: Path) -> None:
    start("--demo")
    ready(folder)
    data = folder / "data" / "postgres" / "data"
    first = cluster.postmaster_pid(data)
    assert first is not None
    os.kill(first, signal.SIGKILL)

    def again() -> bool:
        pid = cluster.postmaster_pid(data)
        return pid not in (None, first) and cluster.is_ready(data, pid or 0)

    assert wait_for(again)


def test_a_runner_killed_with_kill_9_leaves_nothing(
    start: Start, folder: Path, base_port: int
) -> None:
    runner = start("--demo")
    ready(folder)
    runner.kill()
    runner.wait()
    assert wait_for(lambda: not left_over(folder))
    assert taken_port(Options(base_port=base_port, demo=True)) is None


def test_a_second_signal_kills_what_does_not_end(start: Start, folder: Path) -> None:
    runner = start("--demo", STAND_IN="stubborn", DATABASE_URL=ELSEWHERE)
    ready(folder)
    runner.send_signal(signal.SIGINT)
    time.sleep(1)
    assert runner.poll() is None
    runner.send_signal(signal.SIGINT)
    assert runner.wait(20) == 0
    assert not left_over(folder)


def test_ctrl_c_while_it_starts_leaves_nothing(start: Start, folder: Path) -> None:
    runner = start("--demo")
    wait_for((folder / "data" / "postgres").exists)
    runner.send_signal(signal.SIGINT)
    assert runner.wait(30) == 0
    assert not left_over(folder)


@pytest.mark.parametrize(("how", "again"), [("refuses", 2), ("misconfigured", 0)])
def test_a_service_that_refuses_to_start_ends_the_runner_with_its_line(
    start: Start, folder: Path, how: str, again: int
) -> None:
    runner = start("--demo", STAND_IN=how, DATABASE_URL=ELSEWHERE)
    assert runner.wait(40) == 1
    out = (folder / "out").read_text()
    assert len(re.findall(r"order-events .*starts again", out)) == again
    last = out.splitlines()[-1]
    assert last == "afterglow: order-events does not start: OPERATOR_KEYS is not set"
    assert not left_over(folder)


def test_a_taken_port_is_named_before_anything_starts(
    start: Start, folder: Path, base_port: int
) -> None:
    with socket.create_server(("127.0.0.1", base_port + 1004)):
        runner = start("--demo")
        assert runner.wait(20) == 1
    out = (folder / "out").read_text()
    assert out.startswith(f"afterglow: port {base_port + 1004} (notifier, internal) is taken")
    assert not (folder / "data").exists()


@pytest.mark.parametrize(
    ("environment", "missing"),
    [({}, "SHOPS_FILE"), ({"SHOPS_FILE": "shops.toml"}, "SMTP_URL")],
)
def test_without_demo_what_is_missing_is_named(
    start: Start, folder: Path, environment: dict[str, str], missing: str
) -> None:
    runner = start(**environment)
    assert runner.wait(20) == 1
    assert (folder / "out").read_text().startswith(f"afterglow: {missing} is not set")


def test_a_given_database_and_bus_are_used_and_no_server_is_started(
    start: Start, folder: Path
) -> None:
    start("--demo", DATABASE_URL=ELSEWHERE, BUS_URL="kafka://broker:9092")
    seen = ask(ready(folder)["public"]["notifier"])
    assert seen["DATABASE_URL"] == ELSEWHERE
    assert seen["BUS_URL"] == "kafka://broker:9092"
    assert not (folder / "data" / "postgres").exists()


def test_secrets_are_kept_between_starts_and_closed_to_others(start: Start, folder: Path) -> None:
    keys = []
    for _ in range(2):
        runner = start("--demo", DATABASE_URL=ELSEWHERE)
        told = ready(folder)
        keys.append((told["operator_key"], told["api_key"]))
        runner.terminate()
        assert runner.wait(20) == 0
    assert keys[0] == keys[1]
    for file in (folder / "data" / "secrets").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
