import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st

from order_events.adapters import reading, woocommerce
from order_events.domain import Delivery, Once, Shipment, Snapshot
from shared.errors import Unusable
from shared.events import OrderCancelled, OrderPreparing, OrderRefunded
from shared.shops import parse

SHOP = next(
    iter(
        parse("""
[shops.demo]
name = "Demo"
reply_to = "help@demo.example.com"
time_zone = "America/Toronto"
sender = { name = "Demo", address = "shop@demo.example.com" }
woocommerce = { preparing = ["packing"] }
""")
    )
)


def order(**changes: Any) -> dict[str, Any]:
    return {
        "id": 727,
        "number": "727",
        "status": "processing",
        "currency": "EUR",
        "date_created_gmt": "2026-11-22T09:15:00",
        "date_modified_gmt": "2026-11-22T09:16:00",
        "date_paid_gmt": "2026-11-22T09:15:30",
        "payment_method": "stripe",
        "payment_method_title": "Card",
        "prices_include_tax": False,
        "discount_total": "5.00",
        "shipping_total": "4.00",
        "total_tax": "2.00",
        "total": "21.00",
        "customer_id": 0,
        "billing": {
            "first_name": "Ana",
            "last_name": "Novak",
            "email": "ana@example.com",
            "phone": "040 123 456",
            "country": "SI",
        },
        "shipping": {"first_name": "Eva", "address_1": "Trg 1", "city": "Kranj", "country": "SI"},
        "line_items": [
            {"id": 1, "name": "Tea &amp; Co", "quantity": 2, "subtotal": "20.00", "sku": "T"},
        ],
        "shipping_lines": [{"method_title": "Post"}],
        "refunds": [],
        "meta_data": [],
        **changes,
    }


def read(body: Any, topic: str = "order.updated") -> Delivery:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return woocommerce.read(raw, {"x-wc-webhook-topic": topic}, SHOP)


def snapshot(**changes: Any) -> Snapshot:
    found = read(order(**changes)).statements[0]
    assert isinstance(found, Snapshot)
    return found


def parcels(**changes: Any) -> list[Shipment]:
    return [s for s in read(order(**changes)).statements if isinstance(s, Shipment)]


def meta(key: str, value: Any) -> list[dict[str, Any]]:
    return [{"id": 1, "key": key, "value": value}]


def test_an_order_is_read_whole() -> None:
    found = snapshot().data
    assert (found.order_id, found.number, found.payment) == ("727", "727", "paid")
    assert found.placed_at == datetime(2026, 11, 22, 9, 15, 30, tzinfo=UTC)
    assert found.revision == datetime(2026, 11, 22, 9, 16, tzinfo=UTC)
    assert found.customer.id is None
    assert (found.customer.name, found.customer.phone) == ("Ana Novak", "+38640123456")
    assert found.ship_to is not None
    assert (found.ship_to.name, found.ship_to.lines) == ("Eva", ("Trg 1",))
    assert (found.items[0].name, found.items[0].unit_price) == ("Tea & Co", 1000)
    assert found.totals.model_dump() == {
        "currency": "EUR",
        "items": 2000,
        "shipping": 400,
        "tax": 200,
        "discount": 500,
        "total": 2100,
    }


def test_prices_that_include_tax_are_shown_with_it() -> None:
    lines = [{"id": 1, "name": "x", "quantity": 1, "subtotal": "17.65", "subtotal_tax": "0.35"}]
    found = snapshot(
        prices_include_tax=True, line_items=lines, shipping_total="15.00", shipping_tax="0.30"
    ).data
    assert found.items[0].unit_price == 1800
    assert (found.totals.items, found.totals.shipping) == (1800, 1530)


@pytest.mark.parametrize(
    ("status", "paid", "placed"),
    [
        ("pending", False, False),
        ("failed", False, False),
        ("on-hold", False, True),
        ("processing", True, True),
        ("wc-completed", True, True),
        ("cancelled", True, False),
        ("refunded", True, False),
        ("pre-ordered", False, False),
        ("pre-ordered", True, True),
        ("shipped", False, True),
        ("packing", False, True),
    ],
)
def test_an_order_is_placed_by_what_its_status_proves(
    *, status: str, paid: bool, placed: bool
) -> None:
    dates = {} if paid else {"date_paid_gmt": None}
    assert snapshot(status=status, **dates).placed is placed


@pytest.mark.parametrize(
    ("status", "method", "paid", "payment"),
    [
        ("on-hold", "bacs", None, "awaiting"),
        ("pending", "stripe", None, "awaiting"),
        ("processing", "cod", None, "on_delivery"),
        ("processing", "acme", None, "paid"),
        ("completed", "cod", "2026-11-25T09:00:00", "paid"),
        ("on-hold", "stripe", "2026-11-22T09:00:00", "paid"),
    ],
)
def test_payment_follows_method_status_and_date(
    status: str, method: str, paid: str | None, payment: str
) -> None:
    found = snapshot(status=status, payment_method=method, date_paid_gmt=paid)
    assert found.data.payment == payment


def test_an_order_paid_later_is_placed_then_and_a_bank_transfer_at_once() -> None:
    later = "2026-11-24T09:00:00"
    assert snapshot(date_paid_gmt=later).data.placed_at.day == 24
    assert snapshot(payment_method="bacs", date_paid_gmt=later).data.placed_at.day == 22


def test_a_time_without_gmt_is_the_shops_own() -> None:
    found = snapshot(date_created_gmt=None, date_created="2026-11-22T04:15:00", date_paid_gmt=None)
    assert found.data.placed_at == datetime(2026, 11, 22, 9, 15, tzinfo=UTC)


def test_packing_began_only_when_the_shop_says_which_status_means_it() -> None:
    assert not [s for s in read(order()).statements if isinstance(s, Once)]
    [once] = [s for s in read(order(status="packing")).statements if isinstance(s, Once)]
    assert isinstance(once.data, OrderPreparing)


def test_a_cancelled_order_says_so() -> None:
    [once] = [s for s in read(order(status="cancelled")).statements if isinstance(s, Once)]
    assert isinstance(once.data, OrderCancelled)


def test_each_refund_in_the_list_is_told_once_by_its_id() -> None:
    refunds = [{"id": 5, "reason": "Sold out", "total": "-16.20"}, {"id": "6", "total": "-1"}]
    told = [s for s in read(order(refunds=refunds)).statements if isinstance(s, Once)]
    assert [(s.subject, s.data.amount) for s in told if isinstance(s.data, OrderRefunded)] == [
        ("5", 1620),
        ("6", 100),
    ]


def test_a_refund_by_itself_finds_its_order_in_its_links() -> None:
    body = {
        "id": 562,
        "date_created_gmt": "2026-10-01T19:33:46",
        "amount": "27.00",
        "currency": "EUR",
        "line_items": [{"quantity": -1, "meta_data": meta("_refunded_item_id", "65")}],
        "_links": {"up": [{"href": "https://shop.example.com/wp-json/wc/v3/orders/560"}]},
    }
    found = read(body)
    [once] = found.statements
    assert found.order_id == "560"
    assert isinstance(once, Once)
    assert isinstance(once.data, OrderRefunded)
    assert once.data.items is not None
    assert (once.data.amount, once.data.items[0].line_id, once.data.items[0].quantity) == (
        2700,
        "65",
        "1",
    )
    with pytest.raises(Unusable, match="currency"):
        read({**body, "currency": None})


def test_completed_alone_ships_nothing_but_a_plugins_shipped_does() -> None:
    assert parcels(status="completed") == []
    [parcel] = parcels(status="shipped")
    assert (parcel.data.shipment_id, parcel.data.tracking_number) == ("727/1", None)


def test_tracking_items_are_parcels_and_the_last_of_a_completed_order_is_final() -> None:
    items = [
        {"tracking_number": "A1", "tracking_provider": "fedex", "date_shipped": "1566259200", "tracking_id": "t1"},
        {
            "tracking_number": "B2",
            "tracking_provider": "",
            "custom_tracking_provider": "Pošta",
            "custom_tracking_link": "https://track.example.com/B2",
            "date_shipped": "2026-11-23",
            "products_list": [{"item_id": "1", "qty": "2"}],
        },
        {"tracking_number": " a-1 ", "tracking_id": "again"},
        {"tracking_number": ""},
    ]  # fmt: skip
    first, second = (
        p.data
        for p in parcels(status="completed", meta_data=meta("_wc_shipment_tracking_items", items))
    )
    assert (first.shipment_id, first.number_of_order, first.final) == ("t1/1", "1 of 2", "no")
    assert first.shipped_at == datetime(2019, 8, 20, tzinfo=UTC)
    assert (second.shipment_id, second.final, second.carrier) == ("B2/1", "yes", "pošta")
    # Only the day is known: midnight by the shop's clock.
    assert (second.shipped_at, second.precision) == (datetime(2026, 11, 23, 5, tzinfo=UTC), "day")
    assert second.items is not None
    as_text = meta("_wc_shipment_tracking_items", json.dumps(items))
    assert len(parcels(meta_data=as_text)) == 2


def test_aftership_and_yith_notes_are_parcels_too() -> None:
    aftership = [
        {
            "slug": "ups",
            "tracking_number": "1Z",
            "tracking_id": "x",
            "line_items": [{"id": 1, "quantity": 1}],
        }
    ]
    [parcel] = parcels(meta_data=meta("_aftership_tracking_items", aftership))
    assert (parcel.data.carrier, parcel.data.tracking_number) == ("ups", "1Z")
    [parcel] = parcels(meta_data=meta("_aftership_tracking_number", "1Z9"))
    assert parcel.data.shipment_id == "1Z9/1"
    yith = [*meta("ywot_tracking_code", "Y1"), *meta("ywot_carrier_name", "DHL")]
    [parcel] = parcels(meta_data=[*yith, *meta("ywot_picked_up", "on")])
    assert (parcel.data.carrier, parcel.data.tracking_number) == ("dhl", "Y1")
    assert parcels(meta_data=[*yith, *meta("ywot_picked_up", "")]) == []


@pytest.mark.parametrize(
    ("topic", "body", "reason"),
    [
        ("coupon.deleted", {"id": 16}, "not about an order"),
        ("product.updated", b"whatever", "not about an order"),
        ("order.deleted", {"id": 727}, "deleted in the shop"),
        ("order.updated", order(status="trash"), "deleted in the shop"),
        ("order.created", order(status="checkout-draft"), "a draft"),
    ],
)
def test_what_is_not_news_is_ignored_with_a_reason(topic: str, body: Any, reason: str) -> None:
    found = read(body, topic)
    assert (found.ignored, found.statements) == (reason, ())


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"null",
        [],
        [{"slug": "pending"}],
        {},
        order(id=None),
        order(status=None),
        order(total=""),
        order(currency="XXX"),
        order(date_created_gmt=None, date_modified_gmt=None, date_paid_gmt=None),
        order(refunds=[{"id": 1, "total": "all"}]),
    ],
)
def test_what_is_not_understood_is_unusable(body: Any) -> None:
    with pytest.raises(Unusable):
        read(body)
    with pytest.raises(Unusable, match="unknown topic"):
        read(order(), "moon.landed")


def test_a_ping_is_an_unsigned_form_post_and_nothing_else() -> None:
    assert woocommerce.is_ping(b"webhook_id=61", {})
    assert not woocommerce.is_ping(b"webhook_id=61&status=completed", {})
    assert not woocommerce.is_ping(b'{"webhook_id": 61}', {})
    assert not woocommerce.is_ping(b"webhook_id=61", {"x-wc-webhook-signature": "x"})


def test_the_secret_is_used_as_wordpress_decodes_it() -> None:
    body = b'{"id":1}'
    signature = base64.b64encode(hmac.digest(b"a&b<c", body, hashlib.sha256)).decode()
    headers = {"x-wc-webhook-signature": signature}
    assert woocommerce.verify(body, headers, [b"a&b<c"])
    assert woocommerce.verify(body, headers, [b"a&amp;b&lt;c"])
    assert not woocommerce.verify(body, headers, [b"a&b"])
    assert not woocommerce.verify(body + b"\n", headers, [b"a&b<c"])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(ANYTHING)
def test_reading_one_field_never_raises(value: Any) -> None:
    reading.quantity(value)
    reading.phone(value, ["US", None])
    reading.paid_on_delivery(value)
    for currency in ("EUR", "JPY", "KWD"):
        amount = reading.minor(value, currency)
        assert amount is None or isinstance(amount, int)


@given(st.integers(0, 10**9), st.sampled_from([("EUR", 2), ("JPY", 0), ("KWD", 3)]))
def test_money_survives_the_way_from_text(units: int, currency: tuple[str, int]) -> None:
    code, digits = currency
    whole, fraction = divmod(units, 10**digits)
    written = f"{whole}.{fraction:0{digits}d}" if digits else str(whole)
    assert reading.minor(written, code) == units
