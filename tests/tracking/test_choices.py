"""What the customer may ask for while her order is late, and what counts as the shop's answer."""

import json
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given, strategies as st
from tests.tracking.situations import NOW, order, told

from shared.events import CustomerChoice
from tracking.domain.choices import (
    NOTE_CHARS_MAX,
    TIMES_MAX,
    WISHES,
    NothingToChoose,
    TooOften,
    Wish,
    choose,
    requested,
)
from tracking.domain.model import News, Order

OPEN = [("1", 1), (None, 1)]


def ask(
    one: Order,
    wish: Wish,
    note: str | None = None,
    *,
    shipment_id: str | None = "1",
    episode: int = 1,
    now: datetime = NOW,
) -> News | None:
    return choose(one, wish, shipment_id, episode, note, delays=OPEN, now=now)


def test_the_form_offers_what_the_event_can_say() -> None:
    assert get_args(CustomerChoice.model_fields["choice"].annotation) == WISHES


def test_a_choice_is_told_once_with_her_words() -> None:
    one = order()
    news = ask(one, "change", "  the blue one, please ")
    assert news is not None
    assert isinstance(news.data, CustomerChoice)
    assert (news.data.choice, news.data.note) == ("change", "the blue one, please")
    assert news.at == NOW
    assert one.changed
    assert ask(one, "change", "the blue one, please") is None
    assert ask(one, "change") is None


def test_new_words_are_a_new_choice() -> None:
    one = order()
    assert ask(one, "call_me", "at five")
    assert ask(one, "call_me", "at six")


def test_her_words_are_not_kept() -> None:
    one = order()
    ask(one, "call_me", "my number is 040 123 456")
    assert "040" not in json.dumps(one.told)


def test_a_long_note_is_cut() -> None:
    news = ask(order(), "change", "x" * 9999)
    assert news is not None
    assert len(str(getattr(news.data, "note", ""))) == NOTE_CHARS_MAX


def test_the_last_wish_about_a_delay_counts() -> None:
    one = order()
    for wish in ("wait", "cancel", "wait"):
        assert ask(one, wish)
    (last,) = requested(one)
    assert (last.wish, last.answered_at) == ("wait", None)


def test_each_delay_has_a_wish_of_its_own() -> None:
    one = order()
    ask(one, "cancel")
    ask(one, "call_me", shipment_id=None)
    assert [(r.shipment_id, r.wish) for r in requested(one)] == [("1", "cancel"), (None, "call_me")]


@pytest.mark.parametrize(("shipment_id", "episode"), [("1", 2), ("2", 1), (None, 2)])
def test_nothing_can_be_chosen_about_a_delay_that_is_not_open(
    shipment_id: str | None, episode: int
) -> None:
    one = order()
    with pytest.raises(NothingToChoose):
        ask(one, "wait", shipment_id=shipment_id, episode=episode)
    assert requested(one) == []
    assert not one.changed


def test_after_so_many_wishes_a_person_has_to_help() -> None:
    one = order()
    for number in range(TIMES_MAX):
        assert ask(one, "wait" if number % 2 else "cancel")
    with pytest.raises(TooOften):
        ask(one, "call_me")
    assert ask(one, "wait") is None  # what was asked last may be sent again


ANSWERS = {
    "cancel": {"order.cancelled.v1"},
    "change": {"order.updated.v1", "order.delayed.v1", "order.cancelled.v1"},
    "call_me": {"contact.logged.v1", "order.cancelled.v1"},
    "wait": set(),
}
TYPES = sorted({"order.preparing.v1", "order.refunded.v1"}.union(*ANSWERS.values()))


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("wish", WISHES)
def test_only_a_fact_that_answers_it_ends_a_request(wish: Wish, type_: str) -> None:
    one = order()
    ask(one, wish)
    at = NOW + timedelta(minutes=5)
    told(one, type_, at)
    (last,) = requested(one)
    assert last.answered_at == (at if type_ in ANSWERS[wish] else None)


def test_what_the_shop_did_before_is_no_answer() -> None:
    one = told(order(), "order.updated.v1", NOW - timedelta(minutes=1))
    ask(one, "change")
    assert requested(one)[0].answered_at is None


def test_an_answer_dated_to_the_same_second_is_one() -> None:
    one = order()
    ask(one, "cancel", now=NOW + timedelta(milliseconds=800))
    told(one, "order.cancelled.v1", NOW)
    assert requested(one)[0].answered_at == NOW


def test_an_answer_dated_to_the_day_is_one_of_that_day() -> None:
    midnight = datetime(2026, 11, 24, tzinfo=UTC)
    one = order()
    ask(one, "cancel")
    told(one, "order.cancelled.v1", midnight - timedelta(days=1), day=True)
    assert requested(one)[0].answered_at is None
    told(one, "order.cancelled.v1", midnight, day=True)
    assert requested(one)[0].answered_at == midnight


@given(st.lists(st.tuples(st.sampled_from(WISHES), st.sampled_from([None, "a", "b"])), max_size=30))
def test_a_form_sent_any_number_of_times_tells_each_wish_once(
    wishes: list[tuple[Wish, str | None]],
) -> None:
    once, often = order(), order()
    for one, times in ((once, 1), (often, 3)):
        for wish, note in wishes[:TIMES_MAX]:
            assert [ask(one, wish, note) is not None for _ in range(times)][1:] == [False] * (
                times - 1
            )
    assert once.told == often.told
