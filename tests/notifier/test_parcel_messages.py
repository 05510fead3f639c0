"""What messages about parcels say: dates, windows, contents, causes, and nothing that nobody knows."""

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from notifier.adapters.compiler import FOLDER
from notifier.adapters.render import Content, Renderer
from shared.languages import CODES
from shared.shops import Shop, parse

from .test_render import ORDERS, said

SAMPLES = FOLDER / "samples"
SHOPS = parse((SAMPLES / "shops.toml").read_text(), (SAMPLES / "products.toml").read_text())
TEA, BARE = SHOPS.get("tea"), SHOPS.get("bare")
RENDERER = Renderer(SHOPS.products)
KINDS = [k for k in RENDERER.kinds if k != "order_confirmed"]
DELAYS = ["shipment_delayed", "order_delayed"]
LINK = "https://track.example/t/abc"
SAMPLE = json.loads((SAMPLES / "parcel.json").read_text())


def render(kind: str, *, order: dict[str, Any] | None = None, **facts: Any) -> Content:
    order = {**SAMPLE["order"], **(order or {})}
    order["customer"] = {**order["customer"], "locale": "en"}
    told = SAMPLE["facts"] | facts
    return RENDERER.render(kind, order=order, shop=TEA, links={"track": LINK}, facts=told)


def parcel(**changes: Any) -> dict[str, Any]:
    return SAMPLE["facts"]["parcel"] | changes


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_carries_what_each_must(kind: str) -> None:
    content = render(kind)
    for part in (content.text, content.html):
        assert LINK in part
    for part in (content.text, said(content.html)):
        for fact in ("SV-10452", "+386 1 234 56 78", "Reply to this e-mail", "Leaf & Cup"):
            assert fact in part
        assert "€" not in part


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "order_delayed"])
def test_a_parcel_says_which_it_is_what_is_in_it_and_who_brings_it(kind: str) -> None:
    text = render(kind).text
    for fact in ("Parcel 1 of 2", "Posta Slovenije", "AB123456789SI", "sledenje.example"):
        assert fact in text
    assert "Assam breakfast, 250 g\n  Quantity: 2" in text
    assert "Tea scale" not in text
    for number in ("1 of 1", "2", "3 of 2", "eins von zwei", "", None):
        assert "Parcel " not in render(kind, parcel=parcel(number_of_order=number)).text.replace(
            "Parcel number", ""
        )


def test_without_a_statement_of_contents_only_a_single_parcel_holds_the_order() -> None:
    whole = parcel(items=None, number_of_order=None)
    assert "Tea scale" in render("order_shipped", parcel=whole, alone=True).text
    assert "Tea scale" not in render("order_shipped", parcel=whole, alone=False).text
    assert "Tea scale" not in render("order_shipped", parcel=parcel(items=None), alone=True).text
    unknown = parcel(items=[{"line_id": "gone", "quantity": "1"}])
    assert "Assam" not in render("order_shipped", parcel=unknown).text


def test_a_window_is_told_only_where_the_carrier_named_hours() -> None:
    kind = "out_for_delivery"
    assert render(kind).subject == "Today, 10:00–14:00: parcel 1 of 2, order SV-10452"
    for eta in (
        None,
        {"from": None, "to": "2026-11-25T13:00:00Z"},
        {"from": "2026-11-24T23:00:00Z", "to": "2026-11-25T22:59:59Z"},
        {"from": "2026-11-25T09:00:00Z", "to": "2026-11-26T13:00:00Z"},
        {"from": "2026-11-25T09:00:00Z", "to": "2026-11-25T09:00:00Z"},
        {"from": "2026-11-26T09:00:00Z", "to": "2026-11-26T13:00:00Z"},  # of another day
    ):
        content = render(kind, eta=eta)
        assert content.subject.startswith("Today: parcel")
        assert "10:00" not in content.text
        assert "Delivery\nWednesday 25 November\n" in content.text


def test_the_expected_day_is_the_carriers_else_the_promise_and_never_past() -> None:
    assert "by Wednesday 25 November" in render("order_shipped").text
    assert "by Friday 27 November" in render("order_shipped", eta=None, new=None).text
    told = render("order_shipped", eta=None, new="2026-11-30/2026-11-30").text
    assert "by Monday 30 November" in told  # in a notice since the promise
    earlier = render("order_shipped", eta=None, new="2026-11-26/2026-11-26").text
    assert "by Friday 27 November" in earlier
    late = render("order_shipped", eta=None, new=None, at="2026-11-29T09:00:00Z").text
    assert "should be with you" not in late
    assert "November" not in late.replace("22 November", "")


def to_country(code: str) -> dict[str, Any]:
    return {"ship_to": SAMPLE["order"]["ship_to"] | {"country": code}}


def test_hours_are_the_customers_and_where_nobody_knows_those_it_says_whose_they_are() -> None:
    out, there = "out_for_delivery", "delivered"
    assert render(out, order=to_country("GB")).subject.startswith("Today, 09:00–13:00: ")
    assert render(out, order=to_country("DE")).subject.startswith("Today, 10:00–14:00: ")
    assert render(out, order=to_country("US")).subject.startswith("Today, 04:00–08:00 (New York)")
    assert render(there, order=to_country("GB")).subject.startswith("Delivered at 12:05: ")
    assert render(there, order=to_country("JP")).subject.startswith("Delivered at 21:05: ")
    assert "13:05 (Ljubljana)" in render(there, order={"ship_to": None}).text
    late = {"at": "2026-11-25T16:00:00Z"}
    assert "Thursday 26 November, 01:00" in render(there, order=to_country("JP"), **late).text


def test_a_bare_date_of_the_carrier_is_the_same_day_everywhere() -> None:
    eta = {"from": "2026-11-26T00:00:00Z", "to": "2026-11-26T23:59:59Z"}
    for country in ("US", "SI", "JP"):
        text = render("order_shipped", eta=eta, order=to_country(country)).text
        assert "by Thursday 26 November" in text, country


def test_what_will_not_come_at_all_is_said_at_once_and_has_no_date_to_wait_for() -> None:
    content = render("shipment_delayed", cause="returning", new=None)
    assert content.subject == "Order SV-10452: this parcel will not reach you"
    for part in (content.text, said(content.html)):
        assert "the new date" not in part
        assert "send it again or give your money back" in part
        assert "Choose what comes next" in part
        assert "wait" not in part.lower()


def test_a_delay_that_is_over_without_a_date_promises_none() -> None:
    content = render("delay_over", new=None)
    for part in (content.text, said(content.html)):
        assert "Your parcel is moving again. We do not know the new date yet." in part
        assert "Should the date move" not in part


def test_what_no_message_will_follow_is_not_promised() -> None:
    off = {"delay_update", "shipment_delayed", "order_delayed", "delivered", "order_shipped"}
    silent = TEA.model_copy(update={"kinds_off": frozenset(off)})
    order = SAMPLE["order"] | {"customer": SAMPLE["order"]["customer"] | {"locale": "en"}}
    sentences = {
        "order_confirmed": ("write to you", "Should the date move"),
        "order_shipped": ("Should the date move",),
        "out_for_delivery": ("we write to you",),
        "shipment_delayed": ("We write again",),
        "delay_update": ("We write again",),
        "delay_over": ("Should the date move", "What happens next"),
    }
    for kind, never in sentences.items():
        for shop in (TEA, silent):
            content = RENDERER.render(
                kind, order=order, shop=shop, links={"track": LINK}, facts=SAMPLE["facts"]
            )
            for sentence in never:
                assert (sentence in content.text) is (shop is TEA), (kind, sentence)
                assert (sentence in said(content.html)) is (shop is TEA), (kind, sentence)
            assert "\n\n\n" not in content.text


def test_several_late_parcels_make_the_order_late_and_are_counted() -> None:
    content = render("shipment_delayed", late_parcels=2, parcel={})
    assert content.subject == "Order SV-10452 will be 3 days late"
    assert "This concerns 2 parcels of your order." in content.text
    assert "This concerns" not in render("shipment_delayed").text


def test_the_rest_of_an_order_is_announced() -> None:
    rest = "The rest comes in another parcel."
    assert rest in render("order_shipped").text
    last = parcel(number_of_order="2 of 2", final="yes")
    assert rest not in render("order_shipped", parcel=last).text
    assert rest in render("order_shipped", parcel=parcel(number_of_order=None, final="no")).text


def test_a_delivery_says_when_and_where_it_was_left() -> None:
    content = render("delivered")
    assert content.subject == "Delivered at 13:05: parcel 1 of 2, order SV-10452"
    assert "Wednesday 25 November, 13:05. It was left with a neighbour." in content.text
    assert "Where: Kovač, 2nd floor." in content.text
    assert "until Wednesday 9 December" in content.text  # 14 days from the delivery
    for how in ("hand", "locker", "safe_place", "signed"):
        assert render("delivered", how=how).text != render("delivered", how=None).text
    day = render("delivered", day=True, handed_to=None)
    assert day.subject == "Delivered: parcel 1 of 2, order SV-10452"
    assert "Wednesday 25 November. It was left" in day.text
    assert "13:05" not in day.text + day.html


def test_what_is_paid_at_the_door_is_named_on_the_day() -> None:
    order = {"payment": "on_delivery"}
    single = {"parcel": parcel(number_of_order=None, final="yes"), "alone": True, "order": order}
    kind = "out_for_delivery"
    assert "Please have €152.20 ready." in render(kind, **single).text
    for other in (
        single | {"alone": False},
        single | {"parcel": parcel()},
        single | {"role": "recipient"},
        single | {"order": order | {"hide_prices": True}},
        single | {"order": {"payment": "paid"}},
    ):
        assert "ready" not in render(kind, **other).text


@pytest.mark.parametrize("kind", DELAYS)
def test_a_delay_says_the_old_and_the_new_date_why_and_when_we_write(kind: str) -> None:
    content = render(kind, parcel=None)
    assert content.subject == "Order SV-10452 will be 3 days late"
    for fact in (
        "We promised it by Friday 27 November and will not make it. We are sorry.",
        "The carrier has named a later day.",
        "The new date: by Monday 30 November.",
        "We write again by Friday 27 November, even if there is nothing new.",
        "wait, change something, cancel, or ask us to call you",
    ):
        assert fact in content.text
        assert fact in said(content.html)
    none = dict.fromkeys(("new", "old", "next_contact_at", "parcel"))
    unknown = render(kind, cause="what nobody knows", **none)
    assert unknown.subject == "Order SV-10452 will be late"
    assert (
        "It takes longer than it should. We are sorry.\n\nWe do not know the new date"
        in unknown.text
    )
    assert "We write again" not in unknown.text
    one_day = render(kind, new="2026-11-28/2026-11-28", parcel=None)
    assert one_day.subject.endswith("1 day late")
    again = render(kind, old="2026-11-30/2026-11-30", new="2026-12-04/2026-12-04", parcel=None)
    assert again.subject.endswith("7 days late")  # in all, though she was told of three


def test_a_late_parcel_of_several_does_not_make_the_whole_order_late() -> None:
    late = "Parcel 1 of 2 will be 3 days late: order SV-10452"
    assert render("shipment_delayed").subject == late
    unknown = render("shipment_delayed", new=None).subject
    assert unknown == "Parcel 1 of 2 will be late: order SV-10452"


@pytest.mark.parametrize("kind", KINDS)
def test_bad_news_makes_no_noise(kind: str) -> None:
    for language in CODES:
        order = SAMPLE["order"] | {"customer": {"name": "", "locale": language}}
        content = RENDERER.render(
            kind, order=order, shop=BARE, links={"track": LINK}, facts=SAMPLE["facts"]
        )
        hello = {"pl": "Dzień dobry!", "ru": "Здравствуйте!", "sl": "Pozdravljeni!"}
        rest = content.text.replace(hello.get(language, ""), "")
        assert "!" not in rest


def test_the_receiver_reads_of_a_parcel_for_her_and_who_ordered_it() -> None:
    maja = {"name": "Maja Kovač", "email": "maja@example.com", "locale": "en"}
    ship_to = SAMPLE["order"]["ship_to"] | {"name": "Maja Kovač"}
    order = {"recipient": maja, "ship_to": ship_to}
    single = parcel(number_of_order=None)
    content = render("order_shipped", order=order, role="recipient", parcel=single)
    assert content.subject == "A parcel for you is on its way: order SV-10452"
    assert "\nHello Maja,\n" in content.text
    assert "Ordered by Ana Novak" in content.text
    today = render("out_for_delivery", order=order, role="recipient", parcel=single)
    assert today.subject == "Today, 10:00–14:00: a parcel for you, order SV-10452"


LINKS = st.sampled_from([{}, {"track": LINK}])
MOMENTS = st.sampled_from([None, "2026-11-25T12:05:00Z", "2026-11-25T22:59:59.5Z"])
RANGES = st.sampled_from([None, "2026-11-25/2026-11-25", "2026-11-27/2026-12-01"])
TOLD = st.fixed_dictionaries(
    {},
    optional={
        "at": MOMENTS,
        "day": st.booleans(),
        "old": RANGES,
        "new": RANGES,
        "cause": st.sampled_from([None, "silence", "unheard_of"]),
        "next_contact_at": MOMENTS,
        "how": st.sampled_from([None, "hand", "neighbour", "beam"]),
        "handed_to": st.sampled_from([None, "", "Novak"]),
        "eta": st.none() | st.fixed_dictionaries({}, optional={"from": MOMENTS, "to": MOMENTS}),
        "role": st.sampled_from(["buyer", "recipient"]),
        "alone": st.booleans(),
        "parcel": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "number_of_order": st.sampled_from([None, "1 of 2", "x"]),
                "carrier": st.sampled_from([None, "gls", "Pošta"]),
                "tracking_number": st.sampled_from([None, "AB12"]),
                "tracking_url": st.sampled_from([None, "https://a.example/x", "javascript:x"]),
                "items": st.sampled_from([None, [], [{"line_id": "1", "quantity": "0.5"}]]),
                "final": st.sampled_from([None, "yes", "no"]),
            },
        ),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), ORDERS, st.sampled_from([TEA, BARE]), TOLD, LINKS)
def test_whatever_nobody_knows_leaves_no_trace(
    kind: str, order: dict[str, Any], shop: Shop, told: dict[str, Any], links: dict[str, str]
) -> None:
    typed = json.dumps([order, told], ensure_ascii=False)
    content = RENDERER.render(kind, order=order, shop=shop, links=links, facts=told)
    for part in (content.subject, content.text, said(content.html)):
        found = [w for w in ("None", "null", "ndefined", "javascript") if w in part]
        assert not [w for w in found if w not in typed or w == "javascript"]
    assert "\n\n\n" not in content.text
    assert not content.text.startswith("\n")
    assert 'href=""' not in content.html
    assert ": \n" not in content.text
    content.html.encode()
