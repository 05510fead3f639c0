"""What operators may ask of the notifier and do with it."""

from typing import Any

from shared.clock import now
from shared.events import OrderCancelled
from shared.testing import ADDRESS, event, placed

from .conftest import Desk, operator


async def test_the_timeline_shows_facts_and_messages_and_nobodys_address(desk: Desk) -> None:
    await desk.hear(event(placed()))
    await desk.hear(event(OrderCancelled(order_id="1001"), at=now()))
    async with desk.at_work() as made, operator(made) as ask:
        answer = await ask.get("/v1/orders/demo/1001")
        shown = answer.json()
        assert [f["type"] for f in shown["facts"]] == ["order.placed.v1", "order.cancelled.v1"]
        (message,) = shown["messages"]
        kept = {k: message[k] for k in ("kind", "channel", "role", "state", "reason", "attempts")}
        assert kept == {
            "kind": "order_confirmed",
            "channel": "email",
            "role": "buyer",
            "state": "suppressed",
            "reason": "cancelled",
            "attempts": 0,
        }
        assert ADDRESS not in answer.text
        assert (await ask.get("/v1/orders/other/1001")).status_code == 404


async def test_a_message_that_waits_for_a_newer_process_says_so(desk: Desk) -> None:
    await desk.hear(event(placed()))
    await desk.db.execute("update message set kind = 'thank_you_card'")
    async with desk.at_work() as made, operator(made) as ask:
        (message,) = (await ask.get("/v1/orders/demo/1001")).json()["messages"]
        assert (message["state"], message["reason"]) == ("pending", "kind_unknown_here")


async def test_odd_requests_get_plain_answers(desk: Desk) -> None:
    long = "x" * 101
    cases: list[tuple[str, str, Any, int]] = [
        ("GET", "/v1/orders/demo/%00", None, 404),
        ("PUT", "/v1/pauses/planet/earth", {}, 422),
        ("PUT", f"/v1/pauses/shop/{long}", {}, 422),
        ("PUT", "/v1/pauses/shop/%00", {}, 404),
        ("PUT", "/v1/pauses/shop/demo", {"reason": "x" * 501}, 422),
        ("PUT", "/v1/pauses/shop/demo", {"reason": "\0"}, 422),
        ("PUT", "/v1/pauses/shop/demo", {"reason": 5}, 422),
        ("PUT", "/v1/pauses/shop/demo", [], 422),
        ("DELETE", "/v1/pauses/shop/demo", None, 404),
        ("POST", "/v1/unknown/1/resend", None, 404),
        ("POST", "/v1/unknown/x/forget", None, 404),
        ("POST", "/v1/unknown/99999999999999999999/forget", None, 404),
        ("GET", "/v1/unknown", None, 200),
        ("POST", "/v1/unknown", None, 405),
    ]
    async with desk.at_work() as made, operator(made) as ask:
        for method, path, body, status in cases:
            answer = await ask.request(method, path, json=body)
            assert answer.status_code == status, (method, path, answer.text)


async def test_without_the_operators_key_nothing_is_shown_and_nothing_done(desk: Desk) -> None:
    async with desk.at_work() as made, operator(made) as ask:
        ask.headers["authorization"] = "Bearer operator-key-of-somebody"
        for method, path in (
            ("GET", "/v1/orders/demo/1001"),
            ("PUT", "/v1/pauses/all/x"),
            ("GET", "/v1/unknown"),
            ("GET", "/v1/dead"),
        ):
            assert (await ask.request(method, path)).status_code == 401
    assert await desk.db.fetchval("select count(*) from pause") == 0
