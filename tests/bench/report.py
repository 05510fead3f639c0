"""From rounds to a verdict: medians, ratios to the baselines of the same run, targets met or not."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Rounds = Mapping[str, Sequence[Mapping[str, float]]]
Medians = Mapping[str, Mapping[str, float]]

BASELINE = "tutorial"


@dataclass(frozen=True)
class Target:
    """A number to reach: `value` of the medians against `limit`, at most or at least."""

    name: str
    needs: tuple[str, ...]
    value: Callable[[Medians], float]
    limit: Callable[[Medians], float]
    at_least: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    name: str
    value: float
    limit: float
    at_least: bool
    unit: str

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def _cpu_ratio(name: str) -> Callable[[Medians], float]:
    return lambda medians: medians[name]["ms"] / medians[BASELINE]["ms"]


def _largest_rss(medians: Medians) -> float:
    return max(v for m in medians.values() for k, v in m.items() if k.startswith("rss_"))


TARGETS = (
    Target(
        "dispatcher: CPU per message / (a)",
        ("dispatcher", BASELINE),
        _cpu_ratio("dispatcher"),
        lambda _: 0.17,
        unit="x",
    ),
    Target(
        "dispatcher: rate / (a)",
        ("dispatcher", BASELINE),
        lambda m: m["dispatcher"]["rate"] / m[BASELINE]["rate"],
        lambda _: 6,
        at_least=True,
        unit="x",
    ),
    Target(
        "chain on PostgresBus: CPU per order / (a)",
        ("chain", BASELINE),
        _cpu_ratio("chain"),
        lambda _: 0.45,
        unit="x",
    ),
    Target(
        "chain on Kafka: CPU per order / (a)",
        ("chain-kafka", BASELINE),
        _cpu_ratio("chain-kafka"),
        lambda _: 0.55,
        unit="x",
    ),
    Target(
        "latency at 100/s, p50",
        ("latency",),
        lambda m: m["latency"]["p50_ms"],
        lambda m: 10 + 8 * m["latency"]["commit_ms"],
        unit="ms",
    ),
    Target(
        "ingest: events per second and process",
        ("ingest",),
        lambda m: m["ingest"]["rate"],
        lambda _: 1000,
        at_least=True,
        unit="/s",
    ),
    Target(
        "scans per second and process",
        ("scans",),
        lambda m: m["scans"]["rate"],
        lambda _: 1000,
        at_least=True,
        unit="/s",
    ),
    Target(
        "a million parcels idle: share of a core",
        ("watch",),
        lambda m: m["watch"]["idle_percent"],
        lambda _: 2,
        unit="%",
    ),
    Target(
        "a million parcels: sweep of all that is due",
        ("watch",),
        lambda m: m["watch"]["sweep_s"],
        lambda _: 60,
        unit="s",
    ),
    Target("largest service, resident", ("chain",), _largest_rss, lambda _: 150, unit="MB"),
)


def medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    """Return the median of every number over the rounds of each scenario."""
    return {
        name: {key: statistics.median(r[key] for r in done) for key in done[0]}
        for name, done in rounds.items()
        if done
    }


def verdicts(found: Medians) -> list[Verdict]:
    """Judge every target whose scenarios ran."""
    return [
        Verdict(t.name, t.value(found), t.limit(found), t.at_least, t.unit)
        for t in TARGETS
        if all(need in found for need in t.needs)
    ]


def table(found: Medians) -> str:
    """Return absolutes and ratios to the tutorial, a line for each scenario, its parts below."""
    base = found.get(BASELINE, {}).get("ms")
    lines = [f"{'scenario':<26}{'per s':>9}{'ms CPU':>9}{'/ (a)':>8}  of which"]
    for name, numbers in found.items():
        ratio = f"{numbers['ms'] / base:.3f}" if base else "-"
        lines.append(
            f"{name:<26}{numbers['rate']:>9.0f}{numbers['ms']:>9.3f}{ratio:>8}  {_parts(numbers)}"
        )
    return "\n".join(lines)


def _parts(numbers: Mapping[str, float]) -> str:
    shown = []
    for key, value in numbers.items():
        if key in {"rate", "ms"}:
            continue
        if key.startswith("ms_"):
            shown.append(f"{key[3:]} {value:.3f}")
        elif key.startswith("rss_"):
            shown.append(f"{key[4:]} {value:.0f} MB")
        elif key.endswith("_percent"):
            shown.append(f"{key.removesuffix('_percent')} {value:.2f} %")
        elif key.endswith("_s"):
            shown.append(f"{key.removesuffix('_s')} {value:.1f} s")
        else:
            shown.append(f"{key.removesuffix('_ms')} {value:.2f} ms")
    return ", ".join(shown)


def judgement(found: Medians) -> str:
    """Return the targets, each with what was reached."""
    lines = [f"{'target':<44}{'reached':>12}{'wanted':>14}  met"]
    for v in verdicts(found):
        wanted = f"{'>=' if v.at_least else '<='} {v.limit:.2f} {v.unit}"
        reached = f"{v.value:.3f} {v.unit}"
        lines.append(f"{v.name:<44}{reached:>12}{wanted:>14}  {'yes' if v.met else 'NO'}")
    return "\n".join(lines)
