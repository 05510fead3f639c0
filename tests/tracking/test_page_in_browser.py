"""The page as a phone and a desktop show it, light and dark, in a real browser."""

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from tests.tracking.situations import BARE, SITUATIONS, TEA, ago, order, scan, ship, subject

from shared.languages import CODES
from tracking.adapters.page import Pages, Rendered

sync = pytest.importorskip("playwright.sync_api")
AXE = pytest.importorskip("axe_playwright_python.base").AXE_FILE_PATH
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.timeout(240),
]

PAGES = Pages()
ADDRESS = "https://track.example/t/token"
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
TELLING = ["received", "out", "late", "asked_cancel", "several_late", "delivered", "pickup"]
THUMB, POINTER = 44, 24  # px: what a form's parts have, what WCAG 2.2 (2.5.8) asks of every target

Show = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def windows(browser: Any) -> Callable[[int, str, bool], Any]:
    """One window for each width and scheme: opening one takes longer than what is done in it."""

    @cache
    def window(width: int, scheme: str, scripts: bool) -> Any:  # noqa: FBT001
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            bypass_csp=scripts,  # axe-core is a script: only it may pass
        )
        return context.new_page()

    return window


@pytest.fixture
def show(windows: Callable[[int, str, bool], Any]) -> Show:
    """Open a page under its own headers; what it asks of the network and complains of is noted."""

    def open_page(
        made: Rendered, *, width: int = 360, scheme: str = "light", scripts: bool = False
    ) -> Any:
        page = windows(width, scheme, scripts)
        page.unroute_all()
        page.asked, page.complaints = asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        headers = {"content-type": "text/html", "content-security-policy": made.policy}
        page.route("**/*", lambda route: route.fulfill(body=made.html, headers=headers))
        page.goto(ADDRESS)
        return page

    return open_page


def made(name: str, language: str = "en") -> Rendered:
    return PAGES.page(subject(SITUATIONS[name](language)))


def faults(page: Any) -> list[str]:
    page.add_script_tag(path=str(AXE))
    found = page.evaluate(
        "tags => axe.run({runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})",
        STANDARDS,
    )
    return [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found["violations"]]


def test_axe_would_find_what_is_wrong(show: Show) -> None:
    page = show(made("late"), scripts=True)
    page.evaluate("document.querySelector('h1').style.color = '#ccc'")
    page.evaluate("document.documentElement.lang = ''")
    assert {fault.split(":")[0] for fault in faults(page)} == {"color-contrast", "html-has-lang"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", SITUATIONS)
def test_axe_finds_nothing(show: Show, name: str, scheme: str) -> None:
    assert faults(show(made(name), scheme=scheme, scripts=True)) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["ru", "pl", "sl"])
def test_axe_finds_nothing_in_other_languages(show: Show, language: str, scheme: str) -> None:
    for name in ("late", "several", "delivered"):
        assert faults(show(made(name, language), scheme=scheme, scripts=True)) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_with_a_light_brand_colour_or_on_a_notice(
    show: Show, scheme: str
) -> None:
    bright = PAGES.page(subject(SITUATIONS["late"]("en"), BARE))
    notices = [PAGES.notice("not_found", "sl"), PAGES.notice("nothing_to_choose", "en", TEA, "x")]
    for one in (bright, *notices):
        assert faults(show(one, scheme=scheme, scripts=True)) == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("language", CODES)
def test_nothing_scrolls_sideways(show: Show, language: str, width: int) -> None:
    for name in TELLING:
        page = show(made(name, language), width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate("document.documentElement.lang") == language


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
    page = show(made("several", language))
    for box in page.locator("a:visible, summary").all():
        assert box.bounding_box()["height"] >= POINTER


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
