"""The SQL of tracking on a real Postgres: locks, races, forgetting, counting."""

import asyncio
from datetime import timedelta

import pytest

from shared.clock import now
from shared.errors import Retry
from shared.security import Links
from tracking import store
from tracking.domain.model import Order, Track

from .conftest import NUMBER, Front, order_events, scan

HASHED = Links(["link-key-of-the-tests"]).hashes("track", "demo", "1001")[0]
KEY = ("demo", "1001")


async def test_an_order_is_read_as_it_was_written(still: Front) -> None:
    await still.hear(*order_events())
    await still.take(scan("in_transit", ago=2, eta={"from": None, "to": "2026-12-24T13:00:00Z"}))
    async with still.db.transaction() as tx:
        _, orders = await store.lock_orders(tx, [KEY])
        before = orders[KEY]
        await store.load_tracks(tx, [before])
        await store.save_orders(tx, [before], [KEY])
        for track in before.tracks.values():
            track.changed = True
        await store.save_tracks(tx, before.tracks.values())
    after = await store.load_order(still.db, *KEY)
    assert after is not None
    for order in (before, after):
        order.changed = order.is_new = False
    assert after == before


async def test_an_unknown_order_is_nothing(still: Front) -> None:
    assert await store.load_order(still.db, *KEY) is None
    assert await store.find_page(still.db, HASHED) is None


async def test_what_two_make_at_once_is_made_once_and_the_other_tries_again(still: Front) -> None:
    async with still.db.transaction() as tx:
        _, orders = await store.lock_orders(tx, [KEY])
        tracks = await store.lock_tracks(tx, [("demo", "A1")])
        await still.hear(*order_events(number="A1"))
        with pytest.raises(Retry):
            await store.save_orders(tx, orders.values(), [KEY])
        for track in tracks.values():
            track.changed = True
        with pytest.raises(Retry):
            await store.save_tracks(tx, tracks.values())


async def test_a_locked_order_is_waited_for_and_then_seen_as_it_is(still: Front) -> None:
    await still.hear(*order_events())

    async def read() -> Order:
        async with still.db.transaction() as tx:
            _, orders = await store.lock_orders(tx, [KEY])
            return orders[KEY]

    async with asyncio.TaskGroup() as group, still.db.transaction() as tx:
        _, orders = await store.lock_orders(tx, [KEY])
        waiting = group.create_task(read())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        orders[KEY].told["n"] = 77
        await store.save_orders(tx, orders.values(), [KEY])
    assert waiting.result().told["n"] == 77


async def test_a_parcel_is_found_by_its_number_and_by_its_shipment(still: Front) -> None:
    await still.hear(*order_events())
    async with still.db.transaction() as tx:
        assert await store.holders(tx, {("demo", NUMBER)}) == {KEY}
        assert await store.holders(tx, {("demo", "#1001/1"), ("demo", "X")}) == {KEY}
        assert await store.holders(tx, {("other", NUMBER), ("other", "#1001/1")}) == set()
        assert await store.strangers(tx, {("demo", NUMBER)}, (), {})
        assert not await store.strangers(tx, {("demo", NUMBER)}, (), {KEY: Order(*KEY, now())})
        assert not await store.strangers(tx, (), (), {})


async def test_only_one_of_two_sweeps_gets_an_order(still: Front) -> None:
    await still.hear(*order_events())
    await still.make_due()
    async with still.db.transaction() as one, still.db.transaction() as two:
        _, last, orders = await store.lock_due(one, 10, None)
        assert list(orders) == [KEY]
        assert last is not None
        assert (await store.lock_due(two, 10, None))[2] == {}
    async with still.db.transaction() as tx:
        assert (await store.lock_due(tx, 10, now() + timedelta(hours=1)))[2] == {}


# ---------------------------------------------------------------- forgetting by itself


async def age(front: Front, days: int) -> None:
    """Let everything be so many days older."""
    for table, columns in {
        "orders": ("known_since", "updated_at"), "track": ("made_at", "heard_at"),
        "webhooks": ("received_at",),
    }.items():  # fmt: skip
        changes = ", ".join(f"{c} = {c} - interval '{days} days'" for c in columns)
        await front.db.execute(f"update {table} set {changes}")


async def counts(front: Front) -> dict[str, int]:
    tables = ("parcel", "track", "page", "webhooks")
    found = {t: await front.db.fetchval(f"select count(*) from {t}") for t in tables}
    about = await front.db.fetchval("select count(*) from orders where about is not null")
    return found | {"about": about}


async def test_personal_things_leave_180_days_after_the_last_event(still: Front) -> None:
    await still.hear(*order_events())
    await still.take(scan("delivered"), log=True)
    await still.take(scan(number="UNKNOWN1"))
    await age(still, 80)
    await store.tidy(still.db)
    assert await counts(still) == {"parcel": 1, "track": 3, "page": 1, "webhooks": 1, "about": 1}
    await age(still, 20)
    await store.tidy(still.db)
    assert (await counts(still))["webhooks"] == 0
    await age(still, 81)
    await store.tidy(still.db)
    assert await counts(still) == {"parcel": 0, "track": 0, "page": 0, "webhooks": 0, "about": 0}
    assert await still.db.fetchval("select count(*) from orders") == 1


async def test_a_parcel_that_still_travels_is_not_forgotten(still: Front) -> None:
    await still.hear(*order_events())
    await still.take(scan("in_transit"))
    await age(still, 181)
    await still.take(scan("out_for_delivery", ago=0))
    await store.tidy(still.db)
    assert await counts(still) == {"parcel": 1, "track": 2, "page": 1, "webhooks": 0, "about": 1}


async def test_a_parcel_whose_order_was_never_placed_is_forgotten_too(still: Front) -> None:
    _, parcel = order_events()
    await still.hear(parcel)
    await still.take(scan("delivered"))
    await age(still, 179)
    await store.tidy(still.db)
    assert (await counts(still))["parcel"] == 1
    await age(still, 2)
    await store.tidy(still.db)
    assert (await counts(still))["parcel"] == 1  # what it is about happened less long ago
    await still.db.execute("update parcel set stated_at = stated_at - interval '181 days'")
    await store.tidy(still.db)
    assert await counts(still) == {"parcel": 0, "track": 0, "page": 0, "webhooks": 0, "about": 0}


async def test_what_a_former_number_was_said_to_do_is_forgotten_with_its_parcel(
    still: Front,
) -> None:
    await still.hear(*order_events(number="OLD1"))
    await still.take(scan("in_transit", "OLD1"))
    await still.db.execute("update parcel set number_ref = 'NEW1', former = '{OLD1}'")
    async with still.db.transaction() as tx:
        _, gone = await store.erase(tx, *KEY, {"NEW1", "OLD1"}, now())
    assert ("demo", "OLD1") in gone
    assert (await counts(still))["track"] == 0


async def test_expired_pages_are_deleted(still: Front) -> None:
    await still.hear(*order_events(), *order_events("2", "A2"))
    await still.db.execute("update page set expires_at = now() where order_id = '2'")
    await store.tidy(still.db)
    assert await store.find_page(still.db, HASHED) == KEY
    assert await still.db.fetchval("select count(*) from page") == 1


# ---------------------------------------------------------------- counting


async def test_parcels_under_way_and_open_delays_are_counted(still: Front) -> None:
    past = str(now().date() - timedelta(days=4))
    await still.hear(*order_events("1", "A1"), *order_events("2", "A2"))
    await still.hear(*order_events("3", "A3", promise={"from": past, "to": past}))
    await still.take(scan("in_transit", "A1"), scan("delivered", "A2"), scan("in_transit", "A3"))
    assert await store.count_parcels(still.db) == {"in_transit": 2}
    delays = await store.count_open_delays(still.db)
    ((_, carrier),) = delays
    assert (carrier, sum(delays.values())) == ("posta-slovenije", 1)


async def test_a_track_takes_a_scan_in_once(still: Front) -> None:
    await still.take(scan("in_transit"))
    async with still.db.transaction() as tx:
        tracks = await store.lock_tracks(tx, [("demo", NUMBER), ("demo", "NEW")])
    assert len(tracks["demo", NUMBER].scans) == 1
    assert tracks["demo", "NEW"] == Track("demo", "NEW")
    (known,) = tracks["demo", NUMBER].scans
    assert tracks["demo", NUMBER].add(known, now()) == "known"
