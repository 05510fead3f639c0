"""Stored order and shop settings become the plain values that templates print.

Everything absent is an empty string, zero or an empty tuple, so that a template's `if` leaves out the
whole line. Nothing here escapes: the HTML environment does.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from notifier import policy
from notifier.languages import multiply
from shared.languages import Language, local_day
from shared.languages.brand import clean, safe_url, wording
from shared.shops import Product, Shop

Values = dict[str, Any]
ProductValues = tuple[str, int, int, int]  # strength, warranty in years, in months, return days
Find = Callable[[str | None, Language], ProductValues]  # what is known about a SKU

_GREETING_MAX = 40
_CITY_FIRST = frozenset({"US", "CA", "AU", "GB", "IE", "NZ", "IN"})
# What this module itself puts into words; every catalogue must know them.
SENTENCES = ("VAT", "tax", "Quantity")
_NO_TOTALS: Values = {
    **dict.fromkeys(("total", "goods", "shipping", "discount", "tax", "tax_name"), ""),
    "shipping_free": False,
    "tax_included": True,
}
_TAX_IS_NOT_VAT = frozenset({"US", "CA", "JP", "AU", "NZ", "SG", "IN", "MY"})


def order_values(
    order: Mapping[str, Any],
    language: Language,
    shop: Shop,
    find: Find,
    links: Mapping[str, str | None],
    facts: Mapping[str, Any],
) -> Values:
    """Return what the templates say about one order."""
    customer, recipient = order.get("customer") or {}, order.get("recipient") or {}
    ship_to = order.get("ship_to") or {}
    buyer, receiver = clean(customer.get("name")), clean(recipient.get("name"))
    to_recipient = facts.get("role") == "recipient"
    hidden = bool(order.get("hide_prices")) or to_recipient
    address = _address(ship_to, language)
    values: Values = {
        "number": clean(order.get("number")) or clean(order["order_id"]),
        "payment": "paid" if to_recipient else order.get("payment") or "paid",
        "greeting": _greeting(receiver if to_recipient else buyer, language.code),
        "recipient": receiver if receiver != buyer and not to_recipient else "",
        "ordered_by": "" if buyer in address else buyer,
        "address": address,
        "prices_hidden": hidden and not to_recipient,
        "status_url": safe_url(order.get("status_url")),
        "track_url": safe_url(links.get("track")),
    }
    values |= _dates(order, language, shop, facts)
    currency = "" if hidden else (order.get("totals") or {}).get("currency") or ""
    values |= _totals(order.get("totals") or {}, currency, ship_to.get("country"), language)
    values |= _items(order.get("items") or (), currency, language, shop, find)
    paid_by_buyer = values["payment"] == "paid" and not to_recipient
    values["statement"] = shop.card_name if paid_by_buyer and shop.card_name else ""
    return values


def _greeting(name: str, code: str) -> str:
    # Polish needs a vocative that no data has; English uses the first name where there is one.
    if code == "pl":
        return ""
    first, _, rest = name.partition(" ")
    if code == "en" and rest and len(first) > 1 and first.isalpha():
        name = first
    return name if len(name) <= _GREETING_MAX else ""


def _address(ship_to: Mapping[str, Any], language: Language) -> tuple[str, ...]:
    if not ship_to:
        return ()
    country, postcode = ship_to.get("country") or "", clean(ship_to.get("postcode"))
    city, region = clean(ship_to.get("city")), clean(ship_to.get("region"))
    if country in _CITY_FIRST:
        town = " ".join(part for part in (city, region, postcode) if part)
    else:
        town = " ".join(part for part in (postcode, city) if part)
        if region and region != city:
            town = f"{town}, {region}" if town else region
    lines = (
        clean(ship_to.get("name")),
        *map(clean, ship_to.get("lines") or ()),
        town,
        language.country(country) if country else "",
    )
    return tuple(line for line in lines if line)


def _dates(
    order: Mapping[str, Any], language: Language, shop: Shop, facts: Mapping[str, Any]
) -> Values:
    zone = policy.zone_for(shop, order)
    promise = order.get("promise") or {}
    first, last = promise.get("from"), promise.get("to")
    first = local_day(first, zone) if first else None
    last = local_day(last, zone) if last else None
    if last is None or first == last:
        first, last = last or first, None
    end = last or first
    placed = order.get("placed_at")
    next_contact = facts.get("next_contact_at") if "delay_update" not in shop.kinds_off else None
    return_by, days = facts.get("return_by"), _return_days(shop)
    if return_by is None and end and days:
        return_by = (date.fromisoformat(end) + timedelta(days=days)).isoformat()
    return {
        "kinds_off": shop.kinds_off,
        "until": language.until(end) if end else "",
        "window_from": language.day(first) if first else "",
        "window_to": language.day(last) if first and last else "",
        "placed_on": language.full_date(local_day(placed, zone)) if placed else "",
        "next_contact": language.until(local_day(next_contact, zone)) if next_contact else "",
        "return_by": language.until(local_day(return_by, zone)) if return_by and days else "",
        "return_days": days,
    }


def _totals(
    totals: Mapping[str, Any], currency: str, country: str | None, language: Language
) -> Values:
    values = dict(_NO_TOTALS)
    total = totals.get("total")
    if not currency or total is None:
        return values
    goods, shipping = totals.get("items"), totals.get("shipping")
    discount, tax = totals.get("discount") or 0, totals.get("tax") or 0
    values["total"] = language.money(total, currency)
    if goods is not None and (goods != total or discount or shipping):
        values["goods"] = language.money(goods, currency)
    if shipping:
        values["shipping"] = language.money(shipping, currency)
    values["shipping_free"] = shipping == 0
    if discount:
        values["discount"] = language.money(-abs(discount), currency)
    if tax:
        values["tax"] = language.money(tax, currency)
        values["tax_name"] = language.text("tax" if country in _TAX_IS_NOT_VAT else "VAT")
        values["tax_included"] = (goods or 0) + (shipping or 0) - abs(discount) + tax != total
    return values


def _items(
    items: Sequence[Mapping[str, Any]],
    currency: str,
    language: Language,
    shop: Shop,
    find: Find,
) -> Values:
    usual_return_days = _return_days(shop)
    rows, count, whole, any_image = [], 0, True, False
    for item in items:
        quantity, price = str(item["quantity"]), item.get("unit_price")
        if currency and price is not None:
            amount = f"{language.quantity(quantity)}\u00a0×\u00a0{language.money(price, currency)}"
            line_total = language.money(multiply(price, quantity), currency)
        else:
            amount = f"{language.text('Quantity')}: {language.quantity(quantity)}"
            line_total = ""
        strength, years, months, return_days = find(item.get("sku"), language)
        image = safe_url(item.get("image_url"))
        any_image = any_image or bool(image)
        count, whole = (count + int(quantity), whole) if quantity.isdigit() else (count, False)
        rows.append(
            (
                image,
                safe_url(item.get("url")),
                clean(item.get("name")) or clean(item.get("sku")),
                strength,
                years,
                months,
                return_days if return_days != usual_return_days else 0,
                amount,
                line_total,
            )
        )
    return {
        "items": rows,
        "item_count": count if whole else 0,
        "any_image": any_image,
        "label_columns": 1 + any_image,
    }


def product_values(product: Product | None, language: Language) -> ProductValues:
    """Return what the templates say about a product; all of it is empty when nothing is known."""
    if product is None:
        return "", 0, 0, 0
    months = product.warranty_months or 0
    years, rest = divmod(months, 12)
    warranty = (0, months) if rest else (years, 0)
    return wording(product.strength, language), *warranty, product.return_days or 0


def _return_days(shop: Shop) -> int:
    returns = shop.support.returns
    return (returns.days or 0) if returns else 0
