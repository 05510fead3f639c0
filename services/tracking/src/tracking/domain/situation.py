"""What is known of one order at one moment: that which every rule looks at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from shared.shops import Shop
from tracking.domain.fold import Shipment
from tracking.domain.model import Order
from tracking.domain.orders import OrderState
from tracking.domain.pace import Pace
from tracking.domain.profile import Profile

Profiles = Mapping[str, Profile]
"""What is known of carriers, by name."""


@dataclass(frozen=True, slots=True)
class Situation:
    """One order at one moment; `state` and `shipments` are what its facts and its scans add up to."""

    order: Order
    state: OrderState
    shipments: Mapping[str, Shipment]
    shop: Shop
    now: datetime
    pace: Pace
    profiles: Profiles = field(default_factory=dict)

    @property
    def calendar(self) -> datetime:
        """The moment as calendar time, on which all waiting is counted."""
        return self.pace.calendar(self.now)
