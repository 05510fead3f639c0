"""What tracking makes of what it hears, on a real Postgres."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared import failpoints
from shared.clock import now
from shared.errors import GiveUp
from shared.events import (
    CustomerErased,
    OrderCancelled,
    OrderUpdated,
    ShipmentUpdated,
    ShipmentWithdrawn,
    rfc3339,
)
from shared.security import Links
from shared.testing import event, placed, placed_body
from tracking import store
from tracking.adapters.reading import UNMAPPED
from tracking.domain import choices
from tracking.handlers import Choice, Delivery

from .conftest import NUMBER, Front, Starter, order_events, scan, shipped, states


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_parcel_is_told_from_its_first_scan_to_the_whole_order(still: Front) -> None:
    await still.hear(*order_events())
    await still.take(scan("in_transit", ago=5))
    await still.take(scan("out_for_delivery", ago=3))
    await still.take(scan("delivered", ago=1, reason="neighbour"))
    told = await still.published()
    assert states(told) == ["in_transit", "out_for_delivery", "delivered"]
    assert [t for t, _ in told][-2:] == ["parcel.delivered.v1", "order.delivered.v1"]
    assert await still.parcel_state() == "delivered"


async def test_what_one_step_finds_is_published_in_the_order_of_its_meaning(still: Front) -> None:
    await still.take(scan("in_transit", ago=5), scan("delivered", ago=1))
    await still.hear(*order_events())
    assert await still.told() == [
        "shipment.status_changed.v1", "parcel.delivered.v1", "order.delivered.v1",
    ]  # fmt: skip


async def test_a_scan_before_its_order_joins_when_the_parcel_is_stated(still: Front) -> None:
    kept = counted("afterglow_scans_total", source="test", outcome="kept")
    answer = await still.take(scan("out_for_delivery", number="ab 1"))
    assert answer.outcome == "accepted"
    assert counted("afterglow_scans_total", source="test", outcome="kept") == kept + 1
    assert await still.told() == []
    await still.hear(*order_events(number="AB-1"))
    assert states(await still.published()) == ["out_for_delivery"]
    assert await still.parcel_state() == "out_for_delivery"


async def test_a_scan_may_name_the_shipment_instead_of_a_number(still: Front) -> None:
    await still.take(scan("in_transit", number=None, shipment_id="1001/1"))
    await still.hear(*order_events(number=None))
    await still.take(scan("out_for_delivery", number=None, shipment_id="1001/1", ago=0.5))
    assert states(await still.published()) == ["in_transit", "out_for_delivery"]


async def test_nothing_is_told_until_the_order_is_placed(still: Front) -> None:
    order, parcel = order_events()
    await still.hear(parcel)
    await still.take(scan("out_for_delivery"))
    assert await still.told() == []
    await still.hear(order)
    assert states(await still.published()) == ["out_for_delivery"]


async def test_a_second_copy_of_a_scan_changes_nothing(still: Front) -> None:
    await still.hear(*order_events())
    one = scan(ago=2)
    first = await still.take(one)
    before = await still.db.fetchval("select scans from track where ref = $1", NUMBER)
    again = await still.take(one)
    assert (first.replayed, again.outcome, again.replayed) == (0, "duplicate", 1)
    assert again.ids == first.ids
    await still.hear(one)  # the same over the bus
    assert await still.db.fetchval("select scans from track where ref = $1", NUMBER) == before
    two = scan("out_for_delivery")
    twice = await still.take(two, two, one)
    assert (twice.outcome, twice.replayed) == ("accepted", 2)
    assert states(await still.published()) == ["in_transit", "out_for_delivery"]


async def test_a_replay_of_all_events_tells_nothing_again(still: Front) -> None:
    events = [*order_events(), event(scan("delivered"))]
    await still.hear(*events)
    before = await still.told()
    await still.hear(*events)
    await still.hear(*reversed(events))
    assert await still.told() == before


async def test_one_number_in_two_orders_moves_both(still: Front) -> None:
    await still.hear(*order_events("1"), *order_events("2"))
    await still.take(scan("out_for_delivery"))
    for order_id in ("1", "2"):
        assert states(await still.published(order_id)) == ["out_for_delivery"]


async def test_one_number_at_two_shops_moves_only_the_one_it_was_told_by(still: Front) -> None:
    await still.hear(*order_events("1"))
    await still.hear(*(e.data for e in order_events("2")), shop="other")
    await still.take(scan("out_for_delivery"), shop="other")
    assert await still.told("1") == []
    assert await still.told("2") != []


async def test_scans_of_a_number_that_was_replaced_do_not_count(still: Front) -> None:
    await still.hear(*order_events(number="OLD1"))
    await still.take(scan("out_for_delivery", "OLD1", ago=6))
    await still.take(scan("in_transit", "NEW1", ago=2))
    changed = shipped(number="NEW1").model_dump(by_alias=True)
    await still.hear(ShipmentUpdated.model_validate(changed))
    assert await still.parcel_state() == "in_transit"
    await still.take(scan("delivered", "OLD1", ago=1))
    assert await still.parcel_state() == "in_transit"


async def test_the_latest_statement_counts_whichever_came_last(still: Front) -> None:
    changed = shipped(number="NEW1").model_dump(by_alias=True)
    update = event(ShipmentUpdated.model_validate(changed))
    order, parcel = order_events(number="OLD1")
    await still.hear(update)
    await still.hear(parcel, order)
    await still.take(scan("out_for_delivery", "NEW1"))
    assert await still.parcel_state() == "out_for_delivery"
    kept = await still.db.fetchval("select shipped_at from parcel")
    assert kept == parcel.time


async def test_a_withdrawn_parcel_is_not_spoken_of_in_any_order_of_arrival(still: Front) -> None:
    gone = event(ShipmentWithdrawn(order_id="1001", shipment_id="1001/1", at=now()))
    order, parcel = order_events()
    await still.hear(order, gone)
    await still.hear(parcel)
    await still.take(scan("out_for_delivery"))
    assert await still.told() == []
    later = event(
        ShipmentUpdated.model_validate(shipped().model_dump(by_alias=True)),
        at=now() + timedelta(seconds=5),
    )
    await still.hear(later)
    assert states(await still.published()) == ["out_for_delivery"]


async def test_the_latest_revision_says_what_was_bought(still: Front) -> None:
    first, _ = order_events()
    lines = [{"line_id": "9", "name": "Matcha", "quantity": "1"}]
    body = placed_body("1001", items=lines, revision=rfc3339(now()))
    await still.hear(event(OrderUpdated.model_validate(body)))
    await still.hear(first)
    order = await store.load_order(still.db, "demo", "1001")
    assert order is not None
    assert order.about is not None
    assert [line.name for line in order.about.lines] == ["Matcha"]


async def test_a_time_in_the_future_is_taken_for_now_and_stays_one_scan(still: Front) -> None:
    await still.hear(*order_events())
    wrong = scan("out_for_delivery", ago=-48)
    await still.take(wrong)
    assert (await still.take(wrong)).replayed == 1
    order = await store.load_order(still.db, "demo", "1001")
    assert order is not None
    (fact,) = order.tracks[NUMBER].scans
    assert abs(fact.at - now()) < timedelta(minutes=1)
    assert fact.get("raw_at") == rfc3339(wrong.occurred_at)


async def test_facts_from_before_the_shops_start_are_state_only(still: Front) -> None:
    before = counted("afterglow_history_facts_total", type="order.placed.v1")
    bodies = [e.data for e in order_events()]
    await still.hear(*bodies, shop="new")
    await still.take(scan("out_for_delivery", ago=3), shop="new")
    assert counted("afterglow_history_facts_total", type="order.placed.v1") == before + 1
    assert await still.parcel_state() == "out_for_delivery"
    assert not [t for t in await still.told() if "delay" in t]


async def test_an_event_of_an_unknown_shop_is_given_up(still: Front) -> None:
    with pytest.raises(GiveUp):
        await still.hear(placed("1"), shop="nobody")


async def test_what_happens_to_a_delivery_is_written_down(still: Front) -> None:
    shop = still.shop()
    one = scan("in_transit")
    await still.submit(Delivery(shop, "easypost", (one,), topic="tracker.updated", body=b"x"))
    await still.submit(Delivery(shop, "easypost", (one,), topic="tracker.updated", body=b"x"))
    await still.submit(Delivery(shop, "easypost", ignored="batch.created", topic="batch"))
    await still.submit(Delivery(shop, "easypost", body=b"{", unusable="no JSON", ref="AB9"))
    rows = await still.db.fetch("select outcome, reason, ref, body from webhooks order by id")
    assert [tuple(r) for r in rows] == [
        ("accepted", None, NUMBER, None),
        ("duplicate", "nothing new in it", NUMBER, None),
        ("ignored", "batch.created", None, None),
        ("quarantined", "no JSON", "AB9", b"{"),
    ]


async def test_a_group_of_many_parcels_costs_a_handful_of_statements(still: Front) -> None:
    numbers = [f"N{n}" for n in range(100)]
    events = [e for n in numbers for e in order_events(n, n)]
    await still.hear(*events)
    statements = 0

    def count(query: Any) -> None:
        nonlocal statements
        statements += 1

    async with still.db._pool.acquire() as conn:
        conn.add_query_logger(count)
    for held in still.db._pool._holders:
        if held._con is not None and not held._con.is_closed():
            held._con.add_query_logger(count)
    shop = still.shop()
    answers = await still.tracking.accept(
        [Delivery(shop, "api", (scan(number=n),), log=False) for n in numbers]
    )
    assert all(not isinstance(a, Exception) for a in answers)
    assert len(states(await still.published())) == 100
    assert statements <= 20


async def test_another_expected_day_on_a_known_scan_is_told_and_is_no_second_scan(
    still: Front,
) -> None:
    await still.hear(*order_events())
    one = scan(eta={"from": None, "to": rfc3339(now() + timedelta(days=1))})
    other = one.model_copy(update={"eta": scan(eta={"to": rfc3339(now() + timedelta(days=2))}).eta})
    before = counted("afterglow_scans_total", source="test", outcome="eta")
    first = await still.take(one)
    again = await still.take(other)
    assert (again.outcome, again.replayed, again.ids) == ("accepted", 0, first.ids)
    assert (await still.take(other)).outcome == "duplicate"
    assert counted("afterglow_scans_total", source="test", outcome="eta") == before + 1
    told = [body["eta"]["to"] for _, body in await still.published()]
    assert [day[:10] for day in told] == [str(e.eta.to.date()) for e in (one, other) if e.eta]
    order = await store.load_order(still.db, "demo", "1001")
    assert order is not None
    assert len(order.tracks[NUMBER].scans) == 1


async def test_only_a_word_that_is_not_mapped_counts_as_unmapped(still: Front) -> None:
    before = counted("afterglow_scans_unmapped_total", source="test")
    await still.take(scan("unknown"), scan("unknown", ago=2, reason="lost_in_thought"))
    assert counted("afterglow_scans_unmapped_total", source="test") == before
    odd = scan("unknown", ago=3, reason=UNMAPPED)
    await still.take(odd)
    await still.take(odd)
    assert counted("afterglow_scans_unmapped_total", source="test") == before + 1


@pytest.mark.parametrize("stated", [None, "HANDOVER1"])
@pytest.mark.parametrize("first", ["scan", "parcel"])
async def test_a_scan_that_names_its_parcel_joins_whatever_number_it_bears(
    still: Front, stated: str | None, first: str
) -> None:
    said = scan("out_for_delivery", "LASTMILE9", order_id="1001", shipment_id="1001/1")
    if first == "scan":
        await still.take(said)
        await still.hear(*order_events(number=stated))
    else:
        await still.hear(*order_events(number=stated))
        await still.take(said)
    assert states(await still.published()) == ["out_for_delivery"]
    assert (await still.take(said)).outcome == "duplicate"


async def test_a_scan_under_both_its_names_counts_once(still: Front) -> None:
    await still.hear(*order_events())
    await still.take(scan("delivery_attempted", order_id="1001", shipment_id="1001/1"))
    order = await store.load_order(still.db, "demo", "1001")
    assert order is not None
    assert len(order.scans(order.parcels["1001/1"])) == 1


async def test_a_scan_that_names_one_orders_parcel_moves_no_other_with_the_same_id(
    still: Front,
) -> None:
    for order_id in ("1", "2"):
        placed_, _ = order_events(order_id)
        await still.hear(placed_, shipped(order_id, f"N{order_id}", shipment_id="1"))
    await still.take(scan("out_for_delivery", "N1", order_id="1", shipment_id="1"))
    await still.take(scan("out_for_delivery", "N2", shipment_id="1", ago=2, order_id="2"))
    await still.take(scan("in_transit", "N1", order_id="1", shipment_id="1", ago=0.1))
    for order_id in ("1", "2"):
        assert states(await still.published(order_id)) == ["out_for_delivery"]
        order = await store.load_order(still.db, "demo", order_id)
        assert order is not None
        assert len(order.scans(order.parcels["1"])) == 3 - int(order_id)


async def test_a_scan_without_a_number_moves_the_parcel_of_the_order_it_names_alone(
    still: Front,
) -> None:
    for order_id in ("1", "2"):
        placed_, _ = order_events(order_id)
        await still.hear(placed_, shipped(order_id, None, shipment_id="1"))
    at = rfc3339(now() - timedelta(hours=1))
    said = {"number": None, "shipment_id": "1", "occurred_at": at}
    await still.take(scan("delivered", order_id="1", **said))
    assert states(await still.published("1")) == ["delivered"]
    assert states(await still.published("2")) == []
    answer = await still.take(scan("delivered", order_id="2", **said))
    assert answer.outcome == "accepted"  # the same words of another parcel are no copy
    assert states(await still.published("2")) == ["delivered"]


@pytest.mark.parametrize("heard_of", [False, True])
async def test_a_scan_waits_for_the_parcel_that_it_names_to_be_stated(
    start: Starter, tracking_url: str, *, heard_of: bool
) -> None:
    async with (
        start(tracking_url, loops=False) as one,
        start(tracking_url, loops=False) as two,
    ):
        said = {"order_id": "1001", "shipment_id": "1001/1"}
        if heard_of:
            await one.take(scan("in_transit", "ELSE1", ago=3, **said))
        events = order_events()
        async with asyncio.TaskGroup() as group, one.db.transaction() as tx:
            await one.tracking.receive(tx, events)
            group.create_task(two.take(scan("out_for_delivery", "ELSE1", **said)))
            await asyncio.sleep(0.3)
        assert states(await one.published())[-1:] == ["out_for_delivery"]


async def test_a_history_counts_in_no_metric_of_kept_words_and_delivers_nothing_today(
    still: Front,
) -> None:
    carrier = "history-post"
    old = {"shipped_at": rfc3339(now() - timedelta(days=40)), "carrier": carrier}
    day = str(now().date() - timedelta(days=35))
    at = {
        "placed_at": rfc3339(now() - timedelta(days=41)),
        "promise": {"from": day, "to": day},
    }
    for shop in ("new", "demo"):
        await still.hear(placed(f"{shop}-1", **at), shop=shop)
        body = shipped(f"{shop}-1", f"{shop}1", **old)
        await still.hear(event(body, shop=shop, at=now() - timedelta(days=40)))
        await still.take(scan("delivered", f"{shop}1", ago=800), shop=shop)
        counts = [
            counted("afterglow_promises_total", carrier=carrier, outcome=kept)
            for kept in ("kept", "missed")
        ]
        assert sum(counts) == (0 if shop == "new" else 1)


# ---------------------------------------------------------------- races


async def test_a_scan_that_races_its_parcel_is_lost_in_neither_order(
    start: Starter, tracking_url: str
) -> None:
    async with (
        start(tracking_url, loops=False) as one,
        start(tracking_url, loops=False) as two,
    ):
        for n in range(25):
            order, parcel = order_events(str(n), f"RACE{n}")
            await one.hear(order)

            async def state(parcel: Any = parcel, n: int = n) -> None:
                await asyncio.sleep(0.002 * (n % 3))
                while True:
                    try:
                        await one.hear(parcel)
                    except Exception as error:
                        if type(error).__name__ != "Retry":
                            raise
                    else:
                        return

            await asyncio.gather(state(), two.take(scan("out_for_delivery", f"RACE{n}")))
            assert states(await one.published(str(n))) == ["out_for_delivery"], n


@pytest.mark.parametrize("heard_of", [False, True])
async def test_a_scan_waits_for_the_parcel_that_is_being_stated(
    start: Starter, tracking_url: str, *, heard_of: bool
) -> None:
    """Both transactions hold what they read first; whichever commits second sees the other."""
    async with (
        start(tracking_url, loops=False) as one,
        start(tracking_url, loops=False) as two,
    ):
        order, parcel = order_events()
        await one.hear(order)
        if heard_of:
            await one.take(scan("in_transit", ago=3))
        async with asyncio.TaskGroup() as group, one.db.transaction() as tx:
            await one.tracking.receive(tx, [parcel])
            taking = group.create_task(two.take(scan("out_for_delivery")))
            await asyncio.sleep(0.3)
            assert not taking.done()
        assert states(await one.published())[-1:] == ["out_for_delivery"]


async def test_two_processes_that_take_the_same_scan_tell_it_once(
    start: Starter, tracking_url: str
) -> None:
    async with (
        start(tracking_url, loops=False) as one,
        start(tracking_url, loops=False) as two,
    ):
        await one.hear(*order_events())
        said = [scan("in_transit", ago=4), scan("out_for_delivery", ago=2), scan("delivered")]
        await asyncio.gather(*(f.take(s) for s in said for f in (one, two)))
        found = Counter(await one.told())
        assert found["parcel.delivered.v1"] == 1
        assert found["order.delivered.v1"] == 1


async def test_what_fails_before_the_commit_is_not_kept_and_after_it_is_not_doubled(
    still: Front,
) -> None:
    await still.hear(*order_events())
    one = scan("delivered")
    try:
        failpoints.arm("tr.before_commit=raise")
        with pytest.raises(RuntimeError):
            await still.take(one)
        assert await still.told() == []
        failpoints.arm("tr.after_commit=raise")
        with pytest.raises(RuntimeError):
            await still.take(one)
    finally:
        failpoints.arm("")
    assert (await still.take(one)).outcome == "duplicate"
    kinds = Counter(await still.told())
    assert kinds["parcel.delivered.v1"] == kinds["order.delivered.v1"] == 1


# ---------------------------------------------------------------- pages and choices


async def test_the_page_of_an_order_opens_when_it_is_known_and_ends_90_days_after_delivery(
    still: Front,
) -> None:
    hashed = Links(["link-key-of-the-tests"]).hashes("track", "demo", "1001")[0]
    assert await store.find_page(still.db, hashed) is None
    await still.hear(*order_events())
    assert await store.find_page(still.db, hashed) == ("demo", "1001")
    await still.take(scan("delivered", ago=1))
    ends = await still.db.fetchval("select expires_at from page")
    assert abs(ends - now() - timedelta(days=90) + timedelta(hours=1)) < timedelta(minutes=1)
    await still.db.execute("update page set expires_at = now()")
    assert await store.find_page(still.db, hashed) is None


async def test_every_link_key_opens_the_page(start: Starter, tracking_url: str) -> None:
    keys = ["link-key-of-the-tests", "link-key-before-that"]
    async with start(tracking_url, loops=False, link_keys=",".join(keys)) as made:
        await made.hear(*order_events())
        for hashed in Links(keys).hashes("track", "demo", "1001"):
            assert await store.find_page(made.db, hashed) == ("demo", "1001")


def late_order() -> Any:
    """An order whose promised day is over while its parcel is still on its way."""
    past = str(now().date() - timedelta(days=4))
    order, _ = order_events(promise={"from": past, "to": past})
    sent = rfc3339(now() - timedelta(hours=20))
    return order, event(shipped(shipped_at=sent))


async def test_a_customers_choice_is_told_once_and_kept(still: Front) -> None:
    await still.hear(*late_order())
    await still.take(scan("in_transit", ago=10))
    assert "shipment.delayed.v1" in await still.told()
    wish = Choice(still.shop(), "1001", "call_me", "1001/1", 1, "after five")
    first = await still.submit(wish)
    assert (first.outcome, len(first.ids)) == ("accepted", 1)
    assert (await still.submit(wish)).outcome == "duplicate"
    told = [body for t, body in await still.published() if t == "customer.choice.v1"]
    assert [(b["choice"], b["note"]) for b in told] == [("call_me", "after five")]
    order = await store.load_order(still.db, "demo", "1001")
    assert order is not None
    assert [r.wish for r in choices.requested(order)] == ["call_me"]
    assert "after five" not in str(order.told)


async def test_there_is_nothing_to_choose_without_a_delay(still: Front) -> None:
    await still.hear(*order_events())
    for order_id in ("1001", "unknown"):
        with pytest.raises(choices.NothingToChoose):
            await still.submit(Choice(still.shop(), order_id, "wait", "1001/1", 1))
    assert await still.db.fetchval("select count(*) from orders") == 1


# ---------------------------------------------------------------- watching


async def test_a_stated_parcel_is_watched_where_the_shop_has_an_aggregator(still: Front) -> None:
    await still.hear(*(e.data for e in order_events()), shop="watched")
    await still.hear(*(e.data for e in order_events()), shop="demo")
    rows = await still.db.fetch("select shop, ref from track where watch_at is not null")
    assert [tuple(r) for r in rows] == [("watched", NUMBER)]


async def test_parcels_of_the_past_and_withdrawn_ones_are_not_watched(still: Front) -> None:
    old = rfc3339(now() - timedelta(days=70))
    await still.hear(*(e.data for e in order_events("1", "A1")), shop="new")
    await still.hear(placed("2"), shipped("2", "A2", shipped_at=old), shop="watched")
    gone = ShipmentWithdrawn(order_id="3", shipment_id="3/1", at=now() + timedelta(seconds=1))
    await still.hear(placed("3"), gone, shipped("3", "A3"), shop="watched")
    assert await still.db.fetchval("select count(*) from track where watch_at is not null") == 0


# ---------------------------------------------------------------- forgetting


async def everything(front: Front) -> str:
    """All text that stands in any table of the service."""
    tables = await front.db.fetch(
        "select table_name from information_schema.tables where table_schema in ('tracking', 'bus')"
    )
    found = []
    for row in tables:
        schema = "" if row[0] not in {"record", "shard", "member", "claim"} else "bus."
        name = f"{schema}{row[0]}"
        if await front.db.fetchval("select to_regclass($1)", name):
            found += await front.db.fetch(f"select t::text from {name} t")
    text = " ".join(str(r[0]) for r in found)
    return text + bytes.fromhex("".join(_hex(text))).decode(errors="replace")


def _hex(text: str) -> list[str]:
    parts = text.split("\\x")[1:]
    out = []
    for part in parts:
        digits = ""
        for c in part:
            if c not in "0123456789abcdef":
                break
            digits += c
        out.append(digits[: len(digits) // 2 * 2])
    return out


async def test_an_erased_customer_stands_in_no_table(still: Front) -> None:
    await still.hear(*order_events())
    await still.take(scan("in_transit", ago=2, place="Secret Village"))
    await still.submit(
        Delivery(still.shop(), "easypost", body=b'{"n": "%s"}' % NUMBER.encode(), unusable="odd")
    )
    assert "Secret Village" in await everything(still)
    await still.hear(event(CustomerErased(order_id="1001", at=now())))
    left = await everything(still)
    for personal in ("Secret Village", NUMBER, "Sencha"):
        assert personal not in left
    order = await store.load_order(still.db, "demo", "1001")
    assert order is not None
    assert (order.about, order.parcels, order.check_at) == (None, {}, None)
    assert order.erased_at is not None
    assert await still.db.fetchval("select count(*) from page") == 0


async def test_an_erasure_forgets_the_numbers_that_a_parcel_had_before(still: Front) -> None:
    order, parcel = order_events(number="OLD111111")
    await still.hear(order, parcel)
    await still.take(scan("in_transit", "OLD111111", ago=3, place="Secret Village"), log=True)
    await still.submit(
        Delivery(still.shop(), "easypost", body=b'{"n": "OLD111111"}', unusable="odd")
    )
    changed = shipped(number="NEW222222").model_dump(by_alias=True)
    await still.hear(ShipmentUpdated.model_validate(changed))
    assert "Secret Village" in await everything(still)
    await still.hear(parcel)  # told again, it is a former number all the same
    await still.hear(event(CustomerErased(order_id="1001", at=now() + timedelta(seconds=1))))
    left = await everything(still)
    for personal in ("Secret Village", "OLD111111", "NEW222222"):
        assert personal not in left


async def test_a_former_number_is_known_whichever_statement_came_first(still: Front) -> None:
    order, parcel = order_events(number="OLD1")
    changed = shipped(number="NEW1").model_dump(by_alias=True)
    await still.hear(event(ShipmentUpdated.model_validate(changed)))
    await still.hear(parcel, order)
    row = await still.db.fetchrow("select number_ref, former from parcel")
    assert row is not None
    assert tuple(row) == ("NEW1", ["OLD1"])


async def test_facts_from_before_the_erasure_are_dropped_and_a_later_purchase_works(
    still: Front,
) -> None:
    order, parcel = order_events()
    await still.hear(order, event(CustomerErased(order_id="1001", at=now() - timedelta(hours=1))))
    before = await still.told()
    await still.hear(order, parcel)
    await still.take(scan("out_for_delivery"))
    assert await still.told() == before
    later = rfc3339(now() + timedelta(seconds=1))
    await still.hear(placed("1001", placed_at=later), shipped(number="NEW2", shipped_at=later))
    await still.take(scan("out_for_delivery", "NEW2", ago=0))
    assert states(await still.published()) == ["out_for_delivery"]
    hashed = Links(["link-key-of-the-tests"]).hashes("track", "demo", "1001")[0]
    assert await store.find_page(still.db, hashed) == ("demo", "1001")


async def test_an_erasure_in_the_same_batch_forgets_what_was_stated_a_moment_before(
    still: Front,
) -> None:
    order, parcel = order_events()
    erased = event(CustomerErased(order_id="1001", at=now()))
    await still.hear(order, parcel, event(scan("in_transit", place="Secret Village")), erased)
    left = await everything(still)
    for personal in ("Secret Village", "Sencha"):
        assert personal not in left
    assert await still.told() == []


async def test_an_erasure_of_an_unknown_order_is_remembered(still: Front) -> None:
    await still.hear(event(CustomerErased(order_id="1001", at=now())))
    await still.hear(*order_events())
    assert await still.db.fetchval("select about from orders") is None


async def test_a_number_that_another_order_has_too_keeps_its_scans(still: Front) -> None:
    await still.hear(*order_events("1"), *order_events("2"))
    await still.take(scan("in_transit", ago=3))
    await still.hear(event(CustomerErased(order_id="1", at=now())))
    await still.take(scan("out_for_delivery", ago=1))
    assert states(await still.published("2")) == ["in_transit", "out_for_delivery"]
    assert states(await still.published("1")) == []


async def test_cancelling_an_order_ends_its_checks(still: Front) -> None:
    order, _ = order_events()
    await still.hear(order)
    assert await still.db.fetchval("select check_at from orders") is not None
    await still.hear(event(OrderCancelled(order_id="1001", at=now())))
    assert await still.db.fetchval("select check_at from orders") is None
