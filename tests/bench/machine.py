"""Processes and what they cost, as /proc tells (Linux): CPU of whole trees, resident memory."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import orjson

ROOT = Path(__file__).parent.parent.parent
_TICK = os.sysconf("SC_CLK_TCK")
_PPID, _FIRST_TIME, _LAST_TIME = 1, 11, 15  # places in /proc/PID/stat behind the name


def _stats() -> dict[int, list[str]]:
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                text = Path(entry.path, "stat").read_text()
                found[int(entry.name)] = text.rpartition(")")[2].split()
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return what these processes, their descendants and their dead children have used so far."""
    stats = _stats()
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[_PPID]), []).append(pid)
    ticks, waiting, seen = 0, list(roots), set()
    while waiting:
        pid = waiting.pop()
        if pid in seen or pid not in stats:
            continue
        seen.add(pid)
        ticks += sum(map(int, stats[pid][_FIRST_TIME:_LAST_TIME]))
        waiting += children.get(pid, ())
    return ticks / _TICK


def rss_mb(pid: int) -> float:
    """Return the resident memory of one process in megabytes (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def listener(port: int) -> int | None:
    """Return the process that listens on this local TCP port, None when it is not on this machine."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()) in inodes:
                return int(entry.parts[2])
    return None


class Child:
    """A process of ours that talks in JSON lines; ended when its block is left."""

    def __init__(self, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
        self.pid = self.process.pid

    def tell(self, line: bytes | str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.wait()}")
        said: dict[str, Any] = orjson.loads(line)
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)


def end(process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """Ask a process to end and wait; kill it when it does not."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def until(holds: Callable[[], bool], seconds: float, what: str, each: float = 0.002) -> None:
    """Wait until something holds; raises TimeoutError with what was waited for."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still not: {what}")
        time.sleep(each)
