"""The tracking page and its notices as HTML: templates compiled once, one style for each shop.

No script, no picture, nothing from elsewhere; the Content-Security-Policy allows the one style by its
hash and forms to this origin. A page is at most PAGE_BYTES_MAX, whatever the order holds.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shared.languages import CODES, Language, choose
from shared.languages.brand import accent, shop_values
from shared.shops import Brand, Shop
from tracking import languages
from tracking.adapters.story import Room, Subject, story

PAGE_BYTES_MAX: Final = 48_000
FOLDER: Final = Path(__file__).parent.parent / "templates"
_ROOMS: Final = (Room(40, 40, 20, 200), Room(8, 12, 20, 80), Room(3, 3, 12, 40), Room(1, 1, 6, 40))
_LIGHT, _DARK = "#fff4e5", "#2b2219"  # --warnback in style.css: the hardest background of each

Notice = Literal[
    "not_found",
    "unavailable",
    "failed",
    "elsewhere",
    "unreadable",
    "nothing_to_choose",
    "too_often",
]
NOTICES: Final[Mapping[Notice, tuple[str, ...]]] = {
    "not_found": (
        "There is no page here",
        "Perhaps a part of the link got lost: open it from the e-mail once more.",
        "A page is kept until 90 days after the delivery. The shop's e-mails say whom to ask.",
    ),
    "unavailable": (
        "We cannot show this page right now",
        "Nothing is lost. Please try again in a minute.",
    ),
    "failed": (
        "Something went wrong on our side",
        "We have made a note of it. Please try again in a minute, or reply to any e-mail of the shop.",
    ),
    "elsewhere": (
        "This did not come from your page",
        "Nothing was changed. Please open your page from the e-mail and choose there.",
    ),
    "unreadable": (
        "We could not read your choice",
        "Nothing was changed. Please go back and choose once more.",
    ),
    "nothing_to_choose": (
        "There is nothing to choose any more",
        "The delay is over or has changed meanwhile. Your page shows how things stand.",
    ),
    "too_often": (
        "We have your requests",
        "A person looks at them. If something is still to be changed, please call or write to us.",
    ),
}
"""Pages that are not about an order's state: heading, then sentences."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A page and the policy under which browsers show it."""

    html: bytes
    policy: str
    language: str


class Pages:
    """Renders pages; building it reads and compiles everything."""

    def __init__(self) -> None:
        self._environments = {code: _environment(languages.load(code)) for code in CODES}
        self._languages = {code: languages.load(code) for code in CODES}
        source = self._environments["en"].get_template("style.css")
        plain = Brand()

        @lru_cache(maxsize=256)
        def style(color: str, text_color: str) -> tuple[Markup, str]:
            css = source.render(
                color=color,
                text_color=text_color,
                accent_light=accent(color, _LIGHT),
                accent_dark=accent(color, _DARK),
            ).strip()
            digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
            return Markup(css), _policy(digest)  # noqa: S704 - our own file and #rrggbb colours

        self._style = style
        self._plain = plain.color

    def page(self, subject: Subject) -> Rendered:
        """Return the page of an order, with as much history as fits."""
        about = subject.order.about
        code = choose(about.locale if about else None, subject.shop.locale)
        language = self._languages[code]
        own = shop_values(subject.shop, language)

        def make(room: Room) -> Rendered:
            values = own | story(subject, language, room)
            values["contacts"] = _contacts(own, subject.shop, values["number"], language)
            return self._render("page.html.j2", code, values, subject.shop)

        made = make(_ROOMS[0])
        for room in _ROOMS[1:]:
            if len(made.html) <= PAGE_BYTES_MAX:
                break
            made = make(room)
        return made

    def notice(
        self, notice: Notice, wish: str | None, shop: Shop | None = None, back: str = ""
    ) -> Rendered:
        """Return one of NOTICES; `wish` is a locale, or the header Accept-Language."""
        code = choose(*_wishes(wish), shop.locale if shop else None)
        language = self._languages[code]
        title, *sentences = (language.text(sentence) for sentence in NOTICES[notice])
        own = shop_values(shop, language) if shop else {"lang": code, "shop_name": ""}
        values = own | {"title": title, "sentences": sentences, "back": back}
        return self._render("notice.html.j2", code, values, shop)

    def _render(self, name: str, code: str, values: dict[str, Any], shop: Shop | None) -> Rendered:
        color = shop.brand.color if shop else self._plain
        style, policy = self._style(color, values.get("button_text_color", "#ffffff"))
        site = (shop.brand.site if shop else None) or ""
        template = self._environments[code].get_template(name)
        html = template.render(values | {"style": style, "site": site})
        return Rendered(html.encode("utf-8", "replace"), policy, code)


def _contacts(
    own: Mapping[str, Any], shop: Shop, number: str, language: Language
) -> list[tuple[str, str, str, str]]:
    """Return whom to ask; a letter that is begun here names the order."""
    rows = list(own["contacts"])
    if not any(link.startswith("mailto:") for _, _, link, _ in rows):
        rows.insert(0, (language.text("E-mail"), shop.reply_to, f"mailto:{shop.reply_to}", ""))
    about = quote(language.text("Order %(number)s") % {"number": number})
    return [
        (label, value, f"{link}?subject={about}" if link.startswith("mailto:") else link, text)
        for label, value, link, text in rows
    ]


def _wishes(header: str | None) -> list[str]:
    """Return the languages of a header in its order; weights are not worth the trouble for four."""
    return [part.split(";")[0].strip() for part in (header or "")[:200].split(",")]


def _policy(digest: str) -> str:
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )

    def plural(singular: str, many: str, count: int) -> str:
        return language.plurals(singular, many)[language.plural_form(count)]

    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_callables(language.text, plural, newstyle=True)  # type: ignore[attr-defined]  # of the extension
    return environment
