"""What an order's facts mean for its messages: the fold, the plan, the guard. Pure rules, no I/O."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, tzinfo
from itertools import groupby
from typing import Final, Literal

from shared.facts import Fact, promised

Channel = Literal["email", "sms"]
Role = Literal["buyer", "recipient"]

FINAL_STATES: Final = frozenset({"sent", "failed", "suppressed", "expired", "forgotten"})
_NOTICES: Final = frozenset({"shipment_delayed", "order_delayed"})
_LEFT_US: Final = frozenset({"dispatching", "unknown", "sent"})
_ENDED: Final = frozenset({"delivered", "returning", "returned", "cancelled"})

_SHIPPED, _WITHDRAWN = "order.shipped.v1", "shipment.withdrawn.v1"
_STATUS = "shipment.status_changed.v1"
_DELAYED, _UPDATE, _RECOVERED = (
    "shipment.delayed.v1",
    "shipment.delay_update.v1",
    "shipment.recovered.v1",
)
_DELIVERED, _REVOKED = "parcel.delivered.v1", "parcel.delivery_revoked.v1"
_MOVED = "order.delayed.v1"
_ABOUT_PARCELS: Final = frozenset(
    {_SHIPPED, _WITHDRAWN, _STATUS, _DELAYED, _UPDATE, _RECOVERED, _DELIVERED, _REVOKED}
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which message it is, whichever form it is in: to be made, claimed, taken back, swept.

    `key` joins the other fields and is unique for ever: the same fact told twice is one message.
    """

    key: str
    shop: str
    order_id: str
    kind: str
    subject: str  # shipment, delay episode, survey round, case step
    channel: Channel
    role: str
    round: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A message that the order's facts ask for. `at` is the time from which it is news.

    `never` is why it must not leave (any more). `fact` is what it tells; `old` and `new` are the days
    ("from/to") before and after a delay, `new` of a dispatch the days told in a notice before it. `parcels`
    are those whose delay it tells: several that are late at once are one message, with the `row` of one.
    """

    kind: str
    subject: str
    at: datetime
    round: int = 0
    never: str | None = None
    fact: Fact | None = None
    old: str | None = None
    new: str | None = None
    cause: str | None = None
    parcels: tuple[str, ...] = ()
    row: str | None = None  # the subject of the message that tells it, where that is another

    def key(self, shop: str, order_id: str, channel: Channel, role: Role = "buyer") -> str:
        """Return the message's key (see Identity)."""
        return f"{shop}|{order_id}|{self.kind}|{self.subject}|{channel}|{role}|{self.round}"

    @property
    def happened_at(self) -> datetime:
        """When the fact itself happened; a delay may be found out later."""
        return self.fact.at if self.fact else self.at


@dataclass(slots=True)
class State:
    """What the facts of an order add up to. `parcels` holds what was said of each, in order."""

    zone: tzinfo = UTC
    placed_at: datetime | None = None
    cancelled: bool = False
    erased: bool = False
    parcels: dict[str, list[Fact]] = field(default_factory=dict)
    whole: list[Fact] = field(default_factory=list)  # about the order's promise, before any parcel
    promise: Fact | None = None  # the shop's last word on when it comes


def fold(facts: Sequence[Fact], zone: tzinfo = UTC) -> State:
    """Return the state: the same for any order of arrival and any duplication of the facts.

    `zone` is where the customer's days begin and end.
    """
    state = State(zone, promise=promised(facts))
    for fact in facts:
        match fact.type:
            case "order.placed.v1":
                state.placed_at = state.placed_at or fact.at
                state.whole.append(fact)
            case "order.cancelled.v1":
                state.cancelled = state.cancelled or not fact.get("partial")
            case "customer.erased.v1":
                state.erased = True
            case told if told in _ABOUT_PARCELS or told == _MOVED:
                if fact.type == _SHIPPED:
                    state.whole.append(fact)
                subject = fact.get("subject")
                known = (
                    state.whole if subject is None else state.parcels.setdefault(str(subject), [])
                )
                known.append(fact)
            case _:
                pass
    return state


def plan(state: State) -> list[Wanted]:
    """Return every message that the facts ask for, each with why it must not leave, if so.

    More facts never want fewer messages and never lift a `never`: whatever the order of arrival, the
    rows are the same in the end. Until the order is known to be placed nothing is wanted.
    """
    if state.placed_at is None or state.erased:
        return []
    never = "cancelled" if state.cancelled else None
    wanted = [Wanted("order_confirmed", "", state.placed_at, never=never)]
    if len(state.whole) > 1:
        wanted += _before_dispatch(state)
    for shipment_id, said in state.parcels.items():
        wanted += _about_parcel(state, shipment_id, said)
    wanted += _parcels_late(state)
    return wanted


def _about_parcel(state: State, shipment_id: str, said: Sequence[Fact]) -> Iterator[Wanted]:
    """Yield what the facts of one parcel ask for."""
    withdrawn = "withdrawn" if any(f.type == _WITHDRAWN for f in said) else None
    stopped = "cancelled" if state.cancelled else withdrawn
    if shipped := next((f for f in said if f.type == _SHIPPED), None):
        never = stopped or ("overtaken" if any(map(_has_ended, said)) else None)
        told = _told_before_dispatch(state)
        yield Wanted("order_shipped", shipment_id, shipped.at, never=never, fact=shipped, new=told)
    yield from _out_today(state.zone, shipment_id, said, withdrawn)
    yield from _deliveries(shipment_id, said, withdrawn)


def _told_before_dispatch(state: State) -> str | None:
    """Return the days told in a notice about the order as a whole, where the shop said nothing since."""
    since = state.promise.at if state.promise else None
    said = [f for f in state.whole if f.type == _DELAYED and _text(f, "new")]
    last = max(said, key=_found_out_at, default=None)
    return _text(last, "new") if last and not (since and since > _found_out_at(last)) else None


def _found_out_at(fact: Fact) -> datetime:
    """Return when a delay became news: it may be found out after it happened."""
    detected = fact.get("detected")
    return max(fact.at, datetime.fromisoformat(str(detected))) if detected else fact.at


def _parcels_late(state: State) -> Iterator[Wanted]:
    """Yield the messages about delays of parcels; what is found out of several at once is one message.

    It has the first one's row, and tells of those of which it is still worth telling.
    """
    never = "cancelled" if state.cancelled else None
    made: dict[object, list[Wanted]] = {}
    for shipment_id, said in state.parcels.items():
        stopped = never or ("withdrawn" if _any(said, _WITHDRAWN) else None)
        for one in _delays(state.zone, shipment_id, said, stopped):
            assert one.fact is not None
            detected = one.fact.get("detected")
            step = (one.kind, one.round, detected or one.subject)
            made.setdefault(step, []).append(replace(one, parcels=(shipment_id,)))
    for together in made.values():
        first, *others = sorted(together, key=lambda one: one.subject)
        yield _as_one(first, [first, *others]) if others else first
        yield from (replace(one, never="folded", row=first.subject) for one in others)


def _as_one(first: Wanted, together: Sequence[Wanted]) -> Wanted:
    living = [one for one in together if one.never is None] or [first]
    causes = {one.cause for one in living}
    days = [one.new for one in living]
    return replace(
        first,
        never=living[0].never,
        fact=living[0].fact,
        old=min((one.old for one in living if one.old), key=_last_or_never, default=None),
        new=None if None in days else max(days, key=_last_or_never),
        cause=causes.pop() if len(causes) == 1 else None,
        parcels=tuple(name for one in living for name in one.parcels),
    )


def _last_or_never(days: str | None) -> str:
    return _last(days) or ""


def _any(facts: Iterable[Fact], type_: str) -> bool:
    return any(f.type == type_ for f in facts)


def _has_ended(fact: Fact) -> bool:
    """Tell whether a parcel needs no more news of its way after this fact."""
    return fact.type == _DELIVERED or (fact.type == _STATUS and fact.get("state") in _ENDED)


def _day(fact: Fact, zone: tzinfo) -> date:
    return fact.at.astimezone(zone).date()


def _is_out(fact: Fact) -> bool:
    return fact.type == _STATUS and fact.get("state") == "out_for_delivery"


def _out_today(
    zone: tzinfo, shipment_id: str, said: Sequence[Fact], withdrawn: str | None
) -> Iterator[Wanted]:
    """Yield one message for each day on which the parcel was out; any later state overtakes it."""
    days: set[date] = set()
    for index, fact in enumerate(said):
        day = _day(fact, zone)
        if not _is_out(fact) or day in days:
            continue
        days.add(day)
        later = any(
            f.type == _DELIVERED
            or (f.type == _STATUS and not (_is_out(f) and _day(f, zone) == day))
            for f in said[index + 1 :]
        )
        never = withdrawn or ("overtaken" if later else None)
        yield Wanted("out_for_delivery", f"{shipment_id}@{day}", fact.at, never=never, fact=fact)


def _deliveries(shipment_id: str, said: Sequence[Fact], withdrawn: str | None) -> Iterator[Wanted]:
    """Yield one message for each delivery that came after a revocation, and one for the first.

    `round` counts the revocations before it. A delivery that was revoked before we heard of it has its
    row too, whichever came first.
    """
    told = [f for f in said if f.type == _REVOKED or _was_seen(f)]
    runs = [list(run) for _, run in groupby(told, key=lambda f: f.type)]
    revoked_last = bool(runs) and runs[-1][0].type == _REVOKED
    if revoked_last:
        del runs[-1]
    if runs and runs[0][0].type == _REVOKED:
        runs.insert(0, runs[0])  # stands for the delivery that it revoked
    for number, run in enumerate(runs[::2]):
        revoked = revoked_last or number < len(runs) // 2
        never = withdrawn or ("revoked" if revoked else None)
        yield Wanted("delivered", shipment_id, run[0].at, number, never, run[0])


def _was_seen(fact: Fact) -> bool:
    """Tell whether somebody saw the delivery: one that is only assumed is not announced."""
    return fact.type == _DELIVERED and fact.get("how") != "assumed"


def _delays(
    zone: tzinfo, shipment_id: str, said: Sequence[Fact], stopped: str | None
) -> Iterator[Wanted]:
    """Yield the notice of each delay and of each move of its date, the updates, the all-clear."""
    seen: set[tuple[str, str, int]] = set()
    for index, fact in enumerate(said):
        made = _delay(zone, shipment_id, fact)
        if made is None or (made.kind, made.subject, made.round) in seen:
            continue
        seen.add((made.kind, made.subject, made.round))
        never = stopped or _delay_is_over(zone, shipment_id, made, said, said[index + 1 :])
        yield replace(made, never=never, cause=_text(fact, "cause"))


def _delay(zone: tzinfo, shipment_id: str, fact: Fact) -> Wanted | None:
    """Return the message that a fact of a delay asks for; `shipment_id` is "" before dispatch."""
    at = _found_out_at(fact)
    episode, number = f"{shipment_id}#{fact.get('episode')}", fact.get("round")
    old, new = _text(fact, "old"), _text(fact, "new")
    match fact.type:
        case "shipment.delayed.v1":
            move = f"@{_last(old) or ''}>{_last(new) or ''}"
            kind = "shipment_delayed" if shipment_id else "order_delayed"
            return Wanted(kind, episode + move, at, fact=fact, old=old, new=new)
        case "shipment.delay_update.v1":
            return Wanted(
                "delay_update",
                episode,
                at,
                number if isinstance(number, int) else 1,
                fact=fact,
                new=new,
            )
        case "shipment.recovered.v1":
            return Wanted("delay_over", episode, at, fact=fact, new=new)
        case "order.delayed.v1":
            promise = _text(fact, "promise")
            return Wanted(
                "order_delayed", promise or f"@{_day(fact, zone)}", at, fact=fact, new=promise
            )
        case _:
            return None


def _text(fact: Fact, name: str) -> str | None:
    value = fact.get(name)
    return None if value is None else str(value)


def _last(days: str | None) -> str | None:
    return days.rpartition("/")[2] if days else None


def _delay_is_over(
    zone: tzinfo, shipment_id: str, made: Wanted, said: Sequence[Fact], later: Sequence[Fact]
) -> str | None:
    """Return what makes a delay's message pointless, None when nothing does."""
    if made.kind == "delay_over":
        day = made.happened_at.astimezone(zone).date()
        if any(_has_ended(f) or (_is_out(f) and _day(f, zone) >= day) for f in said):
            return "folded"  # the news of the parcel's way says it
    else:
        if any(map(_has_ended, later)):
            return "overtaken"
        if any(_closes(f, made) for f in later):
            return "recovered"
    newer = {_DELAYED, _MOVED, _UPDATE} if made.kind == "delay_update" else {_DELAYED, _MOVED}
    for other in (f for f in later if f.type in newer):
        told = _delay(zone, shipment_id, other)
        if told and (told.kind, told.subject, told.round) != (made.kind, made.subject, made.round):
            return "newer_notice"
    old, new = _last(made.old), _last(made.new)
    moved = made.kind not in _NOTICES or not (old and new) or new > old
    return None if moved else "date_did_not_move"


def _closes(recovered: Fact, made: Wanted) -> bool:
    """Tell whether a recovery ends the episode of a message; the shop's own new date has none."""
    ended, episode = recovered.get("episode"), made.fact.get("episode") if made.fact else None
    return (
        recovered.type == _RECOVERED
        and isinstance(ended, int)
        and isinstance(episode, int)
        and ended >= episode
    )


def _before_dispatch(state: State) -> Iterator[Wanted]:
    """Yield the notices of an order of which nothing, or not all, was sent yet."""
    said = state.whole
    for made in _delays(state.zone, "", said, "cancelled" if state.cancelled else None):
        assert made.fact is not None
        index = said.index(made.fact)
        if made.kind == "delay_over":
            # a dispatch says it, and the shop's own new date is another message
            never = "folded" if _any(said, _SHIPPED) else None
            never = never or ("newer_notice" if _any(said, _MOVED) else None)
        else:
            never = "overtaken" if _any(said[index:], _SHIPPED) else None
        if made.fact.type == _MOVED:
            before = [p for p in (_text(f, "promise") for f in said[:index]) if p]
            new = _last(made.new)
            if new and any(p.rpartition("/")[2] >= new for p in before):
                never = never or "date_did_not_move"
            made = replace(made, old=before[-1] if before else None)  # noqa: PLW2901
        yield replace(made, never=made.never or never)


def find(state: State, row: Identity) -> Wanted | None:
    """Return what a row tells; None when the facts that asked for it are gone."""
    name = (row.kind, row.subject, row.round)
    return next((w for w in plan(state) if (w.kind, w.subject, w.round) == name), None)


def guard(state: State, row: Identity) -> str | None:
    """Return why a message must never be sent as things stand, None when nothing speaks against it.

    Asked, for every row that has not left yet, whenever a fact changes the state, in the same
    transaction: a row that is still claimed or pending after it may be sent.
    """
    if state.erased:
        return "erased"
    wanted = find(state, row)
    return wanted.never if wanted else None


def was_told(over: Wanted, plan: Iterable[Wanted], rows: Iterable[tuple[Identity, str]]) -> bool:
    """Tell whether a notice of what is over now has left us, so that its end is worth a word."""
    late = {over.subject.rpartition("#")[0], *over.parcels}
    notices = [one for one in plan if one.kind in _NOTICES]
    told = {one.row or one.subject for one in notices if one.subject.rpartition("#")[0] in late}
    return any(
        row.subject in told or row.subject.rpartition("#")[0] in late
        for row, state in rows
        if row.kind in _NOTICES and state in _LEFT_US
    )
