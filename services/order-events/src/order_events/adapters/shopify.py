"""Shopify's webhooks in our words: orders with their parcels and refunds, scans, privacy requests.

Topics and fields: shopify.dev, REST Admin webhooks. Deliveries come late, twice and out of order, and
every order topic carries the whole order, so what is read is the body; the topic only says which
kind of body it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from order_events.adapters import reading
from order_events.adapters.shopify_orders import order_statements, refund_statements
from order_events.adapters.shopify_parcels import fulfilment_statements, gid_number, scan_statements
from order_events.domain import Delivery, Erase, Statement
from shared.errors import Unusable
from shared.events import email_or_none
from shared.reading import Json, ident, obj, parse, text, word
from shared.security import verify_hmac
from shared.shops import Shop

_ENVELOPES: Final = (
    "order",
    "fulfillment",
    "fulfillment_event",
    "refund",
    "body",
    "payload",
    "data",
)

# What Shopify also tells, about other things. A topic that is neither here nor read is not understood:
# it is kept and counted, so that a shop that subscribed to something new is seen.
_UNRELATED_NAMES: Final = """
    app app_purchases_one_time app_subscriptions bulk_operations cart carts checkout checkouts
    collection_listings collections companies company_contacts company_locations customer
    customer_groups customer_payment_methods customers customers_email_marketing_consent
    customers_marketing_consent discounts disputes domains draft_orders fulfillment_holds
    fulfillment_orders inventory_items inventory_levels locales locations markets metaobjects
    order_transactions payment_schedules payment_terms product_feeds product_listings products
    profiles returns reverse_deliveries reverse_fulfillment_orders segments selling_plan_groups shop
    subscription_billing_attempts subscription_contracts tax_services tender_transactions themes
    variants
"""
_UNRELATED: Final = frozenset(_UNRELATED_NAMES.split())
_IGNORED: Final = {
    "customers/data_request": "data request recorded",
    # What was told cannot be untold; the next scan corrects the state.
    "fulfillment_events/delete": "scan retracted",
    # Only closed or test orders can be deleted: it tidies a list, it cancels nothing.
    "orders/delete": "deleted in the shop's list",
    "orders/link_requested": "not about an order's course",
    "orders/risk_assessment_changed": "not about an order's course",
    "orders/shopify_protect_eligibility_changed": "not about an order's course",
}


def verify(body: bytes, headers: Mapping[str, str], secrets: Sequence[bytes]) -> bool:
    """Whether the raw body was signed with one of the app's client secrets."""
    return verify_hmac(body, headers.get("x-shopify-hmac-sha256"), secrets)


def read(body: bytes, headers: Mapping[str, str], shop: Shop) -> Delivery:
    """Translate one delivery whose signature was checked. Raises `Unusable`."""
    value = reading.unwrap(parse(body), _ENVELOPES)
    topic = word(headers.get("x-shopify-topic")) or _topic_of(value)
    delivery_id = _delivery_id(topic, headers)
    if reason := _ignored(topic, value):
        return Delivery(topic, delivery_id, _order_id(topic, value), (), reason)
    reader = _READERS.get(topic)
    if reader is None:
        raise Unusable("unknown topic")
    if not isinstance(value, dict):
        raise Unusable("the body is not an object")
    statements = tuple(reader(value, shop))
    reason = None if statements else "nothing travels"
    return Delivery(topic, delivery_id, _order_id(topic, value), statements, reason)


def _delivery_id(topic: str, headers: Mapping[str, str]) -> str | None:
    # One act of a merchant sends several topics under the same event id, so the topic belongs to it.
    found = headers.get("x-shopify-event-id") or headers.get("x-shopify-webhook-id")
    return f"{topic}:{found[:100]}" if found else None


def _ignored(topic: str, value: Any) -> str | None:
    if topic == "orders/edited" and isinstance(value, dict) and "order_edit" in value:
        return "only the difference; orders/updated brings the order"
    if topic not in _READERS and topic.partition("/")[0] in _UNRELATED:
        return _IGNORED.get(topic, "not about an order")
    return _IGNORED.get(topic)


def _topic_of(value: Any) -> str:
    """The topic of a body that lost its headers on the way (a relay, an export)."""
    fields = obj(value)
    if "fulfillment_id" in fields:
        return "fulfillment_events/create"
    if "refund_line_items" in fields:
        return "refunds/create"
    if "order_id" in fields and ("tracking_numbers" in fields or "tracking_number" in fields):
        return "fulfillments/update"
    if "financial_status" in fields and "line_items" in fields:
        return "orders/updated"
    raise Unusable("no topic")


def _order_id(topic: str, value: Any) -> str | None:
    fields = obj(value)
    if topic.startswith("orders/"):
        return gid_number(fields, "Order") or ident(fields.get("id"))
    return ident(fields.get("order_id"))


def _read_fulfilment(body: Json, shop: Shop) -> list[Statement]:
    order_id = ident(body.get("order_id"))
    if order_id is None:
        raise Unusable("the fulfilment has no order id")
    return fulfilment_statements(body, order_id, shop.zone)


def _read_scan(body: Json, shop: Shop) -> list[Statement]:
    return scan_statements(body, shop.zone)


def _read_redaction(body: Json, _shop: Shop) -> list[Statement]:
    orders = body.get("orders_to_redact")
    order_ids = tuple(
        found for order in (orders if isinstance(orders, list) else []) if (found := ident(order))
    )
    email = email_or_none(obj(body.get("customer")).get("email"))
    if not order_ids and email is None:
        # A wish to be forgotten must not fall silent: somebody has to look at it.
        raise Unusable("the request names no order and no address")
    return [Erase(order_ids, email)]


def _read_shop_redaction(body: Json, _shop: Shop) -> list[Statement]:
    if not (ident(body.get("shop_id")) or text(body.get("shop_domain"))):
        raise Unusable("the request names no shop")
    return [Erase((), None, whole_shop=True)]


_ORDER_TOPICS: Final = tuple(
    f"orders/{event}"
    for event in (
        "create",
        "paid",
        "updated",
        "edited",
        "cancelled",
        "fulfilled",
        "partially_fulfilled",
    )
)
_READERS: Final[Mapping[str, Callable[[Json, Shop], list[Statement]]]] = {
    **dict.fromkeys(_ORDER_TOPICS, order_statements),
    "fulfillments/create": _read_fulfilment,
    "fulfillments/update": _read_fulfilment,
    "fulfillment_events/create": _read_scan,
    "refunds/create": refund_statements,
    "customers/redact": _read_redaction,
    "shop/redact": _read_shop_redaction,
}
