"""Delay episodes: when one opens, what is said while it is open, and when it is over.

One opens once for a parcel (or, before it is sent, for the order, and the parcel takes it over); a second
notice, with the next episode number, goes out only when the date moves on by a day or more. Each names the
time of our next word; when that comes without other news, the word is kept: `ShipmentDelayUpdate`, one
for all parcels of an order, at most twice, then it waits for staff. It is over when the parcel moves again
and a date can be kept: `ShipmentRecovered` with that date. A delivery closes it without a word: that is a
message of its own. So does a new promise of the shop: it tells its customer itself. A carrier that gives a
parcel up closes nothing.

All waiting is in calendar time (see `pace`); times on the wire and in `told` are clock times.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from shared.events import DateRange, ShipmentDelayUpdate, parse_instant
from tracking.domain.case import EPISODES, MISSES_MAX, UPDATES_MAX, Case, days_of
from tracking.domain.lessons import is_done, next_lesson
from tracking.domain.model import News, Order
from tracking.domain.orders import fold_order
from tracking.domain.situation import Situation
from tracking.domain.subjects import (
    ORDER,
    base_of,
    is_over,
    is_unsent,
    subjects,
    unwatched,
)

SENT_LATE: Final = "sent_late"  # why a parcel is late that left when its order was late already


@dataclass(frozen=True, slots=True)
class Episode:
    """One open delay, as the page shows it; times are clock times."""

    shipment_id: str | None
    episode: int
    cause: str
    carrier: str | None
    old: DateRange | None
    new: DateRange | None
    opened_at: datetime
    next_contact_at: datetime | None


def open_(order: Order) -> list[Episode]:
    """Return the delays of an order that are open, the order's own first."""
    said: Mapping[str, Any] = order.told.get(EPISODES, {})
    found = []
    for subject, one in sorted(said.items()):
        if not one["open"]:
            continue
        parcel = order.parcels.get(subject)
        found.append(
            Episode(
                shipment_id=subject or None,
                episode=one["n"],
                cause=one["cause"],
                carrier=parcel.body.carrier if parcel else None,
                old=days_of(one["old"]),
                new=days_of(one["new"]),
                opened_at=parse_instant(one["at"]),
                next_contact_at=parse_instant(one["contact"]) if one["contact"] else None,
            )
        )
    return found


def open_delays(order: Order) -> list[tuple[str | None, int]]:
    """Return shipment (None: the order itself) and episode number of each delay that is open."""
    return [(one.shipment_id, one.episode) for one in open_(order)]


def believed(order: Order, shipment_id: str | None) -> DateRange | None:
    """Return the date last told in a notice about a parcel (None: what is not sent); None for none that counts.

    A parcel that has none yet goes by what was told before it was sent.
    """
    said: Mapping[str, Any] = order.told.get(EPISODES, {})
    base = base_of(fold_order(order).promise)
    for one in (said.get(shipment_id or ORDER), said.get(ORDER)):
        if one is not None and one["base"] == base:
            return days_of(one["new"])
    return None


def why(here: Situation) -> list[dict[str, Any]]:
    """Return for operators, of each parcel and of what is not sent, what is told next and when, or why nothing.

    `because` is the reason why nothing is told until something happens.
    """
    found = [case.why() for case in _cases(here)]
    named = {one["shipment_id"] for one in found}
    for name, reason in unwatched(here):
        if (name or None) not in named:
            found.append({"shipment_id": name or None, "because": reason})
    return found


def tell(here: Situation) -> list[News]:
    """Return what is to be told about delays now, and note in `order.told` that it was."""
    _inherit(here)
    told: list[News] = []
    contact = None  # one for all that is told of this order now
    for case in _cases(here):
        case.note_eta()
        said = case.tell(contact)
        contact = contact or next((getattr(n.data, "next_contact_at", None) for n in said), None)
        told += said
    _close_others(here)
    return _one_update(told)


def _one_update(told: list[News]) -> list[News]:
    """Keep one of several words that are kept at the same moment: that with the latest date."""
    updates = [one for one in told if isinstance(one.data, ShipmentDelayUpdate)]
    if len(updates) < 2:  # noqa: PLR2004 - several
        return told
    latest = max(updates, key=_new_day)
    return [one for one in told if one is latest or one not in updates]


def _new_day(update: News) -> str:
    new = update.data.new if isinstance(update.data, ShipmentDelayUpdate) else None
    return new.to.isoformat() if new else ""


def check(here: Situation) -> datetime | None:
    """Return the next clock time at which there may be something to say, or to learn, without news."""
    found = [case.check() for case in _cases(here)]
    found.append(next_lesson(here))
    due = [at for at in found if at is not None]
    return here.pace.clock(max(min(due), here.calendar)) if due else None


# ---------------------------------------------------------------- which subjects


def _cases(here: Situation) -> Iterator[Case]:
    said = here.order.told.get(EPISODES, {})
    for subject in subjects(here):
        if subject.scanned or subject.name in said:
            yield Case(here, subject)


def _inherit(here: Situation) -> None:
    """Let parcels that left after their order was told late take over what was told: date and next word."""
    said: dict[str, Any] = here.order.told.get(EPISODES, {})
    before = said.get(ORDER)
    if before is None or before["base"] != base_of(here.state.promise):
        return
    for name, shipment in here.shipments.items():
        if name not in said and name not in before.get("beside", ()) and not is_over(shipment):
            said[name] = {**before, "cause": SENT_LATE}
            here.order.changed = True


def _close_others(here: Situation) -> None:
    """Close without a word what is open about a parcel that needs no watching any more.

    `dropped`: a word was given for a later time, and what ended it, this state, is no message to the customer.
    """
    order, state = here.order, here.state
    said = order.told.get(EPISODES, {})
    over = is_done(state)
    for subject, one in said.items():
        if not one["open"]:
            continue
        shipment = here.shipments.get(subject)
        gone = shipment is None or is_over(shipment) or _assumed(order, subject)
        if subject == ORDER:
            gone = not is_unsent(here)
        moved = one["base"] != base_of(state.promise)
        if over or gone or moved:
            waited = one["contact"] is not None and not over and not moved
            state_then = shipment.state if shipment and waited else None
            dropped = state_then if state_then in {"returned", "cancelled"} else None
            said[subject] = {**one, "open": False, "contact": None, "dropped": dropped}
            order.changed = True


def _assumed(order: Order, shipment_id: str) -> bool:
    """Tell whether a parcel that nobody scans counts as delivered by now."""
    told: Mapping[str, Any] = order.told.get("parcels", {}).get(shipment_id, {})
    return told.get("how") == "assumed"


__all__ = [
    "MISSES_MAX",
    "ORDER",
    "UPDATES_MAX",
    "Episode",
    "believed",
    "check",
    "open_",
    "open_delays",
    "tell",
    "why",
]
