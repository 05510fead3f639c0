"""The breaker of a mail route: when to leave a server alone, and when to try it again."""

import asyncio
from collections import deque
from typing import Final

import structlog

from shared.observability import BREAKER_OPEN

ROUTE_PAUSE_SECONDS: Final = (1.0, 60.0)  # a server that is away: first pause, longest pause
FAULT_PAUSE_SECONDS: Final = (15.0, 300.0)  # a server that will not have us: a person is needed
BREAKS_MAX: Final = 3  # exchanges in a row that broke off without an answer
POLICY_WINDOW, POLICY_SHARE = 200, 0.05
log = structlog.get_logger(__name__)


class Route:
    """Whether the mail server is to be bothered: closed, or open until a time, then one probe."""

    def __init__(self) -> None:
        self._open_until = 0.0
        self._faults = 0
        self._breaks = 0
        self._refusals: deque[bool] = deque(maxlen=POLICY_WINDOW)

    @property
    def waits(self) -> float:
        """Return for how many seconds nothing may be offered."""
        return max(0.0, self._open_until - asyncio.get_running_loop().time())

    @property
    def probing(self) -> bool:
        """Tell whether only one message may be offered, to see if the fault is over."""
        return self._faults > 0

    def stop(self, reason: str, *, retryable: bool) -> None:
        """Open the breaker: messages stay, nobody offers them."""
        first, longest = ROUTE_PAUSE_SECONDS if retryable else FAULT_PAUSE_SECONDS
        if self.waits:
            return
        seconds = min(first * 2**self._faults, longest)
        self._faults += 1
        self._open_until = asyncio.get_running_loop().time() + seconds
        BREAKER_OPEN.labels("smtp").set(1)
        log.error("route_stopped", reason=reason, seconds=seconds, needs_a_person=not retryable)

    def broke(self, reason: str) -> None:
        """Note an exchange without a definite answer; some in a row stop the route."""
        self._breaks += 1
        if self._breaks >= BREAKS_MAX:
            self._breaks = 0
            self.stop(reason, retryable=True)

    def works(self, *, policy: bool = False) -> None:
        """Note a definite answer of the server; too many refusals by policy stop the route."""
        self._breaks = 0
        self._refusals.append(policy)
        if len(self._refusals) == POLICY_WINDOW and (
            sum(self._refusals) > POLICY_WINDOW * POLICY_SHARE
        ):
            self._refusals.clear()
            self.stop("policy", retryable=False)
            return
        if self._faults:
            self._faults = 0
            BREAKER_OPEN.labels("smtp").set(0)
            log.info("route_works_again")
