"""What a stranger, a careless shop and a good one may send, and what each is answered."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from shared.clock import now
from shared.events import rfc3339
from shared.testing import ADDRESS, placed_body

from .conftest import API_KEY, OPERATOR_KEY, OTHER_KEY, SECRETS, Front, Starter, sign, structured


def changed(**changes: Any) -> dict[str, Any]:
    return structured(placed_body(**changes))


def customer(**changes: Any) -> dict[str, Any]:
    return changed(customer={"id": "1", "name": "Ana", "email": ADDRESS} | changes)


def item(**changes: Any) -> dict[str, Any]:
    return changed(items=[{"line_id": "1", "name": "Tea", "quantity": "1"} | changes])


def raw(text: str) -> bytes:
    """A good event with this text where its totals stand."""
    body = json.dumps(changed(totals="HERE"))
    return body.replace('"HERE"', text).encode()


GOOD = json.dumps(structured()).encode()


# ---------------------------------------------------------------- the catalogue

REFUSED: dict[str, tuple[Any, int]] = {
    "empty": (b"", 400),
    "spaces": (b"  \n", 400),
    "an array": ([], 422),
    "a text": ("x", 422),
    "null": (None, 422),
    "a number": (1, 422),
    "truncated": (GOOD[:-5], 400),
    "NaN": (raw('{"currency": "EUR", "total": NaN}'), 400),
    "Infinity": (raw('{"currency": "EUR", "total": Infinity}'), 400),
    "1e400": (raw('{"currency": "EUR", "total": 1e400}'), 400),
    "a total as text": (changed(totals={"currency": "EUR", "total": "1e999999"}), 422),
    "5,000 digits": (raw('{"currency": "EUR", "total": ' + "9" * 5000 + "}"), 400),
    "13 digits": (changed(totals={"currency": "EUR", "total": 10**13}), 422),
    "a fraction of a cent": (raw('{"currency": "EUR", "total": 12.5}'), 422),
    "a negative total": (changed(totals={"currency": "EUR", "total": -1}), 422),
    "a repeated key": (raw('{"currency": "EUR", "total": 1, "total": 2}'), 400),
    "100,000 deep": (b"[" * 100_000, 400),
    "200 deep": (raw('{"a":' * 200 + "1" + "}" * 200), 422),
    "NUL": (customer(name="a\0b"), 422),
    "half a surrogate pair": (raw('{"currency": "\\ud800"}'), 422),
    "not UTF-8": (GOOD.replace(b"Sencha", b"\xff\xfe"), 400),
    "UTF-16": (GOOD.decode().encode("utf-16"), 400),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, 400),
    "201 items": (changed(items=[{"line_id": "1", "name": "x", "quantity": "1"}] * 201), 422),
    "a long name": (customer(name="x" * 5000), 422),
    "a header in an address": (customer(email="a@b.org\r\nBcc: v@y.org"), 422),
    "two addresses": (customer(email="a@x.org, v@y.org"), 422),
    "an address with an option": (customer(email="<a@x.org> SIZE=1"), 422),
    "a local part of 65": (customer(email="a" * 65 + "@x.org"), 422),
    "an address of 255": (customer(email="a@" + "b." * 125 + "org"), 422),
    "a quoted local part": (customer(email='"a b"@x.org'), 422),
    "localhost": (customer(email="a@localhost"), 422),
    "an address literal": (customer(email="a@[127.0.0.1]"), 422),
    "a host with hyphens": (customer(email="x@-a-.com"), 422),
    "a phone with an extension": (customer(phone="+1 (900) 555-0100x2"), 422),
    "an emergency number": (customer(phone="112"), 422),
    "+0": (customer(phone="+0"), 422),
    "40 digits": (customer(phone="+" + "1" * 40), 422),
    "javascript:": (item(url="javascript:alert(1)"), 422),
    "data:": (item(url="data:text/html,x"), 422),
    "no scheme": (item(url="//evil.example.com"), 422),
    "an address of a machine": (item(url="http://169.254.169.254/"), 422),
    "a login in an address": (item(url="https://user@evil.example.com"), 422),
    "a time without zone": (changed(placed_at="2026-11-20T09:00:00"), 422),
    "the year nought": (changed(placed_at="0000-01-01T00:00:00Z"), 422),
    "the end of time": (changed(placed_at="9999-12-31T23:59:59-12:00"), 422),
    "milliseconds": (changed(placed_at=1763600000000), 422),
    "XXX": (changed(totals={"currency": "XXX", "total": 1}), 422),
    "usd": (changed(totals={"currency": "usd", "total": 1}), 422),
    "US$": (changed(totals={"currency": "US$", "total": 1}), 422),
    "a path as order id": (changed(order_id="../../etc"), 422),
    "a colon": (changed(order_id="a:b"), 422),
    "a line break": (changed(order_id="a\nb"), 422),
    "129 characters": (changed(order_id="a" * 129), 422),
    "an emoji": (changed(order_id="🙂"), 422),
    "another shop": (structured(shop="other"), 422),
    "an unknown type": (structured(type="order.sung.v1"), 422),
    "a type that is not a shop's": (structured(type="message.sent.v1"), 422),
    "no time": ({k: v for k, v in structured().items() if k != "time"}, 422),
    "no id": ({k: v for k, v in structured().items() if k != "id"}, 422),
    "another version": (structured(specversion="0.3"), 422),
    "binary data": (structured(data_base64="e30="), 422),
    "data as text": (structured(data="{}"), 422),
}  # fmt: skip


async def test_what_is_wrong_is_refused_without_repeating_it(front: Front) -> None:
    secrets = (ADDRESS, "evil", "Bcc", "a@x.org", "169.254", "9" * 20, "etc")
    wrong = {}
    for name, (body, status) in REFUSED.items():
        answer = await front.post(body)
        told = answer.json()
        plain = set(told) <= {"error", "detail", "field", "index"}
        if answer.status_code != status or not plain or any(s in answer.text for s in secrets):
            wrong[name] = answer.status_code, told
    assert wrong == {}
    assert await front.told() == []


TAKEN: dict[str, dict[str, Any]] = {
    "an internationalised address": customer(email="почта@пример.рф"),
    "markup in a name": customer(name='<script>alert("1")</script>'),
    "bidi and joiners in a name": customer(name="a\u202eb\u200bc👩‍👩‍👧"),
    "template code": customer(name="{{7*7}} {% for %} ${x} %s {0.__class__}"),
    "unknown fields": changed(__proto__={"a": 1}, tenant="other", __class__="x"),
    "an unknown attribute": structured(tenant="other", dataschema="https://x.example.com"),
    "a currency without minor units": changed(totals={"currency": "JPY", "total": 12345}),
    "a currency with three": changed(totals={"currency": "KWD", "total": 12345}),
}


async def test_what_is_strange_but_allowed_is_taken_as_it_is(front: Front) -> None:
    for name, event in TAKEN.items():
        answer = await front.post(event)
        assert answer.status_code == 202, (name, answer.text)
    told = await front.bodies("order.placed.v1")
    stated = [event["data"] for event in TAKEN.values()]
    assert [t["customer"]["name"] for t in told] == [s["customer"]["name"] for s in stated]
    assert [t["totals"]["total"] for t in told] == [s["totals"]["total"] for s in stated]
    assert not any("tenant" in t for t in told)


async def test_the_content_type_must_be_the_agreed_one(front: Front) -> None:
    expected = {
        "text/plain": 415,
        "": 415,
        "application/json": 415,
        "application/cloudevents+json; charset=latin-1": 415,
        "application/xml": 415,
        "application/cloudevents+json; charset=utf-8": 202,
        "Application/CloudEvents+JSON": 202,
    }
    answers = {kind: await front.post(structured(), kind=kind) for kind in expected}
    assert {kind: a.status_code for kind, a in answers.items()} == expected


async def test_a_body_over_the_limit_is_refused_also_when_it_does_not_say_its_length(
    front: Front,
) -> None:
    large = b" " * (256 * 1024 + 1)
    assert (await front.post(large)).status_code == 413
    headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/cloudevents+json"}

    async def chunks() -> Any:
        for _ in range(5):
            yield b" " * 65536

    answer = await front.public.post("/v1/events", content=chunks(), headers=headers)
    assert answer.status_code == 413


async def test_a_compressed_body_is_refused(front: Front) -> None:
    assert (await front.post(GOOD, content_encoding="gzip")).status_code == 415


async def test_what_grows_too_large_for_a_bus_is_refused_and_not_a_fault_of_ours(
    front: Front,
) -> None:
    line = {"line_id": "1", "name": "x" * 400, "sku": "y" * 500, "quantity": "1"}
    body = changed(items=[line | {"url": "https://x.example.com/" + "z" * 290}] * 200)
    assert len(json.dumps(body, separators=(",", ":"))) < 262144
    answer = await front.post(json.dumps(body, separators=(",", ":")).encode())
    assert answer.status_code == 422
    assert await front.told() == []


# ---------------------------------------------------------------- who calls

STRANGERS: dict[str, dict[str, str]] = {
    "nobody": {},
    "empty": {"authorization": ""},
    "no scheme": {"authorization": API_KEY},
    "basic": {"authorization": f"Basic {API_KEY}"},
    "wrong": {"authorization": "Bearer agk_nobodys-key"},
    "longer": {"authorization": f"Bearer {API_KEY}x"},
    "two": {"authorization": f"Bearer {API_KEY} {OTHER_KEY}"},
    "huge": {"authorization": "Bearer " + "x" * 5000},
    "the operator's": {"authorization": f"Bearer {OPERATOR_KEY}"},
}


async def test_every_stranger_gets_the_same_answer(front: Front) -> None:
    kind = {"content-type": "application/cloudevents+json"}
    for name, headers in STRANGERS.items():
        for path in ("/v1/events", "/v1/events/order.placed.v1", f"/v1/events?key={API_KEY}"):
            answer = await front.public.post(path, content=GOOD, headers=kind | headers)
            assert (answer.status_code, answer.json()) == (
                401,
                {"error": "unauthorized", "detail": "a valid key is needed"},
            ), (name, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert await front.told() == []


async def test_bytes_that_are_no_text_open_nothing(front: Front) -> None:
    headers = {b"authorization": b"Bearer \xff\xfe", b"content-type": b"application/json"}
    answer = await front.public.post("/v1/events", content=GOOD, headers=headers)
    assert answer.status_code == 401


async def test_the_shop_follows_from_the_key_alone(front: Front) -> None:
    body = structured()
    assert (await front.post(body)).status_code == 202
    assert (await front.post(body, key=OTHER_KEY)).status_code == 202
    assert await front.told() == [
        ("order.placed.v1", "demo:1001"),
        ("order.placed.v1", "other:1001"),
    ]


NOT_PUBLIC = [
    ("GET", "/v1/events", 405),
    ("TRACE", "/v1/events", 405),
    ("DELETE", "/v1/events", 405),
    ("GET", "/", 404),
    ("GET", "/docs", 404),
    ("GET", "/redoc", 404),
    ("GET", "/openapi.json", 404),
    ("GET", "/metrics", 404),
    ("GET", "/healthz", 404),
    ("GET", "/v1/orders/demo/1001", 404),
    ("GET", "/v1/dead", 404),
    ("POST", "/webhooks/demo/ses", 404),
    ("POST", "/webhooks/nobody/shopify", 404),
    ("POST", "/webhooks/%00/shopify", 404),
    ("POST", "/v1/events/%00", 404),
]


async def test_the_public_port_shows_nothing_else(front: Front) -> None:
    headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
    for method, path, status in NOT_PUBLIC:
        answer = await front.public.request(method, path, headers=headers)
        assert answer.status_code == status, (method, path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


# ---------------------------------------------------------------- three ways to say it


async def test_a_structured_event_is_answered_with_its_id(front: Front) -> None:
    answer = await front.post(structured())
    assert answer.status_code == 202
    assert answer.json()["replayed"] == 0
    row = await front.db.fetchrow("select event_id, headers, value from outbox")
    assert answer.json()["ids"] == [str(row["event_id"])]
    headers = dict(json.loads(row["headers"]))
    assert (headers["ce_source"], headers["ce_shop"]) == ("/erp", "demo")


async def test_a_trace_goes_with_its_event(front: Front) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await front.post(structured(), traceparent=trace)
    await front.post(changed(order_id="2"), traceparent="nonsense")
    rows = await front.db.fetch("select headers from outbox order by seq")
    assert [dict(json.loads(r["headers"])).get("ce_traceparent") for r in rows] == [trace, None]


async def test_bare_data_needs_a_time_in_its_body_or_beside_it(front: Front) -> None:
    path, kind = "/v1/events/order.preparing.v1", "application/json"
    without = await front.post({"order_id": "1"}, path=path, kind=kind)
    assert (without.status_code, without.json()["field"]) == (422, "at")
    beside = await front.post(
        {"order_id": "1"}, path=path, kind=kind, ce_time="2026-11-20T10:00:00Z"
    )
    assert beside.status_code == 202
    within = {"order_id": "2", "at": "2026-11-20T10:00:00Z"}
    assert (await front.post(within, path=path, kind=kind)).status_code == 202
    wrong = await front.post({"order_id": "1"}, path=path, kind=kind, ce_time="yesterday")
    assert (wrong.status_code, wrong.json()["field"]) == (422, "CE-Time")
    assert len(await front.told()) == 2


async def test_the_same_bare_body_is_told_once_unless_it_happened_at_another_time(
    front: Front,
) -> None:
    async def say(**headers: str) -> dict[str, Any]:
        answer = await front.post(
            {"order_id": "1", "channel": "phone"},
            path="/v1/events/contact.logged.v1",
            kind="application/json",
            **headers,
        )
        assert answer.status_code == 202
        body: dict[str, Any] = answer.json()
        return body

    first = await say(ce_time="2026-11-20T10:00:00Z")
    assert await say(ce_time="2026-11-20T10:00:00Z") == first | {"replayed": 1}
    assert (await say(ce_time="2026-11-20T15:00:00Z"))["ids"] != first["ids"]
    assert len(await front.told()) == 2


async def test_a_batch_is_taken_whole_or_not_at_all(front: Front) -> None:
    good = [changed(order_id=str(n)) for n in range(5)]
    bad = changed(order_id="5", payment="maybe")
    refused = await front.batch([*good, bad])
    assert (refused.status_code, refused.json()["index"], refused.json()["field"]) == (
        422,
        5,
        "data.payment",
    )
    assert await front.told() == []
    answer = await front.batch(good)
    assert (answer.status_code, len(answer.json()["ids"])) == (202, 5)
    assert [key for _, key in await front.told()] == [f"demo:{n}" for n in range(5)]


async def test_a_batch_holds_one_to_500_events(front: Front) -> None:
    small = structured({"order_id": "1"}, type_="order.preparing.v1")
    for events in ([], [small] * 501, {"a": 1}):
        answer = await front.post(events, kind="application/cloudevents-batch+json")
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid_batch")
    assert (await front.batch([small] * 500)).status_code == 202


# ---------------------------------------------------------------- said twice


async def test_the_same_event_said_again_is_answered_with_its_first_id(front: Front) -> None:
    event = structured()
    first = await front.post(event)
    again = await front.post(event)
    assert again.json() == first.json() | {"replayed": 1}
    mixed = await front.batch([event, changed(order_id="2")])
    assert mixed.json()["replayed"] == 1
    assert len(await front.told()) == 2


async def test_an_id_used_for_another_body_is_refused_with_its_place(front: Front) -> None:
    event = structured()
    await front.post(event)
    other = event | {"data": placed_body(number="#9")}
    answer = await front.batch([changed(order_id="2"), other])
    assert (answer.status_code, answer.json()["index"]) == (409, 1)
    assert len(await front.told()) == 1
    retried = await front.batch([changed(order_id="2")])
    assert retried.json()["replayed"] == 0


async def test_an_id_used_twice_in_one_batch_is_one_event_or_refused(front: Front) -> None:
    event = structured()
    answer = await front.batch([event, event])
    assert answer.status_code == 202
    assert len(set(answer.json()["ids"])) == 1
    assert len(await front.told()) == 1
    other = changed(order_id="2")
    refused = await front.batch([other, other | {"data": placed_body("3")}])
    assert (refused.status_code, refused.json()["index"]) == (409, 1)
    assert len(await front.told()) == 1


async def test_an_idempotency_key_answers_the_same_request_the_same_way(front: Front) -> None:
    event = structured()
    first = await front.post(event, idempotency_key="abc")
    again = await front.post(event, idempotency_key="abc")
    assert again.json() == first.json() | {"replayed": 1}
    other = await front.post(changed(order_id="2"), idempotency_key="abc")
    assert (other.status_code, other.json()["field"]) == (409, "Idempotency-Key")
    elsewhere = await front.post(event, idempotency_key="abc", key=OTHER_KEY)
    assert elsewhere.json()["replayed"] == 0
    assert len(await front.told()) == 2


async def test_an_unusable_idempotency_key_is_refused(front: Front) -> None:
    for key in (b"", b"x" * 256, b"a b", b"a\tb", "ключ".encode()):
        headers = {
            b"authorization": f"Bearer {API_KEY}".encode(),
            b"content-type": b"application/cloudevents+json",
            b"idempotency-key": key,
        }
        answer = await front.public.post("/v1/events", content=GOOD, headers=headers)
        assert (answer.status_code, await front.told()) == (400, []), key


async def test_a_hundred_equal_requests_at_once_are_one_event(front: Front) -> None:
    event = structured()
    answers = await asyncio.gather(*(front.post(event, idempotency_key="same") for _ in range(100)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["ids"][0] for a in answers}) == 1
    assert sum(a.json()["replayed"] for a in answers) == 99
    assert len(await front.told()) == 1


async def test_equal_requests_at_two_replicas_at_once_are_one_event(
    start: Starter, orders_url: str
) -> None:
    event = structured()
    async with start(orders_url) as one, start(orders_url) as other:
        answers = await asyncio.gather(
            *(f.post(event, idempotency_key="same") for f in (one, other) for _ in range(20))
        )
        assert {a.status_code for a in answers} == {202}
        assert len(await one.told()) == 1


async def test_equal_refused_requests_at_once_are_all_refused(front: Front) -> None:
    event = structured()
    await front.post(event)
    other = event | {"data": placed_body(number="#9")}
    answers = await asyncio.gather(
        *(front.batch([changed(order_id="7"), other], idempotency_key="k") for _ in range(10))
    )
    assert {a.status_code for a in answers} <= {409}
    assert len(await front.told()) == 1


async def test_a_good_request_beside_a_refused_one_keeps_its_place(front: Front) -> None:
    used = structured()
    await front.post(used)
    fresh = changed(order_id="2")
    refused, taken = await asyncio.gather(
        front.batch([fresh, used | {"data": placed_body(number="#9")}]), front.post(fresh)
    )
    assert (refused.status_code, taken.status_code) == (409, 202)
    again = await front.post(fresh)
    assert again.json()["replayed"] == 1
    assert (await front.post(fresh | {"data": placed_body("3")})).status_code == 409


# ---------------------------------------------------------------- times


async def test_a_time_in_the_future_becomes_now_and_a_wrong_clock_outdates_nothing(
    front: Front,
) -> None:
    future = rfc3339(now() + timedelta(days=2))
    await front.post(changed(placed_at=future, revision=future))
    later = placed_body(number="#corrected", revision=rfc3339(now() + timedelta(seconds=1)))
    await front.post(structured(later, type_="order.updated.v1"))
    rows = await front.db.fetch("select headers from outbox")
    times = [dict(json.loads(r["headers"]))["ce_time"] for r in rows]
    assert all(t < rfc3339(now() + timedelta(minutes=11)) for t in times)
    shown = (await front.ask("/v1/orders/demo/1001")).json()
    assert shown["order"]["number"] == "#corrected"


async def test_an_older_revision_does_not_replace_a_newer_one(front: Front) -> None:
    for number, revision in (("#2", "2026-11-20T12:00:00Z"), ("#1", "2026-11-20T11:00:00Z")):
        body = placed_body(number=number, revision=revision)
        await front.post(structured(body, type_="order.updated.v1"))
    await front.post(changed(placed_at="2026-11-20T10:00:00Z", number="#0"))
    shown = (await front.ask("/v1/orders/demo/1001")).json()
    assert shown["order"]["number"] == "#2"
    assert len(await front.told()) == 3


async def test_a_moved_promise_stays_moved_when_the_order_is_told_anew(front: Front) -> None:
    await front.post(structured())
    moved = {"from": "2026-12-10", "to": "2026-12-12", "source": "shop"}
    delayed = {"order_id": "1001", "promise": moved}
    await front.post(structured(delayed, type_="order.delayed.v1"))
    body = placed_body(revision=rfc3339(now()), number="#2")
    await front.post(structured(body, type_="order.updated.v1"))
    (told,) = await front.bodies("order.updated.v1")
    assert told["promise"] == moved


# ---------------------------------------------------------------- operators


async def test_operators_see_the_order_its_facts_and_its_webhooks(front: Front) -> None:
    await front.post(structured())
    await front.post(structured({"order_id": "1001"}, type_="order.preparing.v1"))
    await front.shopify("orders/updated", {"id": 1001})
    shown = (await front.ask("/v1/orders/demo/1001")).json()
    assert shown["state"]["stage"] == "preparing"
    assert [f["type"] for f in shown["facts"]] == ["order.preparing.v1", "order.placed.v1"] or [
        f["type"] for f in shown["facts"]
    ] == ["order.placed.v1", "order.preparing.v1"]
    assert (await front.ask("/v1/orders/other/1001")).status_code == 404
    quarantine = (await front.ask("/v1/quarantine")).json()["quarantine"]
    assert [q["reason"] is not None for q in quarantine] == [True]


async def test_the_operator_api_is_closed_without_the_operators_key(front: Front) -> None:
    paths = ("/v1/orders/demo/1001", "/v1/dead", "/v1/dead/1", "/v1/quarantine", "/v1/orders/a/b/c")
    for path in paths:
        for headers in ({}, {"authorization": f"Bearer {API_KEY}"}, {"authorization": "Bearer x"}):
            answer = await front.internal.get(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized"), path


async def test_odd_questions_of_operators_get_plain_answers(front: Front) -> None:
    expected = {
        "/v1/orders/demo/nothing": 404,
        "/v1/orders/demo/%00": 404,
        "/v1/dead/%00": 404,
        "/v1/dead/99999999999999999999": 404,
        "/v1/dead/-1": 404,
        "/v1/dead?state=%00": 422,
        "/v1/dead?state=open": 200,
        "/healthz": 200,
        "/readyz": 200,
        "/metrics": 200,
        "/docs": 404,
    }
    answers = {path: await front.ask(path) for path in expected}
    assert {path: a.status_code for path, a in answers.items()} == expected


async def test_metrics_carry_no_id_and_no_address(front: Front) -> None:
    await front.post(changed(order_id="very-special-order"))
    await front.shopify("orders/create", b"{")
    text = (await front.ask("/metrics")).text
    assert 'afterglow_events_accepted_total{type="order.placed.v1"}' in text
    for secret in ("very-special-order", ADDRESS, "Ana", API_KEY, SECRETS["shopify"]):
        assert secret not in text


async def test_dead_events_are_listed_shown_replayed_and_discarded(front: Front) -> None:
    await front.db.execute(
        """insert into dead_event (consumer, topic, partition, "offset", key, headers, value,
                                   error_class, error_text)
           select 'order_events', 'orders.inbound', 0, n, 'k', '[]', 'x', 'malformed', 'why'
           from generate_series(1, 2) n"""
    )
    first, second = (d["id"] for d in (await front.ask("/v1/dead")).json()["dead"])
    assert (await front.ask(f"/v1/dead/{first}")).json()["error_text"] == "why"
    headers = {"authorization": f"Bearer {OPERATOR_KEY}"}

    async def do(what: str) -> int:
        return (await front.internal.post(f"/v1/dead/{what}", headers=headers)).status_code

    assert await do(f"{first}/replay") == 409
    assert await do(f"{second}/discard") == 200
    assert await do(f"{second}/discard") == 404
    assert await do(f"{second}/replay") == 404
    assert [d["id"] for d in (await front.ask("/v1/dead")).json()["dead"]] == [first]


# ---------------------------------------------------------------- webhooks: who signed

Headers = Callable[[bytes], dict[Any, Any]]
UNSIGNED: dict[str, Headers] = {
    "nothing": lambda _: {},
    "empty": lambda _: {"x-shopify-hmac-sha256": ""},
    "wrong length": lambda _: {"x-shopify-hmac-sha256": "abcd"},
    "not base64": lambda _: {"x-shopify-hmac-sha256": "%%%%"},
    "bytes": lambda _: {b"x-shopify-hmac-sha256": b"\xff\xfe"},
    "very long": lambda _: {"x-shopify-hmac-sha256": "A" * 5000},
    "another shop's": lambda b: {"x-shopify-hmac-sha256": sign(b, "other-shopify-secret")},
    "re-serialised": lambda b: {
        "x-shopify-hmac-sha256": sign(json.dumps(json.loads(b)).encode(), SECRETS["shopify"])
    },
    "one byte changed": lambda b: {
        "x-shopify-hmac-sha256": sign(b.replace(b"1", b"2", 1), SECRETS["shopify"])
    },
}


async def test_what_nobody_signed_is_refused_and_leaves_nothing(front: Front) -> None:
    body = b'{"id":1001, "created_at":"2026-11-20T09:00:00Z"}'
    for name, made in UNSIGNED.items():
        answer = await front.public.post("/webhooks/demo/shopify", content=body, headers=made(body))
        assert (answer.status_code, answer.json()["error"]) == (401, "bad_signature"), name
    assert (await front.told(), await front.webhooks()) == ([], [])
    assert await front.db.fetchval("select count(*) from orders") == 0
