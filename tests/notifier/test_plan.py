"""Which messages the facts about parcels ask for, and what makes each pointless."""

import random
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from notifier import domain, policy
from notifier.domain import Identity, Wanted
from shared import facts
from shared.facts import Fact

LJUBLJANA = ZoneInfo("Europe/Ljubljana")
NOON = datetime(2026, 11, 24, 11, tzinfo=UTC)  # 12:00 in Ljubljana
PLACED = facts.fact("order.placed.v1", NOON - timedelta(days=2), "placed")
SHIPPED = "order.shipped.v1"
STATUS = "shipment.status_changed.v1"
DELAYED, UPDATE, RECOVERED = (
    "shipment.delayed.v1",
    "shipment.delay_update.v1",
    "shipment.recovered.v1",
)
DELIVERED, REVOKED = "parcel.delivered.v1", "parcel.delivery_revoked.v1"
MOVED, UPDATED = "order.delayed.v1", "order.updated.v1"
WITHDRAWN, CANCELLED = "shipment.withdrawn.v1", "order.cancelled.v1"


def said(type_: str, hours: float = 0, subject: str | None = "7/1", **more: Any) -> Fact:
    at = NOON + timedelta(hours=hours)
    return facts.fact(type_, at, f"{type_}{hours}{subject}{more}", subject=subject, **more)


def status(state: str, hours: float = 0, subject: str = "7/1") -> Fact:
    return said(STATUS, hours, subject, state=state)


def delayed(hours: float = 0, episode: int = 1, new: str | None = "28", **more: Any) -> Fact:
    days = {"old": "2026-11-25/2026-11-27"} | (
        {"new": f"2026-11-{new}/2026-11-{new}"} if new else {}
    )
    return said(DELAYED, hours, **({"episode": episode, "cause": "silence"} | days | more))


def planned(*told: Fact) -> dict[tuple[str, str, int], str | None]:
    state = domain.fold(facts.add([PLACED], told), LJUBLJANA)
    wanted = {(w.kind, w.subject, w.round): w.never for w in domain.plan(state)}
    assert wanted.pop(("order_confirmed", "", 0)) == (
        "cancelled" if any(f.type == CANCELLED for f in told) else None
    )
    return wanted


def test_each_parcel_that_left_has_its_own_message() -> None:
    assert planned(said(SHIPPED, 0, "7/1"), said(SHIPPED, 1, "7/2"), said(SHIPPED, 2, "7/1")) == {
        ("order_shipped", "7/1", 0): None,
        ("order_shipped", "7/2", 0): None,
    }


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (said(DELIVERED, 1), "overtaken"),
        (status("delivered", 1), "overtaken"),
        (status("returned", 1), "overtaken"),
        (said(WITHDRAWN, 1), "withdrawn"),
        (said(CANCELLED, 1, None), "cancelled"),
        (status("in_transit", 1), None),
        (status("out_for_delivery", 1, "7/2"), None),
    ],
)
def test_what_makes_the_dispatch_message_pointless(other: Fact, why: str | None) -> None:
    assert planned(said(SHIPPED), other)["order_shipped", "7/1", 0] == why


def test_a_parcel_is_announced_once_for_each_day_of_the_shop_it_is_out() -> None:
    out = "out_for_delivery"
    found = planned(status(out), status(out, 2), status(out, 12), status("delivery_attempted", 3))
    assert found == {(out, "7/1@2026-11-24", 0): "overtaken", (out, "7/1@2026-11-25", 0): None}


@pytest.mark.parametrize(
    "later", [said(DELIVERED, 1), status("in_transit", 1), status("ready_for_pickup", 2)]
)
def test_out_today_is_dropped_when_a_later_state_is_known(later: Fact) -> None:
    out = status("out_for_delivery")
    assert planned(out)["out_for_delivery", "7/1@2026-11-24", 0] is None
    assert planned(out, later)["out_for_delivery", "7/1@2026-11-24", 0] == "overtaken"


def test_out_today_lives_until_the_evening_of_the_shop() -> None:
    kind = "out_for_delivery"
    evening = datetime(2026, 11, 24, 20, tzinfo=UTC)
    assert policy.expires_at(kind, NOON, LJUBLJANA) == evening
    assert policy.expires_at(kind, evening + timedelta(hours=1), LJUBLJANA) == evening
    assert policy.expires_at(kind, NOON, LJUBLJANA, evening=False) == NOON + timedelta(hours=24)
    assert policy.expires_at("delivered", NOON, LJUBLJANA) == NOON + timedelta(days=7)


def test_a_delivery_is_told_again_after_it_was_revoked() -> None:
    first, taken_back, again = said(DELIVERED), said(REVOKED, 1), said(DELIVERED, 5, how="locker")
    assert planned(first) == {("delivered", "7/1", 0): None}
    assert planned(first, taken_back) == {("delivered", "7/1", 0): "revoked"}
    both = {("delivered", "7/1", 0): "revoked", ("delivered", "7/1", 1): None}
    assert planned(first, taken_back, again) == both
    assert planned(taken_back, again) == both  # the first has not come yet, or never does
    assert planned(taken_back) == {}
    twice = said(REVOKED, 1.5)
    assert planned(first, taken_back, twice, again) == both


def test_a_delivery_that_nobody_saw_is_not_announced() -> None:
    assert planned(said(DELIVERED, how="assumed")) == {}


def test_a_delay_is_told_for_each_move_of_the_date() -> None:
    first, second = delayed(), delayed(3, 2, "30", old="2026-11-28/2026-11-28")
    assert planned(first) == {("shipment_delayed", "7/1#1@2026-11-27>2026-11-28", 0): None}
    assert planned(first, second) == {
        ("shipment_delayed", "7/1#1@2026-11-27>2026-11-28", 0): "newer_notice",
        ("shipment_delayed", "7/1#2@2026-11-28>2026-11-30", 0): None,
    }


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (said(DELIVERED, 1), "overtaken"),
        (status("delivered", 1), "overtaken"),
        (said(RECOVERED, 1, episode=1), "recovered"),
        (said(CANCELLED, 1, None), "cancelled"),
        (said(WITHDRAWN, 1), "withdrawn"),
        (status("out_for_delivery", 1), None),
        (said(RECOVERED, -1, episode=1), None),
        (said(RECOVERED, 1, episode=0), None),  # of an earlier episode
    ],
)
def test_what_makes_the_notice_of_a_delay_pointless(other: Fact, why: str | None) -> None:
    assert planned(delayed(), other)["shipment_delayed", "7/1#1@2026-11-27>2026-11-28", 0] == why


def test_a_date_that_did_not_move_is_no_news() -> None:
    (found,) = planned(delayed(new="27")).values()
    assert found == "date_did_not_move"


def test_a_kept_word_is_dropped_when_we_wrote_since() -> None:
    word = said(UPDATE, 2, episode=1, round=1)
    key = ("delay_update", "7/1#1", 1)
    assert planned(delayed(), word)[key] is None
    for since in (delayed(3, 2, "30"), said(RECOVERED, 3, episode=1), said(DELIVERED, 3)):
        assert planned(delayed(), word, since)[key] is not None
    second = said(UPDATE, 26, episode=1, round=2)
    found = planned(delayed(), word, second)
    assert (found[key], found["delay_update", "7/1#1", 2]) == ("newer_notice", None)


@pytest.mark.parametrize("scan", [status("out_for_delivery", 2), status("delivered", 2)])
def test_the_end_of_a_delay_is_folded_into_the_news_of_the_way(scan: Fact) -> None:
    over, key = said(RECOVERED, 2, episode=1), ("delay_over", "7/1#1", 0)
    assert planned(delayed(), over)[key] is None
    assert planned(delayed(), over, scan)[key] == "folded"
    assert planned(delayed(), over, delayed(3, 2, "30"))[key] == "newer_notice"


def test_a_delay_found_out_late_is_news_from_then_on() -> None:
    found_out = NOON + timedelta(days=3)
    (wanted,) = (
        w
        for w in domain.plan(domain.fold([PLACED, delayed(detected=found_out.isoformat())]))
        if w.kind == "shipment_delayed"
    )
    assert (wanted.at, wanted.happened_at) == (found_out, NOON)


def test_before_dispatch_the_order_itself_is_late() -> None:
    late = delayed(subject=None, cause="not_shipped")
    key = ("order_delayed", "#1@2026-11-27>2026-11-28", 0)
    assert planned(late) == {key: None}
    assert planned(late, said(SHIPPED, 1))[key] == "overtaken"
    assert planned(late, said(CANCELLED, 1, None))[key] == "cancelled"
    moved = said(MOVED, 1, None, promise="2026-12-01/2026-12-02")
    found = planned(late, moved)
    assert found == {key: "newer_notice", ("order_delayed", "2026-12-01/2026-12-02", 0): None}
    over = said(RECOVERED, 2, None, episode=1)
    assert planned(moved, over)["order_delayed", "2026-12-01/2026-12-02", 0] is None
    assert planned(late, moved, over)["delay_over", "#1", 0] == "newer_notice"


def test_the_shops_own_delay_names_the_date_it_replaces() -> None:
    promised = facts.fact(
        "order.placed.v1", NOON - timedelta(days=1), "p", promise="2026-11-25/2026-11-27"
    )
    moves = [
        said(MOVED, hours, None, promise=promise)
        for hours, promise in enumerate(["2026-12-01/2026-12-02", "2026-11-25/2026-11-26"])
    ]
    wanted = domain.plan(domain.fold([promised, *moves]))
    assert [(w.old, w.new, w.never) for w in wanted[1:]] == [
        ("2026-11-25/2026-11-27", "2026-12-01/2026-12-02", "newer_notice"),
        ("2026-12-01/2026-12-02", "2026-11-25/2026-11-26", "date_did_not_move"),
    ]
    (backorder,) = domain.plan(domain.fold([promised, said(MOVED, 2, None)]))[1:]
    assert (backorder.subject, backorder.new) == (f"@{date(2026, 11, 24)}", None)


def test_the_end_of_a_delay_is_told_only_to_who_heard_of_it() -> None:
    over = Wanted("delay_over", "7/1#2", NOON)

    def row(kind: str, subject: str) -> Identity:
        return Identity("key", "demo", "1", kind, subject, "email", "buyer", 0)

    notice = row("shipment_delayed", "7/1#1@>2026-11-28")
    assert domain.was_told(over, [], [(notice, "sent")])
    assert domain.was_told(over, [], [(notice, "unknown")])
    for state in ("pending", "suppressed", "expired", "failed"):
        assert not domain.was_told(over, [], [(notice, state)])
    assert not domain.was_told(over, [], [(row("shipment_delayed", "7/2#1@>"), "sent")])
    assert not domain.was_told(over, [], [(row("delivered", "7/1"), "sent")])


BUYER, RECEIVER = {"email": "ana@example.com"}, {"email": "maja@example.com"}


@pytest.mark.parametrize(
    ("recipient", "role", "address"),
    [
        (None, "buyer", "ana@example.com"),
        ({"name": "Maja"}, "buyer", "ana@example.com"),
        (BUYER, "buyer", "ana@example.com"),
        (RECEIVER, "recipient", "maja@example.com"),
    ],
)
def test_the_receiver_hears_of_the_delivery_and_the_buyer_of_the_rest(
    recipient: dict[str, str] | None, role: str, address: str
) -> None:
    order = {"customer": BUYER, "recipient": recipient}
    for kind in ("order_shipped", "out_for_delivery", "delivered"):
        found = policy.role_of(kind, order)
        assert found == role
        assert policy.reader(order, found)["email"] == address
    for kind in ("order_confirmed", "order_delayed", "shipment_delayed", "delay_over"):
        assert policy.role_of(kind, order) == "buyer"
    assert policy.reader({"customer": BUYER}, "recipient") == BUYER
    assert policy.reader({}, "buyer") == {}


HOURS = st.integers(0, 40)
PARCELS = st.sampled_from(["7/1", "7/2"])
STATES = st.sampled_from(["in_transit", "out_for_delivery", "delivery_attempted", "delivered"])
EPISODES = st.integers(1, 2)
DAYS = st.sampled_from(["28", "30", None])
ANY = st.one_of(
    st.just(PLACED),
    st.builds(said, st.sampled_from([SHIPPED, DELIVERED, REVOKED, WITHDRAWN]), HOURS, PARCELS),
    st.builds(status, STATES, HOURS, PARCELS),
    st.builds(delayed, HOURS, EPISODES, DAYS, subject=st.sampled_from(["7/1", None])),
    st.builds(
        lambda hours, n, subject: said(UPDATE, hours, subject, episode=n, round=n),
        *(HOURS, EPISODES, st.sampled_from(["7/1", None])),
    ),
    st.builds(
        lambda hours, n, subject: said(RECOVERED, hours, subject, episode=n),
        *(HOURS, EPISODES, st.sampled_from(["7/1", None])),
    ),
    st.builds(
        lambda hours, day: said(MOVED, hours, None, promise=f"2026-12-0{day}/2026-12-0{day}"),
        *(HOURS, st.integers(1, 4)),
    ),
    st.just(said(CANCELLED, 3, None)),
)


class Journal:
    """Rows as the handler makes them and takes them back, of an order that nobody is mailed about."""

    def __init__(self) -> None:
        self.known: tuple[Fact, ...] = ()
        self.rows: dict[tuple[str, str, int], bool] = {}  # whether it may still leave

    def hear(self, *told: Fact) -> None:
        self.known = facts.add(self.known, told)
        for wanted in domain.plan(domain.fold(self.known, LJUBLJANA)):
            name = (wanted.kind, wanted.subject, wanted.round)
            self.rows[name] = self.rows.get(name, True) and wanted.never is None


@settings(max_examples=400, deadline=None)
@given(st.lists(ANY, max_size=12), st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_order_and_any_duplication_end_in_the_same_rows(
    told: list[Fact], dice: random.Random, batch: int
) -> None:
    told = [PLACED, *told]
    expected = Journal()
    expected.hear(*told)
    for _ in range(3):
        arrived = dice.sample(told * 2, len(told) * 2)
        journal = Journal()
        for start in range(0, len(arrived), batch):
            journal.hear(*arrived[start : start + batch])
        assert journal.rows == expected.rows


def together(*told: Fact) -> dict[str, Wanted]:
    """Return the messages about delays by their subject up to the date."""
    state = domain.fold(facts.add([PLACED], told), LJUBLJANA)
    about = (w for w in domain.plan(state) if w.kind in {"shipment_delayed", "delay_update"})
    return {w.subject.partition("@")[0]: w for w in about}


AT_ONCE = {"detected": (NOON + timedelta(hours=1)).isoformat()}


def test_parcels_found_late_in_one_step_are_one_message() -> None:
    late = [delayed(n / 10, new=f"{28 + n}", subject=f"7/{n}", **AT_ONCE) for n in (1, 2)]
    found = together(*late)
    assert [w.never for w in found.values()] == [None, "folded"]
    first = found["7/1#1"]
    assert (first.parcels, first.cause) == (("7/1", "7/2"), "silence")
    assert (first.old, first.new) == ("2026-11-25/2026-11-27", "2026-11-30/2026-11-30")
    other = delayed(subject="7/2", **{**AT_ONCE, "cause": "exception", "new": None})
    assert (together(late[0], other)["7/1#1"].new, together(late[0], other)["7/1#1"].cause) == (
        None,
        None,
    )
    later = {"detected": (NOON + timedelta(hours=2)).isoformat()}
    assert [w.never for w in together(late[0], delayed(subject="7/2", **later)).values()] == [
        None,
        None,
    ]


def test_of_several_late_parcels_one_that_arrives_leaves_the_message_to_the_others() -> None:
    late = [delayed(n / 10, subject=f"7/{n}", **AT_ONCE) for n in (1, 2)]
    found = together(*late, said(DELIVERED, 2, "7/1"))
    assert (found["7/1#1"].never, found["7/1#1"].parcels) == (None, ("7/2",))
    assert found["7/1#1"].fact.get("subject") == "7/2"  # type: ignore[union-attr]
    both = together(*late, said(DELIVERED, 2, "7/1"), said(DELIVERED, 2, "7/2"))
    assert [w.never for w in both.values()] == ["overtaken", "folded"]


def test_the_end_of_a_delay_told_in_anothers_message_is_told() -> None:
    late = [delayed(n / 10, subject=f"7/{n}", **AT_ONCE) for n in (1, 2)]
    over = said(RECOVERED, 3, "7/2", episode=1)
    plan = domain.plan(domain.fold(facts.add([PLACED], [*late, over]), LJUBLJANA))
    end = next(w for w in plan if w.kind == "delay_over")
    notice = next(w for w in plan if w.subject.startswith("7/1#1@"))
    row = Identity("key", "demo", "1", notice.kind, notice.subject, "email", "buyer", 0)
    assert domain.was_told(end, plan, [(row, "sent")])
    assert not domain.was_told(end, plan, [(row, "suppressed")])


def test_a_dispatch_says_the_days_told_before_it_unless_the_shop_said_others_since() -> None:
    placed = facts.fact(
        "order.placed.v1", NOON - timedelta(days=2), "p", promise="2026-11-25/2026-11-27"
    )
    late, sent = delayed(subject=None, cause="not_shipped"), said(SHIPPED, 5)

    def told(*more: Fact) -> str | None:
        plan = domain.plan(domain.fold(facts.add([placed, late, sent], more)))
        return next(w.new for w in plan if w.kind == "order_shipped")

    assert told() == "2026-11-28/2026-11-28"
    assert told(said(MOVED, 1, None, promise="2026-12-01/2026-12-02")) is None
    assert told(said(MOVED, -1, None, promise="2026-12-01/2026-12-02")) == "2026-11-28/2026-11-28"
    assert told(said(UPDATED, 2, None, promise="2026-11-25/2026-11-27")) == "2026-11-28/2026-11-28"
