"""What one transaction holds, and how many orders of it share the process with everybody else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from shared.events import Event
from shared.webhook_log import Received
from tracking import store
from tracking.domain.model import Named, Order, Track
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


async def in_turns(orders: Sequence[Order], turn: int = _TURN) -> AsyncIterator[Order]:
    """Yield orders, and let others have their turn now and then: to advance one takes half a millisecond."""
    for number, order in enumerate(orders, 1):
        yield order
        if number % turn == 0:
            await asyncio.sleep(0)


def is_heard_of(batch: Batch, order: Order) -> bool:
    """Tell whether something new was said under a ref of one of its parcels, or of a parcel by its name."""
    return any(
        (order.shop, order.order_id, shipment_id) in batch.named
        or any((order.shop, ref) in batch.heard for ref in parcel.refs)
        for shipment_id, parcel in order.parcels.items()
    )
