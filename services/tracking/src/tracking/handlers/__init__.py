"""What happens when somebody says something about an order or a parcel, and when time has passed."""

import contextlib
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from shared import facts
from shared.bus import Bus
from shared.errors import GiveUp, Retry
from shared.events import (
    CustomerErased,
    Event,
    OrderDelivered,
    OrderPlaced,
    OrderShipped,
    ParcelDelivered,
    ScanReported,
    ShipmentWithdrawn,
    event_id,
)
from shared.failpoints import failpoint
from shared.security import Links
from shared.shops import Shop, Shops
from shared.store import CONTENTION, Database, Tx
from tracking import store
from tracking.domain import choices, episodes
from tracking.domain.advance import advance
from tracking.domain.model import (
    News,
    Order,
    Parcel,
    about,
    is_own,
    names,
    scan_id,
    scan_ref,
    shipment_ref,
    stated_refs,
)
from tracking.domain.orders import order_fact
from tracking.domain.pace import REAL_DAY_SECONDS, Pace
from tracking.handlers.batch import Batch, in_turns
from tracking.handlers.items import Answer, Choice, Delivery, Item, received
from tracking.handlers.learning import LEARN_MAX, Learning
from tracking.handlers.tally import Tally
from tracking.handlers.watermark import Watermark
from tracking.store import Key

SWEEP_MAX: Final = 500
_WATCHED_DAYS: Final = timedelta(days=60)  # a parcel sent before that is history
_RACES_MAX: Final = 5  # so often may another replica hear of the same new number first
_BLANKED: Final = ("shipments", "deliveries", "scans")
_SOURCE: Final = "/afterglow/tracking"
log = structlog.get_logger(__name__)


class Tracking:
    """Keeps orders, parcels and scans, and puts what they add up to into the outbox."""

    def __init__(
        self,
        db: Database,
        bus: Bus,
        shops: Shops,
        links: Links,
        wake_relay: Callable[[], None],
        *,
        day_seconds: float = REAL_DAY_SECONDS,
    ) -> None:
        self._db = db
        self._bus = bus
        self._shops = shops
        self._links = links
        self._wake_relay = wake_relay
        self._day_seconds = day_seconds
        self._profiles = store.Profiles()
        self._learning = Learning(db, shops, self._profiles, day_seconds)
        self._received = Tally()
        self._watermark = Watermark()

    # ---------------------------------------------------------------- what is submitted

    async def accept(self, items: Sequence[Item]) -> list[Answer | Exception]:
        """Take a group of deliveries and choices in one transaction; each gets its answer."""
        for _ in range(_RACES_MAX):
            with contextlib.suppress(Retry, *CONTENTION):
                return await self._accept(items)
        return await self._accept(items)

    async def _accept(self, items: Sequence[Item]) -> list[Answer | Exception]:
        chosen = {(i.shop.id, i.order_id) for i in items if isinstance(i, Choice)}
        said = [(i.shop.id, scan) for i in items if isinstance(i, Delivery) for scan in i.scans]
        async with self._db.transaction() as tx:
            batch = await self._open(tx, chosen, said)
            answers = [self._one(batch, item) for item in items]
            await self._write(tx, batch)
            await failpoint("tr.before_commit")
        await failpoint("tr.after_commit")
        batch.tally.count()
        self._wake_relay()
        return answers

    def _one(self, batch: Batch, item: Item) -> Answer | Exception:
        if isinstance(item, Choice):
            return self._choose(batch, item)
        outcome, reason = "accepted", item.unusable or item.ignored
        ids: list[UUID] = []
        known = 0
        if item.unusable is not None:
            outcome = "quarantined"
        elif item.ignored is not None:
            outcome = "ignored"
        else:
            for scan in item.scans:
                ids.append(said := scan_id(item.shop.id, scan))
                known += batch.hear(item.shop.id, scan, said, item.source) == "known"
            if known == len(ids):
                outcome, reason = "duplicate", "nothing new in it"
        if item.log:
            batch.webhooks.append(received(item, outcome, reason))
            batch.tally.webhook(item.source, outcome)
        return Answer(tuple(ids), known, outcome)

    def _choose(self, batch: Batch, item: Choice) -> Answer | Exception:
        order = batch.orders[item.shop.id, item.order_id]
        try:
            told = choices.choose(
                order,
                item.choice,
                item.shipment_id,
                item.episode or 0,
                item.note,
                delays=episodes.open_delays(order),
                now=batch.now,
            )
        except (choices.NothingToChoose, choices.TooOften) as error:
            return error
        if told is None:
            return Answer((), 1, "duplicate")
        batch.stated.add((order.shop, order.order_id))
        event = self._event(batch, order, told)
        order.facts = facts.add(order.facts, [facts.of(event)])
        return Answer((event.id,))

    # ---------------------------------------------------------------- what the bus says

    async def receive(self, tx: Tx, events: Sequence[Event]) -> None:
        """Take what the shop said about orders (topic `orders`), and scans (topic `scans`)."""
        self._received = tally = Tally()
        for event in events:
            if self._shops.get(event.shop) is None:
                raise GiveUp("this shop is not in shops.toml")
        said = [(e.shop, e.data) for e in events if isinstance(e.data, ScanReported)]
        told = [e for e in events if e.data.order_id and not isinstance(e.data, ScanReported)]
        stated = {
            (e.shop, ref)
            for e in told
            if isinstance(e.data, OrderShipped)
            for ref in stated_refs(e.data.shipment_id, e.data.tracking_number)
        }
        batch = await self._open(tx, {_key(e) for e in told}, said, stated)
        batch.tally = tally
        for event in events:
            if isinstance(event.data, ScanReported):
                said_id = scan_id(event.shop, event.data)
                batch.hear(event.shop, event.data, said_id, "bus")
            elif isinstance(event.data, CustomerErased):
                await self._erase(tx, batch, event)
            elif event.data.order_id:
                self._learn(batch, event)
        await self._write(tx, batch)

    def received(self) -> None:
        """Note that what `receive` wrote last is committed."""
        self._received.count()
        self._received = Tally()
        self._wake_relay()

    def _learn(self, batch: Batch, event: Event) -> None:
        order, data = batch.orders[_key(event)], event.data
        shop = self._shops.get(event.shop)
        if shop is None or (order.erased_at is not None and event.time < order.erased_at):
            return
        if shop.live_from is not None and event.time < shop.live_from:
            batch.tally.history(event.type)
        order.facts = facts.add(order.facts, [order_fact(event)])
        batch.stated.add((order.shop, order.order_id))
        if isinstance(data, OrderPlaced):  # an update is the same snapshot again
            revision = data.revision or event.time
            if order.revision is None or order.about is None or revision >= order.revision:
                if order.about is None:
                    hashes = self._links.hashes("track", order.shop, order.order_id)
                    batch.pages += [(one, order.shop, order.order_id) for one in hashes]
                order.about, order.revision = about(data), revision
        elif isinstance(data, OrderShipped):
            parcel = self._state_parcel(batch, order, event, data)
            order.settle(data.shipment_id)
            self._watch(batch, shop, parcel)
        elif isinstance(data, ShipmentWithdrawn):
            order.settle(data.shipment_id)

    def _state_parcel(self, batch: Batch, order: Order, event: Event, data: OrderShipped) -> Parcel:
        stated = (event.time, facts.RANK[event.type], str(event.id))
        parcel = order.parcels.get(data.shipment_id)
        if parcel is None:
            order.parcels[data.shipment_id] = parcel = Parcel(data.shipment_id, data, stated)
        parcel.restate(data, stated)
        if event.type == OrderShipped.type:
            parcel.shipped_at = event.time
        for ref in parcel.refs:
            track = batch.tracks.get((order.shop, ref))
            if track is not None and track.is_new:
                track.changed = True  # its row is what a scan of the same moment must wait for
        return parcel

    # ---------------------------------------------------------------- both

    async def _open(
        self,
        tx: Tx,
        keys: Collection[Key],
        said: Collection[tuple[str, ScanReported]],
        stated: Collection[Key] = (),
    ) -> Batch:
        """Lock these orders, those of which scans tell, and what stands under the refs."""
        refs = {(shop, scan_ref(scan)) for shop, scan in said}
        named = {one for shop, scan in said if (one := names(shop, scan))}
        found = await store.holders(tx, refs)
        now, orders = await store.lock_orders(tx, {*keys, *found, *(one[:2] for one in named)})
        own = {(one.shop, shipment_ref(one.shipment_id)) for one in named}
        tracks = await store.lock_tracks(tx, {*refs, *own, *stated})
        held = {
            (o.shop, ref) for o in orders.values() for p in o.parcels.values() for ref in p.refs
        }
        return Batch(now, orders, tracks, held | set(stated))

    async def _write(self, tx: Tx, batch: Batch) -> None:
        touched = [
            order
            for key, order in batch.orders.items()
            if key in batch.stated or batch.has_heard_of(order)
        ]
        await store.load_tracks(tx, touched, batch.tracks)
        await self._profiles.load(tx, touched)
        async for order in in_turns(touched):
            only_heard = (order.shop, order.order_id) not in batch.stated
            self._advance(batch, order, only_heard=only_heard)
        await store.save_orders(tx, touched, batch.stated)
        await store.save_tracks(tx, batch.tracks.values())
        if await store.strangers(tx, batch.heard, batch.named, batch.orders):
            raise Retry("a parcel of this number is being stated")
        await store.webhooks.save(tx, batch.webhooks)
        for provider, refs in batch.to_watch.items():
            await store.watch(tx, refs, provider)
        await self._publish(tx, batch)

    async def _publish(self, tx: Tx, batch: Batch) -> None:
        await store.add_pages(tx, batch.pages)
        await store.expire_pages(tx, batch.handovers)
        await tx.publish(batch.events)

    def _advance(self, batch: Batch, order: Order, *, only_heard: bool = False) -> None:
        """Let an order tell what is new about it, and note what follows from that."""
        shop = self._shops.get(order.shop)
        if shop is None:
            order.check_at = None  # until somebody says something about it again
            order.changed = True
            return
        before = order.told.get("n", 0)
        pace = Pace(order.known_since, self._day_seconds)
        known = self._profiles.of(order.shop)
        told = advance(order, shop, batch.now, pace, known, only_heard=only_heard)
        if not told:
            return
        for number, one in enumerate(told, before):
            event = self._event(batch, order, one, number)
            if isinstance(one.data, ParcelDelivered | OrderDelivered):
                whole = isinstance(one.data, OrderDelivered)
                batch.handovers.append(
                    store.Handover(order.shop, order.order_id, event.time, whole)
                )
        batch.tally.news(order, shop, told, batch.now, pace)

    def _event(self, batch: Batch, order: Order, one: News, number: int | None = None) -> Event:
        if number is None:
            number = order.told.get("n", 0)
            order.told["n"] = number + 1
        subject = facts.subject_of(one.data)
        said = event_id("tracking", order.shop, order.order_id, one.data.type, subject, str(number))
        event = Event.of(
            one.data,
            id=said,
            shop=order.shop,
            source=_SOURCE,
            time=one.at,
            recorded_at=batch.now,
        )
        batch.events.append(event)
        return event

    def _watch(self, batch: Batch, shop: Shop, parcel: Parcel) -> None:
        """Have a parcel that is being stated followed by the shop's aggregator."""
        provider = store.aggregator(shop)
        since = max(shop.live_from or batch.now - _WATCHED_DAYS, batch.now - _WATCHED_DAYS)
        sent = parcel.shipped_at or parcel.stated[0]
        if provider and parcel.number_ref and sent >= since and not parcel.withdrawn:
            batch.to_watch.setdefault(provider, set()).add((shop.id, parcel.number_ref))

    # ---------------------------------------------------------------- forgetting

    async def _erase(self, tx: Tx, batch: Batch, event: Event) -> None:
        """Forget an order; facts older than this are not taken any more, newer ones are."""
        order = batch.orders[_key(event)]
        parcels = order.parcels.values()
        refs = {(order.shop, ref) for p in parcels for ref in (*p.refs, *p.former)}
        numbers = {ref for _, ref in refs if not is_own(ref)}
        at = max(event.time, order.erased_at or event.time)
        records, gone = await store.erase(tx, order.shop, order.order_id, numbers, at)
        await self._bus.erase(tx, records, _BLANKED)
        order.forget(at)
        batch.forget(order, [ref for ref in refs if ref in gone or batch.is_new(ref)])

    # ---------------------------------------------------------------- time

    async def sweep(self, limit: int = SWEEP_MAX) -> int:
        """Look at orders whose check has come, at most so many; return how many there were."""
        self._watermark.begin()
        reached = None
        try:
            batch, last = await self._sweep(limit)
            found = len(batch.orders)
            reached = last if found == limit else None
        finally:
            self._watermark.end(reached)
        if found:
            await failpoint("sw.after_commit")
            batch.tally.count()
            self._wake_relay()
        return found

    async def _sweep(self, limit: int) -> tuple[Batch, datetime | None]:
        async with self._db.transaction() as tx:
            now, last, orders = await store.lock_due(tx, limit, self._watermark.at)
            batch = Batch(now, orders, {}, set())
            if orders:
                due = list(orders.values())
                await store.load_tracks(tx, due)
                await self._profiles.load(tx, due)
                failed = [o async for o in in_turns(due) if not self._looked_at(batch, o)]
                await store.put_off(tx, failed)
                await store.save_orders(tx, due)
                await self._publish(tx, batch)
                await failpoint("sw.before_commit")
        return batch, last

    def _looked_at(self, batch: Batch, order: Order) -> bool:
        """Advance an order; False when that fails: one that cannot be folded must not stop all others."""
        events = len(batch.events)
        try:
            self._advance(batch, order)
        except Exception:
            log.exception("order_cannot_be_folded", shop=order.shop, order_id=order.order_id)
            del batch.events[events:]
            order.parcels, order.changed = {}, False  # nothing of it is written
            return False
        return True

    async def learn(self, limit: int = LEARN_MAX) -> int:
        """Let the profiles of carriers learn from orders that have something to teach; return how many had."""
        return await self._learning.learn(limit)


def _key(event: Event) -> Key:
    return (event.shop, str(event.data.order_id))


__all__ = ["LEARN_MAX", "SWEEP_MAX", "Answer", "Choice", "Delivery", "Item", "Tracking"]
