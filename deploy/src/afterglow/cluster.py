"""What a PostgreSQL data folder says about itself: its version, its server, who works in it."""

import contextlib
import os
from pathlib import Path

_STATUS_LINE = 7


def data_major(data: Path) -> int | None:
    """Return the major version that wrote this data folder; None when there is no data yet.

    Raises PermissionError when the folder belongs to another user.
    """
    try:
        return int((data / "PG_VERSION").read_text().split(".")[0])
    except FileNotFoundError:
        return None


def processes_in(folder: Path) -> list[int]:
    """Return the processes that work in this folder, as every process of a server does (Linux)."""
    real = os.path.realpath(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((entry / "cwd").readlink()) == real:
                found.append(int(entry.name))
    return found


def _postmaster_lines(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


def postmaster_pid(data: Path) -> int | None:
    """Return the server's process id as noted in the folder; it may be long gone."""
    lines = _postmaster_lines(data)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def is_ready(data: Path, pid: int) -> bool:
    """Say whether this process serves the folder and takes connections, as pg_ctl finds out."""
    lines = _postmaster_lines(data)
    return len(lines) > _STATUS_LINE and lines[0] == str(pid) and "ready" in lines[_STATUS_LINE]


def exists(pid: int) -> bool:
    """Say whether any process has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
