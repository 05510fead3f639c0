import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from order_events.adapters import shopify
from order_events.domain import Delivery, Erase, Once, Scan, Shipment, Snapshot
from shared.errors import Unusable
from shared.events import OrderCancelled, OrderRefunded
from shared.shops import parse

SHOP = next(
    iter(
        parse("""
[shops.demo]
name = "Demo"
reply_to = "help@demo.example.com"
sender = { name = "Demo", address = "shop@demo.example.com" }
""")
    )
)


def money(amount: str, currency: str, shop: str | None = None) -> dict[str, Any]:
    return {
        "shop_money": {"amount": shop or amount, "currency_code": "USD" if shop else currency},
        "presentment_money": {"amount": amount, "currency_code": currency},
    }


def order(**changes: Any) -> dict[str, Any]:
    return {
        "id": 820982911946154500,
        "admin_graphql_api_id": "gid://shopify/Order/820982911946154508",
        "name": "#1234",
        "email": "ana@example.com",
        "created_at": "2026-11-22T10:15:00+01:00",
        "processed_at": "2026-11-22T10:14:00+01:00",
        "updated_at": "2026-11-22T10:16:00+01:00",
        "currency": "EUR",
        "financial_status": "paid",
        "customer": {"id": 1, "first_name": "Ana", "last_name": "Novak"},
        "customer_locale": "sl-SI",
        "shipping_address": {
            "name": "Ana Novak",
            "address1": "Slovenska cesta 1",
            "city": "Ljubljana",
            "zip": "1000",
            "country_code": "SI",
            "phone": "040 123 456",
        },
        "line_items": [
            {"id": 11, "name": "Čaj", "sku": "TEA-5", "quantity": 5, "price": "23.69"},
        ],
        "shipping_lines": [{"title": "standard", "code": "std", "price": "5.00"}],
        "total_line_items_price": "118.45",
        "total_tax": "21.00",
        "total_discounts": "0.00",
        "total_price": "123.45",
        "order_status_url": "https://shop.example/orders/abc",
        "fulfillments": [],
        "refunds": [],
        **changes,
    }


def fulfilment(**changes: Any) -> dict[str, Any]:
    return {
        "id": 255858046,
        "order_id": 450789469,
        "status": "success",
        "created_at": "2026-11-23T08:00:00Z",
        "updated_at": "2026-11-23T09:00:00Z",
        "tracking_company": "Pošta Slovenije",
        "tracking_numbers": ["AB123456789SI"],
        "tracking_urls": ["https://track.example.com/AB123456789SI"],
        "shipment_status": None,
        "line_items": [{"id": 11, "quantity": 2}],
        **changes,
    }


def read(topic: str, body: Any, **headers: str) -> Delivery:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return shopify.read(raw, {"x-shopify-topic": topic, **headers}, SHOP)


def snapshot(**changes: Any) -> Snapshot:
    found = read("orders/create", order(**changes)).statements[0]
    assert isinstance(found, Snapshot)
    return found


def test_an_order_is_read_whole() -> None:
    found = snapshot().data
    assert found.order_id == "820982911946154508"
    assert (found.number, found.payment) == ("#1234", "paid")
    assert found.placed_at == datetime(2026, 11, 22, 9, 14, tzinfo=UTC)
    assert found.revision == datetime(2026, 11, 22, 9, 16, tzinfo=UTC)
    assert found.customer.name == "Ana Novak"
    assert (found.customer.email, found.customer.phone) == ("ana@example.com", "+38640123456")
    assert found.customer.locale == "sl-SI"
    assert found.ship_to is not None
    assert found.ship_to.lines == ("Slovenska cesta 1",)
    assert found.totals.model_dump() == {
        "currency": "EUR",
        "items": 11845,
        "shipping": 500,
        "tax": 2100,
        "discount": 0,
        "total": 12345,
    }
    assert (found.items[0].quantity, found.items[0].unit_price) == ("5", 2369)
    assert found.shipping_method == "standard"
    assert found.status_url == "https://shop.example/orders/abc"
    assert found.source is not None
    assert found.source.platform == "shopify"


@pytest.mark.parametrize(
    ("currency", "amount", "minor"),
    [("JPY", "12345", 12345), ("KWD", "12.345", 12345), ("EUR", "123.45", 12345)],
)
def test_money_is_what_the_customer_saw_in_minor_units(
    currency: str, amount: str, minor: int
) -> None:
    paid = money(amount, currency, shop="99.99")
    found = snapshot(
        currency="USD", presentment_currency=currency, total_price="99.99", total_price_set=paid
    ).data.totals
    assert (found.currency, found.total) == (currency, minor)
    assert found.tax is None  # stated in the shop's own currency only: not a number to show


def test_the_total_is_as_bought_and_not_what_is_left_after_refunds() -> None:
    assert snapshot(current_total_price="1.00").data.totals.total == 12345


@pytest.mark.parametrize(
    ("status", "gateways", "payment"),
    [
        ("paid", [], "paid"),
        ("authorized", ["visa"], "paid"),
        ("partially_refunded", [], "paid"),
        ("pending", ["Bank Deposit"], "awaiting"),
        ("partially_paid", [], "awaiting"),
        ("pending", ["Cash on Delivery (COD)"], "on_delivery"),
        ("pending", ["Płatność za pobraniem"], "on_delivery"),
        ("something_new", [None], "awaiting"),
        (None, "visa", "awaiting"),
    ],
)
def test_only_money_that_is_there_is_called_paid(status: Any, gateways: Any, payment: str) -> None:
    found = snapshot(financial_status=status, payment_gateway_names=gateways)
    assert found.placed
    assert found.data.payment == payment


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"test": True}, "test order"),
        ({"cancelled_at": "2026-11-22T12:00:00Z"}, "already cancelled"),
        ({"email": None, "shipping_address": None}, "no contact"),
        ({"email": "not an address", "shipping_address": {"phone": "555-SHIP"}}, "no contact"),
        ({}, None),
    ],
)
def test_an_order_that_nobody_should_hear_of_is_history(
    changes: dict[str, Any], reason: str | None
) -> None:
    assert snapshot(**changes).history == reason


@pytest.mark.parametrize(
    ("customer", "box", "consent"),
    [
        ({"email_marketing_consent": {"state": "subscribed"}}, False, True),
        ({"email_marketing_consent": {"state": "unsubscribed"}}, True, False),
        ({}, True, True),
        ({"accepts_marketing": True}, None, True),
        ({}, None, None),
    ],
)
def test_her_standing_consent_counts_before_the_box_at_one_checkout(
    *, customer: dict[str, Any], box: bool | None, consent: bool | None
) -> None:
    found = snapshot(customer=customer, buyer_accepts_marketing=box).data.customer.consent
    assert found is not None
    assert found.marketing is consent


def test_an_email_falls_back_to_contact_then_customer() -> None:
    customer = {"email": "c@example.com"}
    assert (
        snapshot(email=None, contact_email="b@example.com").data.customer.email == "b@example.com"
    )
    assert snapshot(email="", customer=customer).data.customer.email == "c@example.com"


def test_each_tracking_number_is_a_parcel_of_its_own() -> None:
    found = read("fulfillments/create", fulfilment(tracking_numbers=["A1", "A2", "A1", ""]))
    assert [s.data.shipment_id for s in found.statements if isinstance(s, Shipment)] == [
        "255858046/1",
        "255858046/2",
    ]
    # Which line lies in which parcel is not said, so neither claims all of them.
    assert all(isinstance(s, Shipment) and s.data.items is None for s in found.statements)


def test_parcels_are_counted_once_the_order_is_complete() -> None:
    rows = [
        fulfilment(id=3, created_at="2026-11-25T08:00:00Z"),
        fulfilment(id=1, created_at="2026-11-23T08:00:00Z", tracking_numbers=["A1", "A2"]),
        fulfilment(id=2, created_at="2026-11-24T08:00:00Z", status="cancelled"),
    ]
    statements = read("orders/fulfilled", order(fulfillments=rows, fulfillment_status="fulfilled"))
    parcels = [s for s in statements.statements if isinstance(s, Shipment)]
    assert [(p.data.shipment_id, p.data.number_of_order, p.data.final) for p in parcels] == [
        ("1/1", "1 of 3", "no"),
        ("1/2", "2 of 3", "no"),
        ("2/1", None, "unknown"),
        ("3/1", "3 of 3", "yes"),
    ]
    assert [p.withdrawn for p in parcels] == [False, False, True, False]
    partly = read("orders/updated", order(fulfillments=rows, fulfillment_status="partial"))
    assert {
        (s.data.number_of_order, s.data.final) for s in partly.statements if isinstance(s, Shipment)
    } == {(None, "unknown")}


@pytest.mark.parametrize("status", ["cancelled", "error", "failure"])
def test_a_fulfilment_that_failed_takes_its_parcel_back(status: str) -> None:
    [parcel] = read("fulfillments/update", fulfilment(status=status)).statements
    assert isinstance(parcel, Shipment)
    assert parcel.withdrawn


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "pending", "tracking_numbers": []},
        {
            "tracking_numbers": [],
            "line_items": [{"id": 1, "quantity": 1, "requires_shipping": False}],
        },
    ],
)
def test_what_does_not_travel_is_no_parcel(changes: dict[str, Any]) -> None:
    found = read("fulfillments/create", fulfilment(**changes))
    assert found.ignored == "nothing travels"
    assert found.statements == ()


def test_a_parcel_without_a_number_is_told_all_the_same() -> None:
    [parcel] = read("fulfillments/create", fulfilment(tracking_numbers=[])).statements
    assert isinstance(parcel, Shipment)
    assert (parcel.data.shipment_id, parcel.data.tracking_number) == ("255858046/1", None)
    assert parcel.data.carrier == "pošta-slovenije"


def test_a_fulfilment_with_a_carrier_state_is_also_a_scan() -> None:
    parcel, scan = read("fulfillments/update", fulfilment(shipment_status="delivered")).statements
    assert isinstance(parcel, Shipment)
    assert isinstance(scan, Scan)
    assert (scan.data.state, scan.data.tracking_number) == ("delivered", "AB123456789SI")
    assert scan.data.occurred_at == datetime(2026, 11, 23, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "state", "action"),
    [
        ("label_printed", "label_created", False),
        ("CONFIRMED", "label_created", False),
        ("carrier_picked_up", "in_transit", False),
        ("attempted_delivery", "delivery_attempted", False),
        ("picked_up", "delivered", False),
        ("failure", "exception", False),
        ("buyer_action_required", "exception", True),
        ("returning_to_sender", "returning", False),
        ("teleported", "unknown", False),
    ],
)
def test_fulfilment_events_are_scans_and_never_a_guess(
    *, status: str, state: str, action: bool
) -> None:
    body = {
        "fulfillment_event": {
            "id": 1,
            "fulfillment_id": 255858046,
            "order_id": 450789469,
            "status": status,
            "happened_at": "2026-11-24T07:12:00+01:00",
            "estimated_delivery_at": "2026-11-24T13:00:00Z",
            "city": "Ljubljana",
            "country": "SI",
        }
    }
    [scan] = read("fulfillment_events/create", body).statements
    assert isinstance(scan, Scan)
    assert (scan.data.state, scan.data.action_required) == (state, action)
    assert scan.data.raw_status == status.lower()
    assert (scan.data.shipment_id, scan.data.place) == ("255858046/1", "Ljubljana, SI")
    assert scan.data.eta is not None


def refund(**changes: Any) -> dict[str, Any]:
    return {
        "id": 88,
        "order_id": 450789469,
        "created_at": "2026-11-26T08:00:00Z",
        "note": "our mistake, do not tell",
        "refund_line_items": [{"line_item_id": 11, "quantity": 2}],
        "transactions": [
            {"kind": "refund", "status": "success", "amount": "12.30", "currency": "EUR"},
            {"kind": "refund", "status": "failure", "amount": "99.00", "currency": "EUR"},
            {"kind": "void", "status": "success", "amount": "50.00", "currency": "EUR"},
        ],
        **changes,
    }


def test_a_refund_is_the_money_that_went_back_without_the_staff_note() -> None:
    [once] = read("refunds/create", {"refund": refund()}).statements
    assert isinstance(once, Once)
    assert isinstance(once.data, OrderRefunded)
    assert (once.subject, once.data.amount, once.data.currency) == ("88", 1230, "EUR")
    assert once.data.reason is None
    assert once.data.items is not None
    assert once.data.items[0].line_id == "11"


def test_an_order_tells_its_refunds_and_its_cancellation_with_it() -> None:
    body = order(refunds=[refund()], cancelled_at="2026-11-26T09:00:00Z", cancel_reason="fraud")
    _, money_back, cancelled = read("orders/cancelled", body).statements
    assert isinstance(money_back, Once)
    assert isinstance(cancelled, Once)
    assert money_back.data.order_id == "820982911946154508"
    assert isinstance(cancelled.data, OrderCancelled)
    assert cancelled.data.reason is None  # suspicion is not for the customer


def test_a_redaction_names_orders_and_address() -> None:
    body = {
        "shop_id": 1,
        "customer": {"email": "ana@example.com"},
        "orders_to_redact": [299938, "7"],
    }
    [erase] = read("customers/redact", body).statements
    assert erase == Erase(("299938", "7"), "ana@example.com")
    [whole] = read("shop/redact", {"shop_id": 1, "shop_domain": "x.myshopify.com"}).statements
    assert whole == Erase((), None, whole_shop=True)


@pytest.mark.parametrize(
    ("topic", "body", "reason"),
    [
        ("customers/data_request", {"data_request": {"id": 9}}, "data request recorded"),
        ("fulfillment_events/delete", {"id": 1, "fulfillment_id": 2}, "scan retracted"),
        ("checkouts/create", {"id": 1}, "not about an order"),
        ("products/update", {"id": 1}, "not about an order"),
        ("orders/edited", {"order_edit": {"id": 1}}, "only the difference"),
        ("orders/delete", {"id": 1}, "deleted"),
    ],
)
def test_what_is_not_news_is_ignored_with_a_reason(topic: str, body: Any, reason: str) -> None:
    found = read(topic, body)
    assert found.statements == ()
    assert found.ignored is not None
    assert reason in found.ignored


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("orders/create", b"<html>"),
        ("orders/create", b""),
        ("orders/create", b'{"id": NaN}'),
        ("orders/create", b"[]"),
        ("orders/create", [order()]),
        ("orders/create", {}),
        ("orders/create", order(total_price="a lot")),
        ("orders/create", order(currency="US$")),
        ("orders/create", order(created_at="yesterday", processed_at=None)),
        ("orders/create", order(id="../../etc", admin_graphql_api_id=None)),
        ("orders/create", order(line_items=[{"id": 1, "name": "x", "quantity": "many"}])),
        ("fulfillments/create", fulfilment(status="example")),
        ("fulfillment_events/create", {"id": 1}),
        ("refunds/create", {"id": 1, "order_id": 2}),
        ("customers/redact", {"shop_id": 1}),
        ("shop/redact", {}),
        ("moon/landed", {"id": 1}),
        ("", {"id": 1}),
    ],
)
def test_what_is_not_understood_is_unusable(topic: str, body: Any) -> None:
    with pytest.raises(Unusable):
        read(topic, body)


def test_the_reason_never_repeats_what_was_sent() -> None:
    with pytest.raises(Unusable) as caught:
        read("orders/create", order(id="ana@example.com secret", admin_graphql_api_id=None))
    assert "ana" not in str(caught.value)
    with pytest.raises(Unusable) as caught:
        read("orders/create", order(id="ana:secret", admin_graphql_api_id=None))
    assert "secret" not in str(caught.value)


def test_a_body_that_lost_its_headers_is_known_by_its_shape() -> None:
    assert shopify.read(json.dumps({"order": order()}).encode(), {}, SHOP).topic == "orders/updated"
    assert shopify.read(json.dumps(fulfilment()).encode(), {}, SHOP).topic == "fulfillments/update"


def test_a_delivery_is_named_by_topic_and_event() -> None:
    headers = {"x-shopify-event-id": "e1", "x-shopify-webhook-id": "w1"}
    assert read("orders/paid", order(), **headers).delivery_id == "orders/paid:e1"
    assert read("orders/paid", order()).delivery_id is None


def test_only_the_raw_body_under_one_of_the_secrets_verifies() -> None:
    body = b'{"id":1}'
    signature = base64.b64encode(hmac.digest(b"hush", body, hashlib.sha256)).decode()
    headers = {"x-shopify-hmac-sha256": signature}
    assert shopify.verify(body, headers, [b"old", b"hush"])
    assert not shopify.verify(body + b" ", headers, [b"hush"])
    assert not shopify.verify(body, headers, [b"other"])
    assert not shopify.verify(body, headers, [])
    assert not shopify.verify(body, {}, [b"hush"])
    assert not shopify.verify(body, {"x-shopify-hmac-sha256": "\xff"}, [b"hush"])
