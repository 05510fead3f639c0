"""Shopify's orders and refunds as snapshots and refund events.

The amounts are those the customer saw and paid: the presentment currency, as bought.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from order_events.adapters import reading
from order_events.adapters.shopify_parcels import fulfilments_of, gid_number
from order_events.domain import Once, Snapshot, Statement
from shared.errors import Unusable
from shared.events import (
    Address,
    Consent,
    Customer,
    Item,
    OrderCancelled,
    OrderPlaced,
    OrderRefunded,
    Source,
    Totals,
    country_or_none,
    currencies,
    email_or_none,
    locale_or_none,
    url_or_none,
)
from shared.reading import Json, build, ident, instant, obj, rows, text, word
from shared.shops import Shop

# The cancel reasons a customer may read. Fraud and the shop's own mistakes are not told to her.
_CANCEL_REASONS: Final = frozenset({"customer", "inventory", "declined", "other"})
# Authorised money is reserved and asks nothing more of the customer, and a refund presumes a payment.
# Everything else (pending, partially_paid, a new word) must not be called paid.
_PAID: Final = frozenset({"paid", "authorized", "partially_refunded", "refunded"})
_MONEY_MOVED: Final = frozenset({"success", "pending"})


class _Paid(NamedTuple):
    """The currency that counts, and whether it is the shop's own: amounts outside a set are in that."""

    currency: str
    is_shops_own: bool


def order_statements(order: Json, shop: Shop) -> list[Statement]:
    """Everything one order body says: how it looks, its parcels, its refunds, its cancellation."""
    order_id = gid_number(order, "Order") or ident(order.get("id"))
    if order_id is None:
        raise Unusable("the order has no id")
    snapshot = _snapshot(order, order_id, shop)
    statements: list[Statement] = [snapshot]
    statements += fulfilments_of(order, order_id, shop.zone)
    statements += [
        _refund(refund, order_id, snapshot.data.totals.currency, shop)
        for refund in rows(order.get("refunds"))
    ]
    if cancelled_at := instant(order.get("cancelled_at"), shop.zone):
        reason = word(order.get("cancel_reason"))
        cancelled = build(
            OrderCancelled,
            order_id=order_id,
            at=cancelled_at,
            reason=reason if reason in _CANCEL_REASONS else None,
        )
        statements.append(Once(cancelled, cancelled_at))
    return statements


def _snapshot(order: Json, order_id: str, shop: Shop) -> Snapshot:
    # processed_at is when the customer bought; an imported order was only *created* here just now.
    created_at = instant(order.get("created_at"), shop.zone)
    placed_at = instant(order.get("processed_at"), shop.zone) or created_at
    if placed_at is None:
        raise Unusable("the order has no readable time")
    paid = _paid_in(order)
    number = text(order.get("name"), max_chars=100)
    if number is None and (sequence := ident(order.get("order_number"))):
        number = f"#{sequence}"
    customer = _customer(order)
    data = build(
        OrderPlaced,
        order_id=order_id,
        number=number,
        revision=instant(order.get("updated_at"), shop.zone) or created_at or placed_at,
        placed_at=placed_at,
        payment=_payment(order),
        customer=customer,
        # A name on the label is no way to reach a receiver, and Shopify knows no other.
        recipient=None,
        ship_to=_address(order.get("shipping_address")),
        items=[_item(n, line, paid) for n, line in enumerate(rows(order.get("line_items")), 1)],
        totals=_totals(order, paid),
        shipping_method=_shipping_method(order),
        status_url=url_or_none(order.get("order_status_url")),
        source=Source(platform="shopify", campaign=_campaign(order)),
    )
    # Shopify makes an order when its checkout is completed; before that there are only checkouts and
    # draft orders, which have topics of their own. So a pending one (bank transfer, cash on delivery,
    # a slow payment provider) is placed and awaits its payment.
    return Snapshot(data, placed=True, history=_history(order, customer))


def _history(order: Json, customer: Customer) -> str | None:
    if order.get("test") is True:
        return "test order"
    if order.get("cancelled_at"):
        return "already cancelled"
    if word(order.get("financial_status")) in {"voided", "expired"}:
        return "payment voided"
    if customer.email is None and customer.phone is None:
        return "no contact"
    return None


def _payment(order: Json) -> str:
    status = word(order.get("financial_status"))
    if status in _PAID:
        return "paid"
    names = order.get("payment_gateway_names")
    gateways = names if isinstance(names, list) else []
    return (
        "on_delivery" if reading.paid_on_delivery(order.get("gateway"), *gateways) else "awaiting"
    )


def _customer(order: Json) -> Customer:
    customer = obj(order.get("customer"))
    shipping, billing = obj(order.get("shipping_address")), obj(order.get("billing_address"))
    addresses = (shipping, billing, obj(customer.get("default_address")))
    regions = [country_or_none(address.get("country_code")) for address in addresses]
    emails = (order.get("email"), order.get("contact_email"), customer.get("email"))
    phones = (order.get("phone"), customer.get("phone"), shipping.get("phone"))
    names = (_full_name(customer), _full_name(billing), _full_name(shipping))
    return build(
        Customer,
        id=gid_number(customer, "Customer") or ident(customer.get("id")),
        name=next((name for name in names if name), None),
        email=next((found for e in emails if (found := email_or_none(e))), None),
        phone=next((found for p in phones if (found := reading.phone(p, regions))), None),
        locale=locale_or_none(order.get("customer_locale")),
        consent=Consent(marketing=_marketing_consent(order, customer)),
    )


def _full_name(person: Json) -> str | None:
    parts = (text(person.get("first_name")), text(person.get("last_name")))
    return text(" ".join(part for part in parts if part), person.get("name"))


def _marketing_consent(order: Json, customer: Json) -> bool | None:
    # Her standing with the shop outlives the box ticked at one checkout: she may have left since.
    state = word(obj(customer.get("email_marketing_consent")).get("state"))
    if state:
        return state == "subscribed"
    answers = (order.get("buyer_accepts_marketing"), customer.get("accepts_marketing"))
    return next((answer for answer in answers if isinstance(answer, bool)), None)


def _address(value: Any) -> Address | None:
    if not (address := obj(value)):
        return None
    lines = (text(address.get(key)) for key in ("company", "address1", "address2"))
    return build(
        Address,
        name=text(address.get("name"), _full_name(address)),
        lines=[line for line in lines if line],
        city=text(address.get("city")),
        postcode=text(address.get("zip"), max_chars=100),
        region=text(address.get("province"), address.get("province_code")),
        country=country_or_none(address.get("country_code")),
    )


def _item(position: int, line: Json, paid: _Paid) -> Item:
    # quantity, not current_quantity: what was refunded or removed is told by its own event.
    return build(
        Item,
        line_id=gid_number(line, "LineItem") or ident(line.get("id")) or f"line-{position}",
        sku=text(line.get("sku")),
        product_id=ident(line.get("product_id")),
        name=text(line.get("name"), line.get("title"), line.get("sku")),
        quantity=reading.quantity(line.get("quantity")),
        unit_price=_money(line, "price", paid),
    )


# -- money ---------------------------------------------------------------------------------------


def _paid_in(order: Json) -> _Paid:
    """The currency the customer saw and paid in, where the order states its total in it."""
    shop_currency, presentment = order.get("currency"), order.get("presentment_currency")
    total = obj(obj(order.get("total_price_set")).get("presentment_money"))
    if (
        isinstance(presentment, str)
        and presentment in currencies()
        and total.get("currency_code") == presentment
        and reading.minor(total.get("amount"), presentment) is not None
    ):
        return _Paid(presentment, presentment == shop_currency)
    if isinstance(shop_currency, str) and shop_currency in currencies():
        return _Paid(shop_currency, is_shops_own=True)
    raise Unusable("the order has no known currency")


def _money(fields: Json, key: str, paid: _Paid) -> int | None:
    """One amount in the currency that counts; None when it is stated in another one only."""
    money = obj(fields.get(f"{key}_set"))
    for side in ("presentment_money", "shop_money"):
        stated = obj(money.get(side))
        if stated.get("currency_code") == paid.currency:
            return reading.minor(stated.get("amount"), paid.currency)
    return reading.minor(fields.get(key), paid.currency) if paid.is_shops_own else None


def _totals(order: Json, paid: _Paid) -> Totals:
    # As bought: current_total_price is what is left after refunds, which have events of their own.
    total = _money(order, "total_price", paid)
    if total is None:
        raise Unusable("the order's total is not money")
    lines = rows(order.get("shipping_lines"))
    shipping = _money(order, "total_shipping_price", paid)
    if shipping is None:
        prices = [_money(line, "price", paid) for line in lines]
        shipping = (
            sum(p for p in prices if p is not None) if any(p is not None for p in prices) else None
        )
    return build(
        Totals,
        currency=paid.currency,
        items=_money(order, "total_line_items_price", paid),
        shipping=shipping,
        tax=_money(order, "total_tax", paid),
        discount=_money(order, "total_discounts", paid),
        total=total,
    )


def _shipping_method(order: Json) -> str | None:
    lines = [
        line for line in rows(order.get("shipping_lines")) if line.get("is_removed") is not True
    ]
    return text(*(line.get(key) for line in lines for key in ("title", "code")))


def _campaign(order: Json) -> str | None:
    landing = order.get("landing_site")
    if not isinstance(landing, str):
        return None
    try:
        query = parse_qs(urlsplit(landing[:2000]).query, max_num_fields=50)
    except ValueError:
        return None
    return text(*query.get("utm_campaign", ()))


# -- refunds -------------------------------------------------------------------------------------


def refund_statements(refund: Json, shop: Shop) -> list[Statement]:
    """What one refund says by itself; it knows neither the customer nor the order's currency."""
    order_id = ident(refund.get("order_id"))
    if order_id is None:
        raise Unusable("the refund has no order id")
    return [_refund(refund, order_id, None, shop)]


def _refund(refund: Json, order_id: str, currency: str | None, shop: Shop) -> Once:
    refund_id = gid_number(refund, "Refund") or ident(refund.get("id"))
    # Not the transaction's time: an import dates it years before the refund.
    at = instant(refund.get("processed_at"), shop.zone) or instant(
        refund.get("created_at"), shop.zone
    )
    if refund_id is None or at is None:
        raise Unusable("the refund has no id or no readable time")
    lines = rows(refund.get("refund_line_items"))
    payments = [
        payment
        for payment in rows(refund.get("transactions"))
        if word(payment.get("kind")) == "refund" and word(payment.get("status")) in _MONEY_MOVED
    ]
    currency = _refund_currency(refund, payments, lines) or currency
    if currency is None:
        raise Unusable("the refund has no known currency")
    amounts = [
        reading.minor(payment.get("amount"), currency)
        for payment in payments
        if payment.get("currency", currency) == currency
    ]
    data = build(
        OrderRefunded,
        order_id=order_id,
        at=at,
        refund_id=refund_id,
        # Without a payment nothing went back: goods were taken off the order (amount 0).
        amount=sum(abs(amount) for amount in amounts if amount is not None),
        currency=currency,
        # `note` is for the shop's staff; the customer never sees it.
        reason=None,
        items=reading.item_quantities(
            (_refunded_line(line), line.get("quantity")) for line in lines
        ),
    )
    return Once(data, at, refund_id)


def _refunded_line(line: Json) -> str | None:
    return gid_number(obj(line.get("line_item")), "LineItem") or ident(line.get("line_item_id"))


def _refund_currency(refund: Json, payments: Iterable[Json], lines: Iterable[Json]) -> str | None:
    sets = [refund.get("total_duties_set"), *(line.get("subtotal_set") for line in lines)]
    stated = [
        *(payment.get("currency") for payment in payments),
        *(obj(obj(money).get("presentment_money")).get("currency_code") for money in sets),
    ]
    return next((c for c in stated if isinstance(c, str) and c in currencies()), None)
