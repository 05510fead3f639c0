"""WooCommerce's webhooks in our words: orders by their status, refunds, parcels that plugins note.

Fields: WooCommerce REST API v3. The body is the whole order at its last change; there is no shipped
event and no history of statuses, times without `_gmt` are the shop's own, and a status may be any
word a plugin made up.
"""

import html
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from order_events.adapters import reading
from order_events.adapters.woocommerce_parcels import meta_of, parcels_of, trackings_of
from order_events.domain import Delivery, Once, Snapshot, Statement
from shared.errors import Unusable
from shared.events import (
    Address,
    Customer,
    Item,
    OrderCancelled,
    OrderPlaced,
    OrderPreparing,
    OrderRefunded,
    Source,
    Totals,
    country_or_none,
    currencies,
    email_or_none,
    locale_or_none,
    url_or_none,
)
from shared.reading import Json, build, decimal, ident, instant, obj, parse, rows, text, word
from shared.security import verify_hmac
from shared.shops import Shop

_ENVELOPES: Final = ("order", "body", "payload", "data")
_UNRELATED: Final = frozenset({"coupon", "customer", "product", "subscription", "action", "review"})
_READ: Final = frozenset({"order", "refund", "order_refund", "shipment_tracking"})

_DRAFTS: Final = frozenset({"draft", "auto-draft", "checkout-draft", "new"})
_PLACED: Final = frozenset({"on-hold", "processing", "completed"})
_SHIPPED: Final = frozenset({"shipped", "partial-shipped", "delivered"})
_NOT_PLACED: Final = frozenset({"pending", "failed", "cancelled", "refunded"})
# The shop takes these orders before any money moves; with any other method the payment places it.
_OFFLINE: Final = frozenset({"bacs", "cheque", "cod"})

_PING: Final = re.compile(rb"webhook_id=\d{1,20}")
_ORDER_LINK: Final = re.compile(r"/orders/(\d{1,20})(?:/|$)", re.ASCII)


def verify(body: bytes, headers: Mapping[str, str], secrets: Sequence[bytes]) -> bool:
    """Whether the raw body was signed with one of the webhook's secrets."""
    # WordPress decodes HTML entities in the secret before it signs.
    decoded = [html.unescape(secret.decode("utf-8", "replace")).encode() for secret in secrets]
    return verify_hmac(body, headers.get("x-wc-webhook-signature"), [*secrets, *decoded])


def is_ping(body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether this is the unsigned form post by which WooCommerce tests a new address.

    It says nothing, so nothing may follow from it, but without a 200 the webhook is not saved.
    """
    unsigned = not headers.get("x-wc-webhook-signature")
    return unsigned and _PING.fullmatch(body.strip()) is not None


def read(body: bytes, headers: Mapping[str, str], shop: Shop) -> Delivery:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    topic = _topic(headers)
    delivery_id = text(headers.get("x-wc-webhook-delivery-id"), max_chars=100)
    resource, _, event = topic.partition(".")
    if resource in _UNRELATED:
        return Delivery(topic, delivery_id, None, (), "not about an order")
    if topic and resource not in _READ:
        raise Unusable("unknown topic")
    value = reading.unwrap(parse(body), _ENVELOPES)
    if event == "deleted":
        # Only the id is left. Orders in the bin are mostly tests and spam; a real cancellation has a
        # status of its own.
        return Delivery(topic, delivery_id, ident(obj(value).get("id")), (), "deleted in the shop")
    if isinstance(value, list):
        linked, statements = _read_trackings(value, shop)
        return Delivery(topic or "shipment_tracking", delivery_id, linked, statements)
    if not isinstance(value, dict):
        raise Unusable("the body is not an object")
    if "status" not in value and ("amount" in value or "refunded_by" in value):
        linked, statements = _read_refund(value, shop)
        return Delivery(topic or "refund", delivery_id, linked, statements)
    order_id = ident(value.get("id"))
    if order_id is None:
        raise Unusable("the order has no id")
    statements, ignored = _read_order(value, order_id, shop)
    return Delivery(topic or "order", delivery_id, order_id, statements, ignored)


def _topic(headers: Mapping[str, str]) -> str:
    if topic := word(headers.get("x-wc-webhook-topic")):
        return topic
    resource, event = headers.get("x-wc-webhook-resource"), headers.get("x-wc-webhook-event")
    return f"{word(resource)}.{word(event)}" if resource and event else ""


# -- orders --------------------------------------------------------------------------------------


def _read_order(order: Json, order_id: str, shop: Shop) -> tuple[tuple[Statement, ...], str | None]:
    status = word(order.get("status")).removeprefix("wc-")
    if not status:
        raise Unusable("the order has no status")
    if status in _DRAFTS:
        return (), "a draft"
    if status == "trash":
        return (), "deleted in the shop"
    snapshot = _snapshot(order, order_id, status, shop)
    changed_at = snapshot.data.revision or snapshot.data.placed_at
    statements: list[Statement] = [snapshot]
    if status in shop.woocommerce.preparing:
        # "processing" alone says that the money came, not that anybody packs: the shop has to say.
        preparing = build(OrderPreparing, order_id=order_id, at=changed_at)
        statements.append(Once(preparing, changed_at))
    statements += parcels_of(order, order_id, status, shop.zone)
    if status == "cancelled":
        cancelled = build(OrderCancelled, order_id=order_id, at=changed_at)
        statements.append(Once(cancelled, changed_at))
    currency = snapshot.data.totals.currency
    statements += _refunds(order, order_id, currency, changed_at)
    return tuple(statements), None


def _snapshot(order: Json, order_id: str, status: str, shop: Shop) -> Snapshot:
    created_at = _time(order, "date_created", shop)
    paid_at = _time(order, "date_paid", shop)
    revision = _time(order, "date_modified", shop) or created_at
    # An order paid days after its basket was made is news from the payment on.
    offline = word(order.get("payment_method")) in _OFFLINE
    placed_at = created_at if offline or paid_at is None else paid_at
    placed_at = placed_at or revision
    if placed_at is None:
        raise Unusable("the order has no readable time")
    currency = order.get("currency")
    if not isinstance(currency, str) or currency not in currencies():
        raise Unusable("the order has no known currency")
    customer = _customer(order)
    data = build(
        OrderPlaced,
        order_id=order_id,
        number=text(order.get("number"), ident(order.get("number")), order_id, max_chars=100),
        revision=revision,
        placed_at=placed_at,
        payment=_payment(order, status, paid=paid_at is not None),
        customer=customer,
        ship_to=_ship_to(order),
        items=_items(order, currency),
        totals=_totals(order, currency),
        shipping_method=next(
            (_plain(line.get("method_title")) for line in rows(order.get("shipping_lines"))), None
        ),
        source=Source(
            platform="woocommerce",
            campaign=text(meta_of(order).get("_wc_order_attribution_utm_campaign")),
        ),
    )
    no_contact = customer.email is None and customer.phone is None
    placed = _is_placed(status, shop, paid=paid_at is not None)
    return Snapshot(data, placed=placed, history="no contact" if no_contact else None)


def _is_placed(status: str, shop: Shop, *, paid: bool) -> bool:
    """Whether the order has entered on-hold, processing or completed, as far as one status tells.

    A plugin's own status comes after those when the order was paid, or when the shop packs or ships
    under it. Cancelled and refunded say nothing of what was before: known orders are known already.
    """
    if status in _PLACED or status in _SHIPPED or status in shop.woocommerce.preparing:
        return True
    return paid and status not in _NOT_PLACED


def _payment(order: Json, status: str, *, paid: bool) -> str:
    if paid:
        return "paid"
    method = word(order.get("payment_method"))
    if method == "cod" or reading.paid_on_delivery(method, order.get("payment_method_title")):
        return "on_delivery"
    # Gateways without a payment date still move a paid order on to processing.
    return "paid" if status in {"processing", "completed", "refunded", *_SHIPPED} else "awaiting"


def _customer(order: Json) -> Customer:
    billing, shipping = obj(order.get("billing")), obj(order.get("shipping"))
    regions = [country_or_none(address.get("country")) for address in (billing, shipping)]
    phones = (billing.get("phone"), shipping.get("phone"))
    meta = meta_of(order)
    # WooCommerce knows no language; these are what WPML and TranslatePress leave behind.
    locales = (meta.get("wpml_language"), meta.get("trp_language"))
    return build(
        Customer,
        id=ident(order.get("customer_id")),
        name=_full_name(billing) or _full_name(shipping),
        email=email_or_none(billing.get("email")) or email_or_none(shipping.get("email")),
        phone=next((found for p in phones if (found := reading.phone(p, regions))), None),
        locale=next((found for value in locales if (found := locale_or_none(value))), None),
    )


def _full_name(person: Json) -> str | None:
    parts = (_plain(person.get("first_name")), _plain(person.get("last_name")))
    return text(" ".join(part for part in parts if part)) or _plain(person.get("company"))


def _plain(value: Any) -> str | None:
    """Text as a person wrote it: WordPress stores `Tea &amp; Co`."""
    return text(html.unescape(value[:4000])) if isinstance(value, str) else None


def _ship_to(order: Json) -> Address | None:
    shipping, billing = obj(order.get("shipping")), obj(order.get("billing"))
    address = next(
        (
            found
            for found in (shipping, billing if rows(order.get("shipping_lines")) else {})
            if any(_plain(found.get(key)) for key in ("address_1", "city", "postcode", "country"))
        ),
        None,
    )
    if address is None:
        return None
    lines = (_plain(address.get(key)) for key in ("company", "address_1", "address_2"))
    return build(
        Address,
        name=_full_name(address),
        lines=[line for line in lines if line],
        city=_plain(address.get("city")),
        postcode=text(address.get("postcode"), max_chars=100),
        region=_plain(address.get("state")),
        country=country_or_none(address.get("country")),
    )


def _time(order: Json, key: str, shop: Shop) -> datetime | None:
    """A time of the order; without `_gmt` it was written by the clock of the shop."""
    return instant(order.get(f"{key}_gmt"), UTC) or instant(order.get(key), shop.zone)


# -- money ---------------------------------------------------------------------------------------


def _items(order: Json, currency: str) -> list[Item]:
    return [
        build(
            Item,
            line_id=ident(line.get("id")) or f"line-{position}",
            sku=_plain(line.get("sku")),
            product_id=ident(line.get("product_id")),
            name=_plain(line.get("name")) or _plain(line.get("sku")),
            quantity=reading.quantity(line.get("quantity")),
            unit_price=_unit_price(order, line, currency),
            image_url=url_or_none(obj(line.get("image")).get("src")),
        )
        for position, line in enumerate(rows(order.get("line_items")), 1)
    ]


def _sum(fields: Json, keys: Sequence[str]) -> Decimal | None:
    """The sum of those amounts that are there; None when the first is not."""
    amounts = [decimal(fields.get(key)) for key in keys]
    return None if amounts[0] is None else sum((a for a in amounts if a is not None), Decimal(0))


def _with_tax(order: Json, *keys: str) -> Sequence[str]:
    """Which amounts the customer saw as one: in a shop with prices including tax, the tax as well."""
    return keys if order.get("prices_include_tax") is True else keys[:1]


def _line_price(order: Json, line: Json) -> Decimal | None:
    return _sum(line, _with_tax(order, "subtotal", "subtotal_tax"))


def _unit_price(order: Json, line: Json, currency: str) -> int | None:
    # Of the whole line before discounts: `price` is after them, before tax and not rounded to money.
    price, quantity = _line_price(order, line), decimal(line.get("quantity"))
    if price is None or not quantity:
        return reading.minor(line.get("price"), currency)
    return reading.minor(price / quantity, currency)


def _totals(order: Json, currency: str) -> Totals:
    # The total is what was paid; plugins' fees and rounding are in it and nowhere else.
    total = reading.minor(order.get("total"), currency)
    if total is None:
        raise Unusable("the order's total is not money")
    prices = [_line_price(order, line) for line in rows(order.get("line_items"))]
    items = sum((price for price in prices if price is not None), Decimal(0))
    return build(
        Totals,
        currency=currency,
        items=None if None in prices else reading.minor(items, currency),
        shipping=reading.minor(
            _sum(order, _with_tax(order, "shipping_total", "shipping_tax")), currency
        ),
        tax=reading.minor(order.get("total_tax"), currency),
        discount=reading.minor(
            _sum(order, _with_tax(order, "discount_total", "discount_tax")), currency
        ),
        total=total,
    )


# -- refunds and parcels -------------------------------------------------------------------------


def _refunds(order: Json, order_id: str, currency: str, at: datetime) -> list[Once]:
    """The refunds an order lists, without a time of their own: known at the latest by its change."""
    refunds = []
    for row in rows(order.get("refunds")):
        refund_id, amount = ident(row.get("id")), reading.minor(row.get("total"), currency)
        if refund_id is None or amount is None:
            raise Unusable("a refund has no id or its total is not money")
        data = build(
            OrderRefunded,
            order_id=order_id,
            at=at,
            refund_id=refund_id,
            amount=abs(amount),
            currency=currency,
            reason=_plain(row.get("reason")),
        )
        refunds.append(Once(data, at, refund_id))
    return refunds


def _read_refund(refund: Json, shop: Shop) -> tuple[str, tuple[Statement, ...]]:
    """A refund by itself, as the REST API and some plugins send it: its order is a link."""
    order_id = ident(refund.get("order_id")) or ident(refund.get("parent_id")) or _linked(refund)
    refund_id, at = ident(refund.get("id")), _time(refund, "date_created", shop)
    if order_id is None or refund_id is None or at is None:
        raise Unusable("the refund has no id, no order or no readable time")
    currency = refund.get("currency")
    if not isinstance(currency, str) or currency not in currencies():
        # Minor units cannot be guessed. The order itself follows, with this refund in its list.
        raise Unusable("the refund names no currency")
    amount = reading.minor(refund.get("amount"), currency)
    if amount is None:
        raise Unusable("the refund's amount is not money")
    lines = rows(refund.get("line_items"))
    data = build(
        OrderRefunded,
        order_id=order_id,
        at=at,
        refund_id=refund_id,
        amount=abs(amount),
        currency=currency,
        reason=_plain(refund.get("reason")),
        items=reading.item_quantities(
            (ident(meta_of(line).get("_refunded_item_id")), line.get("quantity")) for line in lines
        ),
    )
    return order_id, (Once(data, at, refund_id),)


def _read_trackings(listed: list[Any], shop: Shop) -> tuple[str, tuple[Statement, ...]]:
    """The list that the Shipment Tracking plugin answers: its order is a link."""
    found = rows(listed)
    order_id = next((linked for row in found if (linked := _linked(row))), None)
    if order_id is None:
        raise Unusable("the list names no order")
    statements = trackings_of(found, order_id, shop.zone)
    if not statements:
        raise Unusable("the list has no tracking number")
    return order_id, tuple(statements)


def _linked(fields: Json) -> str | None:
    links = obj(fields.get("_links"))
    hrefs = [row.get("href") for name in ("up", "collection") for row in rows(links.get(name))]
    matches = (_ORDER_LINK.search(href) for href in hrefs if isinstance(href, str))
    return next((found[1] for found in matches if found), None)
