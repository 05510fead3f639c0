"""What the tracking page says, in every situation and language, and what it never says."""

import ast
import itertools
import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from hypothesis import given, settings, strategies as st
from tests.tracking.situations import (
    BARE,
    NOW,
    SITUATIONS,
    TEA,
    TEAS,
    ago,
    late,
    order,
    scan,
    ship,
    subject,
    told,
)

import shared.languages
from shared.languages import CODES
from shared.languages.brand import accent
from tracking import languages
from tracking.adapters import boxes, days, story, timeline
from tracking.adapters.page import FOLDER, NOTICES, PAGE_BYTES_MAX, Pages
from tracking.domain.model import Order
from tracking.domain.pace import Pace

PAGES = Pages()
VOID = {"meta", "link", "input", "br"}
# The same in two languages, or nobody's language at all.
SAME = {"Leaf & Kettle", "LK-10452", "Telefon", "E-mail:", "Chat", "–", "·"}


class Reader(HTMLParser):
    """Every piece of text, and every tag with its attributes; fails on what does not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] not in {"style", "title"}:
            self.said.append(" ".join(data.split()))

    def attributes(self, name: str) -> list[str]:
        return [a[name] or "" for _, a in self.tags if name in a]


def render(one: Order, **changes: object) -> str:
    return PAGES.page(subject(one, **changes)).html.decode()


def words(one: Order, **changes: object) -> str:
    return " ".join(Reader(render(one, **changes)).said)


@pytest.mark.parametrize("language", CODES)
@pytest.mark.parametrize("name", SITUATIONS)
def test_every_situation_is_told_whole_in_every_language(name: str, language: str) -> None:
    html = render(SITUATIONS[name](language))
    page = Reader(html)
    text = " ".join(page.said)
    assert page.tags[0] == ("html", {"lang": language})
    assert len(html.encode()) < 20_000
    assert not re.search(r"None|\{\{|%\(|\[\]|  \.|: \.|undefined|RAW WORDS", text)
    assert "LK-10452" in text
    assert "Novak" not in html
    assert "Tavčarjeva" not in html
    assert "ana@" not in html
    assert "12.50" not in html
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for link in page.attributes("href"):
        assert not link.startswith("#") or link[1:] in ids


@pytest.mark.parametrize("language", ["ru", "pl", "sl"])
@pytest.mark.parametrize("name", SITUATIONS)
def test_no_english_is_left_in_another_language(name: str, language: str) -> None:
    english = set(Reader(render(SITUATIONS[name]("en"))).said)
    other = set(Reader(render(SITUATIONS[name](language))).said)
    own = {*SAME, *TEAS[language], TEA.brand.imprint, TEA.support.phone, TEA.support.mail}
    left = {
        said
        for said in english & other
        if said not in own and not re.search(r"LJ1234|^× \d|^· \w+$|^DPD$|^Posta|^· Paket", said)
    }
    assert left == set()


def test_every_sentence_is_translated_with_its_placeholders() -> None:
    options = {"silent": "false", "trimmed": "true"}
    found = extract_from_dir(
        FOLDER,
        [("**.j2", "jinja2")],
        {"**.j2": options},
        keywords={"_": None, "gettext": None, "ngettext": (1, 2)},
    )
    sentences = {m if isinstance(m, str) else m[0] for _, _, m, _, _ in found}
    sentences |= {*languages.sentences()} | {one for table in NOTICES.values() for one in table}
    assert len(sentences) > 100
    for code in ("ru", "pl", "sl"):
        language = languages.load(code)
        for sentence in sentences:
            forms = [language.text(sentence), *language.plurals(sentence, sentence)][:5]
            assert any(form != sentence for form in forms), (code, sentence)
            for form in (one for one in forms if one != sentence):
                assert set(re.findall(r"%\(\w+\)s", form)) == set(
                    re.findall(r"%\(\w+\)s", sentence)
                )


def test_every_sentence_that_stands_in_the_code_is_translated() -> None:
    found = set()
    for module in (boxes, days, story, timeline):
        nodes = list(ast.walk(ast.parse(Path(module.__file__).read_text())))
        docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts = [n for n in nodes if isinstance(n, ast.Constant) and id(n) not in docs]
        found |= {n.value for n in texts if isinstance(n.value, str)}
    sentences = {one for one in found if re.match("[A-Z][a-z]", one)}
    assert {"Why the rest is late", "All parcels are delivered"} <= sentences
    for code in ("ru", "pl", "sl"):
        language = languages.load(code)
        same = {s for s in sentences if language.plurals(s, s)[0] == language.text(s) == s}
        assert {s for s in same if not s.endswith("parcels")} == set(), code


@pytest.mark.parametrize("language", CODES)
def test_no_page_holds_a_phrase_we_do_not_use(language: str) -> None:
    folder = Path(shared.languages.__file__).parent
    phrases = tomllib.loads((folder / "phrases.toml").read_text())[language]
    own = languages.load(language)
    said = [words(situation(language)) for situation in SITUATIONS.values()]
    said += [own.text(one) for one in languages.sentences()]
    said += [own.text(one) for table in NOTICES.values() for one in table]
    for text in said:
        assert [phrase for phrase in phrases if phrase in text.lower()] == []
        assert "!" not in text


def test_nothing_comes_from_elsewhere_and_nothing_runs() -> None:
    for situation in SITUATIONS.values():
        made = PAGES.page(subject(situation("en")))
        page = Reader(made.html.decode())
        tags = {tag for tag, _ in page.tags}
        assert not tags & {"script", "img", "iframe", "object", "embed", "base", "svg"}
        assert not page.attributes("src")
        assert not page.attributes("style")
        assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
        assert [a["href"] for tag, a in page.tags if tag == "link"] == ["data:,"]
        assert not page.attributes("action")
        assert "url(" not in made.html.decode()
    assert "default-src 'none'" in made.policy
    assert "unsafe" not in made.policy


def test_a_late_parcel_has_both_dates_the_cause_our_next_word_and_the_choice() -> None:
    text = words(SITUATIONS["late"]("en"))
    assert "On its way, but late" in text
    assert "New date Saturday 28 November – Tuesday 1 December" in text
    assert "Before: Friday 27 November" in text
    assert "We promised it by Friday 27 November and will not make it." in text
    assert "Nothing has been reported about it for longer than usual." in text
    assert "We write to you by Thursday 26 November" in text
    for wish in ("I'll wait", "Change something", "Cancel it", "Call me"):
        assert wish in text
    page = Reader(render(SITUATIONS["late"]("en")))
    hidden = {a["name"]: a["value"] for tag, a in page.tags if a.get("type") == "hidden"}
    assert hidden == {"shipment": "1", "episode": "1"}


def test_no_message_is_announced_that_cannot_be_sent() -> None:
    silent = {"kinds_off": frozenset({"delay_update", "order_shipped"})}
    for changes in (silent, {"mode": "shadow"}):
        shop = TEA.model_copy(update=changes)
        for name in ("late", "received"):
            html = PAGES.page(subject(SITUATIONS[name]("en"), shop)).html.decode()
            assert "We write to you" not in html
        assert "As soon as it leaves us, you see it here." in html


def test_the_days_told_before_dispatch_hold_until_others_are_told() -> None:
    sent = late(ship(order("en")), "not_shipped", "")
    before = sent.told["episodes"][""] | {"open": False, "base": "2026-11-27"}
    sent.told["episodes"][""] = before
    assert "Expected Saturday 28 November – Tuesday 1 December" in words(sent)
    sent.told["episodes"][""] = before | {"base": "2026-11-20"}  # the shop moved its promise since
    assert "Expected Tomorrow, Wednesday 25 November – Friday 27 November" in words(sent)
    over = before | {"new": ["2026-11-30", "2026-11-30"]}
    sent.told["episodes"] = {"": before, "1": over}
    assert "Expected Monday 30 November" in words(sent)


def test_the_form_is_there_only_while_a_delay_is_open() -> None:
    for name, situation in SITUATIONS.items():
        assert ("<form" in render(situation("en"))) is (
            "late" in name or (name[0] == "a" and "ed_" in name) or name == "not_shipped"
        ), name


@pytest.mark.parametrize(
    ("name", "told_"),
    [
        ("asked_wait", "You wait for it."),
        (
            "asked_cancel",
            "Requested You asked us to cancel. We have your request; it counts once we have confirmed it",
        ),
        ("asked_change", "We have your request and will answer it"),
        ("asked_call", "We have your request and will call you"),
        ("answered_cancel", "You asked us to cancel. We have cancelled a part of the order."),
        ("answered_change", "You asked us to change something. We have answered."),
        ("answered_call", "Answered You asked us to call. We have been in touch."),
    ],
)
def test_a_choice_is_shown_as_requested_until_the_shop_answers(name: str, told_: str) -> None:
    assert told_ in words(SITUATIONS[name]("en"))


def test_a_cancellation_is_called_done_only_when_it_is_whole() -> None:
    one = told(SITUATIONS["asked_cancel"]("en"), "order.cancelled.v1", ago(minutes=20))
    assert "You asked us to cancel. We have done so." in words(one)


def test_without_carrier_data_it_says_so_and_shows_the_promise() -> None:
    text = words(SITUATIONS["no_data"]("en"))
    assert "The carrier has not told us anything about it yet." in text
    assert "Expected Tomorrow, Wednesday 25 November – Friday 27 November" in text
    assert "On its way" not in text


def window_abroad(country: str, first: str, last: str) -> str:
    """Return the words about a parcel to a country, expected in this window."""
    eta = {"from": first, "to": last}
    abroad = ship(order("en", ship_to={"country": country}))
    return words(scan(abroad, "in_transit", ago(hours=3), eta=eta))


def test_a_window_of_hours_stands_in_the_customers_time() -> None:
    text = words(SITUATIONS["out"]("en"))
    assert "Expected Today, Tuesday 24 November, 14:00–17:00" in text
    text = window_abroad("JP", "2026-11-24T20:00:00Z", "2026-11-24T23:00:00Z")
    assert "Expected Tomorrow, Wednesday 25 November, 05:00–08:00" in text
    assert "All times: Tokyo" in text


def test_a_bare_date_stays_that_date_west_of_greenwich() -> None:
    abroad = order("en", ship_to={"country": "IS"}, promise=None)
    eta = {"from": None, "to": "2026-11-26T00:00:00Z"}
    text = words(scan(ship(abroad), "in_transit", ago(hours=3), eta=eta))
    assert "Expected Thursday 26 November" in text
    assert "00:00" not in text
    whole = {"from": "2026-11-26T00:00:00Z", "to": "2026-11-26T23:59:59Z"}
    for country in ("US", "SI", "JP"):
        there = order("en", ship_to={"country": country}, promise=None)
        text = words(scan(ship(there), "in_transit", ago(hours=3), eta=whole))
        assert "Expected Thursday 26 November All" in text.replace(" What", " All"), country


def test_where_a_country_has_several_clocks_the_page_goes_by_most_peoples_as_the_alarms_do() -> (
    None
):
    text = window_abroad("US", "2026-11-26T02:00:00Z", "2026-11-26T03:00:00Z")
    assert "Expected Tomorrow, Wednesday 25 November, 21:00–22:00" in text
    assert "All times: New York" in text


def test_a_parcel_that_left_late_says_so() -> None:
    assert "It left us later than planned." in words(late(ship(order("en")), "sent_late"))


def test_what_will_not_come_at_all_has_no_new_date_to_be_waited_for() -> None:
    gone = late(scan(ship(order("en")), "returning", ago(hours=3)), "returning")
    gone.told["episodes"]["1"]["new"] = None
    text = words(gone)
    assert "this parcel will not reach you" in text
    assert "the new date" not in text
    assert "Send it again" in text
    assert "Give my money back" in text
    assert "wait" not in text.lower()


def test_what_is_lost_or_waits_for_her_has_no_expected_day() -> None:
    for name in ("lost", "damaged", "customs", "pickup", "expired", "returned", "delivered"):
        assert "Expected Tomorrow" not in words(SITUATIONS[name]("en")), name


def test_what_she_asked_of_a_parcel_that_turned_back_is_said_in_the_words_of_the_form() -> None:
    gone = late(scan(ship(order("en")), "returning", ago(hours=3)), "returning", new=None)
    asked = {"wish": "change", "shipment": "1", "episode": 1, "at": ago(hours=1).isoformat()}
    gone.told["choices"] = [asked | {"words": None}]
    assert "Requested You asked us to send it again." in words(gone)
    gone.told["episodes"]["1"]["n"] = 2  # she asked while it was only late
    assert "Requested You asked us to change something." in words(gone)


def test_on_the_day_of_the_tour_it_is_expected_that_day_whatever_was_said_before() -> None:
    for one in (ship(order("en")), late(ship(order("en")), "silence")):
        assert "Expected Today, Tuesday 24 November What" in words(
            scan(one, "out_for_delivery", ago(hours=6))
        ).replace("Why", "What")
    yesterday = scan(ship(order("en")), "out_for_delivery", ago(hours=30))
    assert "Expected Tomorrow, Wednesday 25 November –" in words(yesterday)


def test_a_day_that_has_passed_is_not_expected_any_more() -> None:
    past = order("en", promise={"from": "2026-11-20", "to": "2026-11-22", "source": "shop"})
    late_twice = late(ship(order("en")), "silence", new=("2026-11-21", "2026-11-22"))
    for one in (past, ship(past), late_twice):
        text = words(one)
        assert "We do not know the new date yet. Before: Sunday 22 November" in text
        assert "Expected" not in text.replace("Expected reply time", "")


def test_an_order_that_is_late_names_its_new_date_at_the_top() -> None:
    text = words(SITUATIONS["not_shipped"]("en"))
    assert "New date Saturday 28 November – Tuesday 1 December Before: Friday 27 November" in text


def test_a_delivery_that_was_taken_back_is_explained() -> None:
    taken_back = "The carrier had reported it as delivered and has taken that back."
    one = SITUATIONS["delivered"]("en")
    assert taken_back not in words(one)
    assert taken_back in words(scan(one, "delivery_attempted", ago(minutes=30)))
    assert taken_back not in words(scan(one, "returning", ago(minutes=10)))


def test_she_is_led_to_the_support_block_where_we_need_something_of_her() -> None:
    for name in ("customs", "returning", "returned", "parcel_cancelled", "expired"):
        html = render(SITUATIONS[name]("en"))
        assert '<a class="go" href="#help">How to reach us</a>' in html, name
    for name in ("on_the_way", "pickup", "problem", "return"):
        assert 'href="#help"' not in render(SITUATIONS[name]("en")), name


def test_a_parcel_of_a_cancelled_order_says_what_to_do_should_it_come() -> None:
    one = told(SITUATIONS["on_the_way"]("en"), "order.cancelled.v1", ago(hours=5))
    text = words(told(one, "order.refunded.v1", ago(hours=4)))
    assert "If it still reaches you, tell us." in text
    assert "Your money is on its way back to you." in text


def test_what_cannot_be_followed_promises_no_news() -> None:
    text = words(SITUATIONS["no_number"]("en"))
    assert "There is no parcel number to follow it by." in text
    assert "As soon as" not in text


def test_a_reason_that_is_known_is_not_followed_by_a_vaguer_one() -> None:
    lost = late(SITUATIONS["lost"]("en"), "exception", new=None)
    assert words(lost).count("The carrier cannot find the parcel.") == 2  # and in the timeline
    assert "Something went wrong on the way." not in words(lost)
    assert "Something went wrong on the way." in words(
        late(SITUATIONS["problem"]("en"), "exception", new=None)
    )


def test_where_every_parcel_is_late_the_heading_says_so() -> None:
    one = ship(ship(order("en")), "2")
    for number in ("1", "2"):
        late(scan(one, "in_transit", ago(hours=3), number), "silence", number)
    assert "<h1>On its way, but late</h1>" in render(one)


def test_several_parcels_are_counted_and_each_says_what_is_in_it() -> None:
    text = words(SITUATIONS["several"]("en"))
    assert "Delivered: 1 of 2 parcels" in text
    assert "Parcel 1: Delivered" in text
    assert "It was left with a neighbour." in text
    assert "Parcel 2: On its way" in text
    assert "Still with us These items are not sent yet. Two cups × 1" in text


@pytest.mark.parametrize(
    ("language", "total", "said"),
    [
        ("en", 2, "Delivered: 1 of 2 parcels"),
        ("ru", 3, "Доставлено: 1 из 3 посылок"),
        ("pl", 3, "Dostarczono: 1 z 3 paczek"),
        ("sl", 3, "Dostavljeno: 1 od 3 paketov"),
    ],
)
def test_parcels_are_counted_in_the_right_form(language: str, total: int, said: str) -> None:
    one = order(language)
    for number in range(1, total + 1):
        ship(one, str(number))
    scan(one, "in_transit", ago(hours=9))
    assert said in words(scan(one, "delivered", ago(hours=2)))


def test_a_withdrawn_parcel_is_not_there() -> None:
    one = SITUATIONS["several"]("en")
    one.parcels["2"].withdrawn = True
    text = words(one)
    assert "DPD" not in text
    assert "Delivered" in text


def test_an_assumed_delivery_says_that_nobody_saw_it() -> None:
    one = SITUATIONS["on_the_way"]("en")
    one.told["parcels"] = {
        "1": {"state": "in_transit", "delivered": "2026-11-24T09:00:00Z", "how": "assumed"}
    }
    text = words(one)
    assert "By our reckoning it is with you" in text
    assert "Not here? Tell us." in text


def test_the_shops_word_on_which_parcel_it_is_counts() -> None:
    one = ship(order("en"), "1", number_of_order="2 of 3")
    assert "Parcel 2 of 3" in words(ship(one, "2", number_of_order="3/3", at=ago(hours=4)))


def test_a_letter_names_the_order_and_without_an_address_it_goes_to_the_shops_reply_address() -> (
    None
):
    assert "mailto:help@leafandkettle.example?subject=Order%20LK-10452" in render(order())
    assert "mailto:hello@corner.example?subject=" in render(order(), shop=BARE)


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "http://carrier.example/1", "https://user@evil.example", "data:,x"],
)
def test_only_a_plain_https_address_of_the_carrier_becomes_a_link(url: str) -> None:
    one = ship(order())
    body = one.parcels["1"].body
    one.parcels["1"].body = body.model_copy(update={"tracking_url": url})
    assert url not in render(one)


HOSTILE = [
    "<script>alert(1)</script>",
    "{{7*7}}{% raw %}%(x)s",
    '"><b onx=1>',
    "\u202ex\u2066",
    "x" * 300,
    "\ud800",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_are_only_ever_text(hostile: str) -> None:
    items = [{"line_id": "1", "name": "x", "quantity": "2", "unit_price": 1}]
    one = ship(order(items=items))
    line = one.about.lines[0].model_copy(update={"name": hostile})
    one.about = one.about.model_copy(update={"number": hostile, "lines": (line,)})
    changes = {"carrier": hostile, "tracking_number": hostile, "number_of_order": hostile}
    one.parcels["1"].body = one.parcels["1"].body.model_copy(update=changes)
    html = render(one)
    page = Reader(html)
    assert not {tag for tag, _ in page.tags} & {"script"}
    assert not [1 for tag, attrs in page.tags if tag == "b" and attrs]
    assert "49" not in html.replace("449", "")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)


def test_a_place_with_a_number_could_be_an_address_and_is_left_out() -> None:
    one = scan(ship(order()), "in_transit", ago(hours=3), place="Tavčarjeva ulica 7")
    assert "Tavčarjeva" not in words(one)


def test_the_largest_order_still_fits() -> None:
    items = [
        {"line_id": str(n), "name": "Чай " * 70, "quantity": "1", "unit_price": 1}
        for n in range(200)
    ]
    one = order("ru", items=items)
    for n in range(30):
        content = [{"line_id": str(n), "quantity": "1"} for n in range(200)]
        ship(
            one,
            str(n),
            items=content,
            tracking_number=f"N{n}",
            tracking_url="https://c.example/" + "x" * 900,
        )
        for k in range(40):
            scan(
                one, "in_transit", ago(hours=k), str(n), place="Место" * 10, tracking_number=f"N{n}"
            )
        late(one, "silence", str(n))
    assert len(render(one).encode()) <= PAGE_BYTES_MAX


STATES = st.sampled_from([*languages.HEADING])
SCANS = st.lists(
    st.tuples(
        STATES,
        st.integers(-3, 240),
        st.sampled_from([None, *languages.REASON, *languages.HOW, "a_word_nobody_knows"]),
        st.booleans(),
        st.sampled_from([None, "Kranj", "Depot 12"]),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(SCANS, st.sampled_from(CODES), st.booleans(), st.booleans())
def test_whatever_carriers_say_the_page_is_whole(
    scans: list,
    language: str,
    delayed: bool,  # noqa: FBT001
    cancelled: bool,  # noqa: FBT001
) -> None:
    one = ship(order(language))
    for state, hours, reason, day, place in scans:
        at = ago(hours=hours)
        if day:
            at = datetime(at.year, at.month, at.day, tzinfo=UTC)
        precision = "day" if day else "second"
        scan(one, state, at, reason=reason, precision=precision, place=place)
    if delayed:
        late(one, "silence")
    if cancelled:
        told(one, "order.cancelled.v1", ago(hours=1))
    text = words(one)
    assert "nobody_knows" not in text
    assert not re.search(r"None|%\(", text)


@pytest.mark.parametrize(
    "color", ["#ffe14d", "#000000", "#ffffff", "#1f5f4a", "#ff0000", "#7f7f7f"]
)
def test_any_brand_colour_becomes_readable_in_both_schemes(color: str) -> None:
    def luminance(value: str) -> float:
        parts = [int(value[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (
            p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for background in ("#f6f7f8", "#1d2126"):
        darker, lighter = sorted((luminance(accent(color, background)), luminance(background)))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_of_two_steps_of_one_second_the_later_one_stands_above() -> None:
    at = ago(hours=2)
    text = words(scan(ship(order(), at=at), "delivered", at, reason="neighbour"))
    happened = text[text.index("What has happened so far") :]
    assert happened.index("Delivered") < happened.index("We sent the parcel")
    assert happened.index("We sent the parcel") < happened.index("We received your order")


def test_a_delivery_of_which_only_the_date_is_known_stands_above_the_tour_of_that_day() -> None:
    one = scan(ship(order()), "out_for_delivery", NOW.replace(hour=6))
    midnight = NOW.replace(hour=23, minute=0) - timedelta(days=1)  # in Ljubljana
    text = words(scan(one, "delivered", midnight, precision="day"))
    happened = text[text.index("What has happened so far") :]
    assert happened.index("Delivered") < happened.index("Handed to the courier")


def test_where_days_take_seconds_the_page_goes_by_the_calendar() -> None:
    one = late(ship(order()), "silence", contact=NOW + timedelta(seconds=10))
    hurried = replace(subject(one), pace=Pace(NOW - timedelta(seconds=5), day_seconds=5))
    text = " ".join(Reader(PAGES.page(hurried).html.decode()).said)
    assert "This page as of Wednesday" in text
    assert "We write to you by Friday" in text


def test_an_old_order_says_its_year() -> None:
    text = words(order(), now=NOW + timedelta(days=300))
    assert "20 November 2026" in text
