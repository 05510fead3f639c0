import itertools
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest

from shared import facts
from shared.events import (
    Event,
    EventData,
    ItemQuantity,
    OrderCancelled,
    OrderDelayed,
    OrderRefunded,
    Promise,
    ReturnRequested,
)
from tracking.domain.model import About, Order, OrderLine
from tracking.domain.orders import fold_order, order_fact

STATED = datetime(2026, 11, 23, 8, tzinfo=UTC)


def event(data: EventData, hour: int = 9) -> Event:
    at = STATED.replace(hour=hour)
    return Event.of(data, id=uuid4(), shop="s", source="t", time=at, recorded_at=at)


def order_of(*events: EventData) -> Order:
    lines = [("1", "3"), ("2", "0.5"), ("2", "0.25")]
    about = About(
        placed_at=STATED,
        promise=Promise(from_=date(2026, 11, 25), to=date(2026, 11, 26)),
        lines=tuple(OrderLine(line_id=id_, name="Tea", quantity=many) for id_, many in lines),
    )
    known = facts.add((), (order_fact(event(data, n)) for n, data in enumerate(events, 9)))
    return Order("s", "1", STATED, facts=facts.load(facts.dump(known)), about=about)


def items(**quantities: str) -> tuple[ItemQuantity, ...]:
    return tuple(ItemQuantity(line_id=id_[1:], quantity=q) for id_, q in quantities.items())


def refund(refund_id: str | None, **quantities: str) -> OrderRefunded:
    return OrderRefunded(
        order_id="1", refund_id=refund_id, amount=1, currency="EUR", items=items(**quantities)
    )


def test_what_is_open_is_ordered_minus_cancelled_and_refunded() -> None:
    assert fold_order(order_of()).open == {"1": Decimal(3), "2": Decimal("0.75")}
    less = fold_order(
        order_of(OrderCancelled(order_id="1", items=items(_1="1")), refund("r1", _1="1", _2="0.5"))
    )
    assert less.open == {"1": Decimal(1), "2": Decimal("0.25")}
    assert not less.cancelled
    assert fold_order(order_of(refund("r", _1="9", _2="1"))).nothing_open


def test_a_refund_told_by_two_events_is_one() -> None:
    once = fold_order(order_of(refund("r1", _1="1"), refund("r1", _1="1")))
    assert once.open["1"] == 2
    assert fold_order(order_of(refund("r1", _1="1"), refund("r2", _1="1"))).open["1"] == 1
    assert fold_order(order_of(refund(None, _1="1"), refund(None, _1="1"))).open["1"] == 1


def test_a_refund_of_money_alone_and_of_an_unknown_line_takes_nothing_off() -> None:
    assert fold_order(order_of(refund("r1"), refund("r2", _99="1"))).open["1"] == 3


def test_a_whole_cancellation_is_one() -> None:
    assert fold_order(order_of(OrderCancelled(order_id="1"))).cancelled


def test_the_promise_is_where_the_shop_last_moved_it() -> None:
    assert str(fold_order(order_of()).promise.to) == "2026-11-26"  # type: ignore[union-attr]
    moved = [
        OrderDelayed(order_id="1", promise=Promise(from_=date(2026, 12, day), to=date(2026, 12, 9)))
        for day in (1, 2)
    ]
    state = fold_order(order_of(*moved, OrderDelayed(order_id="1", reason="backorder")))
    assert str(state.promise.from_) == "2026-12-02"  # type: ignore[union-attr]
    assert state.promise_moved_at == STATED.replace(hour=10)


WORDS = {
    "placed": ("order.placed.v1", "2026-11-25/2026-11-27"),
    "same": ("order.updated.v1", "2026-11-25/2026-11-27"),
    "other": ("order.updated.v1", "2026-12-12/2026-12-12"),
    "delay": ("order.delayed.v1", "2026-12-10/2026-12-10"),
}


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (("placed", "delay"), 10),
        (("placed", "delay", "other"), 12),
        (("placed", "other", "delay"), 10),
        (("placed", "delay", "same"), 10),  # says nothing new
        (("placed", "delay", "other", "same"), 27),
    ],
)
def test_the_newer_word_of_the_shop_says_when_it_comes(words: tuple[str, ...], last: int) -> None:
    told = [
        facts.fact(type_, STATED + timedelta(hours=n), f"{n}", promise=days)
        for n, (type_, days) in enumerate(WORDS[word] for word in words)
    ]
    for arrived in itertools.permutations(told):
        holds = facts.promised(facts.add((), arrived))
        assert holds is not None
        assert str(holds.get("promise")).endswith(f"{last}")
    order = order_of()
    order.facts = facts.add((), told)
    state = fold_order(order)
    assert state.promise is not None
    moved = words[-1] == "delay" or words[1:] == ("delay", "same")
    assert state.promise.to.day == (10 if moved else 26)  # else as the snapshot says


def test_a_return_is_remembered() -> None:
    state = fold_order(order_of(ReturnRequested(order_id="1", return_id="r")))
    assert state.return_requested_at == STATED.replace(hour=9)
    assert state.return_received_at is None
