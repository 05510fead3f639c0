"""When a shop calls a parcel late: thresholds per shop and per carrier.

Nothing has to be set. What is left open is learned from the parcels that arrived, and starts as what most
European carriers do. What is set is taken as it is, and nothing is learned about it.
"""

from datetime import time
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

WorkingDayCount = Annotated[float, Field(gt=0, le=60)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]


class Thresholds(BaseModel):
    """After how long which silence is a delay; days are working days of the carrier.

    `silence_days`: without a scan. `collect_days`: with a label and no scan. `days_under_way`: an order not
    sent so many days before the last promised day is late. `eta_hours`: so long must the carrier's own date lie
    after the promised day. `arrival_hour`: on the last promised day, not out for
    delivery by then; `evening_hour`: out for delivery, not delivered by then. `calendar` names one of the
    shop's calendars (weekdays, holidays, closed days, cut-off).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    silence_days: WorkingDayCount | None = None
    collect_days: WorkingDayCount | None = None
    days_under_way: WorkingDayCount | None = None
    eta_hours: Annotated[float, Field(ge=0, le=72)] | None = None
    arrival_hour: time | None = None
    evening_hour: time | None = None
    calendar: str | None = None


_NONE: Final = Thresholds()
_CARRIERS_MAX: Final = 1000


class Delays(Thresholds):
    """The shop's thresholds, and by carrier (`*` and `?` stand for any characters) what differs.

    `ship_from` is the country parcels leave from, whose holidays count. `tolerance` is how many of 1,000
    parcels that arrive in time each learned rule may warn about for nothing. `contact_days` working days
    after a notice, at `contact_hour` of the customer's day, we write again.
    """

    ship_from: Country | None = None
    tolerance: float = Field(default=4, ge=0.1, le=100)
    contact_days: int = Field(default=2, ge=1, le=10)
    contact_hour: time = time(10)
    carriers: dict[str, Thresholds] = Field(default_factory=dict)

    @field_validator("contact_hour")
    @classmethod
    def _humane(cls, hour: time) -> time:
        if not time(7) <= hour <= time(21):
            raise ValueError("must lie between 07:00 and 21:00")
        return hour

    def of(self, carrier: str | None) -> Thresholds:
        """Return what holds for a carrier: its own line, else what the shop says for all."""
        word = (carrier or "").lower()
        known = self._by_carrier
        if word not in known:
            if len(known) >= _CARRIERS_MAX:  # their names are words of shops, without end
                known.clear()
            known[word] = self._merged(word)
        return known[word]

    @cached_property
    def _by_carrier(self) -> dict[str, Thresholds]:
        return {}

    def _merged(self, word: str) -> Thresholds:
        lines = (own for name, own in self.carriers.items() if fnmatchcase(word, name.lower()))
        own = next(lines, _NONE)
        return Thresholds.model_construct(
            **{
                name: mine if (mine := getattr(own, name)) is not None else getattr(self, name)
                for name in Thresholds.model_fields
            }
        )
