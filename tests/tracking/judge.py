"""What a delay detector's warnings are worth, against the truth of simulated parcels.

A warning counts only when it comes before the promised day ends where the parcel goes. Results are
the lines of `afterglow delays backtest --json`; its summary, which has no `warnings`, is passed by.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median, quantiles
from typing import Any, Final

from tests.tracking.histories import Truth, day_of, free_days, works

SILENT_CAUSES: Final = (
    "silen",
    "stall",
    "no_scan",
    "not_collected",
    "never_collected",
    "uncollected",
)
"""Parts of the causes that mean: nothing was heard. The others may speak up on a Sunday."""

_SUNDAY: Final = 6


@dataclass(slots=True)
class Score:
    """`missed`, `false` and `overdue` are ids; lead times are hours before the promised day's end."""

    parcels: int = 0
    on_time: int = 0
    foreseeable: int = 0
    caught: int = 0
    late_told: int = 0  # late parcels warned about in time, foreseeable or not
    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)  # on time, warned about before the day's end
    overdue: list[str] = field(default_factory=list)  # on time, warned about only afterwards
    absent: list[str] = field(default_factory=list)  # parcels without a result
    missed_problems: Counter[str] = field(default_factory=Counter)
    false_causes: Counter[str] = field(default_factory=Counter)
    silence_on_free_days: list[tuple[str, str, str]] = field(default_factory=list)
    any_on_free_days: Counter[str] = field(default_factory=Counter)
    silence_on_rest_days: int = 0  # Saturdays of carriers that do not work then
    leads: list[float] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return self.caught / self.foreseeable if self.foreseeable else 1.0

    @property
    def precision(self) -> float:
        told = self.late_told + len(self.false)
        return self.late_told / told if told else 1.0

    @property
    def false_per_1000(self) -> float:
        return 1000 * len(self.false) / self.on_time if self.on_time else 0.0

    @property
    def false_ever_per_1000(self) -> float:
        """As `false_per_1000`, with the warnings that came after the promised day too."""
        wrong = len(self.false) + len(self.overdue)
        return 1000 * wrong / self.on_time if self.on_time else 0.0

    def __str__(self) -> str:
        leads = self.leads if len(self.leads) > 1 else [*self.leads, 0.0, 0.0]
        return (
            f"recall {self.recall:.3f} ({self.caught}/{self.foreseeable}), "
            f"precision {self.precision:.3f}, false per 1,000 {self.false_per_1000:.1f} "
            f"(ever {self.false_ever_per_1000:.1f}), "
            f"silence on Sundays and holidays {len(self.silence_on_free_days)}, "
            f"on Saturdays off {self.silence_on_rest_days}, "
            f"lead h median {median(leads):.0f} p10 {quantiles(leads, n=10)[0]:.0f}, "
            f"no result {len(self.absent)}; "
            f"missed {dict(self.missed_problems)}, false {dict(self.false_causes)}"
        )


def judge(truths: Iterable[Truth], results: Iterable[Mapping[str, Any]]) -> Score:
    """Compare what was warned of with what was true."""
    said = {str(line["id"]): line["warnings"] for line in results if "warnings" in line}
    score = Score()
    for truth in truths:
        score.parcels += 1
        if truth.id not in said:
            score.absent.append(truth.id)
        warnings = sorted((_when(w), str(w["cause"])) for w in said.get(truth.id, ()))
        in_time = [w for w in warnings if w[0] < truth.deadline]
        if truth.late:
            _judge_late(score, truth, in_time)
        else:
            score.on_time += 1
            if in_time:
                score.false.append(truth.id)
                score.false_causes[in_time[0][1]] += 1
            elif warnings:
                score.overdue.append(truth.id)
        for at, cause in warnings:
            _judge_day(score, truth, at, cause)
    return score


def _when(warning: Mapping[str, Any]) -> datetime:
    at = datetime.fromisoformat(warning["at"])
    assert at.tzinfo is not None, "a warning's time needs a zone"
    return at


def _judge_late(score: Score, truth: Truth, in_time: list[tuple[datetime, str]]) -> None:
    score.late_told += bool(in_time)
    if in_time:
        score.leads.append((truth.deadline - in_time[0][0]) / timedelta(hours=1))
    if truth.foreseeable:
        score.foreseeable += 1
        score.caught += bool(in_time)
        if not in_time:
            score.missed.append(truth.id)
            score.missed_problems[f"{truth.problem}: {'+'.join(truth.why)}"] += 1


def _judge_day(score: Score, truth: Truth, at: datetime, cause: str) -> None:
    """Note a warning on a Sunday or a public holiday, where the parcel comes from or goes to."""
    silent = any(part in cause for part in SILENT_CAUSES)
    for country in sorted({truth.ship_from, truth.ship_to}):
        day = day_of(country, at)
        if day.weekday() == _SUNDAY or day in free_days(country):
            score.any_on_free_days[cause] += 1
            if silent:
                score.silence_on_free_days.append((truth.id, cause, f"{day} {country}"))
            return
    here = day_of(truth.ship_to, at)
    if silent and not works(truth.ship_to, here, saturdays=truth.saturdays):
        score.silence_on_rest_days += 1


def explain(
    ids: Iterable[str],
    lines: Iterable[Mapping[str, Any]],
    truths: Iterable[Truth],
    results: Iterable[Mapping[str, Any]],
    limit: int = 10,
) -> str:
    """Tell the stories of these parcels (say `score.missed`), as they came in, for a reader."""
    wanted = list(ids)[:limit]
    stories = {str(line["id"]): line for line in lines}
    truth_of = {truth.id: truth for truth in truths}
    said = {str(line["id"]): line for line in results if "warnings" in line}
    return "\n\n".join(_story(stories[i], truth_of[i], said.get(i)) for i in wanted)


def _story(line: Mapping[str, Any], truth: Truth, result: Mapping[str, Any] | None) -> str:
    promise = line["promise"]
    head = (
        f"{truth.id}: {truth.carrier}{' (Sat)' if truth.saturdays else ''} "
        f"{truth.ship_from} to {truth.ship_to}, promised {promise['from']}..{promise['to']}, "
        f"{'LATE' if truth.late else 'on time'}, problem {truth.problem}, "
        f"foreseeable {'+'.join(truth.why) or 'no'} since {truth.evidence_at}"
    )
    events = [
        (line["placed_at"], "placed"),
        (line["shipped_at"] or "never", "shipped"),
        (line["delivered_at"] or "never", "DELIVERED"),
        (truth.deadline.isoformat().replace("+00:00", "Z"), "promised day ends"),
        *((scan["received_at"], _scan_words(scan)) for scan in line["scans"]),
    ]
    for warning in result["warnings"] if result else ():
        new = warning.get("new_date")
        events.append((_utc(warning["at"]), f"!! {warning['cause']}, new date {json.dumps(new)}"))
    if result and result.get("recovered_at"):
        events.append((_utc(result["recovered_at"]), "recovered"))
    return "\n".join([head, *(f"  {at[:16]:16}  {what}" for at, what in sorted(events))])


def _scan_words(scan: Mapping[str, Any]) -> str:
    eta = f", ETA {scan['eta']['to'][:16]}" if scan["eta"] else ""
    happened = scan["occurred_at"][: 10 if scan["precision"] == "day" else 16]
    reason = f" ({scan['reason']})" if scan["reason"] else ""
    return f"{scan['source']}: {scan['state']}{reason} {scan['raw_status']} at {happened}{eta}"


def _utc(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).isoformat()
