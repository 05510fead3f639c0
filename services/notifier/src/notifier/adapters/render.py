"""What one order looks like to its customer: values for the templates, and the finished content.

The values are plain strings, numbers and tuples, the same for the text and the HTML part, so both
tell the same facts. What the shop says of itself is prepared once per shop and language.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import TemplateError

from notifier.adapters.compiler import FOLDER, compile_all
from notifier.adapters.parcels import as_parcel, parcel_values, return_by
from notifier.adapters.wording import (
    ProductValues,
    Values,
    order_values,
    product_values,
)
from shared.errors import GiveUp
from shared.languages import CODES, Language, choose
from shared.languages.brand import shop_values
from shared.shops import Products, Shop, parse

SUBJECT_MAX = 70
_KEPT_MAX = (
    1024  # shops (old ones after a reload included) and SKUs remembered before starting over
)
_ABOUT_ORDER = frozenset({"order_confirmed"})  # all other kinds are about a parcel or its delay
_SAMPLES = FOLDER / "samples"


@dataclass(frozen=True, slots=True)
class Content:
    """A rendered message. `text` and `html` tell the same facts; lines end with LF."""

    language: str
    subject: str
    text: str
    html: str


class Renderer:
    """Renders every kind in every language; building one compiles all templates.

    Set `products` before a render: what is remembered of them is forgotten only after a reload.
    """

    def __init__(self, products: Products | None = None) -> None:
        self._compiled, self.sentences = compile_all()
        self._shops: dict[tuple[int, str], tuple[Shop, Values]] = {}
        self._products = products or Products()
        self._known_skus: dict[tuple[str | None, str], ProductValues] = {}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every message kind that has templates."""
        return tuple(dict.fromkeys(kind for kind, _ in self._compiled))

    @property
    def products(self) -> Products:
        """What is known about products beyond the order."""
        return self._products

    @products.setter
    def products(self, products: Products) -> None:
        if products is not self._products:
            self._products = products
            self._known_skus.clear()

    def render(
        self,
        kind: str,
        *,
        order: Mapping[str, Any],
        shop: Shop,
        links: Mapping[str, str | None],
        facts: Mapping[str, Any],
    ) -> Content:
        """Render one message from the stored body of order.placed.

        `links` may hold `track` (only once there is a parcel). `facts` may hold `next_contact_at`
        and `return_by` (ISO), `role` ("recipient" never sees prices), and for messages about a parcel
        what `adapters.parcels.news` returns. Raises `GiveUp` for an unknown
        kind or an order that cannot be put into words; the reason holds no value of the order.
        """
        code = choose(_locale(order, facts), shop.locale)
        compiled = self._compiled.get((kind, code))
        if compiled is None:
            raise GiveUp(f"no template for {kind}")
        language = compiled.language
        try:
            values = self._of_shop(shop, language)
            if kind not in _ABOUT_ORDER:
                values = values | parcel_values(kind, order, facts, language, shop)
                order = as_parcel(kind, order, facts, shop)
                if kind == "delivered":
                    facts = {**facts, "return_by": return_by(facts, order, shop)}
            values = values | order_values(order, language, shop, self._find, links, facts)
        except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise GiveUp(f"order cannot be put into words: {type(error).__name__}") from error
        try:
            subject = values["subject"] = _one_line(compiled.subject(values))
            return Content(code, subject, compiled.text(values), compiled.html(values))
        except (TemplateError, KeyError) as error:  # KeyError: it names a value there is not
            raise GiveUp(f"template {kind}: {type(error).__name__}") from error

    def _of_shop(self, shop: Shop, language: Language) -> Values:
        key = (id(shop), language.code)
        known = self._shops.get(key)
        if known is None or known[0] is not shop:
            if len(self._shops) > _KEPT_MAX:
                self._shops.clear()
            known = self._shops[key] = (shop, shop_values(shop, language))
        return known[1]

    def _find(self, sku: str | None, language: Language) -> ProductValues:
        key = (sku, language.code)
        found = self._known_skus.get(key)
        if found is None:
            if len(self._known_skus) > _KEPT_MAX:
                self._known_skus.clear()
            found = product_values(self._products.match(sku), language)
            self._known_skus[key] = found
        return found


def samples() -> tuple[str, ...]:
    """Return the names of the sample orders a template can be looked at with."""
    return tuple(sorted(path.stem for path in _SAMPLES.glob("*.json")))


def preview(kind: str, language: str, sample: str) -> dict[str, str | bytes]:
    """Render one template × language × sample: `subject`, `text`, `html` and the message as `eml`.

    Raises `GiveUp` when one of the three is unknown.
    """
    # mime stands on this module's Content, so it can only be asked for here.
    from notifier.adapters.mime import Mail, build  # noqa: PLC0415

    path = _SAMPLES / f"{sample}.json"
    if sample not in samples() or language not in CODES:
        raise GiveUp(f"no sample {sample} or no language {language}")
    told = json.loads(path.read_text(encoding="utf-8"))
    order = told["order"]
    order["customer"] = {**(order.get("customer") or {}), "locale": language}
    if order.get("recipient"):
        order["recipient"] = {**order["recipient"], "locale": language}
    products = (_SAMPLES / "products.toml").read_text(encoding="utf-8")
    shops = parse((_SAMPLES / "shops.toml").read_text(encoding="utf-8"), products)
    shop = shops.get(told["shop"])
    if shop is None:
        raise GiveUp(f"sample {sample} names no shop")
    renderer = _preview_renderer()
    renderer.products = shops.products
    content = renderer.render(
        kind, order=order, shop=shop, links=told.get("links", {}), facts=told.get("facts", {})
    )
    mail = Mail(
        kind=kind,
        sender=(shop.sender.name, shop.sender.address),
        recipient=(order["customer"].get("name") or "", "preview@example.com"),
        reply_to=shop.reply_to,
        content=content,
        message_id="<preview@example.com>",
        date=datetime(2026, 11, 22, 9, 15, tzinfo=UTC),
    )
    eml = build(mail, eight_bit=True)
    return {"subject": content.subject, "text": content.text, "html": content.html, "eml": eml}


@cache
def _preview_renderer() -> Renderer:
    return Renderer()


def _locale(order: Mapping[str, Any], facts: Mapping[str, Any]) -> str | None:
    reader = order.get("recipient") if facts.get("role") == "recipient" else None
    locale: str | None = (reader or order.get("customer") or {}).get("locale")
    return locale


def _one_line(subject: str) -> str:
    line = " ".join(subject.split())
    return line if len(line) <= SUBJECT_MAX else f"{line[: SUBJECT_MAX - 1].rstrip()}…"
