"""The checker of the kill test, on histories made by hand: the right one is green, each wrong one red."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.checker import (
    Accepted,
    Ack,
    Change,
    Dead,
    History,
    InTopic,
    Message,
    Outgoing,
    check,
    timeline,
)
from tests.chaos.plants import PLANTS, Plant
from tests.chaos.rig import copy_sources

ORDER = "shop:1"
CANCELLED = "shop:2"
PLACED, GONE, SENT, TAKEN_BACK = "e1", "e2", "e3", "e4"


def fields() -> dict[str, Any]:
    """Two orders: one told, sent and said so; one told and cancelled before anything left."""
    return {
        "acks": [
            Ack(1.0, "structured", (ORDER,), (PLACED,), (ORDER,)),
            Ack(1.1, "batch", (CANCELLED,), ("e5", GONE), (CANCELLED,)),
        ],
        "outbox": [
            Outgoing("order_events", 1, PLACED, "orders", ORDER, "order.placed.v1", at=1.0),
            Outgoing("order_events", 2, "e5", "orders", CANCELLED, "order.placed.v1", at=1.1),
            Outgoing("order_events", 3, GONE, "orders", CANCELLED, "order.cancelled.v1", at=1.1),
            Outgoing("notifier", 1, SENT, "messages", ORDER, "message.sent.v1", at=3.0),
            Outgoing("notifier", 2, TAKEN_BACK, "messages", CANCELLED, "message.suppressed.v1"),
        ],
        "topic": [
            InTopic("orders", 0, 0, ORDER, PLACED),
            InTopic("orders", 1, 0, CANCELLED, "e5"),
            InTopic("orders", 1, 1, CANCELLED, GONE),
            InTopic("orders", 1, 2, CANCELLED, "e5"),
            InTopic("messages", 0, 0, ORDER, SENT),
            InTopic("messages", 1, 0, CANCELLED, TAKEN_BACK),
        ],
        "inbox": frozenset({PLACED, GONE, "e5"}),
        "messages": [
            Message(1, ORDER, "order_confirmed", "sent", None, "<a@b>", 1),
            Message(2, CANCELLED, "order_confirmed", "suppressed", "cancelled", "<c@b>"),
        ],
        "changes": [
            Change(1, None, "pending", 0, 1.50, 1.51),
            Change(1, "pending", "claimed", 1, 1.60, 1.61),
            Change(1, "claimed", "dispatching", 1, 1.70, 1.71),
            Change(1, "dispatching", "sent", 1, 1.90, 1.91),
            Change(2, None, "suppressed", 0, 1.50, 1.51),
        ],
        "cancelled": {CANCELLED: 1.51},
        "accepted": [Accepted(1.80, "<a@b>", "a@customer.example")],
        "addresses": {ORDER: "a@customer.example"},
    }


Spoil = Callable[[dict[str, Any]], None]


def _append(name: str, value: Any) -> Spoil:
    return lambda f: f[name].append(value)


def _drop(name: str, index: int) -> Spoil:
    return lambda f: f[name].pop(index)


def _change(name: str, index: int, **values: Any) -> Spoil:
    def spoil(f: dict[str, Any]) -> None:
        f[name][index] = replace(f[name][index], **values)

    return spoil


def _set(name: str, value: Any) -> Spoil:
    return lambda f: f.__setitem__(name, value)


def _swap_cancellation_and_order(f: dict[str, Any]) -> None:
    f["topic"][1] = replace(f["topic"][1], event_id=GONE)
    f["topic"][2] = replace(f["topic"][2], event_id="e5")


def _sent_after_the_cancellation(f: dict[str, Any]) -> None:
    f["cancelled"][ORDER] = -1.0
    f["changes"] = [c for c in f["changes"] if c.message == 1 or c.new != "suppressed"]


WRONG: dict[str, tuple[str, Spoil]] = {
    "accepted twice": ("sent twice", _append("accepted", Accepted(2.5, "<a@b>", "a@customer.example"))),
    "accepted, no row": ("sent from nowhere", _append("accepted", Accepted(2.0, "<x@b>", "x@y.example"))),
    "another's mail": ("sent to another", _change("accepted", 0, rcpt="other@customer.example")),
    "event not stored": ("acknowledged and lost", _change("acks", 0, ids=("e9",))),
    "order not placed": ("acknowledged and lost", _change("outbox", 0, type="order.updated.v1")),
    "no row": ("neither sent nor listed", _drop("messages", 1)),
    "waits for ever": ("neither sent nor listed", _change("messages", 1, state="pending")),
    "at the dot for ever": ("neither sent nor listed", _change("messages", 1, state="dispatching")),
    "no reason": ("neither sent nor listed", _change("messages", 1, reason=None)),
    "two rows": ("neither sent nor listed", _append("messages", Message(3, ORDER, "order_confirmed", "failed", "x", "<z@b>"))),
    "said sent": ("said sent and is not", _drop("accepted", 0)),
    "suppressed and sent": ("sent and said it is not", _append("accepted", Accepted(1.9, "<c@b>", "c@d.example"))),
    "failed and sent": ("sent and said it is not", _change("messages", 0, state="failed", reason="x")),
    "sent, then not": ("sent is not final", _append("changes", Change(1, "sent", "pending", 1, 2.0, 2.0))),
    "no mark": ("dot before mark", _drop("changes", 2)),
    "mark committed after": ("dot before mark", _change("changes", 2, committed=1.85)),
    "cancelled before": ("sent after the cancellation", _sent_after_the_cancellation),
    "unexplained unknown": ("too many unknown", _change("messages", 1, state="unknown")),
    "left in the outbox": ("not published", _change("outbox", 0, published=False)),
    "lost by the bus": ("published and lost", _drop("topic", 4)),
    "nobody's event": ("event from nowhere", _append("topic", InTopic("orders", 0, 9, ORDER, "e8"))),
    "wrong order": ("out of order", _swap_cancellation_and_order),
    "two partitions": ("out of order", _append("topic", InTopic("orders", 7, 0, ORDER, PLACED))),
    "never read": ("not received", _set("inbox", frozenset({PLACED, GONE}))),
    "given up": ("acknowledged and dead", _set("dead", [Dead("notifier", ORDER, "crash", "x")])),
    "refused": ("refused", _set("refused", [(1.0, ORDER, 422, "{}")])),
    "died": ("died of itself", _set("crashes", ["notifier-1 ended with 1"])),
}  # fmt: skip


def test_a_right_history_breaks_no_promise() -> None:
    assert check(History(**fields())) == []


@pytest.mark.parametrize(("rule", "spoil"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_history_breaks_the_promise_that_it_should(rule: str, spoil: Spoil) -> None:
    wrong = fields()
    spoil(wrong)
    assert rule in {violation.rule for violation in check(History(**wrong))}


def test_a_message_of_unknown_fate_is_right_when_a_crash_explains_it() -> None:
    told = fields() | {"unknown_max": 8}
    told["messages"][0] = replace(told["messages"][0], state="unknown", reason="no_reply")
    told["changes"][3] = replace(told["changes"][3], new="unknown")
    assert check(History(**told)) == []


def test_a_mark_just_before_the_cancellation_was_visible_is_right() -> None:
    told = fields()
    told["cancelled"][ORDER] = 1.69
    assert check(History(**told)) == []


def test_the_timeline_of_an_order_tells_its_whole_story_in_order() -> None:
    lines = "\n".join(timeline(History(**fields()), ORDER))
    story = [
        "acknowledged",
        "order.placed.v1",
        "-> claimed",
        "-> dispatching",
        "accepted",
        "-> sent",
    ]
    assert sorted(story, key=lines.index) == story
    assert "at the end" in lines


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_each_planted_defect_still_fits_the_source(plant: Plant, tmp_path: Path) -> None:
    copied = copy_sources(tmp_path / "sources", plant.patches)
    for patch in plant.patches:
        compile((copied / patch.file).read_text(), patch.file, "exec")
