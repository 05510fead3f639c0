"""Orders with one to four parcels as two sources tell them: in other words, late, shuffled and often.

`play` runs one order as the service would, scan by scan, and the clock until nothing is due any more.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from shared import facts
from shared.events import (
    Eta,
    ItemQuantity,
    OrderDelivered,
    OrderShipped,
    ParcelDelivered,
    ParcelDeliveryRevoked,
    ScanReported,
    ShipmentState,
    ShipmentStatusChanged,
)
from shared.facts import Fact
from shared.shops import Shop
from tracking.domain import news
from tracking.domain.fold import Shipment, fold
from tracking.domain.model import About, News, Order, OrderLine, Parcel, Track, scan_fact
from tracking.domain.orders import fold_order
from tracking.domain.pace import Pace
from tracking.domain.situation import Situation

START: Final = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)  # a Monday
PACE: Final = Pace(START)
HOUR: Final = timedelta(hours=1)

Scans = Sequence[tuple[float, ShipmentState, str | None]]

TALES: Final[Sequence[tuple[str, Scans]]] = (
    ("delivered", ((0, "label_created", None), (9, "in_transit", None), (23, "out_for_delivery", None),
                   (28, "delivered", "hand"))),
    ("delivered", ((2, "in_transit", None), (20, "in_transit", None), (47, "out_for_delivery", None),
                   (52, "delivery_attempted", "consignee_not_home"), (56, "in_transit", None),
                   (71, "out_for_delivery", None), (75, "delivered", "signed"))),
    ("delivered", ((3, "in_transit", None), (26, "out_for_delivery", None),
                   (30, "delivery_attempted", "consignee_not_home"), (33, "ready_for_pickup", None),
                   (80, "delivered", "locker"))),
    ("delivered", ((3, "in_transit", None), (15, "exception", "customs_documentation"),
                   (60, "in_transit", None), (70, "delayed", "weather_delay"),
                   (96, "out_for_delivery", None), (101, "delivered", "neighbour"))),
    ("delivered", ((1, "label_created", None), (8, "in_transit", None), (22, "out_for_delivery", None),
                   (27, "delivered", "safe_place"), (31, "delivery_attempted", "carrier_address_not_found"),
                   (46, "out_for_delivery", None), (50, "delivered", "hand"))),
    ("delivered", ((4, "in_transit", None), (24, "out_for_delivery", None),
                   (44, "in_transit", None), (48, "out_for_delivery", None), (53, "delivered", None))),
    ("returned", ((4, "in_transit", None), (23, "out_for_delivery", None),
                  (29, "exception", "consignee_refused"), (33, "returning", None),
                  (50, "in_transit", None), (70, "returned", None))),
    ("returned", ((4, "in_transit", None), (23, "exception", "consignee_incorrect_address"),
                  (30, "returning", None), (52, "out_for_delivery", None), (55, "delivered", "hand"))),
    ("expired", ((4, "in_transit", None), (80, "exception", "carrier_parcel_lost"),
                 (800, "expired", None))),
    ("cancelled", ((0, "label_created", None), (5, "cancelled", None))),
)  # fmt: skip
"""How parcels end, and by which scans: hours after the shop shipped them, state, reason."""

OTHER_WORDS: Final[dict[ShipmentState, tuple[ShipmentState, ...]]] = {
    "label_created": ("unknown", "label_created"),
    "out_for_delivery": ("in_transit", "out_for_delivery"),
    "delivery_attempted": ("in_transit", "exception", "delivery_attempted"),
    "ready_for_pickup": ("in_transit", "delivered", "ready_for_pickup"),
    "exception": ("in_transit", "delayed", "exception"),
    "delayed": ("in_transit", "exception", "delayed"),
    "returning": ("exception", "returning"),
    "returned": ("delivered", "returned"),
    "delivered": ("delivered", "delivered", "out_for_delivery", "ready_for_pickup", "exception"),
    "expired": ("unknown", "expired"),
    "cancelled": ("unknown", "cancelled"),
}
"""What a second source calls the same event."""


def a_shop(**more: Any) -> Shop:
    sender = {"name": "Tea", "address": "tea@example.com"}
    needed = {"id": "s", "name": "Tea", "sender": sender, "reply_to": "tea@example.com"}
    return Shop.model_validate({**needed, "time_zone": "Europe/Ljubljana", **more})


@dataclass(frozen=True, slots=True)
class Arrival:
    """One scan as it comes in."""

    at: datetime
    ref: str
    scan: Fact


@dataclass(slots=True)
class Tale:
    """One order: its parcels, how each ends after how many attempts, and what comes in, as it happened."""

    about: About
    parcels: dict[str, Parcel]
    ends: dict[str, str]
    attempts: dict[str, int]
    arrivals: list[Arrival]


@dataclass(slots=True)
class Ended:
    """How an order ended: what its parcels add up to, what was noted, what was published."""

    shipments: dict[str, Shipment]
    told: dict[str, Any]
    published: list[News] = field(default_factory=list)

    @property
    def delivered(self) -> list[OrderDelivered]:
        return [one.data for one in self.published if isinstance(one.data, OrderDelivered)]


def tell_tale(dice: Random, name: str) -> Tale:
    """Make an order of which at least one parcel arrives in the end."""
    count = dice.randint(1, 4)
    chosen = [dice.choice(TALES[:6]), *(dice.choice(TALES) for _ in range(count - 1))]
    dice.shuffle(chosen)
    with_items, says_final = dice.random() < 0.5, dice.random() < 0.5
    about = About.model_construct(
        number=name,
        placed_at=START - 20 * HOUR,
        lines=tuple(
            OrderLine.model_construct(line_id=str(n), name="Tea", quantity="2")
            for n in range(count)
        ),
    )
    parcels, arrivals = {}, []
    for n, (_, scans) in enumerate(chosen):
        shipped_at = START + dice.randint(0, 30) * HOUR
        last = n == count - 1
        body = OrderShipped.model_construct(
            order_id=name,
            shipment_id=f"s/{n}",
            tracking_number=f"{name}X{n}",
            number_of_order=f"{n + 1} of {count}",
            items=(ItemQuantity.model_construct(line_id=str(n), quantity="2"),)
            if with_items
            else None,
            final=("yes" if last else "no") if says_final else "unknown",
            shipped_at=shipped_at,
        )
        parcels[f"s/{n}"] = Parcel(f"s/{n}", body, (shipped_at, 40, f"e{n}"), shipped_at)
        arrivals += _arrivals(dice, parcels[f"s/{n}"], scans)
    ends = {f"s/{n}": end for n, (end, _) in enumerate(chosen)}
    attempts = {
        f"s/{n}": sum(state == "delivery_attempted" for _, state, _ in scans)
        for n, (_, scans) in enumerate(chosen)
    }
    arrivals.sort(key=lambda one: (one.at, one.scan.id))
    return Tale(about, parcels, ends, attempts, arrivals)


def _arrivals(dice: Random, parcel: Parcel, scans: Scans) -> list[Arrival]:
    ref, shipped_at = parcel.refs[0], parcel.stated[0]
    told = []
    for n, (hours, state, reason) in enumerate(scans):
        at = shipped_at + hours * HOUR
        sources = [("easypost", at, state, reason)]
        if dice.random() < 0.7:
            words = dice.choice(OTHER_WORDS.get(state, (state,)))
            apart = timedelta(seconds=dice.choice((-4, -2, -1, 1, 2, 3, 5)))
            sources.append(("aftership", at + apart, words, reason if words == state else None))
        for source, when, words, why in sources:
            ends_it = n == len(scans) - 1  # a delivery that is revoked the same day has a time
            day = words == "delivered" and ends_it and dice.random() < 0.05
            data = ScanReported.model_construct(
                tracking_number=parcel.body.tracking_number,
                state=words,
                reason=why,
                occurred_at=when.replace(hour=0, minute=0, second=0) if day else when,
                precision="day" if day else "second",
                eta=Eta.model_construct(from_=None, to=when + 30 * HOUR)
                if dice.random() < 0.2
                else None,
                place="Ljubljana" if dice.random() < 0.3 else None,
                source=source,
            )
            fact = scan_fact(data, f"{ref}:{n}:{source}", when)
            told.append(Arrival(when, ref, fact))
    return told


def shuffled(dice: Random, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Return each arrival one to five times, each up to 72 hours late."""
    late = (
        Arrival(one.at + timedelta(seconds=dice.randint(0, 72 * 3600)), one.ref, one.scan)
        for one in arrivals
        for _ in range(dice.randint(1, 5))
    )
    return sorted(late, key=lambda one: (one.at, one.scan.id))


def play(tale: Tale, arrivals: Sequence[Arrival], shop: Shop) -> Ended:
    """Take the scans in as they arrive, as the service does, and let the clock run to the end."""
    order = Order("s", str(tale.about.number), START, about=tale.about, parcels=dict(tale.parcels))
    state = fold_order(order)
    shipments = {id_: fold(parcel, ()) for id_, parcel in order.parcels.items()}
    by_ref = {parcel.refs[0]: parcel for parcel in order.parcels.values()}
    ended = Ended(shipments, order.told)

    def step(now: datetime) -> datetime | None:
        here = Situation(order, state, shipments, shop, now, PACE)
        told = news.tell(here)
        ended.published += told
        return news.check(here)

    due = None
    for one in arrivals:
        while due is not None and due <= one.at:
            due = step(due)
        track = order.tracks.setdefault(one.ref, Track("s", one.ref))
        scans = facts.add(track.scans, (one.scan,))
        if scans == track.scans:
            continue
        track.scans = scans
        parcel = by_ref[one.ref]
        shipments[parcel.shipment_id] = fold(parcel, order.scans(parcel))
        due = step(one.at)
    while due is not None:
        due = step(due)
    return ended


def tells_each_change_once(told: Sequence[News]) -> None:
    """Check that a revocation follows a delivery, a delivery never another, and each state its last.

    Deliveries and revocations also follow in the times of their events: who hears them folds by these.
    """
    at_home: Counter[str] = Counter()
    state: dict[str, str] = {}
    last: dict[str, tuple[datetime, bool]] = {}
    for said in told:
        one = said.data
        if isinstance(one, ParcelDelivered | ParcelDeliveryRevoked):
            arrived = isinstance(one, ParcelDelivered)
            at_home[one.shipment_id] += 1 if arrived else -1
            before, last[one.shipment_id] = last.get(one.shipment_id), (said.at, not arrived)
            assert before is None or before < last[one.shipment_id]
        elif isinstance(one, ShipmentStatusChanged):
            assert one.previous == state.get(one.shipment_id, "unknown")
            state[one.shipment_id] = one.state
        assert set(at_home.values()) <= {0, 1}
    assert all(at_home[id_] == (now == "delivered") for id_, now in state.items())


@dataclass(slots=True)
class Figures:
    """How much was played."""

    orders: int = 0
    parcels: int = 0
    scans: int = 0
    arrivals: int = 0


def run(seed: int, orders: int) -> Figures:
    """Play orders as they happened and shuffled, and check that both end alike and as they should."""
    shop, figures = a_shop(), Figures(orders)
    for n in range(orders):
        dice = Random(seed * 1_000_003 + n)
        tale = tell_tale(dice, f"O{n}")
        late = shuffled(dice, tale.arrivals)
        calm, wild = play(tale, tale.arrivals, shop), play(tale, late, shop)
        where = f"seed {seed}, order {n}"
        assert {i: one.state for i, one in calm.shipments.items()} == tale.ends, where
        assert {i: one.attempts for i, one in calm.shipments.items()} == tale.attempts, where
        arrived = tuple(i for i, end in sorted(tale.ends.items()) if end == "delivered")
        assert calm.delivered[0].shipment_ids == arrived, where
        assert wild.shipments == calm.shipments, where
        assert wild.told["parcels"] == calm.told["parcels"], where
        assert (len(calm.delivered), len(wild.delivered)) == (1, 1), where
        tells_each_change_once(wild.published)
        figures.parcels += len(tale.parcels)
        figures.scans += len(tale.arrivals)
        figures.arrivals += len(late)
    return figures


if __name__ == "__main__":
    count, *seeds = map(int, sys.argv[1:])
    for own in seeds:
        began = time.process_time()
        played = run(own, count)
        sys.stdout.write(
            f"seed {own}: {played}, {time.process_time() - began:.0f} s of processor\n"
        )
        sys.stdout.flush()
