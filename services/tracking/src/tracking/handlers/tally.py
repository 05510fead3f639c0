"""What tracking counts: noted while a transaction is written, counted once it is durable."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from shared.events import (
    ParcelDelivered,
    ShipmentDelayed,
    ShipmentDelayUpdate,
    ShipmentRecovered,
    ShipmentStatusChanged,
)
from shared.observability import (
    DELAYS,
    HISTORY_FACTS,
    NEXT_CONTACT,
    NOTICE_LEAD,
    PROMISES,
    SCANS,
    SCANS_UNMAPPED,
    WEBHOOKS,
)
from shared.shops import Shop
from tracking.domain.advance import look
from tracking.domain.model import News, Order
from tracking.domain.news import promise_kept
from tracking.domain.pace import Pace

CARRIERS_MAX: Final = 30  # carriers are free words of shops; a label must not grow with them
OTHERS: Final = "other"
KEPT_WITHIN: Final = timedelta(hours=1)

_carriers: set[str] = set()


def carrier_label(carrier: str | None) -> str:
    """Return under which name a carrier is counted."""
    name = (carrier or "none").lower()[:40]
    if name not in _carriers and len(_carriers) >= CARRIERS_MAX:
        return OTHERS
    _carriers.add(name)
    return name


class Tally:
    """What one transaction will have done when it commits."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Any, tuple[str, ...]]] = Counter()
        self._leads: list[tuple[str, float]] = []

    def count(self) -> None:
        """Tell the counters."""
        for (metric, labels), count in self._counts.items():
            metric.labels(*labels).inc(count)
        for cause, hours in self._leads:
            NOTICE_LEAD.labels(cause).observe(hours)

    def scan(self, source: str, outcome: str, *, unmapped: bool = False) -> None:
        """Note a scan: `new`, `kept` for a parcel nobody has told us of, `eta` when only that is new, `duplicate`."""
        self._counts[SCANS, (source, outcome)] += 1
        if unmapped:
            self._counts[SCANS_UNMAPPED, (source,)] += 1

    def webhook(self, source: str, outcome: str) -> None:
        """Note what became of a delivery."""
        self._counts[WEBHOOKS, (source, outcome)] += 1

    def history(self, type_: str) -> None:
        """Note a fact that is older than the shop's start."""
        self._counts[HISTORY_FACTS, (type_,)] += 1

    def news(
        self, order: Order, shop: Shop, told: Iterable[News], now: datetime, pace: Pace
    ) -> None:
        """Note what is told of an order; what happened before the shop's start is history, no merit of ours."""
        for one in told:
            data = one.data
            if shop.live_from is not None and one.at < shop.live_from:
                continue
            if isinstance(data, ShipmentDelayed):
                self._delayed(data, order.zone(shop.zone), pace.calendar(now))
            elif isinstance(data, ShipmentRecovered):
                self._counts[DELAYS, ("recovered",)] += 1
            elif isinstance(data, ShipmentDelayUpdate):  # its time is the one that was stated
                late = pace.calendar(now) - pace.calendar(one.at) > KEPT_WITHIN
                self._counts[NEXT_CONTACT, ("missed" if late else "kept",)] += 1
            elif isinstance(data, ShipmentStatusChanged):
                self._ended(order, data)
            elif isinstance(data, ParcelDelivered):
                self._delivered(order, order.zone(shop.zone), data)

    def _ended(self, order: Order, data: ShipmentStatusChanged) -> None:
        """Note a word that was given and is not kept: its parcel came to an end that tells her nothing."""
        said = order.told.get("episodes", {}).get(data.shipment_id, {})
        if said.get("dropped") == data.state != data.previous:
            self._counts[NEXT_CONTACT, ("missed",)] += 1

    def _delayed(self, data: ShipmentDelayed, zone: ZoneInfo, now: datetime) -> None:
        self._counts[DELAYS, ("opened" if data.episode == 1 else "moved",)] += 1
        if data.old is not None:
            ends = datetime.combine(data.old.to + timedelta(days=1), time(), zone)
            lead = (ends.astimezone(UTC) - now).total_seconds() / 3600
            self._leads.append((data.cause, lead))

    def _delivered(self, order: Order, zone: ZoneInfo, data: ParcelDelivered) -> None:
        state, shipments = look(order)
        shipment = shipments.get(data.shipment_id)
        kept = promise_kept(state, shipment, zone) if shipment else None
        if kept is not None:
            outcome = "kept" if kept else "missed"
            self._counts[PROMISES, (carrier_label(data.carrier), outcome)] += 1
