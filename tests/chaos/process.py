"""One service of a run as a process: killed, frozen, started again, and told where to die next."""

import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp

from afterglow.guardian import Guardian

SERVICES = {"orders": "order_events", "tracking": "tracking", "notifier": "notifier"}
ROOT = Path(__file__).parents[2]
ORDERLY_SECONDS = 8.0
LOOK_SECONDS = 0.25  # how often one that starts is asked whether it is ready


class Process:
    """A program that is started again whenever it ends, until it is to stop."""

    def __init__(
        self, kind: str, number: int, env: dict[str, str], folder: Path, guardian: Guardian
    ) -> None:
        self.kind = kind
        self.name = f"{SERVICES[kind]}-{number}"
        self.command = [sys.executable, "-m", SERVICES[kind]]
        self.env = env
        self.log = folder / f"{self.name}.log"
        self.guardian = guardian
        self.next_points = ""
        self.armed = ""
        self.armed_at = 0.0
        self.kills = 0
        self.frozen = False
        self.ready = False
        self.ended_at = 0.0
        self.fired: Counter[str] = Counter()
        self.crashes: list[str] = []
        self.process: asyncio.subprocess.Process | None = None
        self._ours = False
        self._ending = False

    async def keep(self) -> None:
        """Run it again and again."""
        while not self._ending:
            self.armed, self.next_points = self.next_points, ""
            self.armed_at, self._ours = time.monotonic(), False
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *self.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                    env=self.env | {"FAILPOINTS": self.armed or self.env.get("FAILPOINTS", "")},
                    start_new_session=True,
                )
            self.guardian.watch(self.process.pid)
            asking = asyncio.create_task(self._become_ready())
            code = await self.process.wait()
            asking.cancel()
            self.ready = False
            self.guardian.forget(self.process.pid)
            self.frozen, self.ended_at = False, time.monotonic()
            if not self._ours:
                self._ended_by_itself(code)

    async def _become_ready(self) -> None:
        url = f"http://127.0.0.1:{self.env['INTERNAL_PORT']}/readyz"
        async with aiohttp.ClientSession() as session:
            while not self.ready:
                await asyncio.sleep(LOOK_SECONDS)
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url) as answer:
                        self.ready = answer.ok

    def _ended_by_itself(self, code: int) -> None:
        point = self.armed.partition("=")[0]
        if code == -signal.SIGKILL and "=kill" in self.armed:
            self.fired[f"{self.kind}/{point}"] += 1
            self.kills += 1
        else:
            tail = self.log.read_text(errors="replace").splitlines()[-1:]
            self.crashes.append(f"{self.name} ended with {code}: {' '.join(tail)[-1500:]}")

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def ending(self) -> bool:
        return self.alive and self._ours

    def kill(self, points: str = "") -> None:
        """End it as a power cut would; it starts again with these failpoints."""
        if self.process is None or self.process.returncode is not None:
            return
        self.next_points, self._ours = points, True
        self.kills += 1
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    async def renew(self, points: str) -> None:
        """End it in an orderly way; it starts again with these failpoints."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        self.next_points, self._ours = points, True
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), ORDERLY_SECONDS)
        except TimeoutError:
            self.kill(points)

    async def freeze(self, seconds: float) -> None:
        """Stop it as a paused machine would, and let it go on."""
        process = self.process
        if process is None or process.returncode is not None or self.frozen:
            return
        self.frozen = True
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            self.frozen = False

    async def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 10) -> None:
        """End it for good: asked first, forced after that."""
        self._ending = self._ours = True
        if self.process is None or self.process.returncode is not None:
            return
        for sign in (number, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(sign)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), seconds)
                return
