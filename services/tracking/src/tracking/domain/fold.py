"""What the scans of a parcel add up to.

The state of a parcel is a walk over its scans in the order that `shared.facts` gives them, so any order
of arrival and any duplication end in the same state. A scan moves the parcel on, or back along `BACK`,
or it is only a line of the timeline. Nothing else moves a parcel: no clock and no guess.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, cast

from shared import facts
from shared.events import (
    Eta,
    ShipmentState,
    parse_instant,
)
from shared.facts import STATE_RANK, Fact
from tracking.domain.model import Parcel

_CLOCKS_DIFFER: Final = timedelta(minutes=5)  # of two sources that tell the same event
_TOUR: Final = timedelta(hours=8)  # in the Americas and the Pacific a tour passes midnight UTC
_ATTEMPTS_APART: Final = timedelta(hours=2)  # closer ones are one attempt, told by two sources
_NUMBER_REUSED: Final = timedelta(days=60)  # carriers give numbers out again, after months

_DAY: Final = timedelta(days=1)
_NEXT: Final = timedelta(microseconds=1)

When = Literal["after", "later", "later_day"]
"""`after`: it follows in the order of facts. `later`: at a later moment, and from another source later
than clocks differ. `later_day`: on a later day."""

BACK: Final[Mapping[ShipmentState, Mapping[ShipmentState, When]]] = {
    # Found after the alarm: any movement ends it.
    "delayed": {"in_transit": "later"},
    "exception": {"in_transit": "later", "delayed": "later"},
    # "In transit" is another source's word for a van on tour, so on the same day it says nothing; on
    # a later day the tour has ended without a delivery. Bad news is believed at once: she waits at
    # home for that van.
    "out_for_delivery": {"in_transit": "later_day", "delayed": "later", "exception": "later"},
    # Back to the depot, or out again.
    "delivery_attempted": {
        "out_for_delivery": "later",
        "in_transit": "later",
        "delayed": "later",
        "exception": "later",
    },
    # On the same day these are other words for the way to the shop it lies in: nobody may be told not
    # to fetch it for that. A new tour and a problem are no other words.
    "ready_for_pickup": {
        "out_for_delivery": "later",
        "exception": "later",
        "in_transit": "later_day",
        "delayed": "later_day",
        "delivery_attempted": "later_day",
    },
    # The delivery is revoked: it was at the wrong door, in a shop, on its way back. A late "in
    # transit" or "out for delivery" is noise of a slower source. See also _LEAVES_IT_DELIVERED.
    "delivered": {
        "delivery_attempted": "later",
        "ready_for_pickup": "later",
        "exception": "later",
        "returning": "later",
        "returned": "later",
    },
    # The label was used after all.
    "cancelled": {
        "in_transit": "later",
        "out_for_delivery": "later",
        "ready_for_pickup": "later",
        "delivery_attempted": "later",
        "delayed": "later",
        "exception": "later",
        "delivered": "later",
        "returning": "later",
        "returned": "later",
    },
    # Somebody had stopped looking; what a carrier says counts more.
    "expired": {
        "in_transit": "after",
        "out_for_delivery": "after",
        "ready_for_pickup": "after",
        "delivery_attempted": "after",
        "delayed": "after",
        "exception": "after",
        "delivered": "after",
        "returning": "after",
        "returned": "after",
        "cancelled": "after",
    },
}
"""The only moves to a lower rank, and those that revoke a delivery."""

_ONWARD: Final[Mapping[ShipmentState, frozenset[ShipmentState]]] = {
    # All scans of the way back say "in transit", "out for delivery" again: they mean the sender's door.
    "returning": frozenset({"returned", "expired"}),
    # What was handed over cannot be cancelled any more, and nobody need look for it.
    "delivered": frozenset(),
    "returned": frozenset(),
    "cancelled": frozenset(),
    "expired": frozenset(),
}
"""Where the way leads from the ends; from every other state it leads to any state of higher rank."""

_LEAVES_IT_DELIVERED: Final = frozenset({"carrier_damaged_parcel", "customs_duties_unpaid"})
"""Problems told after a delivery that do not say that it did not happen."""

HOW: Final = ("neighbour", "locker", "safe_place", "signed", "hand")
"""How a parcel was handed over, the most telling first: where two sources differ, it tells her where to look."""

_TERMINAL: Final = frozenset({"delivered", "returned", "cancelled", "expired"})
_HAS_IT: Final = frozenset({
    "in_transit", "out_for_delivery", "ready_for_pickup", "delivery_attempted",
    "delivered", "returning", "returned",
})  # fmt: skip
_USES_UP_ETA: Final = frozenset({"delivery_attempted", "ready_for_pickup", *_TERMINAL})
_NO_ETA: Final = frozenset({"returning", *_TERMINAL})
_OWN_PLACE: Final = frozenset({"ready_for_pickup", *_TERMINAL})  # the depot before it is not there


@dataclass(frozen=True, slots=True)
class Shipment:
    """What the scans of one parcel add up to. A `..._day` says that only the date of its time is known.

    `since` is the time of the fact that made the state, `as_of` of the newest that agreed with it;
    `eta` is void once it was delivered or turns back. `revoked_at` is when a delivery was last taken back.
    """

    parcel: Parcel
    scans: tuple[Fact, ...]
    state: ShipmentState
    since: datetime
    since_day: bool = False
    reason: str | None = None
    action_required: bool = False
    place: str | None = None
    eta: Eta | None = None
    eta_said_at: datetime | None = None
    collected_at: datetime | None = None
    heard_at: datetime | None = None
    delivered_at: datetime | None = None
    delivered_day: bool = False
    how: str | None = None
    attempts: int = 0
    as_of: datetime | None = None
    revoked_at: datetime | None = None
    revoked_reason: str | None = None

    @property
    def terminal(self) -> bool:
        """Whether nothing more is expected of it: it arrived, came back, or will never come."""
        return self.parcel.withdrawn or self.state in _TERMINAL


def fold(parcel: Parcel, scans: Iterable[Fact]) -> Shipment:
    """Return the state of a parcel: the same for any order and any duplication of its scans.

    Scans from long before the shop shipped it are of an earlier parcel with the same number.
    """
    known = facts.add((), scans)
    if parcel.body.shipped_at is not None:
        earliest = parcel.body.shipped_at - _NUMBER_REUSED
        known = tuple(scan for scan in known if scan.at >= earliest)
    known = _as_claimed(known)
    walk = _Walk(parcel.stated[0])
    for scan in known:
        walk.see(scan)
    delivered = walk.state == "delivered"
    has_eta = walk.state not in _NO_ETA and walk.eta is not None
    return Shipment(
        parcel=parcel,
        scans=known,
        state=walk.state,
        since=walk.since,
        since_day=walk.since_day,
        reason=walk.reason,
        action_required=walk.action,
        place=walk.place,
        eta=_eta(walk.eta) if has_eta and walk.eta else None,
        eta_said_at=(_eta_said(walk.eta) or walk.eta.at) if has_eta and walk.eta else None,
        collected_at=walk.collected_at,
        heard_at=max((scan.at for scan in known), default=None),
        delivered_at=walk.since if delivered else None,
        delivered_day=delivered and walk.since_day,
        how=walk.how if delivered else None,
        attempts=walk.attempts,
        as_of=walk.last.at if walk.last else None,
        revoked_at=walk.revoked_at,
        revoked_reason=walk.revoked_reason,
    )


def _as_claimed(known: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """Put scans that claim to be of the future in the order of what they claim.

    They bear the times at which they came in, and those say nothing of which happened first.
    """
    doubted = [scan for scan in known if scan.get("raw_at")]
    if len(doubted) < 2:  # noqa: PLR2004 - an order
        return known
    times = sorted(scan.at for scan in doubted)
    at, moved = times[0] - _NEXT, {}
    claims = sorted(doubted, key=lambda scan: (_claimed(scan), scan.rank, scan.id))
    for scan, came_in in zip(claims, times, strict=True):
        at = max(came_in, at + _NEXT)
        moved[scan.id] = scan._replace(at=at)
    return facts.add((), (moved.get(scan.id, scan) for scan in known))


class _Walk:
    """Where the parcel stands after the scans seen so far."""

    __slots__ = (
        "action", "attempted", "attempts", "collected_at", "eta", "how", "last", "place", "reason",
        "revoked_at", "revoked_reason", "since", "since_day", "state",
    )  # fmt: skip

    def __init__(self, stated_at: datetime) -> None:
        self.state: ShipmentState = "unknown"
        self.since, self.since_day = stated_at, False
        self.last: Fact | None = None  # the newest scan that agrees with the state
        self.reason: str | None = None
        self.action = False
        self.place: str | None = None
        self.how: str | None = None
        self.eta: Fact | None = None  # the scan with the one that was said last
        self.collected_at: datetime | None = None
        self.attempts = 0
        self.attempted: Fact | None = None
        self.revoked_at: datetime | None = None
        self.revoked_reason: str | None = None

    def see(self, scan: Fact) -> None:
        said = dict(scan.extra)
        to = cast("ShipmentState", said.get("state"))
        if to in _HAS_IT and self.collected_at is None:
            self.collected_at = scan.at
        reason = cast("str | None", said.get("reason"))
        if to == "delivered" and self.state in {"returning", "returned"}:
            to, reason = "returned", None  # handed over to the sender
        action = bool(said.get("action"))
        place = cast("str | None", said.get("place"))
        if to == self.state:
            self._agree(scan, reason, action=action, place=place)
        elif self._may_go(to, scan, reason):
            self._go(to, scan, reason, action=action, place=place)
        if ("eta_from" in said or "eta_to" in said) and not self._said_before(scan):
            self.eta = scan

    def _said_before(self, scan: Fact) -> bool:
        """Tell whether the expected time at hand was said after this scan's, though its scan is older."""
        said = _eta_said(self.eta) if self.eta else None
        if said is None:
            return False
        return said > (_eta_said(scan) or (scan.at + _DAY if scan.day else scan.at))

    def _may_go(self, to: ShipmentState, scan: Fact, reason: str | None) -> bool:
        last = self.last
        if last is None:
            return to in STATE_RANK
        when = BACK.get(self.state, {}).get(to)
        if when is not None:
            if self.state == "delivered" and reason in _LEAVES_IT_DELIVERED:
                return False
            return _is(when, last, scan)
        if self.state == "returning" and scan.rank != STATE_RANK[to]:
            return _is("later", last, scan)
        onward = _ONWARD.get(self.state)
        if onward is not None:
            return to in onward
        return STATE_RANK.get(to, 0) > STATE_RANK[self.state]

    def _agree(self, scan: Fact, reason: str | None, *, action: bool, place: str | None) -> None:
        """Take from a scan of the same state what it adds; one that says less takes nothing away."""
        last = self.last
        if self.state == "unknown":
            return
        if self.state == "out_for_delivery" and last and _is("later_day", last, scan):
            self.since, self.since_day = scan.at, scan.day
        if self.state == "delivery_attempted":
            self._count_attempt(scan)
        self._hand_over(reason)
        self.last = scan
        self.reason = reason or self.reason
        self.action = action or self.action
        self.place = place or self.place

    def _go(
        self, to: ShipmentState, scan: Fact, reason: str | None, *, action: bool, place: str | None
    ) -> None:
        if self.state == "delivered":
            self.revoked_at, self.revoked_reason, self.how = scan.at, reason, None
        if to == "expired":  # what was wrong before all went silent is still the best that is known
            reason, action = reason or self.reason, action or self.action
        self.state, self.last = to, scan
        self.since, self.since_day = scan.at, scan.day
        self.reason, self.action = reason, action
        self.place = place or (None if to in _OWN_PLACE else self.place)
        if to in _USES_UP_ETA and not self._said_before(scan):
            self.eta = None
        if to == "delivery_attempted":
            self._count_attempt(scan)
        self._hand_over(reason)

    def _count_attempt(self, scan: Fact) -> None:
        before = self.attempted
        if before is not None:
            first, at = _moments(before, scan)
            if at - first < (_DAY if before.day else _ATTEMPTS_APART):
                return
        self.attempted, self.attempts = scan, self.attempts + 1
        self.since, self.since_day = scan.at, scan.day

    def _hand_over(self, how: str | None) -> None:
        if self.state == "delivered" and how in HOW:
            known = HOW.index(self.how) if self.how else len(HOW)
            self.how = HOW[min(known, HOW.index(how))]


def _is(when: When, last: Fact, scan: Fact) -> bool:
    """Tell whether a scan that follows another does so in this sense."""
    if when == "after":
        return True
    before, at = _moments(last, scan)
    if when == "later_day":
        if last.day:
            return at >= before + _DAY
        if scan.day:
            return at > before
        return at.date() > before.date() and at - before >= _TOUR
    if last.day or scan.day:
        return True  # within a day, rank has decided
    same = last.get("source") == scan.get("source")
    return at - before > (timedelta() if same else _CLOCKS_DIFFER)


def _moments(one: Fact, other: Fact) -> tuple[datetime, datetime]:
    """Return when two scans happened, to be compared: of two that claim the future, as they claim."""
    if one.get("raw_at") and other.get("raw_at"):
        return _claimed(one), _claimed(other)
    return one.at, other.at


def _claimed(scan: Fact) -> datetime:
    return parse_instant(str(scan.get("raw_at")))


def _eta_said(scan: Fact) -> datetime | None:
    """Return when the expected time of a scan was said, where that was not with the scan."""
    said = scan.get("eta_said") or scan.get("eta_received")
    return parse_instant(said) if isinstance(said, str) else None


def _eta(scan: Fact) -> Eta:
    first, last = scan.get("eta_from"), scan.get("eta_to")
    return Eta.model_construct(
        from_=parse_instant(first) if first else None, to=parse_instant(last) if last else None
    )
