"""From a parcel's events to journal rows and to the mail that its customer reads, on a real store."""

from datetime import datetime, timedelta
from email import message_from_bytes, policy
from typing import Any

import orjson
import pytest
from tests.chaos.sink import Sink

from notifier import store
from shared.clock import now
from shared.events import (
    CustomerErased,
    Event,
    EventData,
    OrderCancelled,
    OrderDelayed,
    OrderShipped,
    ParcelDelivered,
    ParcelDeliveryRevoked,
    Promise,
    ShipmentDelayed,
    ShipmentDelayUpdate,
    ShipmentRecovered,
    ShipmentStatusChanged,
    ShipmentUpdated,
)
from shared.security import Links
from shared.testing import event, placed

from .conftest import Desk, Make, operator
from .test_dispatcher import all_in, until

ORDER, PARCEL = "1001", "7/1"
BEFORE, AFTER = (
    {"from": "2026-11-25", "to": "2026-11-27"},
    {"from": "2026-11-30", "to": "2026-12-01"},
)


def at(minutes: float) -> datetime:
    return now() + timedelta(minutes=minutes)


def told(minutes: float, kind: type[EventData], **more: Any) -> Event:
    about = {"order_id": ORDER}
    if "shipment_id" in kind.model_fields and "shipment_id" not in more:
        about["shipment_id"] = PARCEL
    return event(kind.model_validate(about | more), at=at(minutes))


def bought(**changes: Any) -> Event:
    return event(placed(ORDER, promise=BEFORE | {"source": "shop"}, **changes), at=at(-60))


def shipped(minutes: float = -50, **more: Any) -> Event:
    items = [{"line_id": "1", "quantity": "1"}]
    stated = {"carrier": "gls", "tracking_number": "AB12", "number_of_order": "1 of 2"}
    return told(minutes, OrderShipped, **(stated | {"items": items} | more))


def out(minutes: float = -5) -> Event:
    return told(minutes, ShipmentStatusChanged, state="out_for_delivery")


def delayed(minutes: float = -30, episode: int = 1, **more: Any) -> Event:
    stated = {
        "cause": "silence",
        "old": BEFORE,
        "new": AFTER,
        "next_contact_at": at(1440).isoformat(),
    }
    return told(minutes, ShipmentDelayed, episode=episode, **(stated | more))


def delivered(minutes: float = -1, **more: Any) -> Event:
    return told(minutes, ParcelDelivered, delivered_at=at(minutes).isoformat(), **more)


async def journal(desk: Desk) -> dict[tuple[str, str, int], tuple[str, str | None]]:
    rows = await desk.db.fetch("select * from message where kind <> 'order_confirmed' order by id")
    return {(r["kind"], r["role"], r["round"]): (r["state"], r["reason"]) for r in rows}


async def test_the_whole_story_told_at_once_leaves_only_what_is_still_news(desk: Desk) -> None:
    over = told(-10, ShipmentRecovered, episode=1, new=BEFORE)
    word = told(-20, ShipmentDelayUpdate, episode=1, round=1)
    for events in ([bought(), shipped(), delayed(), word, over, out(), delivered()],):
        await desk.hear(*events)
        await desk.hear(*events)
    assert await journal(desk) == {
        ("order_shipped", "buyer", 0): ("suppressed", "overtaken"),
        ("out_for_delivery", "buyer", 0): ("suppressed", "overtaken"),
        ("shipment_delayed", "buyer", 0): ("suppressed", "overtaken"),
        ("delay_update", "buyer", 1): ("suppressed", "overtaken"),
        ("delay_over", "buyer", 0): ("suppressed", "folded"),
        ("delivered", "buyer", 0): ("pending", None),
    }


async def test_the_end_of_a_delay_that_nobody_heard_of_is_not_told(desk: Desk) -> None:
    await desk.hear(bought(), shipped(), delayed())
    await desk.hear(told(-10, ShipmentRecovered, episode=1))
    rows = await journal(desk)
    assert rows["shipment_delayed", "buyer", 0] == ("suppressed", "recovered")
    assert rows["delay_over", "buyer", 0] == ("suppressed", "never_told")


@pytest.mark.parametrize("state", ["sent", "dispatching", "unknown"])
async def test_the_end_of_a_delay_that_was_told_is_told(desk: Desk, state: str) -> None:
    await desk.hear(bought(), shipped(), delayed())
    await desk.db.execute("update message set state = $1 where kind = 'shipment_delayed'", state)
    await desk.hear(told(-10, ShipmentRecovered, episode=1))
    assert (await journal(desk))["delay_over", "buyer", 0] == ("pending", None)


async def test_a_delivery_that_is_revoked_is_taken_back_and_told_again_later(desk: Desk) -> None:
    await desk.hear(bought(), shipped(), delivered(-20))
    await desk.hear(told(-10, ParcelDeliveryRevoked))
    assert (await journal(desk))["delivered", "buyer", 0] == ("suppressed", "revoked")
    await desk.hear(delivered(-1))
    assert (await journal(desk))["delivered", "buyer", 1] == ("pending", None)


async def test_before_dispatch_a_delay_is_the_orders_own(desk: Desk) -> None:
    await desk.hear(bought(), told(-30, ShipmentDelayed, shipment_id=None, episode=1, cause="x"))
    moved = Promise.model_validate(AFTER | {"source": "shop"})
    await desk.hear(told(-20, OrderDelayed, promise=moved.model_dump(mode="json")))
    rows = await desk.db.fetch(
        "select subject, state, reason from message where kind = 'order_delayed' order by id"
    )
    assert [tuple(r.values()) for r in rows] == [
        ("#1@>", "suppressed", "newer_notice"),
        ("2026-11-30/2026-12-01", "pending", None),
    ]
    await desk.hear(told(-10, OrderCancelled))
    assert (await journal(desk))["order_delayed", "buyer", 0] == ("suppressed", "cancelled")


async def test_the_receiver_gets_what_concerns_the_delivery(desk: Desk) -> None:
    maja = {"name": "Maja", "email": "maja@example.com"}
    await desk.hear(bought(recipient=maja), shipped(), delayed(), delivered(-1))
    roles = {r[:2] for r in await journal(desk)}
    assert roles == {
        ("order_shipped", "recipient"),
        ("shipment_delayed", "buyer"),
        ("delivered", "recipient"),
    }
    updated = bought(recipient=None, revision=at(0).isoformat())
    await desk.hear(updated, delivered(-1))  # whoever gets it, it is one message
    assert {r[:2] for r in await journal(desk)} == roles


async def test_how_a_parcel_looks_is_its_latest_statement_and_goes_with_the_person(
    desk: Desk,
) -> None:
    corrected = told(-40, ShipmentUpdated, carrier="dhl", tracking_number="CD34")
    news = told(-5, ShipmentStatusChanged, state="in_transit", eta={"to": "2026-11-30T12:00:00Z"})
    left = delivered(-1, how="neighbour", handed_to="Novak")
    await desk.hear(corrected, shipped(-50), bought(recipient={"email": "maja@example.com"}))
    await desk.hear(left, news)
    looks = orjson.loads(await desk.db.fetchval("select parcels from orders"))[PARCEL]
    assert looks["stated"]["tracking_number"] == "CD34"
    assert looks["eta"]["to"] == "2026-11-30T12:00:00Z"
    assert looks["handed"]["to"] == "Novak"
    assert "Novak" not in await desk.db.fetchval("select facts from orders")
    await desk.hear(told(0, CustomerErased), out())
    row = await desk.db.fetchrow("select parcels, recipient_hash, snapshot from orders")
    assert tuple(row.values()) == (None, None, None)


async def test_what_is_known_of_parcels_is_forgotten_with_the_rest(desk: Desk) -> None:
    await desk.hear(bought(), shipped())
    await desk.db.execute("update orders set updated_at = now() - interval '181 days'")
    await store.forget_old(desk.db)
    assert await desk.db.fetchval("select parcels from orders") is None
    await desk.db.execute("update orders set parcels = '{}', erased_at = now(), updated_at = now()")
    await store.forget_old(desk.db)
    assert await desk.db.fetchval("select parcels from orders") is None


async def test_a_replica_of_an_older_version_leaves_the_new_columns_alone(desk: Desk) -> None:
    await desk.hear(bought(), shipped())
    before = await desk.db.fetchval("select parcels from orders")
    await desk.db.execute(
        """insert into orders (shop, order_id, facts) select shop, order_id, facts from orders
           on conflict (shop, order_id) do update set facts = excluded.facts, updated_at = now()"""
    )
    assert await desk.db.fetchval("select parcels from orders") == before


def text_of(content: bytes) -> str:
    mail: Any = message_from_bytes(content, policy=policy.default)
    return str(mail.get_body(("plain",)).get_content())


async def test_each_kind_reaches_its_reader_as_mail_with_the_tracking_link(make_desk: Make) -> None:
    async with Sink(collect=True) as sink:
        desk = await make_desk(
            smtp_url=f"smtp://127.0.0.1:{sink.port}",
            track_url="https://track.example",
            day_seconds=5,
        )

        async def sent() -> None:
            async with desk.at_work():
                await until(all_in(desk, "sent", "suppressed"))

        steps = [
            [
                bought(),
                told(-55, ShipmentDelayed, shipment_id=None, episode=1, cause="not_shipped"),
            ],
            [shipped()],
            [delayed()],
            [
                told(
                    -25, ShipmentDelayUpdate, episode=1, round=1, next_contact_at=at(99).isoformat()
                )
            ],
            [told(-10, ShipmentRecovered, episode=1, new=BEFORE)],
            [out()],
            [delivered(-1, how="locker")],
        ]
        for events in steps:
            await desk.hear(*events)
            await sent()
        mails = [(message_from_bytes(m.content), text_of(m.content)) for m in sink.accepted]
    token = Links(["link-key-of-the-tests"]).token("track", "demo", ORDER)
    kinds = [mail["X-Afterglow-Kind"] for mail, _ in mails]
    assert kinds[2:] == [
        *("order_shipped", "shipment_delayed", "delay_update", "delay_over"),
        *("out_for_delivery", "delivered"),
    ]
    assert sorted(kinds[:2]) == ["order_confirmed", "order_delayed"]
    by_kind = dict(zip(kinds, (text for _, text in mails), strict=True))
    assert "/t/" not in by_kind.pop("order_confirmed")
    for kind, text in by_kind.items():
        assert f"https://track.example/t/{token}" in text, kind
    assert "GLS" in by_kind["order_shipped"]
    assert "AB12" in by_kind["order_shipped"]
    assert "Parcel 1 of 2" in by_kind["order_shipped"]
    assert "Quantity: 1" in by_kind["delivered"]
    assert "Friday 27 November" in by_kind["shipment_delayed"]
    assert "Tuesday 1 December" in by_kind["shipment_delayed"]
    assert "It has not left us yet." in by_kind["order_delayed"]
    assert "parcel locker" in by_kind["delivered"]


async def test_a_receiver_who_cannot_be_reached_does_not_silence_the_buyer(
    make_desk: Make,
) -> None:
    rejects = [("maja@", "550 5.1.1 nobody here")]
    async with Sink(rejects=rejects, collect=True) as sink:
        desk = await make_desk(smtp_url=f"smtp://127.0.0.1:{sink.port}", day_seconds=5)
        maja = {"name": "Maja", "email": "maja@example.com", "locale": "en"}
        await desk.hear(bought(recipient=maja), shipped())
        async with desk.at_work():
            await until(all_in(desk, "sent", "failed"))
            await desk.hear(delayed(), out())
            await until(all_in(desk, "sent", "failed", "suppressed"))
        rows = await journal(desk)
    assert rows["order_shipped", "recipient", 0] == ("failed", "address_refused")
    assert rows["out_for_delivery", "recipient", 0] == ("suppressed", "hard_bounce")
    assert rows["shipment_delayed", "buyer", 0] == ("sent", None)
    assert {m.rcpt for m in sink.accepted} == {"ana.novak@example.com"}


async def test_the_timeline_shows_the_facts_of_parcels_and_why_a_row_is_silent(desk: Desk) -> None:
    await desk.hear(bought(), shipped(), delayed(), delivered(-1, how="hand"))
    async with desk.at_work() as made, operator(made) as client:
        shown = (await client.get(f"/v1/orders/demo/{ORDER}")).json()
    facts = {fact["type"]: fact for fact in shown["facts"]}
    assert facts["shipment.delayed.v1"]["cause"] == "silence"
    assert facts["parcel.delivered.v1"]["how"] == "hand"
    reasons = {m["kind"]: (m["subject"], m["reason"]) for m in shown["messages"]}
    assert reasons["order_shipped"] == (PARCEL, "overtaken")
    assert reasons["shipment_delayed"] == (f"{PARCEL}#1@2026-11-27>2026-12-01", "overtaken")


async def test_facts_that_are_gone_end_as_a_failed_row_with_a_reason(make_desk: Make) -> None:
    async with Sink(collect=True) as sink:
        desk = await make_desk(smtp_url=f"smtp://127.0.0.1:{sink.port}")
        await desk.hear(bought(), shipped())
        await desk.db.execute("update orders set facts = '[]'")
        async with desk.at_work():
            await until(all_in(desk, "sent", "failed"))
    state, reason = (await journal(desk))["order_shipped", "buyer", 0]
    assert (state, "gone" in str(reason)) == ("failed", True)
