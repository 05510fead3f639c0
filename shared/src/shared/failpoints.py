"""Named places where a test may make this process crash, raise or stall; inert unless FAILPOINTS is set.

FAILPOINTS="di.after_mark=kill@p=0.01,co.before_commit=hang:90@n=3" kills with that probability at each
pass, or acts at the n-th pass only. Actions: kill (SIGKILL to itself), raise, hang:SECONDS (blocks the
whole process, as a frozen machine would), sleep:SECONDS (lets the event loop go on).
"""

import asyncio
import os
import random
import re
import signal
import time
from dataclasses import dataclass

POINTS = frozenset(
    {
        "oe.before_commit",  # order-events: a request's transaction is written, not committed
        "oe.after_commit",  # committed, the caller has no answer yet
        "rl.after_publish",  # relay: the bus has the records, the outbox is not marked
        "rl.after_commit",
        "co.before_commit",  # consumer: state and journal written, not committed
        "co.after_commit",  # committed, the offset is not
        "tr.before_commit",  # tracking: scans of a request are folded and written, not committed
        "tr.after_commit",  # committed, the caller has no answer yet
        "sw.before_commit",  # sweep: what came due is written, not committed
        "sw.after_commit",
        "wa.after_call",  # watch: the aggregator has answered, nothing is recorded
        "di.after_claim",  # dispatcher: rows claimed, nothing sent
        "di.before_mark",  # the body is written to the server, the mark is not asked for
        "di.after_mark",  # the durable mark is on disk, the dot is not written
        "di.after_dot",  # the dot is written, no reply read
        "di.after_reply",  # the server's answer is known to nobody but this process
        "di.after_record",
    }
)


_PART = re.compile(
    r"(?P<name>[a-z_.]+)=(?P<verb>kill|raise|hang|sleep)(?::(?P<seconds>\d+(?:\.\d+)?))?"
    r"(?:@p=(?P<p>0?\.\d+|[01]))?(?:@n=(?P<n>\d{1,9}))?"
)


@dataclass
class _Armed:
    action: str
    seconds: float
    probability: float
    nth: int
    passes: int = 0


_armed: dict[str, _Armed] = {}


def arm(spec: str) -> None:
    """Read a FAILPOINTS text; raises ValueError that names the part it cannot read."""
    _armed.clear()
    for part in filter(None, (p.strip() for p in spec.split(","))):
        match = _PART.fullmatch(part)
        if match is None or match["name"] not in POINTS:
            message = f"FAILPOINTS: cannot read {part!r}"
            raise ValueError(message)
        _armed[match["name"]] = _Armed(
            match["verb"],
            float(match["seconds"] or 0),
            float(match["p"] or 1),
            int(match["n"] or 0),
        )


async def failpoint(name: str) -> None:
    """Do what FAILPOINTS asks for at this place; nothing in production."""
    if _armed and (point := _armed.get(name)) is not None:
        await _act(name, point)


async def _act(name: str, point: _Armed) -> None:
    point.passes += 1
    number = point.passes
    await asyncio.sleep(0.001)  # what was written to a socket before this place leaves first
    if point.nth and number != point.nth:
        return
    if random.random() > point.probability:  # noqa: S311 - a test's dice
        return
    match point.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            message = f"failpoint {name}"
            raise RuntimeError(message)
        case "hang":
            time.sleep(point.seconds)  # noqa: ASYNC251 - a frozen process is what is tested
        case _:
            await asyncio.sleep(point.seconds)
