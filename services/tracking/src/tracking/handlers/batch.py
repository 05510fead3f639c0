"""What one transaction holds, and how many orders of it share the process with everybody else."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from shared.events import Event, ScanReported
from shared.facts import Fact
from shared.webhook_log import Received
from tracking import store
from tracking.adapters.reading import UNMAPPED
from tracking.domain.model import (
    Heard,
    Named,
    Order,
    Track,
    names,
    scan_fact,
    scan_ref,
    shipment_ref,
)
from tracking.handlers.tally import Tally
from tracking.store import Key

_TURN: Final = 16


@dataclass(slots=True)
class Batch:
    """What one transaction knows and will write."""

    now: datetime
    orders: dict[Key, Order]
    tracks: dict[Key, Track]
    held: set[Key]  # refs under which one of these orders has a parcel
    heard: set[Key] = field(default_factory=set)  # refs of which something new was said
    named: set[Named] = field(default_factory=set)  # parcels that such a thing names itself
    stated: set[Key] = field(default_factory=set)  # orders of which something new was said
    pages: list[tuple[bytes, str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    handovers: list[store.Handover] = field(default_factory=list)
    webhooks: list[Received] = field(default_factory=list)
    to_watch: dict[str, set[Key]] = field(default_factory=dict)  # by provider
    tally: Tally = field(default_factory=Tally)

    def hear(self, shop: str, scan: ScanReported, said: UUID, source: str) -> Heard:
        """Keep one scan under its number, and under the parcel that it names beside it."""
        key, named = (shop, scan_ref(scan)), names(shop, scan)
        fact = scan_fact(scan, said, self.now)
        if (heard := self._keep(key, scan, fact)) != "known":
            self.heard.add(key)
        held = key in self.held
        if named is not None:
            own = (shop, shipment_ref(named.shipment_id))
            if self._keep(own, scan, fact) != "known":
                self.named.add(named)
            held |= named.shipment_id in self.orders[shop, named.order_id].parcels
        outcome = {"new": "new" if held else "kept", "eta": "eta", "known": "duplicate"}[heard]
        self.tally.scan(source, outcome, unmapped=heard == "new" and scan.reason == UNMAPPED)
        return heard

    def _keep(self, key: Key, scan: ScanReported, fact: Fact) -> Heard:
        track = self.tracks[key]
        heard = track.add(fact, self.now)
        if heard != "known":
            track.carrier = track.carrier or scan.carrier
        return heard

    def has_heard_of(self, order: Order) -> bool:
        """Tell whether something new was said under a ref of one of its parcels, or of a parcel by its name."""
        return any(
            (order.shop, order.order_id, shipment_id) in self.named
            or any((order.shop, ref) in self.heard for ref in parcel.refs)
            for shipment_id, parcel in order.parcels.items()
        )

    def is_new(self, ref: Key) -> bool:
        """Tell whether what stands under a ref was said in this very transaction only."""
        return ref in self.tracks and self.tracks[ref].is_new

    def forget(self, order: Order, refs: Iterable[Key]) -> None:
        """Write an order as forgotten, and nothing of what was said of it, or under these refs."""
        key = (order.shop, order.order_id)
        self.stated.add(key)
        self.pages = [page for page in self.pages if page[1:] != key]
        self.named = {one for one in self.named if one[:2] != key}
        for ref in refs:
            if ref in self.tracks:
                self.tracks[ref] = Track(*ref)
                self.heard.discard(ref)


async def in_turns(orders: Sequence[Order], turn: int = _TURN) -> AsyncIterator[Order]:
    """Yield orders, and let others have their turn now and then: to advance one takes half a millisecond."""
    for number, order in enumerate(orders, 1):
        yield order
        if number % turn == 0:
            await asyncio.sleep(0)
