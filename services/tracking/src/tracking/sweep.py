"""The loop that lets time pass: orders whose check has come, and carriers' habits learned.

Several replicas share the work: what one has locked, the others skip.
"""

import asyncio
from typing import Final

import structlog

from shared.errors import Retry
from shared.life import Life
from shared.store import is_transient
from tracking.domain.pace import REAL_DAY_SECONDS
from tracking.handlers import SWEEP_MAX, Tracking

POLL_SECONDS: Final = 1.0
LEARN_SECONDS: Final = 5.0
AT_ONCE: Final = 2  # while much is due: one is folded while the database works for the other
log = structlog.get_logger(__name__)


class Sweep:
    """Asks every second what is due: that costs one look at an index while nothing is."""

    def __init__(
        self,
        tracking: Tracking,
        *,
        day_seconds: float = REAL_DAY_SECONDS,
        limit: int = SWEEP_MAX,
    ) -> None:
        self._tracking = tracking
        self._limit = limit
        self._poll = min(POLL_SECONDS, day_seconds / 50)
        self._learn_in = 0.0
        self._at_once = 1

    async def run(self, life: Life) -> None:
        """Work until the process stops; an unreachable database only delays."""
        while not life.stopping.is_set():
            life.turned("sweep")
            try:
                more = await self.step()
            except Exception as error:
                if not (is_transient(error) or isinstance(error, Retry)):
                    raise
                log.warning("sweep_waits", reason=type(error).__name__)
                more = False
            if not more:
                await life.sleep(self._poll)
        life.ended("sweep")

    async def step(self) -> bool:
        """Do what is due, a bounded part of it; True when there is more."""
        sweeps = (self._tracking.sweep(self._limit) for _ in range(self._at_once))
        done = await asyncio.gather(*sweeps, return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome
        more = self._limit in done
        self._at_once = AT_ONCE if more else 1
        self._learn_in -= self._poll
        if not more and self._learn_in <= 0:
            more = await self._tracking.learn() > 0
            self._learn_in = 0.0 if more else LEARN_SECONDS
        return more
