"""What a customer reads: the same facts in both parts, in her language, whatever is absent or hostile."""

import json
import re
import tomllib
from html import unescape
from pathlib import Path

import pytest
from babel.numbers import format_currency
from hypothesis import given, settings, strategies as st

import shared.languages
from notifier.adapters import parcels
from notifier.adapters.compiler import FOLDER, kinds, lint
from notifier.adapters.render import SUBJECT_MAX, Content, Renderer, preview, samples
from notifier.adapters.wording import SENTENCES
from notifier.languages import load, multiply
from shared.errors import GiveUp
from shared.languages import CODES, brand, choose
from shared.languages.brand import clean, safe_url
from shared.shops import Shop, parse

KIND = "order_confirmed"
KINDS = kinds()
SAMPLES = FOLDER / "samples"
SHOPS = parse((SAMPLES / "shops.toml").read_text(), (SAMPLES / "products.toml").read_text())
TEA, BARE = SHOPS.get("tea"), SHOPS.get("bare")
RENDERER = Renderer(SHOPS.products)


def order_of(sample: str, **changes: object) -> dict:
    return json.loads((SAMPLES / f"{sample}.json").read_text())["order"] | changes


def render(
    order: dict,
    shop: Shop = TEA,
    links: dict | None = None,
    facts: dict | None = None,
    kind: str = KIND,
) -> Content:
    return RENDERER.render(kind, order=order, shop=shop, links=links or {}, facts=facts or {})


def said(html: str) -> str:
    """The words a reader of the HTML part sees, on one line."""
    body = html[html.index("<body") :]
    body = re.sub(r"<!--.*?-->|<style.*?</style>", " ", body, flags=re.DOTALL)
    body = re.sub(r"</?(?:span|a)\b[^>]*>", "", body)
    return flat(unescape(re.sub(r"<[^>]+>", " ", body)))


def flat(text: str) -> str:
    return " ".join(text.split())


def facts_of(text: str) -> set[str]:
    """Every number with its neighbours, address and name: what two parts must agree on."""
    numbers = re.findall(r"\d[\d.,:]*\d|\d", text)
    return {n for n in numbers if n}


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sample", samples())
def test_text_and_html_tell_the_same_facts(sample: str, kind: str, language: str) -> None:
    shown = preview(kind, language, sample)
    text, html = str(shown["text"]), said(str(shown["html"]))
    without_links = re.sub(r"https?://\S+", "", text)
    assert facts_of(without_links) == facts_of(html)
    for line in without_links.splitlines():
        for part in re.split(r"[:=–]| - |^- |^  ", line):
            assert flat(part) in html, part
    links = set(re.findall(r"https?://[^\s\"<>]+", text))
    hrefs = set(re.findall(r'href="(https?://[^"]+)"', str(shown["html"])))
    assert links == {unescape(href) for href in hrefs}


@pytest.mark.parametrize("language", CODES)
def test_a_full_order_is_told_in_full(language: str) -> None:
    shown = preview(KIND, language, "tea")
    text = str(shown["text"])
    money = load(language).money
    for amount in (1290, 2580, 6900, 15730, -1000, 490, 2767, 15220):
        assert money(amount, "EUR") in text
    for fact in (
        *("SV-10452", "Ana Novak", "Slovenska cesta 1", "1000 Ljubljana", "Tetsubin teapot"),
        *("+386 1 234 56 78", "hello@leafandcup.example", "https://leafandcup.example/orders/abc"),
        *("LEAFCUP LJUBLJANA", "95 °C", "https://leafandcup.example/returns"),
    ):
        assert fact in text
    assert load(language).until("2026-11-27") in text
    assert load(language).day("2026-11-25") in text
    assert load(language).until("2026-12-11") in text
    assert "+38640123456" not in text + str(shown["html"])
    assert f'lang="{language}"' in str(shown["html"])


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_stands_in_a_short_subject(kind: str, language: str) -> None:
    for sample in samples():
        subject = str(preview(kind, language, sample)["subject"])
        assert len(subject) <= SUBJECT_MAX
        assert "\n" not in subject
    for sample in ("tea", "parcel", "parcel_for_receiver"):
        subject = str(preview(kind, language, sample)["subject"])
        assert "SV-10452" in subject
        assert len(subject) < 60


@pytest.mark.parametrize("language", CODES)
def test_each_way_to_pay_has_its_own_sentence(language: str) -> None:
    texts = {str(preview(KIND, language, s)["text"]) for s in ("tea", "payment_awaiting")}
    texts.add(str(preview(KIND, language, "on_delivery")["text"]))
    assert len(texts) == 3
    total = load(language).money(15220, "EUR")
    for sample in ("payment_awaiting", "on_delivery"):
        paragraphs = str(preview(KIND, language, sample)["text"]).split("\n\n")
        assert total in paragraphs[3]
        assert "LEAFCUP" not in "".join(paragraphs)


@pytest.mark.parametrize("language", CODES)
def test_a_gift_tells_who_gets_it_and_no_price(language: str) -> None:
    shown = preview(KIND, language, "gift")
    for part in (str(shown["text"]), said(str(shown["html"]))):
        assert "€" not in part
        assert "15220" not in re.sub(r"\D", "", part)
        assert "Maja Kovač" in part
        assert "Ana Novak" in part


def test_the_recipient_never_sees_prices_or_the_payment() -> None:
    order = order_of("tea", recipient={"name": "Maja", "locale": "pl"}, payment="awaiting")
    content = render(order, facts={"role": "recipient"})
    assert content.language == "pl"
    assert "€" not in content.text + content.html
    assert "płatność" not in content.subject


def test_a_tracking_link_stands_there_only_when_there_is_one() -> None:
    url = "https://track.example/t/abc"
    assert url in render(order_of("tea"), links={"track": url}).text
    assert url in render(order_of("tea"), links={"track": url}).html
    assert "Follow" not in render(order_of("tea"), links={"track": None}).text


@pytest.mark.parametrize(
    ("customer", "shop", "expected"),
    [
        ("sl-SI", "ru", "sl"),
        ("pl_PL", "ru", "pl"),
        ("de-DE", "ru", "ru"),
        ("slk", "ru", "ru"),
        (None, "de", "en"),
        ("", "de", "en"),
    ],
)
def test_the_language_is_hers_then_the_shops_then_english(
    customer: str | None, shop: str, expected: str
) -> None:
    assert choose(customer, shop) == expected


@pytest.mark.parametrize(
    ("minor", "currency", "language", "expected"),
    [
        (12345, "JPY", "en", "JP¥12,345"),
        (1500, "KWD", "en", "KWD\u00a01.500"),
        (5, "KWD", "sl", "0,005\u00a0KWD"),
        (129990, "EUR", "en", "€1,299.90"),
        (129990, "PLN", "pl", "1299,90\u00a0zł"),
        (1000000, "PLN", "pl", "10\u00a0000,00\u00a0zł"),
        (129990, "RUB", "ru", "1\u00a0299,90\u00a0₽"),
        (129990, "EUR", "sl", "1.299,90\u00a0€"),
        (-5, "EUR", "en", "−€0.05"),
        (100, "HUF", "pl", "1,00\u00a0HUF"),
        (0, "USD", "en", "US$0.00"),
    ],
)
def test_amounts_look_as_in_the_language(
    minor: int, currency: str, language: str, expected: str
) -> None:
    assert load(language).money(minor, currency) == expected


@given(st.integers(0, 10**12), st.sampled_from(["EUR", "PLN", "RUB", "CHF", "GBP", "USD"]))
def test_amounts_agree_with_cldr(minor: int, currency: str) -> None:
    for language, locale in (("en", "en_GB"), ("ru", "ru"), ("sl", "sl")):
        ours = load(language).money(minor, currency).replace("\u00a0", "")
        cldr = format_currency(minor / 100, currency, locale=locale).replace("\u00a0", "")
        if minor < 10**11:
            assert ours == cldr


@pytest.mark.parametrize(
    ("language", "forms"),
    [
        ("en", {1: "1 item", 2: "2 items", 5: "5 items"}),
        ("ru", {1: "1 товар", 2: "2 товара", 5: "5 товаров", 11: "11 товаров", 21: "21 товар"}),
        ("pl", {1: "1 produkt", 2: "2 produkty", 5: "5 produktów", 22: "22 produkty"}),
        (
            "sl",
            {1: "1 izdelek", 2: "2 izdelka", 3: "3 izdelki", 5: "5 izdelkov", 101: "101 izdelek"},
        ),
    ],
)
def test_plurals_are_right(language: str, forms: dict[int, str]) -> None:
    for count, expected in forms.items():
        order = order_of("one_item")
        order["customer"]["locale"] = language
        order["items"][0]["quantity"] = str(count)
        assert re.search(rf"{expected}$", render(order).text, re.MULTILINE)


def test_a_line_is_quantity_times_price() -> None:
    assert multiply(1290, "2") == 2580
    assert multiply(4738, "2.5") == 11845
    assert multiply(1, "0.5") == 1
    assert load("sl").quantity("1.50") == "1,5"
    assert load("en").quantity("5.00") == "5"


def test_tax_is_included_or_added_as_the_totals_say() -> None:
    order = order_of("tea")
    assert "including VAT: €27.67" in render(order | {"customer": {"locale": "en"}}).text
    totals = {"currency": "USD", "items": 1000, "shipping": 0, "tax": 80, "total": 1080}
    ship_to = {**order["ship_to"], "country": "US", "region": "OH"}
    told = render(order | {"customer": {"locale": "en"}, "totals": totals, "ship_to": ship_to}).text
    assert "\ntax: US$0.80\n" in told
    assert "Delivery: free" in told


@pytest.mark.parametrize("language", ["ru", "pl", "sl"])
def test_every_sentence_is_translated_with_its_placeholders(language: str) -> None:
    told = load(language)
    for singular, plural in RENDERER.sentences:
        forms = told.plurals(singular, plural) if plural else (told.text(singular),)
        for form in forms:
            assert form not in {singular, plural}, singular
            assert set(re.findall(r"%\(\w+\)s", form)) == set(re.findall(r"%\(\w+\)s", singular))
    for sentence in (*SENTENCES, *brand.SENTENCES, *parcels.SENTENCES):
        same = {("pl", "E-mail"), ("sl", "Telefon"), ("pl", "VAT")}
        assert told.text(sentence) != sentence or (language, sentence) in same, sentence


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_message_holds_a_phrase_we_do_not_use(kind: str, language: str) -> None:
    folder = Path(shared.languages.__file__).parent
    phrases = tomllib.loads((folder / "phrases.toml").read_text())[language]
    for sample in samples():
        shown = preview(kind, language, sample)
        told = f"{shown['subject']} {shown['text']} {said(str(shown['html']))}".lower()
        assert [phrase for phrase in phrases if phrase in told] == []
        assert "!!" not in told


HOSTILE = [
    "<script>alert(1)</script>",
    "{{7*7}}{% for x in y %}${x}%s%(name)s{0.__class__}",
    "Ana\r\nBcc: victim@example.com",
    "\u202egnp.exe\u2066\u200b",
    "\"onmouseover='x' & <b>",
    "x" * 300,
    "👩‍👩‍👧 Ana",
    "\ud800",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("language", CODES)
def test_hostile_names_are_only_ever_text(hostile: str, language: str) -> None:
    order = order_of("tea", number=hostile)
    order["customer"] |= {"name": hostile, "locale": language}
    order["ship_to"] |= {"name": hostile, "city": hostile, "lines": [hostile]}
    order["items"][0]["name"] = hostile
    content = render(order)
    assert "<script" not in content.html
    assert "<b>" not in content.html
    assert "49" not in content.subject
    for part in (content.subject, content.text, content.html):
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\r\0\ud800-\udfff]", part)
    assert "\n" not in content.subject
    assert "\nBcc" not in content.text
    assert clean(hostile) in content.text
    assert flat(clean(hostile)) in said(content.html)
    content.html.encode()


@pytest.mark.parametrize(
    "url",
    [
        *("javascript:alert(1)", "data:text/html,x", "//evil.example", "https://user@evil.example"),
        *("https://a.example/\"onclick='x'", "https://a b.example", "http://?", "ftp://a.example"),
        *("https://a.example/\nx", "https://-a", "", None, "https://a.example/<x>", "HTTPS:/x"),
    ],
)
def test_only_plain_web_addresses_become_links(url: str | None) -> None:
    assert safe_url(url) == ""
    order = order_of("tea", status_url=url)
    order["items"][0] |= {"image_url": url, "url": url}
    content = render(order)
    if url:
        assert url not in content.html
        assert url not in content.text


@pytest.mark.parametrize("url", ["https://shop.example/a?b=c&d=%20#e", "http://127.0.0.1:8002/t/x"])
def test_a_plain_web_address_is_kept(url: str) -> None:
    assert safe_url(url) == url
    assert url.replace("&", "&amp;") in render(order_of("tea", status_url=url)).html


def optional(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(st.none(), strategy)


LINES = st.text(min_size=1, max_size=30)
MONEY = optional(st.integers(0, 10**9))
DATES = st.dates().map(lambda day: day.isoformat())
ITEMS = st.fixed_dictionaries(
    {"line_id": st.just("1"), "name": LINES, "quantity": st.sampled_from(["1", "2.5", "101"])},
    optional={
        "sku": optional(st.sampled_from(["TEA-1", "POT-1", "SCALE-1", "X"])),
        "unit_price": MONEY,
        "image_url": optional(st.just("https://img.example/a.png")),
        "url": optional(st.just("https://shop.example/a")),
    },
)
ORDERS = st.fixed_dictionaries(
    {"order_id": st.just("1"), "number": st.just("#7"), "items": st.lists(ITEMS, max_size=4)},
    optional={
        "payment": st.sampled_from(["paid", "awaiting", "on_delivery"]),
        "placed_at": st.just("2026-11-22T23:15:00Z"),
        "customer": optional(
            st.fixed_dictionaries(
                {}, optional={"name": optional(LINES), "locale": optional(st.sampled_from(CODES))}
            )
        ),
        "recipient": optional(st.fixed_dictionaries({}, optional={"name": optional(LINES)})),
        "hide_prices": st.booleans(),
        "ship_to": optional(
            st.fixed_dictionaries(
                {},
                optional={
                    "name": optional(LINES),
                    "lines": st.lists(LINES, max_size=2),
                    "city": optional(LINES),
                    "postcode": optional(LINES),
                    "region": optional(LINES),
                    "country": optional(st.sampled_from(["SI", "US", "ZZ"])),
                },
            )
        ),
        "totals": st.fixed_dictionaries(
            {"currency": st.sampled_from(["EUR", "JPY", "KWD"]), "total": st.integers(0, 10**9)},
            optional=dict.fromkeys(("items", "shipping", "tax", "discount"), MONEY),
        ),
        "promise": optional(st.fixed_dictionaries({"from": optional(DATES), "to": DATES})),
        "status_url": optional(st.just("https://shop.example/o")),
    },
)


@settings(max_examples=150, deadline=None)
@given(ORDERS, st.sampled_from([TEA, BARE]))
def test_whatever_is_absent_leaves_no_trace(order: dict, shop: Shop) -> None:
    words = ("None", "null", "undefined", "Undefined", "missing")
    typed = json.dumps(order, ensure_ascii=False)
    content = render(order, shop)
    for part in (content.subject, content.text, said(content.html)):
        assert not [word for word in words if word in part and word not in typed]
    assert not re.search(r"(?m)^[^\n:]{1,40}:\s*$", content.text) or ":" in typed.replace('":', "")
    assert "\n\n\n" not in content.text
    assert 'href=""' not in content.html
    assert 'src=""' not in content.html


def test_a_missing_name_leaves_a_whole_greeting() -> None:
    order = order_of("tea", customer={"locale": "en"})
    assert "\nHello,\n" in render(order).text


def test_the_first_name_greets_in_english_and_nobody_is_declined_in_polish() -> None:
    assert "\nHello Ana,\n" in render(order_of("tea", customer={"name": "Ana Novak"})).text
    polish = render(order_of("tea", customer={"name": "Ana Novak", "locale": "pl"})).text
    assert "\nDzień dobry!\n" in polish


def test_an_unquoted_attribute_is_refused() -> None:
    assert list(lint("<a href={{ url }}>x</a>"))
    assert list(lint('<td width=60 class="x">'))
    assert not list(lint('<a href="{{ url }}" class="{% if a %}b{% endif %}">1 = 1</a>'))
    for path in FOLDER.rglob("*.mjml"):
        assert not list(lint(path.read_text())), path


def test_an_unknown_kind_and_an_unusable_order_give_up_without_telling_values() -> None:
    with pytest.raises(GiveUp, match="no template"):
        RENDERER.render("nothing", order=order_of("tea"), shop=TEA, links={}, facts={})
    broken = order_of("tea")
    broken["items"][0]["quantity"] = "secret"
    with pytest.raises(GiveUp) as raised:
        render(broken)
    assert "secret" not in str(raised.value)


def test_a_full_message_stays_small() -> None:
    for language in CODES:
        assert len(str(preview(KIND, language, "tea")["html"]).encode()) < 14_000
