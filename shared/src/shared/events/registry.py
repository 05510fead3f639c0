"""Which body belongs to which type name, and which of them a shop may state."""

from collections.abc import Iterator
from typing import Final

from shared.events import orders, outcomes
from shared.events.orders import EventData


def _bodies(parent: type[EventData] = EventData) -> Iterator[type[EventData]]:
    for child in parent.__subclasses__():
        if "type" in vars(child):
            yield child
        yield from _bodies(child)


REGISTRY: Final[dict[str, type[EventData]]] = {body.type: body for body in _bodies()}
"""Type name, with its version, to body class."""

TOPICS: Final = (
    "orders",
    "shipments",
    "deliveries",
    "feedback",
    "messages",
    "scans",
    "orders.inbound",
)

INBOUND_TYPES: Final = frozenset(name for name, body in REGISTRY.items() if body.topic == "orders")
"""What a shop may state, over HTTP or on `orders.inbound`."""

__all__ = ["INBOUND_TYPES", "REGISTRY", "TOPICS", "orders", "outcomes"]
