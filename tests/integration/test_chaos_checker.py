"""The checker of the kill test, on histories made by hand: the right one is green, each wrong one red."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.checker import check, timeline
from tests.chaos.history import (
    Accepted,
    Ack,
    Change,
    Dead,
    History,
    InTopic,
    Message,
    Outgoing,
    Parcel,
    Scanned,
    Shipped,
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
        "inboxes": dict.fromkeys(("notifier", "tracking"), frozenset({PLACED, GONE, "e5"})),
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


def _unread(reader: str, event_id: str) -> Spoil:
    return lambda f: f["inboxes"].update({reader: f["inboxes"][reader] - {event_id}})


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
    "never read": ("not received", _unread("notifier", "e5")),
    "not read by tracking": ("not received", _unread("tracking", "e5")),
    "given up": ("acknowledged and dead", _set("dead", [Dead("notifier", ORDER, "crash", "x")])),
    "refused": ("refused", _set("refused", [(1.0, ORDER, 422, "{}")])),
    "died": ("died of itself", _set("crashes", ["notifier-1 ended with 1"])),
}  # fmt: skip


PARCEL = "p1"
OUT, HERE, BACK, AGAIN, WHOLE, LATE, WORD = "t1", "t2", "t3", "t4", "t5", "t6", "t7"


def parcel_fields() -> dict[str, Any]:
    """The same, and a parcel of the first order: late, delivered, taken back, delivered again."""
    told = fields()
    told["acks"] += [
        Ack(2.0, "shipped", (ORDER,), ("e6",), shipped=(Shipped(ORDER, PARCEL, "N1"),)),
        Ack(2.1, "scan", (ORDER,), ("s1", "s2"), to="tracking",
            scanned=(Scanned("N1", "delivered", last=True),)),
        Ack(2.2, "easypost", (ORDER,), ("s1",), to="tracking", scanned=(Scanned("N1", "exception"),)),
    ]  # fmt: skip
    events = [
        ("order_events", 3, "e6", "orders", "order.shipped.v1", PARCEL, ()),
        ("order_events", 4, "e7", "scans", "scan.reported.v1", "", ()),
        ("tracking", 1, LATE, "shipments", "shipment.delayed.v1", PARCEL, ("episode=1",)),
        ("tracking", 2, WORD, "shipments", "shipment.delay_update.v1", PARCEL, ("1", "round=1")),
        ("tracking", 3, OUT, "shipments", "shipment.status_changed.v1", PARCEL, ("delivered",)),
        ("tracking", 4, HERE, "deliveries", "parcel.delivered.v1", PARCEL, ()),
        ("tracking", 5, BACK, "deliveries", "parcel.delivery_revoked.v1", PARCEL, ()),
        ("tracking", 6, AGAIN, "deliveries", "parcel.delivered.v1", PARCEL, ()),
        ("tracking", 7, WHOLE, "deliveries", "order.delivered.v1", "", ()),
    ]
    offsets: Counter[str] = Counter(orders=1)
    for service, seq, event_id, topic, type_, subject, said in events:
        row = Outgoing(service, seq, event_id, topic, ORDER, type_, subject=subject, said=said)
        told["outbox"].append(row)
        told["topic"].append(InTopic(topic, 0, offsets[topic], ORDER, event_id))
        offsets[topic] += 1
    told["inboxes"]["tracking"] |= {"e6", "e7"}
    told["inboxes"]["notifier"] |= {"e6", OUT, HERE, BACK, AGAIN, WHOLE, LATE, WORD}
    told["messages"] += [
        Message(5, ORDER, "order_shipped", "suppressed", "overtaken", "<s@b>", subject=PARCEL),
        Message(6, ORDER, "delivered", "suppressed", "revoked", "<d@b>", subject=PARCEL),
        Message(7, ORDER, "delivered", "failed", "550", "<e@b>", subject=PARCEL),
    ]
    told["scans"] = frozenset({"s1", "s2"})
    told["parcels"] = [Parcel(ORDER, PARCEL, "N1", "delivered")]
    return told


def _without(event_id: str) -> Spoil:
    """Leave an event out, and all that came of it."""

    def spoil(f: dict[str, Any]) -> None:
        f["outbox"] = [o for o in f["outbox"] if o.event_id != event_id]
        f["topic"] = [r for r in f["topic"] if r.event_id != event_id]

    return spoil


def _told_again(event_id: str) -> Spoil:
    """Tell a piece of news a second time, as an event of its own."""

    def spoil(f: dict[str, Any]) -> None:
        row = next(o for o in f["outbox"] if o.event_id == event_id)
        f["outbox"].append(replace(row, event_id="again", seq=99))
        f["topic"].append(InTopic(row.topic, 0, 99, row.key, "again"))
        f["inboxes"]["notifier"] |= {"again"}

    return spoil


def _parcel_gone(f: dict[str, Any]) -> None:
    f["parcels"] = []


LOST_OR_TOLD_TWICE: dict[str, tuple[str, Spoil]] = {
    "scan not kept": ("acknowledged and lost", _set("scans", frozenset({"s1"}))),
    "parcel not known": ("acknowledged and lost", _parcel_gone),
    "another number": ("acknowledged and lost", _change("parcels", 0, number="N2")),
    "last scan not folded": ("not folded", _change("parcels", 0, state="out_for_delivery")),
    "scan topic not read": ("not received", _unread("tracking", "e7")),
    "news not read": ("not received", _unread("notifier", LATE)),
    "delivery not told": ("delivery not told", _without(AGAIN)),
    "delivery told twice": ("delivery told twice", _told_again(AGAIN)),
    "taken back before it came": ("delivery told twice", _without(HERE)),
    "told, not delivered": ("delivery not told", _change("parcels", 0, state="in_transit")),
    "order.delivered missing": ("order.delivered not told", _without(WHOLE)),
    "order.delivered twice": ("order.delivered twice", _told_again(WHOLE)),
    "delay told twice": ("delay told twice", _told_again(LATE)),
    "update told twice": ("delay told twice", _told_again(WORD)),
    "state told twice": ("state told twice", _told_again(OUT)),
    "no row for the dispatch": ("neither sent nor listed", _drop("messages", 2)),
    "no row for a delivery": ("neither sent nor listed", _drop("messages", 4)),
    "row without a delivery": ("row from nowhere", _append("messages", Message(8, CANCELLED, "delivered", "failed", "x", "<f@b>", subject="p9"))),
    "news lost by the bus": ("published and lost", lambda f: f["topic"].pop()),
    "scan cannot be handled": ("acknowledged and dead", _set("dead", [Dead("tracking", ORDER, "crash", "x")])),
    "check never looked at": ("not swept", _set("overdue", [ORDER])),
    "followed by nobody": ("not watched", _change("parcels", 0, watched=False)),
}  # fmt: skip


def test_a_right_history_breaks_no_promise() -> None:
    assert check(History(**fields())) == []


def test_a_right_history_with_a_parcel_breaks_no_promise() -> None:
    assert check(History(**parcel_fields())) == []


@pytest.mark.parametrize(
    ("rule", "spoil"), LOST_OR_TOLD_TWICE.values(), ids=LOST_OR_TOLD_TWICE.keys()
)
def test_what_is_lost_or_told_twice_about_a_parcel_is_found(rule: str, spoil: Spoil) -> None:
    wrong = parcel_fields()
    spoil(wrong)
    assert rule in {violation.rule for violation in check(History(**wrong))}


def test_two_late_dates_of_one_parcel_are_two_pieces_of_news() -> None:
    told = parcel_fields()
    _told_again(LATE)(told)
    told["outbox"][-1] = replace(told["outbox"][-1], said=("episode=2",))
    assert check(History(**told)) == []


def test_a_parcel_of_a_cancelled_order_need_not_be_told_as_delivered() -> None:
    told = parcel_fields()
    _without(WHOLE)(told)
    told["outbox"].append(
        Outgoing("order_events", 9, "e9", "orders", ORDER, "order.cancelled.v1", at=9.0)
    )
    told["topic"].append(InTopic("orders", 0, 9, ORDER, "e9"))
    for reader in ("notifier", "tracking"):
        told["inboxes"][reader] |= {"e9"}
    assert check(History(**told)) == []


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


def test_only_the_events_of_one_message_have_an_order() -> None:
    told = fields()
    told["outbox"][3] = replace(told["outbox"][3], subject="order_shipped|1")
    told["outbox"].append(replace(told["outbox"][3], seq=0, event_id="e6", subject="delivered|1"))
    told["topic"].append(InTopic("messages", 0, 1, ORDER, "e6"))
    assert check(History(**told)) == []
    told["outbox"][-1] = replace(told["outbox"][-1], subject="order_shipped|1")
    assert {violation.rule for violation in check(History(**told))} == {"out of order"}


def test_scans_have_no_order_in_their_topic() -> None:
    told = parcel_fields()
    row = next(o for o in told["outbox"] if o.topic == "scans")
    told["outbox"].append(replace(row, event_id="e8", seq=0))
    told["topic"].append(InTopic("scans", 0, 9, ORDER, "e8"))
    told["inboxes"]["tracking"] |= {"e8"}
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
