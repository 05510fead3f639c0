"""The benchmarks beside their baselines: `python -m tests.bench [--quick] [--only NAME] [--json FILE]`.

Rounds are interleaved: each runs every scenario once, so that all meet the same weather. The sink and the
generator are not counted; what is not on this machine is said. Compare ratios, not absolutes.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from tests.bench import report, scenarios
from tests.bench.scenarios import QUICK, Numbers, Size, WrongOutcome
from tests.bench.stack import Bench, bench

KAFKA = "KAFKA_BOOTSTRAP_SERVERS"
Scenario = Callable[[Bench, Size], Numbers]

SCENARIOS: dict[str, Scenario] = {
    "tutorial": lambda b, s: scenarios.tutorial(b, s, kept=True),
    "tutorial-new-connection": lambda b, s: scenarios.tutorial(b, s, kept=False),
    "raw": scenarios.raw,
    "dispatcher": scenarios.dispatcher,
    "chain": lambda b, s: scenarios.chain(b, s, "postgres"),
    "chain-kafka": lambda b, s: scenarios.chain(b, s, "kafka"),
    "ingest": lambda b, s: scenarios.ingest(b, s, "events"),
    "webhooks": lambda b, s: scenarios.ingest(b, s, "webhooks"),
    "scans": scenarios.scans,
    "latency": lambda b, s: scenarios.latency(b, s, "postgres"),
    "latency-kafka": lambda b, s: scenarios.latency(b, s, "kafka"),
    "watch": scenarios.watch,
}
ONCE = {"watch"}  # takes minutes, and what it shows does not change with the weather
LEGEND = """\
tutorial = (a): {source} -> Jinja2 -> EmailMessage -> aiosmtplib, one by one, one connection kept
raw = (b): one ready mail, pipelined by hand over 8 connections
rate: accepted mails (ingest, webhooks, scans: answered requests; watch: parcels swept);
ms: CPU of all processes for each"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="interleaved rounds (5, or 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer messages, one round")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="may be repeated")
    parser.add_argument("--json", type=Path, help="write all rounds, medians and verdicts here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is ended
    kafka = os.environ.get(KAFKA)
    names = [name for name in SCENARIOS if not options.only or name in options.only]
    if not kafka:
        skipped = [name for name in names if name.endswith("-kafka")]
        names = [name for name in names if name not in skipped]
        sys.stderr.write(
            f"SKIPPED for want of a broker ({KAFKA} is not set): {', '.join(skipped) or 'nothing'}; "
            "the tutorial reads from memory instead\n"
        )
    size = QUICK if options.quick else Size()
    count = options.rounds or (1 if options.quick else 5)
    rounds: dict[str, list[Numbers]] = {name: [] for name in names}
    with bench(kafka) as on:
        for note in on.notes:
            sys.stderr.write(f"NOTE: {note}\n")
        for turn in range(count):
            for name in names:
                if turn and name in ONCE:
                    continue
                rounds[name].append(_one(on, size, name, turn))
    finish(rounds, options.json, kafka)


def _one(on: Bench, size: Size, name: str, turn: int) -> Numbers:
    began = time.monotonic()
    try:
        numbers = SCENARIOS[name](on, size)
    except (WrongOutcome, TimeoutError) as error:
        raise SystemExit(f"{name}, round {turn + 1}: {error}") from error
    took = time.monotonic() - began
    said = f"{numbers['rate']:.0f}/s, {numbers['ms']:.3f} ms CPU"
    sys.stderr.write(f"round {turn + 1}: {name}: {said} ({took:.0f} s)\n")
    return numbers


def finish(rounds: dict[str, list[Numbers]], path: Path | None, kafka: str | None) -> None:
    found = report.medians(rounds)
    print(LEGEND.format(source="aiokafka" if kafka else "a list in memory"))
    print()
    print(report.table(found))
    print()
    print(report.judgement(found))
    if path is not None:
        verdicts = [
            {
                "name": v.name,
                "value": v.value,
                "limit": v.limit,
                "at_least": v.at_least,
                "met": v.met,
            }
            for v in report.verdicts(found)
        ]
        whole = {"rounds": rounds, "medians": found, "targets": verdicts, "kafka": bool(kafka)}
        path.write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
