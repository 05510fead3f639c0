"""The page as a phone and a desktop show it, light and dark, in a real browser."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.conftest import Window
from tests.tracking.situations import BARE, SITUATIONS, TEA, ago, order, scan, ship, subject

from shared.languages import CODES
from tracking.adapters.page import Pages, Rendered

AXE = pytest.importorskip("axe_playwright_python.base").AXE_FILE_PATH
pytestmark = pytest.mark.timeout(240)

PAGES = Pages()
ADDRESS = "https://track.example/t/token"
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
TELLING = ["received", "out", "late", "asked_cancel", "several_late", "delivered", "pickup"]
WIDTHS = [320, 360, 768, 1280]
THUMB = 44  # px: what everything to be tapped is high

Show = Callable[..., Any]


@pytest.fixture
def show(window: Window) -> Show:
    """Open a page under its own headers."""

    def open_page(made: Rendered, **look: Any) -> Any:
        page = window(**look)
        page.unroute_all()
        headers = {"content-type": "text/html", "content-security-policy": made.policy}
        page.route("**/*", lambda route: route.fulfill(body=made.html, headers=headers))
        page.goto(ADDRESS)
        return page

    return open_page


def made(name: str, language: str = "en") -> Rendered:
    return PAGES.page(subject(SITUATIONS[name](language)))


def faults(page: Any, *schemes: str) -> list[str]:
    """What axe-core finds in these colour schemes; the page must be open to scripts."""
    page.add_script_tag(path=str(AXE))
    found = []
    for scheme in schemes or ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        told = page.evaluate(
            "tags => axe.run({runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})",
            STANDARDS,
        )
        nodes = [(v["id"], v["nodes"][0]["html"][:120]) for v in told["violations"]]
        found += [f"{rule}: {scheme}: {html}" for rule, html in nodes]
    return found


def test_axe_would_find_what_is_wrong(show: Show) -> None:
    page = show(made("late"), scripts=True)
    page.add_style_tag(
        content="@media (prefers-color-scheme: dark) { h1 { color: #333 !important } }"
    )
    assert [fault.split(": ")[:2] for fault in faults(page)] == [["color-contrast", "dark"]]
    page.evaluate("document.querySelector('h1').style.color = '#ccc'")
    page.evaluate("document.documentElement.lang = ''")
    assert {f.split(":")[0] for f in faults(page, "light")} == {"color-contrast", "html-has-lang"}


@pytest.mark.parametrize("name", SITUATIONS)
def test_axe_finds_nothing(show: Show, name: str) -> None:
    assert faults(show(made(name), scripts=True)) == []


@pytest.mark.parametrize("language", ["ru", "pl", "sl"])
@pytest.mark.parametrize("name", ["late", "several", "delivered"])
def test_axe_finds_nothing_in_other_languages(show: Show, language: str, name: str) -> None:
    assert faults(show(made(name, language), scripts=True)) == []


def test_axe_finds_nothing_with_a_light_brand_colour_or_on_a_notice(show: Show) -> None:
    bright = PAGES.page(subject(SITUATIONS["late"]("en"), BARE))
    notices = [PAGES.notice("not_found", "sl"), PAGES.notice("nothing_to_choose", "en", TEA, "x")]
    for one in (bright, *notices):
        assert faults(show(one, scripts=True)) == []


@pytest.mark.parametrize("name", TELLING)
@pytest.mark.parametrize("language", CODES)
def test_nothing_scrolls_sideways(show: Show, language: str, name: str) -> None:
    page = show(made(name, language))
    assert page.evaluate("document.documentElement.lang") == language
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width


def test_long_words_break_instead_of_scrolling(show: Show) -> None:
    one = order("en", number="X" * 60)
    one.about = one.about.model_copy(
        update={"lines": (one.about.lines[0].model_copy(update={"name": "Y" * 200}),)}
    )
    ship(one, "1", carrier="Z" * 80, tracking_number="1" * 90)
    page = show(
        PAGES.page(subject(scan(one, "in_transit", ago(hours=2), place="P" * 90))), width=320
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("name", SITUATIONS)
def test_it_asks_the_network_for_nothing_and_complains_of_nothing(show: Show, name: str) -> None:
    page = show(made(name))
    assert [url for url in page.asked if not url.startswith("data:")] == [ADDRESS]
    assert page.complaints == []
    # The style is the one that the policy allows.
    assert page.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") != "none"


@pytest.mark.parametrize("language", CODES)
def test_everything_can_be_hit_with_a_thumb(show: Show, language: str) -> None:
    page = show(made("late", language))
    for box in page.locator("label.opt, button, textarea").all():
        assert box.bounding_box()["height"] >= THUMB
    for name in ("several", "asked_cancel", "customs"):
        for box in show(made(name, language)).locator("a:visible, summary:visible").all():
            assert box.bounding_box()["height"] >= THUMB, box.inner_text()


def test_the_focus_can_be_seen_on_everything_that_takes_it(show: Show) -> None:
    page = show(made("asked_cancel"))
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        tag, width = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.tagName, s.outlineStyle == 'none' ? 0 : parseFloat(s.outlineWidth)] }"
        )
        if tag == "BODY":
            break
        seen.add(tag)
        assert width >= 2, tag
    assert {"A", "SUMMARY"} <= seen


def test_text_may_be_twice_as_large(show: Show) -> None:
    page = show(made("late", "ru"), width=640)
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert page.evaluate("document.documentElement.scrollWidth") <= 640
