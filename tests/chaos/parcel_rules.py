"""The promises about parcels: what was scanned is kept, folded and told, once."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.chaos.history import History, Outgoing, Scanned, Shipped, Violation

DELAYS = frozenset({"shipment.delayed.v1", "shipment.delay_update.v1", "shipment.recovered.v1"})
STATUS = "shipment.status_changed.v1"
DELIVERED, REVOKED = "parcel.delivered.v1", "parcel.delivery_revoked.v1"
COMPLETE = "order.delivered.v1"
ENDS = frozenset({"delivered", "returned", "in_transit"})  # of the stories that are told


def _parcels_known(h: History) -> Iterator[Violation]:
    known = {(p.order, p.shipment_id): p for p in h.parcels}
    for said in _shipped(h):
        parcel = known.get((said.order, said.shipment_id))
        if parcel is None or parcel.number != said.number:
            text = f"parcel {said.number} was acknowledged; tracking has {parcel}"
            yield Violation("acknowledged and lost", text, said.order)


def _folded(h: History) -> Iterator[Violation]:
    """A parcel whose last scan was acknowledged stands where that scan put it."""
    ends = _ends(h)
    for parcel in h.parcels:
        end = ends.get(parcel.number)
        if end is not None and end.state in ENDS and parcel.state != end.state:
            text = f"{parcel.number} is {parcel.state}, its last scan said {end.state}"
            yield Violation("not folded", text, parcel.order)


def _delivered_once(h: History) -> Iterator[Violation]:
    """A parcel that ends as delivered was told so once more often than it was taken back."""
    cancelled = _cancelled(h)
    told: dict[tuple[str, str], list[Outgoing]] = defaultdict(list)
    for row in h.outbox:
        if row.type in {DELIVERED, REVOKED}:
            told[row.key, row.subject].append(row)
    for (key, subject), rows in told.items():
        types = [row.type for row in sorted(rows, key=lambda row: row.seq)]
        if types != [REVOKED if n % 2 else DELIVERED for n in range(len(types))]:
            text = f"{subject} was told as {', '.join(types)}"
            yield Violation("delivery told twice", text, key)
    for parcel in h.parcels:
        counts = Counter(row.type for row in told.get((parcel.order, parcel.shipment_id), ()))
        wanted = int(parcel.state == "delivered")
        standing = counts[DELIVERED] - counts[REVOKED]
        if standing != wanted and parcel.order in _placed(h) and parcel.order not in cancelled:
            text = f"{parcel.number} is {parcel.state}; its delivery is told {standing} times"
            yield Violation("delivery not told", text, parcel.order)


def _order_delivered_once(h: History) -> Iterator[Violation]:
    told = Counter(row.key for row in h.outbox if row.type == COMPLETE)
    for order, count in told.items():
        if count > 1:
            yield Violation("order.delivered twice", f"told {count} times", order)
    cancelled, states = _cancelled(h), {(p.order, p.shipment_id): p.state for p in h.parcels}
    orders: dict[str, dict[str, Shipped]] = defaultdict(dict)
    for said in _shipped(h):
        orders[said.order][said.shipment_id] = said
    for order, parcels in orders.items():
        whole = all(p.sure and p.of == len(parcels) for p in parcels.values())
        there = all(states.get((order, shipment_id)) == "delivered" for shipment_id in parcels)
        silent = order in cancelled or order not in _placed(h)
        if whole and there and not silent and not told[order]:
            yield Violation("order.delivered not told", "all of its parcels arrived", order)


def _news_once(h: History) -> Iterator[Violation]:
    """No notice of a delay is told twice, and no state twice in a row."""
    delays = Counter((r.key, r.type, r.subject, r.said) for r in h.outbox if r.type in DELAYS)
    for (key, type_, subject, said), count in delays.items():
        if count > 1:
            text = f"{type_} of {subject or 'the order'} ({' '.join(said)}) was told {count} times"
            yield Violation("delay told twice", text, key)
    last: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in sorted((r for r in h.outbox if r.type == STATUS), key=lambda row: row.seq):
        if last.get((row.key, row.subject)) == row.said:
            text = f"{row.subject} was told to be {' '.join(row.said)} twice in a row"
            yield Violation("state told twice", text, row.key)
        last[row.key, row.subject] = row.said


def _messages_made(h: History) -> Iterator[Violation]:
    """A placed order has one row for each parcel that left and for each delivery that was told."""
    rows = Counter((row.order, row.kind, row.subject) for row in h.messages)
    placed = _placed(h)
    shipped = {(r.key, r.subject) for r in h.outbox if r.type == "order.shipped.v1"}
    wanted = Counter({(key, "order_shipped", subject): 1 for key, subject in shipped})
    wanted.update((r.key, "delivered", r.subject) for r in h.outbox if r.type == DELIVERED)
    for (order, kind, subject), count in wanted.items():
        if order in placed and rows[order, kind, subject] != count:
            text = f"{subject} has {rows[order, kind, subject]} rows {kind} instead of {count}"
            yield Violation("neither sent nor listed", text, order)
    for (order, kind, subject), count in rows.items():
        if kind in {"order_shipped", "delivered"} and not wanted[order, kind, subject]:
            yield Violation("row from nowhere", f"{count} rows {kind} of {subject}", order)


def _swept(h: History) -> Iterator[Violation]:
    for order in h.overdue:
        yield Violation("not swept", "its check has come, and nobody looked", order)
    for parcel in h.parcels:
        if not parcel.watched:
            text = f"nobody follows {parcel.number}, which is {parcel.state}"
            yield Violation("not watched", text, parcel.order)


RULES = (
    _parcels_known,
    _folded,
    _delivered_once,
    _order_delivered_once,
    _news_once,
    _messages_made,
    _swept,
)


def _shipped(h: History) -> Iterator[Shipped]:
    for ack in h.acks:
        yield from ack.shipped


def _ends(h: History) -> dict[str, Scanned]:
    return {scan.number: scan for ack in h.acks for scan in ack.scanned if scan.last}


def _placed(h: History) -> set[str]:
    return h.keys_of("order.placed.v1")


def _cancelled(h: History) -> set[str]:
    return h.keys_of("order.cancelled.v1")


def summary(h: History) -> dict[str, int]:
    """Return how much happened to parcels."""
    types = Counter(row.type for row in h.outbox if row.service == "tracking")
    states = Counter(parcel.state for parcel in h.parcels)
    return {
        "scans kept": len(h.scans),
        "parcels": len(h.parcels),
        **{f"parcels {state}": n for state, n in sorted(states.items())},
        **{f"told {type_}": n for type_, n in sorted(types.items())},
    }
