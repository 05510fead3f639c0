import itertools
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from shared.events import (
    REGISTRY,
    EventData,
    OrderCancelled,
    OrderDelayed,
    ParcelDelivered,
    ShipmentDelayed,
    ShipmentDelayUpdate,
    ShipmentRecovered,
    ShipmentStatusChanged,
)
from shared.facts import MAX_FACTS, RANK, STATE_RANK, Fact, add, dump, fact, load, of
from shared.testing import event, placed

MIDNIGHT = datetime(2026, 11, 23, 23, tzinfo=UTC)  # of the 24th in Ljubljana
PLACED = "order.placed.v1"
SCAN = "shipment.status_changed.v1"

times = st.integers(0, 60).map(lambda h: MIDNIGHT + timedelta(hours=h))
days = st.integers(0, 3).map(lambda d: MIDNIGHT + timedelta(days=d))
extras = st.dictionaries(
    st.sampled_from(["shipment_id", "total"]), st.text(max_size=3) | st.integers() | st.booleans()
)
exact_facts = st.builds(
    lambda kind, at, extra, n: fact(kind, at, f"e{n}", **extra),
    st.sampled_from(sorted(RANK)),
    times,
    extras,
    st.integers(0, 10**9),
)
day_facts = st.builds(
    lambda state, at, n: fact(SCAN, at, f"d{n}", day=True, state=state),
    st.sampled_from(sorted(STATE_RANK)),
    days,
    st.integers(0, 10**9),
)
fact_sets = st.lists(exact_facts | day_facts, max_size=12, unique_by=lambda one: one.id)


def at(hour: int) -> datetime:
    return MIDNIGHT + timedelta(hours=hour)


@given(fact_sets, st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_order_and_any_duplication_give_the_same_facts(
    facts: list[Fact], dice: object, parts: int
) -> None:
    told = [*facts, *facts]
    dice.shuffle(told)  # type: ignore[attr-defined]
    known: tuple[Fact, ...] = ()
    for part in range(parts):
        known = add(known, told[part::parts])
    assert known == add((), facts)
    assert set(known) == set(facts)


@given(fact_sets)
def test_exact_facts_stay_in_the_order_of_their_times(facts: list[Fact]) -> None:
    exact = [one for one in add((), facts) if not one.day]
    assert exact == sorted(exact, key=lambda one: (one.at, one.rank, one.id))


@given(fact_sets)
def test_a_day_fact_stays_within_its_day(facts: list[Fact]) -> None:
    known = add((), facts)
    for (i, one), (j, other) in itertools.product(enumerate(known), repeat=2):
        if not one.day:
            continue
        if other.at >= one.at + timedelta(days=1):
            assert i < j
        elif other.at < one.at and not other.day:
            assert j < i


@given(fact_sets)
def test_rank_beats_time_within_a_day_whose_exact_facts_rise_in_rank(facts: list[Fact]) -> None:
    known = add((), facts)
    for i, one in enumerate(known):
        if not one.day:
            continue
        same_day = [
            (j, other)
            for j, other in enumerate(known)
            if not other.day and one.at <= other.at < one.at + timedelta(days=1)
        ]
        ranks = [other.rank for _, other in same_day]
        if ranks == sorted(ranks):
            for j, other in same_day:
                if other.rank != one.rank:
                    assert (i < j) == (one.rank < other.rank)


def test_delivered_on_a_day_comes_after_the_scan_of_that_morning() -> None:
    out = fact(SCAN, at(7), "1", state="out_for_delivery")
    delivered = fact(SCAN, MIDNIGHT, "2", state="delivered", day=True)
    shipped = fact("order.shipped.v1", MIDNIGHT, "3", day=True)
    assert add((), [delivered, out, shipped]) == (shipped, out, delivered)


def test_two_exact_facts_whose_ranks_fall_do_not_send_a_day_fact_in_circles() -> None:
    attempted = fact(SCAN, at(12), "1", state="delivery_attempted")
    out_again = fact(SCAN, at(16), "2", state="out_for_delivery")
    day = Fact("x", MIDNIGHT, 62, "3", day=True)
    for told in itertools.permutations([attempted, out_again, day]):
        assert add((), told) == (day, attempted, out_again)


@given(st.lists(st.integers(0, 400), unique=True, max_size=400), st.randoms(use_true_random=False))
def test_the_cap_keeps_the_earliest_placed_and_the_newest(hours: list[int], dice: object) -> None:
    facts = [fact(PLACED if h % 50 == 7 else "order.updated.v1", at(h), str(h)) for h in hours]
    told = list(facts)
    dice.shuffle(told)  # type: ignore[attr-defined]
    known: tuple[Fact, ...] = ()
    for start in range(0, len(told), 37):
        known = add(known, told[start : start + 37])
    assert len(known) == min(len(facts), MAX_FACTS)
    assert known == add((), facts)
    newest = sorted(facts, key=lambda one: one.at)[-(MAX_FACTS - 1) :]
    assert set(newest) <= set(known)
    placed = [one for one in facts if one.type == PLACED]
    if placed:
        assert min(placed, key=lambda one: one.at) in known


@given(fact_sets)
def test_what_is_written_is_read_back(facts: list[Fact]) -> None:
    known = add((), facts)
    text = dump(known)
    assert load(text) == known
    assert load(text.encode()) == known
    assert load(json.dumps(json.loads(text))) == known  # as jsonb gives it back


def test_the_written_form_is_compact() -> None:
    one = fact(PLACED, datetime(2026, 11, 22, 10, 15, tzinfo=timezone(timedelta(hours=1))), "id")
    assert dump([one]) == '[["order.placed.v1","2026-11-22T09:15:00Z",10,"id"]]'
    assert dump([]) == "[]"
    assert load("[]") == ()


def test_two_different_facts_under_one_id_end_as_the_same_one_whichever_came_first() -> None:
    first, second = fact(PLACED, at(1), "x", total=1), fact(PLACED, at(1), "x", total=2)
    assert add([first], [second]) == add([second], [first]) == (first,)


def test_a_fact_gives_its_fields_and_none_for_those_it_has_not() -> None:
    one = fact(SCAN, at(1), "x", state="delivered", shipment_id="s", reason=None)
    assert (one.get("state"), one.get("shipment_id"), one.get("reason")) == ("delivered", "s", None)
    assert one.rank == STATE_RANK["delivered"]


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        fact(PLACED, datetime(2026, 1, 1), "x")  # noqa: DTZ001 - the point of the test


def test_every_ranked_type_exists_and_ranks_are_distinct() -> None:
    assert set(RANK) <= set(REGISTRY)
    ranks = [*RANK.values(), *STATE_RANK.values()]
    assert len(ranks) == len(set(ranks))


def test_every_fact_of_an_order_has_a_rank_but_scans_and_what_became_of_messages() -> None:
    unranked = {name for name in REGISTRY if name not in RANK}
    assert {name for name in unranked if not name.startswith("message.")} == {
        SCAN,
        "scan.reported.v1",
    }


def test_a_cancellation_and_an_erasure_outlive_any_number_of_later_facts() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    deciding = [
        fact("order.placed.v1", start, "p"),
        fact("order.cancelled.v1", start + timedelta(hours=1), "c"),
        fact("customer.erased.v1", start + timedelta(hours=2), "e"),
    ]
    noise = [
        fact("order.updated.v1", start + timedelta(days=1, minutes=n), f"u{n}")
        for n in range(MAX_FACTS * 2)
    ]
    kept: tuple[Fact, ...] = ()
    for one in [*deciding, *noise]:
        kept = add(kept, [one])
    assert len(kept) == MAX_FACTS
    assert {"p", "c", "e"} <= {one.id for one in kept}


def told(data: EventData) -> dict[str, object]:
    extra = dict(of(event(data, at=at(1))).extra)
    assert not {"neighbour Novak", "Ljubljana"} & {str(value) for value in extra.values()}
    return extra


OLD = {"from": "2026-11-25", "to": "2026-11-27"}
NEW = {"from": "2026-11-28", "to": "2026-11-28"}
EPISODE = {"order_id": "1", "shipment_id": "7/1", "episode": 2}


def test_a_status_is_ranked_by_its_state_and_says_why() -> None:
    data = ShipmentStatusChanged(
        order_id="1",
        shipment_id="7/1",
        state="exception",
        reason="customs_delay",
        action_required=True,
        place="Ljubljana",
    )
    assert of(event(data)).rank == STATE_RANK["exception"]
    kept = {"subject": "7/1", "state": "exception", "reason": "customs_delay", "action": True}
    assert told(data) == kept


def test_a_delay_says_its_dates_its_cause_and_when_we_write_again() -> None:
    times = {"next_contact_at": "2026-11-26T09:00:00Z", "detected_at": "2026-11-24T09:00:00Z"}
    kept = {"subject": "7/1", "episode": 2, "new": "2026-11-28/2026-11-28"}
    kept |= {"next": "2026-11-26T09:00:00Z", "detected": "2026-11-24T09:00:00Z"}
    delayed = {**EPISODE, **times, "cause": "silence", "old": OLD, "new": NEW}
    assert told(ShipmentDelayed.model_validate(delayed)) == kept | {
        "cause": "silence",
        "old": "2026-11-25/2026-11-27",
    }
    update = ShipmentDelayUpdate.model_validate({**EPISODE, **times, "round": 2, "new": NEW})
    assert told(update) == kept | {"round": 2}
    assert told(ShipmentRecovered.model_validate({**EPISODE, "new": NEW})) == {
        name: kept[name] for name in ("subject", "episode", "new")
    }
    assert told(ShipmentRecovered(order_id="1", episode=1)) == {"episode": 1}


def test_a_promise_stands_in_the_fact_that_makes_it() -> None:
    promise = OLD | {"source": "shop"}
    assert told(placed(promise=promise)) == {"promise": "2026-11-25/2026-11-27"}
    assert told(placed()) == {}
    moved = OrderDelayed.model_validate({"order_id": "1", "promise": NEW, "reason": "Ljubljana"})
    assert told(moved) == {"promise": "2026-11-28/2026-11-28"}


def test_a_delivery_says_how_and_never_to_whom() -> None:
    data = ParcelDelivered(
        order_id="1",
        shipment_id="7/1",
        delivered_at=at(1),
        how="neighbour",
        handed_to="neighbour Novak",
        precision="day",
    )
    assert told(data) == {"subject": "7/1", "how": "neighbour"}
    assert of(event(data)).day


def test_a_part_that_is_cancelled_is_told_from_the_whole() -> None:
    part = {"order_id": "1", "items": [{"line_id": "1", "quantity": "1"}]}
    assert told(OrderCancelled.model_validate(part)) == {"partial": True}
    assert told(OrderCancelled(order_id="1")) == {}
