"""Messages as a phone and a desktop show them, light and dark, in a real browser."""

import itertools
from typing import Any

import pytest
from tests.conftest import Window

from notifier.adapters.compiler import kinds
from notifier.adapters.render import preview, samples
from shared.languages import CODES

pytestmark = pytest.mark.timeout(120)

PARCELS = [kind for kind in kinds() if kind != "order_confirmed"]
LOWEST_CONTRAST = """() => {
  const rgb = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 && m[3] === 0 ? null : m };
  const lum = ([r, g, b]) => { const f = [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2] };
  let worst = [21, ""];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, at = node.parentElement;
    if (!node.textContent.trim() || !at.getClientRects().length) continue;
    let up = at, back = null;
    while (up && !back) { back = rgb(getComputedStyle(up).backgroundColor); up = up.parentElement }
    const [a, b] = [lum(rgb(getComputedStyle(at).color)), lum(back || [255, 255, 255])];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, node.textContent];
  }
  return worst;
}"""


@pytest.fixture
def show(window: Window) -> Any:
    """Open one message as a mail client would: no network, no scripts of its own."""

    def open_message(
        language: str, sample: str, *, kind: str = "order_confirmed", **look: Any
    ) -> Any:
        page = window(**look)
        page.set_content(str(preview(kind, language, sample)["html"]))
        return page

    return open_message


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("sample", samples())
def test_nothing_scrolls_sideways_on_a_phone(show: Any, sample: str, language: str) -> None:
    page = show(language, sample)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.asked == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("sample", ["tea", "gift"])
def test_every_word_can_be_read(show: Any, language: str, sample: str, scheme: str) -> None:
    for width in (360, 800):
        ratio, words = show(language, sample, width=width, scheme=scheme).evaluate(LOWEST_CONTRAST)
        assert ratio >= 4.5, words


@pytest.mark.parametrize("kind", PARCELS)
@pytest.mark.parametrize("language", CODES)
def test_a_message_about_a_parcel_is_as_good_to_read(show: Any, language: str, kind: str) -> None:
    for scheme, width in itertools.product(("light", "dark"), (360, 800)):
        page = show(language, "parcel", kind=kind, width=width, scheme=scheme)
        ratio, words = page.evaluate(LOWEST_CONTRAST)
        assert ratio >= 4.5, words
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("img:not([alt])").count() == 0
        box = page.locator(".b a").bounding_box()
        assert box["height"] >= 44
        assert box["x"] + box["width"] <= width
        assert page.asked == []
    page = show(language, "parcel_bare", kind=kind)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("language", CODES)
def test_the_button_is_large_enough_for_a_thumb(show: Any, language: str) -> None:
    box = show(language, "tea").locator(".b a").bounding_box()
    assert box["height"] >= 44
    assert box["x"] + box["width"] <= 360


@pytest.mark.parametrize("language", CODES)
def test_the_page_is_in_the_language_it_says_and_pictures_have_words(
    show: Any, language: str
) -> None:
    page = show(language, "tea", width=800)
    assert page.evaluate("document.documentElement.lang") == language
    assert page.title()
    assert page.locator("img:not([alt])").count() == 0
    assert page.evaluate("document.querySelector('.c').getBoundingClientRect().width") <= 600


@pytest.mark.parametrize("language", CODES)
def test_numbers_and_dates_stay_on_one_line(show: Any, language: str) -> None:
    page = show(language, "tea")
    lines = page.eval_on_selector_all(
        "span[style*=nowrap]", "all => all.map(one => one.getClientRects().length)"
    )
    assert lines
    assert set(lines) == {1}
