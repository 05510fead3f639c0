"""The kill test: real processes are killed at random under load, then a checker reads everything.

    python -m tests.chaos [--orders 20000] [--kills 40] [--bus postgres|kafka|both] [--seconds N]
                          [--seed S] [--soak] [--json FILE] [--keep FOLDER]

With --seconds it is over, both buses included, in about that time; later where the machine is so busy
that not every failpoint was reached by then. Kafka is the broker that
KAFKA_BOOTSTRAP_SERVERS names; on one broker only one run at a time makes sense. Exit 1 when any
promise was broken.
"""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.checker import check, summary, timeline
from tests.chaos.evidence import gather
from tests.chaos.history import Violation
from tests.chaos.rig import EVERYWHERE, Plan, Rig

SHOWN_PER_RULE = 3

SOAK_SECONDS = 3600.0
PATIENCE_SECONDS = 120.0  # so much longer it may storm while some failpoint was not reached
OVERHEAD_SECONDS = (45.0, 56.0)  # of one run, of two: start, last failpoints, drain, reading


@dataclass(frozen=True, slots=True)
class Result:
    """What one run found."""

    violations: Sequence[Violation]
    figures: dict[str, Any]


def say(text: str) -> None:
    print(text, flush=True)


async def run(plan: Plan, name: str, *, keep: Path | None = None, quiet: bool = False) -> Result:
    """Do one run in a folder of its own and judge it."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="afterglow-chaos-"))
    try:
        rig = Rig(plan, folder, lambda text: say(f"[{name}] {text}"))
        async with rig.running():
            rig.say(f"ready after {time.monotonic() - began:.0f} s, seed {plan.seed}")
            load = rig.load()
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                await rig.storm(load)
                calm = time.monotonic()
                while not load.ended:
                    if time.monotonic() - calm > 60:
                        load.hurry.set()
                        load.over.set()
                    await asyncio.sleep(0.1)
            rig.say(f"{load.told} orders told; draining")
            drained = await rig.drain()
            rig.say(f"drained after {time.monotonic() - calm:.0f} s" if drained else "not drained")
            await rig.stop_sink()
            history = await gather(rig)
        violations = [*check(history), *_points_missed(plan, rig)]
        figures = _figures(rig, load.told, load.counts, began) | summary(history)
        if not quiet:
            _report(name, figures, violations, history, rig)
        if keep is not None:
            shutil.copytree(
                folder, keep / name, ignore=shutil.ignore_patterns("postgres", "sources")
            )
        return Result(violations, figures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _points_missed(plan: Plan, rig: Rig) -> list[Violation]:
    missed = [point for point in plan.points if not rig.fired[point] and not plan.again]
    return [Violation("the rig", f"no process died at {point}") for point in missed]


def _figures(rig: Rig, told: int, answers: Counter[str], began: float) -> dict[str, Any]:
    kills = {kind: sum(p.kills for p in processes) for kind, processes in rig.hosts.items()}
    return {
        "seed": rig.plan.seed,
        "seconds": round(time.monotonic() - began, 1),
        "orders told": told,
        "answers": dict(answers),
        "kills": rig.kills,
        "kills by service": kills,
        "deaths at failpoints": dict(sorted(rig.fired.items())),
        "freezes": rig.freezes,
        "restarts of postgres": rig.restarts,
        "parcels registered": len(rig.aggregator.numbers),
        "mail server faults": dict(sorted(rig.sink_struck.items())),
    }


def _report(
    name: str, figures: dict[str, Any], violations: Sequence[Violation], history: Any, rig: Rig
) -> None:
    for what, value in figures.items():
        say(f"[{name}]   {what}: {value}")
    if not violations:
        say(f"[{name}] GREEN: lost 0, sent twice 0, unexplained 0")
        return
    rules = Counter(v.rule for v in violations)
    say(f"[{name}] RED: " + ", ".join(f"{rule} {n}" for rule, n in rules.items()))
    shown: Counter[str] = Counter()
    for violation in violations:
        shown[violation.rule] += 1
        if shown[violation.rule] <= SHOWN_PER_RULE:
            say(f"[{name}]   {violation.rule}: {violation.order or ''} {violation.text}")
    first = next((v for v in violations if v.order), None)
    if first is not None and first.order is not None:
        say(f"[{name}] the first counter-example, {first.order} ({first.rule}):")
        for line in timeline(history, first.order):
            say(f"[{name}]     {line}")
    say(f"[{name}] what was done to the processes:")
    for line in rig.log:
        say(f"[{name}]     {line}")


# ---------------------------------------------------------------- the command line


def _plan(options: argparse.Namespace, bus: str, servers: str | None, runs: int) -> Plan:
    url = f"kafka://{servers}" if bus == "kafka" else "postgres:"
    # A broker notices a dead reader after ten seconds only, so its readers get more time to read.
    slow = runs if bus == "postgres" else 1.6 * runs
    share = 0.5 if runs == 1 and bus == "postgres" else 0.3
    common: dict[str, Any] = {
        "bus_url": url,
        "seed": options.seed,
        "pause": (0.5 * slow, 1.6 * slow),
        "victims": {"notifier": share, "tracking": 0.3, "orders": 0.7 - share},
        "calm_seconds": 0 if bus == "postgres" else 12,
    }
    if options.soak or options.seconds:
        overhead = OVERHEAD_SECONDS[runs - 1]
        storm = (options.seconds or SOAK_SECONDS) - overhead
        if storm < 10:
            raise SystemExit(f"chaos: --seconds must be {overhead + 10:.0f} or more")
        return Plan(
            **common,
            orders=0,
            kills=0,
            seconds=storm,
            storm_seconds_max=storm + PATIENCE_SECONDS,
            points=_points(bus, runs),
            drain_seconds=30 if storm < 200 else 180,
            per_second=35,
            restarts=max(1, int(storm / 120)),
        )
    return Plan(
        **common,
        orders=options.orders,
        kills=options.kills,
        seconds=30,
        storm_seconds_max=1200,
        drain_seconds=180,
        restarts=2,
    )


def _points(bus: str, runs: int) -> tuple[str, ...]:
    """Return where processes are to die: everywhere, or, of two short runs, where each bus matters."""
    if runs == 1:
        return EVERYWHERE
    of_the_bus = {p for p in EVERYWHERE if "/co." in p or "/rl." in p}
    return tuple(p for p in EVERYWHERE if (p in of_the_bus) == (bus == "kafka"))


def _buses(wanted: str | None, servers: str | None) -> list[str]:
    if wanted in {"kafka", "both"} and not servers:
        raise SystemExit("chaos: KAFKA_BOOTSTRAP_SERVERS does not name a broker")
    if wanted is None:
        if not servers:
            say("chaos: POSTGRES BUS ONLY. Set KAFKA_BOOTSTRAP_SERVERS to test Kafka as well.")
        wanted = "both" if servers else "postgres"
    return ["postgres", "kafka"] if wanted == "both" else [wanted]


async def run_all(plans: dict[str, Plan], keep: Path | None, *, at_once: bool) -> dict[str, Result]:
    """Do all runs, side by side or one after the other."""
    if not at_once:
        return {bus: await run(plan, bus, keep=keep) for bus, plan in plans.items()}
    async with asyncio.TaskGroup() as group:
        tasks = {b: group.create_task(run(plan, b, keep=keep)) for b, plan in plans.items()}
    return {bus: task.result() for bus, task in tasks.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--bus", choices=("postgres", "kafka", "both"))
    parser.add_argument("--seconds", type=float, help="bound the whole run by time instead")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--soak", action="store_true", help="go on for an hour, or --seconds")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--keep", type=Path, help="keep logs and records of the runs here")
    options = parser.parse_args()
    # whoever asks it to end gets everything stopped, as with Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    buses = _buses(options.bus, servers)
    at_once = bool(options.seconds or options.soak)
    runs = len(buses) if at_once else 1
    plans = {bus: _plan(options, bus, servers, runs) for bus in buses}
    results = asyncio.run(run_all(plans, options.keep, at_once=at_once))
    if options.json:
        told = {b: r.figures | {"violations": len(r.violations)} for b, r in results.items()}
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    red = [bus for bus, result in results.items() if result.violations]
    say(f"chaos: {'RED on ' + ' and '.join(red) if red else 'green'}, seed {options.seed}")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
