"""Whoever is asked "where is it, and what did we tell her" finds the answer here."""

import json
from datetime import timedelta
from typing import Any

from shared.clock import now
from shared.errors import Unusable
from shared.events import Eta
from shared.testing import placed
from tracking.api import ingest
from tracking.backtest import read

from .conftest import NUMBER, Front, order_events, scan, scan_body, shipped
from .test_ingest import Words, hook


async def test_an_order_is_shown_with_its_parcels_and_all_that_was_said_of_them(
    front: Front, monkeypatch: Any
) -> None:
    await front.post(scan_body("in_transit", raw_status="Sprejeto v logistični center"))
    await front.hear(*order_events())
    await front.post(scan_body("out_for_delivery", source="shop"))
    monkeypatch.setitem(ingest._SOURCES, "aftership", Words(Unusable))
    await hook(front, {"tracking_number": NUMBER})
    answer = await front.ask("/v1/orders/demo/1001")
    assert answer.status_code == 200
    shown = answer.json()
    assert shown["order"]["number"] == "#1001"
    assert (shown["state"]["cancelled"], shown["state"]["open"]) == (False, {"1": "2"})
    [parcel] = shown["parcels"]
    assert (parcel["shipment_id"], parcel["state"]) == ("1001/1", "out_for_delivery")
    assert [s["state"] for s in parcel["scans"]] == ["in_transit", "out_for_delivery"]
    assert parcel["scans"][0]["raw"] == "Sprejeto v logistični center"
    assert all({"at", "received", "id"} <= set(scan) for scan in parcel["scans"])
    assert parcel["watching"][0]["provider"] is None
    assert [p["opens"] for p in shown["pages"]] == [True]
    assert [(h["outcome"], h["source"]) for h in shown["webhooks"]] == [
        ("quarantined", "aftership")
    ]
    assert {"episodes", "choices", "told", "check_at", "facts"} <= set(shown)
    [delay] = shown["delays"]
    assert (delay["shipment_id"], delay["promised"]) == ("1001/1", True)
    assert delay["next_alarm_at"] or delay["because"]
    assert "Novak" not in answer.text


async def test_an_order_nobody_told_of_is_not_found_and_a_key_is_needed(front: Front) -> None:
    assert (await front.ask("/v1/orders/demo/9")).status_code == 404
    assert (await front.ask("/v1/orders/demo/2026/1042")).status_code == 404
    assert (await front.ask("/v1/orders/demo/9", key="wrong")).status_code == 401


async def test_the_watching_of_a_parcel_is_shown(still: Front) -> None:
    await still.hear(placed(), shipped(), shop="watched")
    [watching, *_] = (await still.ask("/v1/orders/watched/1001")).json()["parcels"][0]["watching"]
    assert (watching["ref"], watching["provider"]) == (NUMBER, "easypost")
    assert watching["next_at"]


async def test_a_quarantined_delivery_is_listed_and_read_again_when_it_is_understood(
    front: Front, monkeypatch: Any
) -> None:
    monkeypatch.setitem(ingest._SOURCES, "aftership", Words(Unusable))
    await hook(front, scan_body())
    [row] = (await front.ask("/v1/quarantine")).json()["quarantine"]
    assert (row["source"], row["ref"], json.loads(row["body"])["state"]) == (
        "aftership",
        NUMBER,
        "in_transit",
    )
    path = f"/v1/quarantine/{row['id']}/replay"
    assert (await front.ask(path, method="POST")).status_code == 409
    assert (await front.ask("/v1/quarantine/77/replay", method="POST")).status_code == 404
    monkeypatch.setitem(ingest._SOURCES, "aftership", Words())
    again = await front.ask(path, method="POST")
    assert (again.status_code, again.json()["outcome"]) == (200, "accepted")
    assert (await front.ask(path, method="POST")).status_code == 404
    assert (await front.ask("/v1/quarantine")).json()["quarantine"] == []
    assert len(json.loads(await front.db.fetchval("select scans from track"))) == 1
    assert await front.db.fetchval("select count(*) from webhooks where body is not null") == 0


async def test_orders_of_two_shops_are_kept_apart(front: Front) -> None:
    await front.hear(placed("7"), shop="other")
    assert (await front.ask("/v1/orders/demo/7")).status_code == 404
    assert (await front.ask("/v1/orders/other/7")).json()["parcels"] == []


async def test_a_shops_past_is_a_history_that_can_be_replayed(still: Front) -> None:
    gone, to_come = (str(now().date() + timedelta(days=n)) for n in (-2, 2))
    eta = {"from": "2026-12-01T08:00:00Z", "to": "2026-12-01T12:00:00Z"}
    over, open_ = ({"from": d, "to": d} for d in (gone, to_come))
    for order_id in ("1", "2", "3"):
        await still.hear(*order_events(order_id, f"AB{order_id}", promise=over))
        await still.take(scan(number=f"AB{order_id}", ago=9, eta=eta))
    await still.take(scan("delivered", "AB2", ago=2, precision="day"))
    await still.hear(*order_events("4", "AB4", promise=open_))  # it may still come in time
    await still.hear(placed("9"), shipped("9"), shop="other")
    answer = await still.ask("/v1/history/demo")
    assert answer.status_code == 200
    first, second, _ = parcels = list(read(answer.content.splitlines()))
    assert [p.id for p in parcels] == ["1/1", "2/1", "3/1"]
    assert (first.carrier, first.ship_to_country, first.delivered_at) == (
        "posta-slovenije",
        "SI",
        None,
    )
    assert first.promise is not None
    [said] = first.scans
    assert (said.state, said.eta, said.place) == (
        "in_transit",
        Eta.model_validate(eta),
        "Ljubljana",
    )
    assert said.received_at is not None
    assert now() - said.received_at < timedelta(minutes=1)
    assert second.delivered_at == second.scans[-1].occurred_at
    assert second.scans[-1].precision == "day"
    assert "Novak" not in answer.text
    assert (await still.ask("/v1/history/demo?days=1")).text == ""


async def test_no_past_is_told_of_a_shop_that_is_not_there_or_of_odd_days(still: Front) -> None:
    assert (await still.ask("/v1/history/nobody")).status_code == 404
    for days in ("0", "-1", "x", "99999999999", ""):
        assert (await still.ask(f"/v1/history/demo?days={days}")).status_code == 422, days
