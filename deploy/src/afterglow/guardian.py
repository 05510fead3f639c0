"""Ends what the runner started when the runner itself is gone, even by kill -9.

One small process per runner holds the read end of a pipe whose only write end is the runner's. When
the pipe closes, however the runner ended, the guardian asks every listed process group to stop, in
the reverse order of starting, and ends by force what does not. This needs no support from the
children, works for processes of another user and, unlike the parent-death signal of Linux, does not
depend on which thread started the child.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_GRACE_SECONDS = 15.0
_QUIT_SECONDS = 5.0
_POLL_SECONDS = 0.05


class Guardian:
    """The runner's end of the pipe: says which process groups must not outlive this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "afterglow.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def watch(self, group: int, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        """List a process group (its leader's id) and the signal that asks it to stop."""
        self._tell(f"+ {group} {int(stop_signal)}\n")

    def forget(self, group: int) -> None:
        """Take a group off the list: its leader has been waited for, so its id may be given away."""
        self._tell(f"- {group} 0\n")

    def close(self) -> None:
        """End the guardian; what is still listed is ended first."""
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; False when nothing of it is left."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end(group: int, stop_signal: int) -> None:
    # SIGQUIT before SIGKILL: a database server then ends its own children as well
    for number, seconds in (
        (stop_signal, _GRACE_SECONDS),
        (signal.SIGQUIT, _QUIT_SECONDS),
        (signal.SIGKILL, 0.0),
    ):
        deadline = time.monotonic() + seconds
        alive = _signal_group(group, number)
        while alive and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            alive = _signal_group(group, 0) and not _is_zombie(group)
        if not alive:
            return


def _is_zombie(pid: int) -> bool:
    """Say whether it has ended and only waits for its parent (Linux); a container's may never come."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def main() -> None:
    """Keep the list until the pipe closes, then end what is on it."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, int] = {}
    for line in sys.stdin:
        action, group, number = line.split()
        groups.pop(int(group), None)
        if action == "+":
            groups[int(group)] = int(number)
    for group, stop_signal in reversed(groups.items()):
        _end(group, stop_signal)


if __name__ == "__main__":
    main()
