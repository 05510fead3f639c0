from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.tracking.histories import WORLDS, Truth, day_of, free_days, generate, local, simulate
from tests.tracking.judge import explain, judge

from shared.events.orders import DateRange
from shared.events.outcomes import ScanReported

COUNT = 400
ON_TIME = (0.78, 0.985)


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest) -> list[tuple[dict[str, Any], Truth]]:
    return list(simulate(request.param, 7, COUNT))


Parcels = list[tuple[dict[str, Any], Truth]]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def warned(parcel_id: str, when: datetime, cause: str = "silence") -> dict[str, Any]:
    warning = {"at": when.isoformat(), "cause": cause, "new_date": None}
    return {"id": parcel_id, "warnings": [warning], "recovered_at": None}


def test_every_scan_is_a_valid_body_that_came_in_after_it_happened(world: Parcels) -> None:
    for line, _ in world:
        for scan in line["scans"]:
            body = {key: value for key, value in scan.items() if key != "received_at"}
            ScanReported.model_validate(body)
            assert scan["received_at"] >= scan["occurred_at"] >= line["placed_at"][:10]


def test_every_parcel_is_ordered_shipped_and_delivered_in_this_order(world: Parcels) -> None:
    for line, truth in world:
        DateRange.model_validate(line["promise"])
        times = [line[key] for key in ("placed_at", "shipped_at", "delivered_at") if line[key]]
        assert times == sorted(times)
        assert line["shipped_at"] or not line["scans"]
        told = {scan["state"] for scan in line["scans"]}
        assert line["delivered_at"] or "delivered" not in told
        assert line["id"] == truth.id


def test_nobody_delivers_on_a_sunday_or_a_public_holiday(world: Parcels) -> None:
    for line, truth in world:
        if truth.delivered_at:
            noon = local(truth.ship_to, day_of(truth.ship_to, truth.delivered_at), 12)
            assert noon.weekday() < 6, line["id"]
            assert day_of(truth.ship_to, truth.delivered_at) not in free_days(truth.ship_to), line[
                "id"
            ]


def test_late_means_after_the_promised_day_has_ended_where_it_goes(world: Parcels) -> None:
    for line, truth in world:
        delivered = line["delivered_at"]
        assert truth.late == (delivered is None or at(delivered) >= truth.deadline)
        if truth.foreseeable:
            assert truth.late
            assert truth.why
            assert truth.evidence_at
            assert truth.evidence_at < truth.deadline


def test_most_parcels_are_on_time_and_some_late_ones_can_be_foreseen(world: Parcels) -> None:
    late = [truth for _, truth in world if truth.late]
    assert ON_TIME[0] <= 1 - len(late) / COUNT <= ON_TIME[1]
    assert sum(truth.foreseeable for truth in late) >= 0.3 * len(late)


@pytest.mark.parametrize("name", WORLDS)
def test_a_seed_is_a_history(name: str) -> None:
    first = list(generate(name, 3, 30))
    assert first == list(generate(name, 3, 30))
    assert first[:10] == list(generate(name, 3, 10))
    assert first != list(generate(name, 4, 30))


def test_one_who_knows_the_truth_scores_full_marks(world: Parcels) -> None:
    truths = [truth for _, truth in world]
    results = [
        warned(t.id, t.evidence_at, "eta") if t.evidence_at else {"id": t.id, "warnings": []}
        for t in truths
    ]
    score = judge(truths, [*results, {"summary": {}}])
    assert (score.recall, score.precision, score.false_per_1000) == (1, 1, 0)
    assert not score.absent


def test_silence_and_warnings_after_the_day_catch_nothing(world: Parcels) -> None:
    truths = [truth for _, truth in world]
    assert judge(truths, []).recall == 0
    score = judge(truths, [warned(t.id, t.deadline) for t in truths])
    assert score.recall == 0
    assert score.false_per_1000 == 0
    assert score.false_ever_per_1000 == 1000


def test_a_warning_for_every_parcel_is_false_for_those_on_time_and_told_as_a_story(
    world: Parcels,
) -> None:
    lines, truths = [line for line, _ in world], [truth for _, truth in world]
    results = [warned(t.id, t.deadline - timedelta(minutes=1)) for t in truths]
    score = judge(truths, results)
    assert (score.recall, score.false_per_1000) == (1, 1000)
    story = explain(score.false, lines, truths, results, limit=2)
    assert story.count("!! silence") == 2
    assert story.count("promised day ends") == 2


def test_only_silence_is_counted_against_the_day_of_rest() -> None:
    _, truth = next(iter(simulate("calm", 1, 1)))
    sunday = at("2026-06-14T12:00:00Z")
    assert len(judge([truth], [warned(truth.id, sunday)]).silence_on_free_days) == 1
    assert judge([truth], [warned(truth.id, sunday, "eta_changed")]).silence_on_free_days == []
    monday = sunday + timedelta(days=1)
    assert judge([truth], [warned(truth.id, monday)]).silence_on_free_days == []
