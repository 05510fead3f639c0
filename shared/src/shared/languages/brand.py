"""What a shop shows of itself in a message or on a page: its name, its colour, whom to ask.

Everything absent is an empty string or tuple, so that a template's `if` leaves out the whole line.
Nothing here escapes: the HTML environment does.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from shared.languages import Language
from shared.shops import Shop, in_language

_JOINERS = "\u200c\u200d"  # inside emoji and Persian words; every other format character goes
# Absolute http(s) with a plain host: no user part, no quotes, blanks or control characters.
_URL = re.compile(
    r"https?://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?(?:[/?#][!#-;=?-~]*)?"
)
_CODE = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
# What this module itself puts into words; every catalogue must know them.
SENTENCES = (
    *("Phone", "E-mail", "Hours", "Expected reply time", "Warranty"),
    *("Questions and answers", "Chat", "Messenger", "Our shops"),
)
_DARK, _LIGHT = "#111418", "#ffffff"
_CONTRAST = 4.5
_READABLE = 0.179  # relative luminance at which black and white text contrast equally (WCAG 2)


def clean(text: str | None) -> str:
    """Return one printable line: no control, no bidi or zero-width characters, no lone surrogates."""
    if not text:
        return ""
    if text.isprintable():
        return text.strip()
    kept = (
        " " if character.isspace() else character
        for character in text
        if character.isprintable() or character.isspace() or character in _JOINERS
    )
    return " ".join("".join(kept).split(" ")).strip()


def safe_url(url: str | None) -> str:
    """Return an absolute http(s) address, or nothing: never `javascript:`, never a user part."""
    return url if url and _URL.fullmatch(url) else ""


def carrier_name(name: str | None) -> str:
    """Return a carrier's name as people write it: "gls" is GLS, "posta-slovenije" Posta Slovenije."""
    cleaned = clean(name)
    if not _CODE.fullmatch(cleaned):
        return cleaned
    parts = re.split(r"[-_]", cleaned)
    return " ".join(part.upper() if len(part) <= 3 else part.capitalize() for part in parts)  # noqa: PLR2004


def wording(texts: Mapping[str, str] | None, language: Language) -> str:
    """Return a shop's own text in this language, or in the nearest one it gave."""
    return clean(in_language(texts, language.code))


def shop_values(shop: Shop, language: Language) -> dict[str, Any]:
    """Return what the templates say about the shop itself; `contacts` is its support block.

    A contact is (label, value, link, the same in plain text).
    """
    support, color = shop.support, shop.brand.color
    reply_time = wording(support.reply_time, language)
    warranty = wording(support.warranty, language)
    return {
        "lang": language.code,
        "shop_name": clean(shop.name),
        "logo_url": safe_url(shop.brand.logo),
        "logo_width": shop.brand.logo_width,
        "imprint": clean(shop.brand.imprint),
        "button_color": color,
        "button_text_color": _DARK if _luminance(color) > _READABLE else _LIGHT,
        "reply_time": f"{language.text('Expected reply time')}: {reply_time}" if reply_time else "",
        "warranty": f"{language.text('Warranty')}: {warranty}" if warranty else "",
        "returns_url": safe_url(support.returns.url) if support.returns else "",
        "contacts": tuple(_contacts(shop, language)),
    }


def _contacts(shop: Shop, language: Language) -> Iterator[tuple[str, str, str, str]]:
    support = shop.support
    if support.phone:
        label, phone = language.text("Phone"), clean(support.phone)
        link = f"tel:{re.sub(r'[^+0-9]', '', phone)}"
        yield label, phone, link, f"{label}: {phone}"
    if support.mail:
        label = language.text("E-mail")
        yield label, support.mail, f"mailto:{support.mail}", f"{label}: {support.mail}"
    hours = wording(support.hours, language)
    if hours:
        label = language.text("Hours")
        yield label, hours, "", f"{label}: {hours}"
    pages = (
        (language.text("Questions and answers"), support.faq),
        (language.text("Chat"), support.chat),
        (language.text("Messenger"), support.messenger),
        (language.text("Our shops"), support.stores),
        *((clean(name), url) for name, url in support.social.items()),
        (clean(shop.name), shop.brand.site),
    )
    for name, url in pages:
        link = safe_url(url)
        if link:
            yield "", name, link, f"{name}: {link}"


def accent(color: str, background: str) -> str:
    """Return the colour itself, or as little of black or white in it as makes it readable on a background.

    Readable is a contrast of 4.5 (WCAG 2.2, 1.4.3); all three are `#rrggbb`.
    """
    towards = 0 if _luminance(background) > _READABLE else 255
    behind = _luminance(background)

    def mixed(step: int) -> str:
        parts = (int(color[at : at + 2], 16) for at in (1, 3, 5))
        return "#" + "".join(f"{round((p * (20 - step) + towards * step) / 20):02x}" for p in parts)

    def contrast(mix: str) -> float:
        darker, lighter = sorted((_luminance(mix), behind))
        return (lighter + 0.05) / (darker + 0.05)

    mixes = (mixed(step) for step in range(20))
    return next((mix for mix in mixes if contrast(mix) >= _CONTRAST), mixed(20))


def _luminance(color: str) -> float:
    def linear(channel: int) -> float:
        part = channel / 255
        return part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4  # noqa: PLR2004

    red, green, blue = (linear(int(color[at : at + 2], 16)) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
