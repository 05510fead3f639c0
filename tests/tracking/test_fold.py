import itertools
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given, strategies as st

from shared import facts
from shared.events import (
    OrderShipped,
    ScanReported,
    ShipmentState,
)
from shared.facts import STATE_RANK, Fact
from tracking.domain.fold import BACK, Shipment, fold
from tracking.domain.model import Order, Parcel, Track, scan_fact

STATED = datetime(2026, 11, 23, 8, tzinfo=UTC)
STATES: tuple[ShipmentState, ...] = get_args(ShipmentState)
BODY: dict[str, Any] = {"order_id": "1", "shipment_id": "s/1", "tracking_number": "AB 1"}


def parcel(*, withdrawn: bool = False, **body: Any) -> Parcel:
    return Parcel(
        "s/1", OrderShipped(**(BODY | body)), (STATED, 40, "e"), STATED, withdrawn=withdrawn
    )


def scan(when: str, state: str, reason: str | None = None, **more: Any) -> Fact:
    """Make a scan of November 2026: "24 08:30" is exact, "24" known to the day."""
    day, _, clock = when.partition(" ")
    data = ScanReported.model_validate(
        {
            "tracking_number": "AB1",
            "state": state,
            "reason": reason,
            "occurred_at": f"2026-11-{day}T{clock or '00:00'}{'' if clock.count(':') > 1 else ':00'}Z",
            "precision": "second" if clock else "day",
            "source": "easypost",
            **more,
        }
    )
    said = (when, state, reason, *sorted((k, str(v)) for k, v in more.items()))
    return scan_fact(data, f"scan {said}", data.occurred_at)


def told(*scans: Fact) -> Shipment:
    return fold(parcel(), scans)


def state_of(*scans: tuple[str, str] | tuple[str, str, str]) -> str:
    return told(*(scan(*one) for one in scans)).state


OUT = ("24 06:00", "out_for_delivery")
DELIVERED = ("24 12:00", "delivered")


@pytest.mark.parametrize(
    "claimed",
    [
        (("26 10:00", "delivery_attempted"), ("27 10:00", "delivered")),
        (("26 10:00", "delivered"), ("26 12:00", "delivery_attempted")),
        (("26 10:00", "delivery_attempted"), ("26 10:30", "out_for_delivery"), ("27 09:00", "delivery_attempted")),
        (("26 10:00", "in_transit"), ("28 10:00", "expired")),
        (("26 10:00", "out_for_delivery"), ("27 10:00", "in_transit")),
    ],
)  # fmt: skip
def test_scans_of_the_future_count_in_the_order_they_claim_whenever_they_come_in(
    claimed: tuple[tuple[str, str], ...],
) -> None:
    bodies = [
        ScanReported.model_validate(
            {"tracking_number": "AB1", "state": state, "occurred_at": f"2026-11-{when.replace(' ', 'T')}:00Z"}
        )
        for when, state in claimed
    ]  # fmt: skip
    seen = set()
    for order in itertools.permutations(bodies):
        for apart in (timedelta(), timedelta(seconds=1), timedelta(minutes=7)):
            coming = (STATED + n * apart for n in range(len(order)))
            made = told(
                *(scan_fact(b, b.occurred_at, at) for b, at in zip(order, coming, strict=True))
            )
            assert made.heard_at is not None
            assert made.heard_at < STATED + timedelta(hours=1)
            seen.add((made.state, made.attempts))
    assert len(seen) == 1
    assert seen.pop()[0] == claimed[-1][1]


def test_without_a_scan_nothing_is_known_and_never_in_transit() -> None:
    made = told()
    assert (made.state, made.since, made.heard_at) == ("unknown", STATED, None)
    assert not made.terminal


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        # a van on tour
        (OUT, ("24 10:00", "in_transit"), "out_for_delivery"),
        (OUT, ("25 05:00", "in_transit"), "in_transit"),
        (("24 20:00", "out_for_delivery"), ("25 00:30", "in_transit"), "out_for_delivery"),
        (OUT, ("24 18:00", "delayed", "weather_delay"), "delayed"),
        (OUT, ("24 18:00", "exception", "consignee_refused"), "exception"),
        # an attempt
        (("24 10:00", "delivery_attempted"), ("24 16:00", "out_for_delivery"), "out_for_delivery"),
        (("24 10:00", "delivery_attempted"), ("24 18:00", "in_transit"), "in_transit"),
        # trouble that is over
        (("24 10:00", "delayed"), ("24 12:00", "in_transit"), "in_transit"),
        (("24 10:00", "exception", "customs_documentation"), ("25 12:00", "in_transit"), "in_transit"),
        (("24 10:00", "exception", "carrier_parcel_lost"), ("30 12:00", "out_for_delivery"), "out_for_delivery"),
        (("24 10:00", "exception"), ("24 12:00", "delayed"), "delayed"),
        # in a shop
        (("24 10:00", "ready_for_pickup"), ("24 11:00", "in_transit"), "ready_for_pickup"),
        (("24 10:00", "ready_for_pickup"), ("24 11:00", "delivery_attempted"), "ready_for_pickup"),
        (("24 10:00", "ready_for_pickup"), ("25 11:00", "in_transit"), "in_transit"),
        (("24 10:00", "ready_for_pickup"), ("25 11:00", "out_for_delivery"), "out_for_delivery"),
        (("24 10:00", "ready_for_pickup"), ("30 11:00", "returning"), "returning"),
        # delivered, and revoked
        (DELIVERED, ("25 08:00", "in_transit"), "delivered"),
        (DELIVERED, ("25 08:00", "out_for_delivery"), "delivered"),
        (DELIVERED, ("25 08:00", "unknown"), "delivered"),
        (DELIVERED, ("25 08:00", "expired"), "delivered"),
        (DELIVERED, ("25 08:00", "cancelled"), "delivered"),
        (DELIVERED, ("25 08:00", "delayed"), "delivered"),
        (DELIVERED, ("24 12:30", "delivery_attempted"), "delivery_attempted"),
        (DELIVERED, ("24 12:30", "ready_for_pickup"), "ready_for_pickup"),
        (DELIVERED, ("24 12:30", "exception", "carrier_parcel_lost"), "exception"),
        (DELIVERED, ("24 12:30", "exception", "carrier_damaged_parcel"), "delivered"),
        (DELIVERED, ("24 12:30", "exception", "customs_duties_unpaid"), "delivered"),
        (DELIVERED, ("24 12:30", "returning"), "returning"),
        (DELIVERED, ("24 11:59", "delivery_attempted"), "delivered"),
        (DELIVERED, ("24 12:00", "returning"), "delivered"),
        # on its way back
        (("24 10:00", "returning"), ("26 10:00", "delivered"), "returned"),
        (("24 10:00", "returning"), ("26 10:00", "in_transit"), "returning"),
        (("24 10:00", "returning"), ("26 10:00", "out_for_delivery"), "returning"),
        (("24 10:00", "returning"), ("26 10:00", "cancelled"), "returning"),
        (("24 10:00", "returned"), ("26 10:00", "delivered"), "returned"),
        (("24 10:00", "returned"), ("26 10:00", "in_transit"), "returned"),
        # given up
        (("24 10:00", "expired"), ("26 10:00", "in_transit"), "in_transit"),
        (("24 10:00", "expired"), ("26 10:00", "delivered"), "delivered"),
        (("24 10:00", "expired"), ("26 10:00", "unknown"), "expired"),
        (("24 10:00", "expired"), ("26 10:00", "label_created"), "expired"),
        # cancelled labels
        (("24 10:00", "label_created"), ("24 12:00", "cancelled"), "cancelled"),
        (("24 10:00", "in_transit"), ("24 12:00", "cancelled"), "cancelled"),
        (("24 10:00", "cancelled"), ("24 12:00", "in_transit"), "in_transit"),
        (("24 10:00", "cancelled"), ("24 12:00", "label_created"), "cancelled"),
        (("24 10:00", "cancelled"), ("28 12:00", "expired"), "cancelled"),
        # what says nothing
        (("24 10:00", "in_transit"), ("24 12:00", "label_created"), "in_transit"),
        (("24 10:00", "in_transit"), ("24 12:00", "unknown"), "in_transit"),
        (("24 10:00", "unknown"), ("24 09:00", "label_created"), "label_created"),
    ],
)  # fmt: skip
def test_a_scan_moves_the_parcel_only_where_it_can_be_meant_so(
    before: tuple[str, str], after: tuple[str, str], state: str
) -> None:
    assert state_of(before, after) == state_of(after, before) == state


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("delivery_attempted", "in_transit"),
        ("exception", "in_transit"),
        ("delivered", "delivery_attempted"),
        ("delivered", "exception"),
        ("cancelled", "in_transit"),
        ("returning", "delivered"),
    ],
)
def test_another_word_of_a_second_source_seconds_later_is_the_same_event(
    first: str, second: str
) -> None:
    one = scan("24 12:00:00", first, source="easypost")
    assert told(one, scan("24 12:00:04", second, source="aftership")).state == first
    assert told(one, scan("24 12:00:04", second, source="easypost")).state != first
    assert told(one, scan("24 12:30:00", second, source="aftership")).state != first


def test_of_a_day_known_only_as_a_date_the_rank_decides() -> None:
    assert state_of(("24", "delivered"), ("24 06:00", "out_for_delivery")) == "delivered"
    assert state_of(("24", "in_transit"), ("24 06:00", "out_for_delivery")) == "out_for_delivery"
    assert state_of(("24", "delivery_attempted"), ("24 06:00", "delivered")) == "delivered"
    assert state_of(("24", "delivered"), ("25", "delivery_attempted")) == "delivery_attempted"
    assert state_of(("24", "out_for_delivery"), ("24 15:00", "in_transit")) == "out_for_delivery"
    assert state_of(("24", "out_for_delivery"), ("25", "in_transit")) == "in_transit"
    assert state_of(("24 15:00", "out_for_delivery"), ("25", "in_transit")) == "in_transit"


def test_a_date_without_a_time_revokes_a_delivery_where_its_rank_is_higher() -> None:
    there = scan(*DELIVERED)
    assert told(there, scan("24", "returning", source="aftership")).state == "returning"
    assert told(there, scan("24", "exception", source="aftership")).state == "delivered"


def test_a_fact_that_is_no_scan_changes_nothing() -> None:
    stray = facts.fact("order.placed.v1", STATED, "p")
    assert told(stray, scan(*OUT)).state == told(scan(*OUT), stray).state == "out_for_delivery"
    assert told(stray).state == "unknown"


def test_the_delivery_is_the_first_of_an_unbroken_row_and_of_the_last_row() -> None:
    row = (scan(*DELIVERED, source="aftership"), scan("24 12:00:03", "delivered"))
    assert told(*row, scan("24 18:00", "delivered")).delivered_at == row[0].at
    again = told(*row, scan("24 18:00", "delivery_attempted", "x"), scan("26 09:00", "delivered"))
    assert str(again.delivered_at) == "2026-11-26 09:00:00+00:00"
    assert (str(again.revoked_at), again.revoked_reason) == ("2026-11-24 18:00:00+00:00", "x")
    assert told(*row, scan("24 18:00", "returning")).delivered_at is None


def test_how_it_was_handed_over_is_the_most_telling_that_was_said() -> None:
    said = [
        scan(*DELIVERED, "neighbour"),
        scan("24 12:00:02", "delivered", "hand"),
        scan("24 12:01", "delivered"),
    ]
    assert told(*said).how == "neighbour"
    assert told(scan(*DELIVERED, "back_door")).how is None
    assert told(*said, scan("24 18:00", "exception", "carrier_parcel_lost")).how is None
    redelivered = (scan("24 18:00", "delivery_attempted"), scan("25 10:00", "delivered", "hand"))
    assert told(*said, *redelivered).how == "hand"


def test_an_attempt_told_by_two_sources_is_one_and_the_next_day_is_another() -> None:
    twice = (
        scan("24 10:00:00", "delivery_attempted", "consignee_not_home", action_required=True),
        scan("24 10:00:03", "delivery_attempted", source="aftership"),
    )
    assert told(*twice).attempts == 1
    assert (told(*twice).reason, told(*twice).action_required) == ("consignee_not_home", True)
    again = told(*twice, scan("25 10:00", "delivery_attempted"))
    assert (again.attempts, again.since.day) == (2, 25)


def test_a_new_tour_is_a_new_day() -> None:
    assert told(scan(*OUT), scan("24 09:00", "out_for_delivery")).since.hour == 6
    assert told(scan(*OUT), scan("25 07:00", "out_for_delivery")).since.day == 25


def test_a_problem_that_is_over_leaves_no_reason() -> None:
    held = scan("24 10:00", "exception", "customs_documentation", action_required=True)
    over = told(held, scan("25 10:00", "in_transit"))
    assert (over.reason, over.action_required) == (None, False)
    lost = scan("25 10:00", "exception", "carrier_parcel_lost")
    assert told(lost, scan("30 10:00", "expired")).reason == "carrier_parcel_lost"


def test_the_place_is_where_it_is_now() -> None:
    hub, depot = (
        scan("23 10:00", "in_transit", place="Graz"),
        scan("24 02:00", "in_transit", place="Celje"),
    )
    assert told(depot, hub, scan("24 03:00", "in_transit")).place == "Celje"
    assert told(hub, depot, scan(*OUT)).place == "Celje"
    assert told(hub, depot, scan(*OUT), scan("24 07:00", "in_transit", place="Graz")).place == "Celje"  # fmt: skip
    assert told(hub, depot, scan(*DELIVERED)).place is None  # the depot is not her door
    assert told(hub, scan(*DELIVERED, place="Ptuj")).place == "Ptuj"


def test_the_eta_is_the_newest_that_was_said_until_it_is_there() -> None:
    first = scan("23 10:00", "in_transit", eta={"to": "2026-11-24T12:00:00Z"})
    newer = scan("23 20:00", "unknown", eta={"from": "2026-11-25T09:00:00Z"})
    made = told(newer, first, scan("23 22:00", "in_transit"))
    assert made.eta
    assert (str(made.eta.from_), made.eta.to) == ("2026-11-25 09:00:00+00:00", None)
    assert made.eta_said_at == newer.at
    assert made.eta.model_dump(mode="json") == {"from": "2026-11-25T09:00:00Z", "to": None}
    there = scan(*DELIVERED)
    assert told(first, there).eta is None
    assert told(first, there, scan("24 14:00", "returning")).eta is None
    assert told(first, scan("24 11:00", "delivery_attempted")).eta is None
    revoked = (there, scan("24 14:00", "delivery_attempted"))
    assert told(first, *revoked).eta is None
    assert told(first, *revoked, newer._replace(id="n", at=there.at + timedelta(hours=4))).eta


def test_the_carrier_has_it_from_the_first_scan_that_shows_it() -> None:
    label = scan("23 10:00", "label_created")
    late = scan("23 12:00", "delayed", "weather_delay")
    assert told(label, late).collected_at is None
    assert told(label, late, scan("23 18:00", "in_transit"), scan(*OUT)).collected_at == datetime(
        2026, 11, 23, 18, tzinfo=UTC
    )


def test_scans_from_long_before_the_parcel_are_of_another_with_its_number() -> None:
    reused = scan("24 12:00", "delivered")
    old = reused._replace(at=reused.at - timedelta(days=200))
    made = fold(parcel(shipped_at="2026-11-23T08:00:00Z"), [old, scan(*OUT)])
    assert (made.state, len(made.scans)) == ("out_for_delivery", 1)
    assert fold(parcel(), [old]).state == "delivered"  # when it was shipped was not said


def test_only_the_current_number_and_the_shipment_itself_count() -> None:
    order = Order("s", "1", STATED, parcels={"s/1": parcel()})
    order.tracks = {
        "AB1": Track("s", "AB1", (scan(*OUT),)),
        "#s/1": Track("s", "#s/1", (scan("24 11:00", "delivery_attempted"),)),
        "OLD": Track("s", "OLD", (scan(*DELIVERED),)),
    }
    before = parcel(tracking_number="old")
    assert fold(before, order.scans(before)).state == "delivered"
    assert fold(parcel(), order.scans(parcel())).state == "delivery_attempted"


@pytest.mark.parametrize(
    ("state", "terminal"),
    [(s, s in {"delivered", "returned", "cancelled", "expired"}) for s in STATES],
)
def test_four_states_and_a_withdrawal_are_the_end(state: str, *, terminal: bool) -> None:
    assert told(scan("24 10:00", state)).terminal is terminal
    assert fold(parcel(withdrawn=True), [scan("24 10:00", state)]).terminal


# --- whatever comes, in whatever order

MOMENTS = st.one_of(
    st.builds("{:02} {:02}:{:02}:{:02}".format, st.integers(23, 26), st.integers(0, 23),
              st.sampled_from([0, 30]), st.integers(0, 5)),
    st.integers(23, 26).map(str),
)  # fmt: skip
SCANS = st.lists(
    st.builds(
        lambda when, state, reason, more: scan(when, state, reason, **more),
        MOMENTS,
        st.sampled_from(STATES),
        st.sampled_from([None, "hand", "neighbour", "carrier_damaged_parcel", "weather_delay"]),
        st.fixed_dictionaries(
            {"source": st.sampled_from(["easypost", "aftership"])},
            optional={
                "action_required": st.just(True),
                "place": st.sampled_from(["Graz", "Celje"]),
                "eta": st.sampled_from([{"to": "2026-11-24T12:00:00Z"}, {}]),
            },
        ),
    ),
    max_size=14,
)

ALLOWED_BACK = {
    ("delayed", "in_transit"),
    ("exception", "in_transit"), ("exception", "delayed"),
    ("out_for_delivery", "in_transit"), ("out_for_delivery", "delayed"), ("out_for_delivery", "exception"),
    ("delivery_attempted", "out_for_delivery"), ("delivery_attempted", "in_transit"),
    ("delivery_attempted", "delayed"), ("delivery_attempted", "exception"),
    ("ready_for_pickup", "out_for_delivery"), ("ready_for_pickup", "in_transit"),
    ("ready_for_pickup", "delivery_attempted"), ("ready_for_pickup", "delayed"),
    ("ready_for_pickup", "exception"),
    ("delivered", "delivery_attempted"), ("delivered", "ready_for_pickup"), ("delivered", "exception"),
    *(("cancelled", to) for to in STATES if to not in {"unknown", "label_created", "cancelled", "expired"}),
    *(("expired", to) for to in STATES if to not in {"unknown", "label_created", "expired"}),
}  # fmt: skip


@given(SCANS, st.randoms(use_true_random=False))
def test_any_order_and_any_duplication_give_the_same_shipment(
    scans: list[Fact], dice: Random
) -> None:
    again = [*scans, *dice.choices(scans, k=len(scans))] if scans else []
    dice.shuffle(again)
    assert fold(parcel(), again) == fold(parcel(), scans)


@given(SCANS)
def test_the_state_never_goes_back_except_along_the_list(scans: list[Fact]) -> None:
    # exact times: where a day fact stands depends on facts that the shorter rows do not have
    ordered = [
        one._replace(day=False, at=STATED + timedelta(hours=9 * n))
        for n, one in enumerate(told(*scans).scans)
    ]
    path = [told(*ordered[:n]).state for n in range(len(ordered) + 1)]
    for before, after in itertools.pairwise(path):
        if STATE_RANK[after] < STATE_RANK[before]:
            assert (before, after) in ALLOWED_BACK
        if before == "delivered":
            assert after not in {"in_transit", "out_for_delivery", "cancelled", "expired"}
        if before in {"returning", "returned"}:
            assert after in {"returning", "returned", "expired"}


def test_the_table_holds_the_listed_moves_and_no_other() -> None:
    table = {(before, after) for before, moves in BACK.items() for after in moves}
    assert table == ALLOWED_BACK | {("delivered", "returning"), ("delivered", "returned")}


@given(SCANS)
def test_what_a_shipment_says_of_itself_fits_together(scans: list[Fact]) -> None:
    made = told(*scans)
    assert (made.delivered_at is not None) == (made.state == "delivered")
    assert made.how is None or made.state == "delivered"
    assert made.eta is None or not (made.terminal or made.state == "returning")
    said = {one.get("state") for one in scans}
    assert made.state in said | {"unknown"} or (made.state == "returned" and "delivered" in said)
    assert (made.heard_at is None) == (not scans)
