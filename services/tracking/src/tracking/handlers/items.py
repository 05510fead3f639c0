"""What is submitted to tracking, and what the sender is told."""

from dataclasses import dataclass
from uuid import UUID

from shared.events import ScanReported
from shared.shops import Shop
from shared.webhook_log import Received
from tracking.domain.choices import Wish
from tracking.domain.model import scan_ref


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request of the API, one verified webhook, or one answer of an aggregator that was asked.

    `unusable` is the reason when it was not understood; `log`: it becomes a row of the delivery log.
    `ref` says what a delivery without scans is about, as well as can be guessed.
    """

    shop: Shop
    source: str
    scans: tuple[ScanReported, ...] = ()
    topic: str = ""
    delivery_id: str | None = None
    body: bytes | None = None
    unusable: str | None = None
    ignored: str | None = None
    log: bool = True
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What a customer asks for on the page of her late order."""

    shop: Shop
    order_id: str
    choice: Wish
    shipment_id: str | None = None
    episode: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told."""

    ids: tuple[UUID, ...]
    replayed: int = 0
    outcome: str = "accepted"  # accepted, duplicate, ignored, quarantined


Item = Delivery | Choice


def received(item: Delivery, outcome: str, reason: str | None) -> Received:
    """Return what is written down of a delivery."""
    ref = scan_ref(item.scans[0]) if item.scans else item.ref
    body = item.body if outcome == "quarantined" else None
    return Received(
        item.shop.id, item.source, item.topic, item.delivery_id, ref, outcome, reason, body
    )
