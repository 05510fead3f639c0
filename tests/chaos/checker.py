"""Reads the whole history of a run and says what was broken: pure rules over what was written down.

The history comes from five memories that do not know each other: what the API acknowledged, the
services' tables, the topics, what the mail server accepted, and a log of every change of a journal row
that the database itself kept by trigger. Each rule is a promise; a violation names the promise, the
order and what contradicts it. The promises about parcels stand in `parcel_rules`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from tests.chaos import parcel_rules
from tests.chaos.history import History, Violation

FINAL = frozenset({"sent", "failed", "suppressed", "expired", "forgotten"})
EXPLAINED = frozenset({"failed", "suppressed", "expired", "unknown", "held"})
LAST = float("inf")
CLOCK_SLACK_SECONDS = 2.0  # a commit is stamped before it is flushed, and becomes visible after
READS: Mapping[str, frozenset[str]] = {
    "notifier": frozenset({"orders", "shipments", "deliveries"}),
    "tracking": frozenset({"orders", "scans"}),
}


def check(history: History) -> list[Violation]:
    """Return everything that contradicts a promise, the gravest rules first."""
    rules = (
        _sent_once,
        _nothing_lost,
        _everything_explained,
        _told_and_done_agree,
        _mark_before_dot,
        _nothing_after_a_cancellation,
        _unknown_bounded,
        _published,
        _in_order,
        _received,
        *parcel_rules.RULES,
        _nobody_refused,
        _nobody_died,
    )
    return [violation for rule in rules for violation in rule(history)]


def _sent_once(h: History) -> Iterator[Violation]:
    for message_id, mails in h.mails.items():
        row = h.by_message_id.get(message_id)
        if row is None:
            yield Violation("sent from nowhere", f"{message_id} has no journal row")
        elif len(mails) > 1:
            text = f"{row.kind} was accepted {len(mails)} times"
            yield Violation("sent twice", text, row.order)
        if row is not None and (wanted := h.addresses.get(row.order)):
            for mail in mails:
                if mail.rcpt != wanted:
                    yield Violation("sent to another", "the mail went astray", row.order)


def _nothing_lost(h: History) -> Iterator[Violation]:
    stored = {o.event_id for o in h.outbox}
    placed = {o.key for o in h.outbox if o.type == "order.placed.v1"}
    for ack in h.acks:
        kept = stored if ack.to == "orders" else h.scans
        for event_id in ack.ids:
            if event_id not in kept:
                text = f"event {event_id} was acknowledged ({ack.way}) and is not stored"
                yield Violation("acknowledged and lost", text, ack.orders[0])
        for order in ack.owed:
            if order not in placed:
                text = f"placing it was acknowledged ({ack.way}) and no event says so"
                yield Violation("acknowledged and lost", text, order)


def _everything_explained(h: History) -> Iterator[Violation]:
    for key in sorted({o.key for o in h.outbox if o.type == "order.placed.v1"}):
        kinds = [row.kind for row in h.rows.get(key, ())]
        if kinds.count("order_confirmed") != 1:
            text = f"placed, with {kinds.count('order_confirmed')} confirmation rows instead of 1"
            yield Violation("neither sent nor listed", text, key)
    for row in h.messages:
        if row.state not in FINAL | EXPLAINED:
            text = f"{row.kind} still waits as {row.state} ({row.reason}), attempt {row.attempt}"
            yield Violation("neither sent nor listed", text, row.order)
        elif row.state in EXPLAINED and not row.reason:
            text = f"{row.kind} is {row.state} without a reason"
            yield Violation("neither sent nor listed", text, row.order)


def _told_and_done_agree(h: History) -> Iterator[Violation]:
    for row in h.messages:
        copies = len(h.mails.get(row.message_id, ()))
        if row.state == "sent" and copies == 0:
            text = f"{row.kind} is sent, and no server has it"
            yield Violation("said sent and is not", text, row.order)
        if copies and row.state not in {"sent", "unknown"}:
            text = f"{row.kind} is {row.state} ({row.reason}), and the server has it"
            yield Violation("sent and said it is not", text, row.order)
        for change in h.life.get(row.id, ()):
            if change.old == "sent":
                text = f"{row.kind} went from sent to {change.new}"
                yield Violation("sent is not final", text, row.order)


def _mark_before_dot(h: History) -> Iterator[Violation]:
    """No message reaches the server unless its mark was durable before."""
    for row in h.messages:
        marks = [c.committed for c in h.life.get(row.id, ()) if c.new == "dispatching"]
        for number, mail in enumerate(sorted(h.mails.get(row.message_id, ()), key=lambda m: m.at)):
            if len([m for m in marks if m <= mail.at]) < number + 1:
                text = f"{row.kind} was at the server before its mark was durable"
                yield Violation("dot before mark", text, row.order)


def _nothing_after_a_cancellation(h: History) -> Iterator[Violation]:
    for row in h.messages:
        known = h.cancelled.get(row.order)
        if known is None or row.kind != "order_confirmed":
            continue
        for change in h.life.get(row.id, ()):
            late = change.at - known
            if change.new == "dispatching" and late > CLOCK_SLACK_SECONDS:
                text = f"{row.kind} was marked {late:.1f} s after the cancellation was stored"
                yield Violation("sent after the cancellation", text, row.order)


def _unknown_bounded(h: History) -> Iterator[Violation]:
    unknown = [row for row in h.messages if row.state == "unknown"]
    if len(unknown) > h.unknown_max:
        text = f"{len(unknown)} messages of unknown fate, at most {h.unknown_max} are explained"
        yield Violation("too many unknown", text, unknown[-1].order)


def _published(h: History) -> Iterator[Violation]:
    there = {r.event_id for r in h.topic}
    for row in h.outbox:
        if not row.published:
            text = f"{row.service} never published {row.type} (place {row.seq})"
            yield Violation("not published", text, row.key)
        elif row.event_id not in there:
            text = f"{row.service} marked {row.type} as published; no topic has it"
            yield Violation("published and lost", text, row.key)
    known = {o.event_id for o in h.outbox}
    for record in h.topic:
        if record.event_id not in known:
            yield Violation(
                "event from nowhere", f"{record.event_id} in {record.topic}", record.key
            )


def _in_order(h: History) -> Iterator[Violation]:
    """Within a topic, the first copies of one order's events stand in the order of the outbox.

    What became of an order's messages is written without the order's lock, message by message: there
    only the events of one message have an order. Scans have none: they are folded by their own times.
    """
    place = {
        o.event_id: (o.service, o.seq, o.subject if o.topic == "messages" else "") for o in h.outbox
    }
    last: dict[tuple[str, str, str, str], int] = {}
    partitions: dict[tuple[str, str], int] = {}
    seen: set[str] = set()
    for record in sorted(h.topic, key=lambda r: (r.topic, r.partition, r.offset)):
        home = partitions.setdefault((record.topic, record.key), record.partition)
        if home != record.partition:
            yield Violation("out of order", "its events lie in two partitions", record.key)
        if record.event_id in seen or record.event_id not in place:
            continue
        seen.add(record.event_id)
        if record.topic == "scans":
            continue
        service, seq, message = place[record.event_id]
        line = (service, record.topic, record.key, message)
        if seq < last.get(line, -1):
            text = f"place {seq} of {service} stands behind {last[line]} in {record.topic}"
            yield Violation("out of order", text, record.key)
        last[line] = max(seq, last.get(line, -1))


def _received(h: History) -> Iterator[Violation]:
    for reader, topics in READS.items():
        seen = h.inboxes.get(reader, frozenset())
        for event_id, key in {r.event_id: r.key for r in h.topic if r.topic in topics}.items():
            if event_id not in seen:
                yield Violation("not received", f"{reader} never saw event {event_id}", key)
    for dead in h.dead:
        text = f"{dead.service} gave an event up: {dead.error_class}, {dead.text}"
        yield Violation("acknowledged and dead", text, dead.key)


def _nobody_refused(h: History) -> Iterator[Violation]:
    for _, order, status, body in h.refused:
        yield Violation("refused", f"a correct request was answered {status}: {body}", order)


def _nobody_died(h: History) -> Iterator[Violation]:
    for crash in h.crashes:
        yield Violation("died of itself", crash)


def summary(history: History) -> dict[str, int]:
    """Return the counts that the promises are about."""
    states = Counter(row.state for row in history.messages)
    copies = Counter(m.message_id for m in history.accepted)
    records = Counter(r.event_id for r in history.topic)
    reached = sum(row.state == "unknown" and row.message_id in copies for row in history.messages)
    return {
        "acknowledged requests": len(history.acks),
        "orders owed a message": len({o for ack in history.acks for o in ack.owed}),
        "events stored": len(history.outbox),
        "records in topics": len(history.topic),
        "records told twice": sum(n - 1 for n in records.values()),
        "journal rows": len(history.messages),
        "mails accepted": len(history.accepted),
        "mails accepted twice": sum(n > 1 for n in copies.values()),
        **{f"rows {state}": n for state, n in sorted(states.items())},
        "rows unknown, accepted": reached,
        "unknown allowed": history.unknown_max,
        "cancellations known": len(history.cancelled),
        **parcel_rules.summary(history),
    }


def timeline(history: History, order: str) -> list[str]:
    """Return everything known about one order, oldest first."""
    lines = [*_told_by_the_shop(history, order), *_done_by_the_notifier(history, order)]
    began = min((at for at, _ in lines if at), default=0.0)
    told = [
        said if at == LAST else f"{at - began:+9.3f} s  {said}"
        for at, said in sorted(lines, key=lambda line: line[0])
    ]
    places = [r for r in history.topic if r.key == order]
    return told + [f"in {r.topic}/{r.partition} at {r.offset}: {r.event_id}" for r in places]


def _told_by_the_shop(h: History, order: str) -> Iterator[tuple[float, str]]:
    for ack in h.acks:
        if order in ack.orders:
            told = ", ".join(f"{s.number} {s.state}" for s in ack.scanned)
            said = f"{ack.way} {told}".strip()
            yield ack.at, f"API acknowledged {said}, ids {', '.join(ack.ids) or '-'}"
    for at, who, status, _ in h.refused:
        if who == order:
            yield at, f"API answered {status}"
    for row in h.outbox:
        if row.key == order:
            state = "published" if row.published else "NOT published"
            said = " ".join((row.type, row.subject, *row.said))
            yield row.at, f"{row.service} outbox {row.seq}: {said} {row.event_id}, {state}"


def _done_by_the_notifier(h: History, order: str) -> Iterator[tuple[float, str]]:
    if order in h.cancelled:
        yield h.cancelled[order], "notifier knows the cancellation (committed)"
    for row in h.rows.get(order, ()):
        for c in h.life.get(row.id, ()):
            said = f"journal {c.old or '-'} -> {c.new}, attempt {c.attempt}"
            yield c.at, f"{said}, committed {c.committed - c.at:+.3f} s"
        for mail in h.mails.get(row.message_id, ()):
            yield mail.at, f"mail server accepted {mail.message_id}"
        yield LAST, f"at the end: {row.kind} {row.subject} is {row.state} ({row.reason})"
    for parcel in h.parcels:
        if parcel.order == order:
            yield LAST, f"at the end: parcel {parcel.number} is {parcel.state}"
