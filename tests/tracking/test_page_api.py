"""The customer's page over HTTP: who gets to see it, and what her choice sets in motion."""

import re
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx2
from tests.tracking.conftest import NUMBER, Front, Starter, order_events, scan

from shared.clock import now
from shared.events import CustomerErased, OrderCancelled, email_hash, rfc3339
from shared.security import Links
from shared.testing import ADDRESS, event
from tracking.domain.choices import TIMES_MAX

FORM = "application/x-www-form-urlencoded"
LINKS = Links(["link-key-of-the-tests"])
TOKEN = LINKS.token("track", "demo", "1001")
UNKNOWN = LINKS.token("track", "demo", "9999")


async def late(front: Front) -> None:
    """An order on its way whose carrier names a day long after the promised one."""
    await front.hear(*order_events())
    eta = rfc3339(now() + timedelta(days=12))
    await front.take(scan("in_transit", ago=2, eta={"from": eta, "to": eta}))
    assert "shipment.delayed.v1" in await front.told()


async def show(front: Front, token: str = TOKEN, **headers: str) -> httpx2.Response:
    return await front.public.get(f"/t/{token}", headers=headers)


async def choose(
    front: Front,
    choice: str = "cancel",
    token: str = TOKEN,
    body: bytes | None = None,
    **headers: str,
) -> httpx2.Response:
    fields = {"shipment": "1001/1", "episode": "1", "choice": choice, "note": ""}
    given = {"content-type": FORM, "origin": "null", "sec-fetch-site": "same-origin"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    content = urlencode(fields).encode() if body is None else body
    return await front.public.post(f"/t/{token}", content=content, headers=given)


async def choices(front: Front) -> list[dict[str, Any]]:
    return [body for type_, body in await front.published() if type_ == "customer.choice.v1"]


async def test_the_page_shows_the_order_and_nothing_of_the_person(still: Front) -> None:
    await still.hear(*order_events())
    answer = await show(still)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-language"] == "en"
    for word in ("#1001", "Sencha", NUMBER, "Demo"):
        assert word in answer.text
    for word in ("Novak", ADDRESS, "Slovenska", "12.50", "29.90"):
        assert word not in answer.text


async def test_its_headers_shut_everything_out(still: Front) -> None:
    await still.hear(*order_events())
    headers = (await show(still)).headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["form-action"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy["style-src"])
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "private, no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "noindex" in headers["x-robots-tag"]
    assert "set-cookie" not in headers


async def test_a_head_request_is_answered_like_a_get(still: Front) -> None:
    await still.hear(*order_events())
    head, get = await still.public.head(f"/t/{TOKEN}"), await show(still)
    assert head.status_code == 200
    assert head.headers["content-security-policy"] == get.headers["content-security-policy"]
    assert (await still.public.head(f"/t/{UNKNOWN}")).status_code == 404


async def test_every_token_that_opens_nothing_gets_the_same_answer(still: Front) -> None:
    await still.hear(*order_events())
    await still.hear(*order_events("1002", "CD1"))
    expired = LINKS.token("track", "demo", "1002")
    assert (await show(still, expired)).status_code == 200
    await still.db.execute("update page set expires_at = now() where order_id = '1002'")
    bad = [UNKNOWN, expired, "x", "x" * 5000, TOKEN[:-1], TOKEN + "/x", "%E2%82%AC", "..%2f", ""]
    answers = [await show(still, one) for one in bad]
    answers += [await choose(still, token=one) for one in bad]
    assert {a.status_code for a in answers} == {404}
    assert len({a.content for a in answers}) == 1
    assert len({tuple(sorted(a.headers.items())) for a in answers}) == 1
    assert "There is no page here" in answers[0].text


async def test_an_erased_order_has_no_page(still: Front) -> None:
    await still.hear(*order_events())
    assert (await show(still)).status_code == 200
    erased = CustomerErased(order_id="1001", email_hash=email_hash(ADDRESS))
    await still.hear(event(erased, at=now()))
    assert (await show(still)).content == (await show(still, UNKNOWN)).content


async def test_a_notice_speaks_the_language_of_the_browser(still: Front) -> None:
    answer = await show(still, UNKNOWN, **{"accept-language": "de, pl-PL;q=0.8, en;q=0.5"})
    assert answer.headers["content-language"] == "pl"
    assert "Tutaj nie ma strony" in answer.text


async def test_a_page_opens_under_a_former_link_key_too(start: Starter, tracking_url: str) -> None:
    keys = "link-key-of-tomorrow-here,link-key-of-the-tests"
    async with start(tracking_url, loops=False, link_keys=keys) as front:
        await front.hear(*order_events())
        assert (await show(front)).status_code == 200


async def test_looking_changes_nothing(still: Front) -> None:
    await late(still)
    before = await still.told(), await still.db.fetchval("select told::text from orders")
    for _ in range(3):
        assert (await show(still)).status_code == 200
    await still.public.get(f"/t/{TOKEN}?choice=cancel&shipment=1001/1&episode=1")
    assert before == (await still.told(), await still.db.fetchval("select told::text from orders"))


async def test_a_choice_becomes_one_event_and_is_shown_as_requested(still: Front) -> None:
    await late(still)
    body = urlencode(
        {
            "shipment": "1001/1",
            "episode": "1",
            "choice": "call_me",
            "note": " after\r\nfive \x00\u202e",
        }
    )
    for _ in range(3):  # a form sent again asks for nothing new
        answer = await choose(still, body=body.encode())
        assert answer.status_code == 303
        assert answer.headers["location"] == f"{TOKEN}#asked"
        assert answer.headers["cache-control"] == "private, no-store"
    (told,) = await choices(still)
    assert (told["choice"], told["shipment_id"], told["episode"]) == ("call_me", "1001/1", 1)
    assert told["note"].split() == ["after", "five"]
    text = (await show(still)).text
    assert "We have your request and will call you" in text
    assert 'id="asked"' in text
    assert "after five" not in text


async def test_she_may_change_her_mind_and_the_last_choice_counts(still: Front) -> None:
    await late(still)
    for wish in ("wait", "cancel", "wait"):
        assert (await choose(still, wish)).status_code == 303
    assert [one["choice"] for one in await choices(still)] == ["wait", "cancel", "wait"]
    assert "You wait for it." in (await show(still)).text


async def test_the_shops_answer_ends_the_request(still: Front) -> None:
    await late(still)
    await choose(still, "cancel")
    assert "it counts once we have confirmed it" in (await show(still)).text
    await still.hear(event(OrderCancelled(order_id="1001"), at=now()))
    text = (await show(still)).text
    assert "Your order is cancelled" in text
    assert "it counts once" not in text
    assert (await choose(still, "cancel")).status_code == 409


NOT_OURS = [
    b"",
    b"choice=cancel",
    b"choice=steal&shipment=1001/1&episode=1",
    b"choice=cancel&shipment=1001/1&episode=x",
    b"choice=cancel&shipment=1001/1&episode=99999999999",
    b"choice=cancel&shipment=1001/1&episode=%D9%A1",
    b"\xff\xfe",
    b"&".join(b"a%d=1" % n for n in range(50)),
    b"choice=cancel&episode=1&note=" + b"x" * 20_000,
]


async def test_a_form_that_is_none_of_ours_gets_a_clear_page(still: Front) -> None:
    await late(still)
    for body in NOT_OURS:
        answer = await choose(still, body=body)
        assert answer.status_code == 400, body[:60]
        assert "We could not read your choice" in answer.text, body[:60]
        assert f'href="{TOKEN}"' in answer.text
    assert await choices(still) == []


async def test_only_our_own_form_is_taken(still: Front) -> None:
    await late(still)
    assert (await choose(still, sec_fetch_site="cross-site")).status_code == 403
    assert (await choose(still, sec_fetch_site="same-site")).status_code == 403
    body = urlencode({"shipment": "1001/1", "episode": "1", "choice": "wait"}).encode()
    headers = {"content-type": FORM, "origin": "https://evil.example"}
    answer = await still.public.post(f"/t/{TOKEN}", content=body, headers=headers)
    assert answer.status_code == 403
    assert (await choose(still, content_type="application/json")).status_code == 400
    assert await choices(still) == []
    older = {"content-type": FORM, "origin": "http://test"}
    answer = await still.public.post(f"/t/{TOKEN}", content=body, headers=older)
    assert answer.status_code == 303


async def test_without_such_a_delay_there_is_nothing_to_choose(still: Front) -> None:
    await late(still)
    for shipment, episode in (("1001/1", "2"), ("other", "1"), ("", "1")):
        body = urlencode({"shipment": shipment, "episode": episode, "choice": "cancel"}).encode()
        answer = await choose(still, body=body)
        assert answer.status_code == 409, (shipment, episode)
        assert "There is nothing to choose any more" in answer.text
    assert await choices(still) == []


async def test_nobody_can_flood_the_shop_through_a_page(still: Front) -> None:
    await late(still)
    wishes = ["wait", "cancel"] * TIMES_MAX
    answers = [(await choose(still, wish)).status_code for wish in wishes]
    assert answers[:TIMES_MAX] == [303] * TIMES_MAX
    assert answers[TIMES_MAX] == 429
    assert len(await choices(still)) == TIMES_MAX


async def test_when_the_store_is_away_a_page_says_so(start: Starter, tracking_url: str) -> None:
    async with start(tracking_url, loops=False) as front:
        await front.db.close()
        for answer in (await show(front), await choose(front)):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert "We cannot show this page right now" in answer.text
        await front.db.open()
