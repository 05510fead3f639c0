"""Compiled templates: whatever an order or a shop file says stays text, and wire-friendly."""

import json
import tomllib
from collections.abc import Iterator
from html import escape
from typing import Any

import pytest
from pydantic import BaseModel

from notifier.adapters.compiler import FOLDER
from notifier.adapters.render import Renderer, preview, samples
from shared.errors import GiveUp
from shared.languages import CODES
from shared.shops import Product, Products, Shop, parse

KIND = "order_confirmed"
SAMPLES = FOLDER / "samples"
SHOPS_TOML, PRODUCTS_TOML = (
    (SAMPLES / "shops.toml").read_text(),
    (SAMPLES / "products.toml").read_text(),
)
TEA = parse(SHOPS_TOML, PRODUCTS_TOML).get("tea")
PRODUCTS = [Product.model_validate(table) for table in tomllib.loads(PRODUCTS_TOML)["products"]]
ORDER = json.loads((SAMPLES / "tea.json").read_text())["order"]
# Everything a template can show, also what is shown only where something else is missing.
FULL = ORDER | {
    "customer": {"name": "Ana Novak", "locale": "en"},
    "recipient": {"name": "Maja", "locale": "en"},
    "ship_to": ORDER["ship_to"] | {"region": "Kranj"},
    "items": [
        {"sku": "POT-1", "name": "Tetsubin", "quantity": "1", "unit_price": 6900},
        {"sku": "SCALE-2", "name": None, "quantity": "1", "image_url": None, "url": None},
    ],
}
MARKUP = "<i a=\"p\" b='q'>&"
ESCAPED = escape(MARKUP).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
RENDERER = Renderer()


def planted(value: Any, text: str, at: str) -> Iterator[tuple[str, Any]]:
    """Every place for a text in `value`, with a copy of it that has `text` there, unchecked."""
    if value is None or isinstance(value, str):
        yield at, text
    elif isinstance(value, BaseModel | dict | list | tuple):
        parts = dict(enumerate(value)) if isinstance(value, list | tuple) else dict(value)
        for key, part in parts.items():
            if isinstance(value, dict):
                yield f"{at}.{key}.key", {text if k == key else k: v for k, v in parts.items()}
            for place, changed in planted(part, text, f"{at}.{key}"):
                yield place, rebuilt(value, parts | {key: changed})


def rebuilt(value: Any, parts: dict) -> Any:
    if isinstance(value, BaseModel):
        return value.model_copy(update=parts)
    return parts if isinstance(value, dict) else type(value)(parts.values())


def shown_as_text(order: dict, shop: Shop, products: Products, role: str) -> bool:
    """Whether planted markup shows as text; it must never be anything else."""
    RENDERER.products = products
    facts = {"role": role, "next_contact_at": "2026-11-25T08:00:00Z"}
    try:
        html = RENDERER.render(KIND, order=order, shop=shop, links={}, facts=facts).html
    except (GiveUp, TypeError):  # the latter where only a number fits: no file gets that far
        return False
    rest = html.replace(ESCAPED, "")
    for piece in ("<i ", '"p"', "'q'", "&amp;lt;"):
        assert piece not in rest
    return rest != html


@pytest.mark.parametrize("text", [MARKUP, MARKUP * 2])  # the second is too long for `nowrap`
def test_markup_in_any_field_of_order_shop_or_products_is_only_ever_text(text: str) -> None:
    products = Products(PRODUCTS)
    told = set()
    for role in ("buyer", "recipient"):
        for place, order in planted(FULL, text, "order"):
            told |= {place} if shown_as_text(order, TEA, products, role) else set()
        for place, shop in planted(TEA, text, "shop"):
            told |= {place} if shown_as_text(FULL, shop, products, role) else set()
        for place, changed in planted(PRODUCTS, text, "products"):
            told |= {place} if shown_as_text(FULL, TEA, Products(changed), role) else set()
    assert told == {
        *(f"order.{name}" for name in ("number", "customer.name", "recipient.name")),
        *(f"order.ship_to.{name}" for name in ("name", "lines.0", "city", "postcode", "region")),
        *("order.ship_to.country", "order.totals.currency"),
        *("order.items.0.name", "order.items.1.name", "order.items.1.sku"),
        *(f"shop.{name}" for name in ("name", "card_name", "brand.imprint")),
        *(f"shop.support.{name}" for name in ("phone", "mail", "hours.en", "reply_time.en")),
        *("shop.support.warranty.en", "shop.support.social.Instagram.key"),
        "products.1.strength.en",
    }


@pytest.mark.parametrize("kind", [k for k in RENDERER.kinds if k != KIND])
def test_markup_in_what_is_told_of_a_parcel_is_only_ever_text(kind: str) -> None:
    told = json.loads((SAMPLES / "parcel.json").read_text())["facts"]
    shown = set()
    for place, facts in planted(told, MARKUP, "facts"):
        try:
            html = RENDERER.render(kind, order=FULL, shop=TEA, links={}, facts=facts).html
        except (GiveUp, TypeError):
            continue
        rest = html.replace(ESCAPED, "")
        for piece in ("<i ", '"p"', "'q'", "&amp;lt;"):
            assert piece not in rest
        shown |= {place} if rest != html else set()
    parcel = {"facts.parcel.carrier", "facts.parcel.tracking_number"}
    expected = set() if kind == "order_delayed" else parcel
    assert shown == expected | ({"facts.handed_to"} if kind == "delivered" else set())


def test_a_reload_of_products_counts_at_once() -> None:
    def text() -> str:
        return RENDERER.render(KIND, order=FULL, shop=TEA, links={}, facts={}).text

    RENDERER.products = Products(PRODUCTS)
    assert "Cast iron" in text()
    RENDERER.products = Products([Product(sku="POT-*", strength={"en": "Stoneware"})])
    assert "Cast iron" not in text()
    assert "Stoneware" in text()
    assert "Return within" not in text()


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("kind", RENDERER.kinds)
def test_no_line_of_a_template_begins_with_a_dot_that_smtp_would_double(
    kind: str, language: str
) -> None:
    for sample in samples():
        shown = preview(kind, language, sample)
        assert "\n." not in f"{shown['text']}{shown['html']}"
