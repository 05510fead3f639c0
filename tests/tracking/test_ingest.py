"""What a shop's own system and six sources of webhooks may send, and what each is answered."""

import asyncio
import base64
import hmac
import json
import random
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from prometheus_client import REGISTRY
from tests import vectors

from shared.clock import now
from shared.errors import Unusable
from shared.events import event_id, rfc3339
from shared.observability import WEBHOOKS
from shared.security import verify_hmac
from shared.shops import parse
from shared.web import http_app
from tracking.api import ingest, public_routes
from tracking.domain.model import Report
from tracking.handlers import Answer, Choice, Delivery

from .conftest import (
    API_KEY,
    NUMBER,
    OTHER_KEY,
    SECRETS,
    SHOPS,
    SOURCES,
    Front,
    scan_body,
    structured,
)

SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


async def scans(front: Front, shop: str = "demo") -> list[dict[str, Any]]:
    """What is kept under all numbers of a shop."""
    rows = await front.db.fetch("select scans from track where shop = $1 order by ref", shop)
    return [scan[5] for row in rows for scan in json.loads(row["scans"])]


# ---------------------------------------------------------------- a shop's own system


async def test_a_scan_is_taken_and_a_second_copy_of_it_changes_nothing(front: Front) -> None:
    body = scan_body()
    answer = await front.post(body)
    assert answer.status_code == 202
    [said] = answer.json()["ids"]
    assert answer.json()["replayed"] == 0
    again = await front.post([body, scan_body("out_for_delivery")])
    assert again.status_code == 202
    assert (again.json()["ids"][0], again.json()["replayed"]) == (said, 1)
    assert [s["state"] for s in await scans(front)] == ["in_transit", "out_for_delivery"]


async def test_a_scan_may_come_as_a_cloud_event_or_a_batch_of_them(front: Front) -> None:
    body = scan_body()
    bare = (await front.post(body)).json()["ids"]
    single = await front.post(structured(body), kind=SINGLE)
    batch = await front.post([structured(body), structured(scan_body("delivered"))], kind=BATCH)
    assert (single.status_code, batch.status_code) == (202, 202)
    assert single.json() == {"ids": bare, "replayed": 1}
    assert batch.json()["ids"][:1] == bare


async def test_the_shop_follows_from_the_key_alone(front: Front) -> None:
    await front.post(scan_body(shop="demo"), key=OTHER_KEY)
    assert [len(await scans(front, shop)) for shop in ("demo", "other")] == [0, 1]
    assert (
        await front.post(structured(shop="demo"), kind=SINGLE, key=OTHER_KEY)
    ).status_code == 422
    for key in (None, "wrong", ""):
        assert (await front.post(scan_body(), key=key)).status_code == 401


REFUSED: dict[str, tuple[Any, int]] = {
    "empty": (b"", 400),
    "truncated": (b'{"state": "deliv', 400),
    "not UTF-8": (b'{"state": "\xff"}', 400),
    "NaN": (b'{"state": NaN}', 400),
    "a repeated key": (b'{"state": "delivered", "state": "returned"}', 400),
    "100,000 deep": (b"[" * 100_000, 400),
    "a text": ("x", 422),
    "null": (None, 422),
    "no scan at all": ([], 422),
    "501 scans": ([scan_body()] * 501, 422),
    "a list of lists": ([[scan_body()]], 422),
    "no number": (scan_body(tracking_number=None), 422),
    "a number without a sign in it": (scan_body(tracking_number=" - "), 422),
    "an end before its beginning": (
        scan_body(eta={"from": "2026-12-03T10:00:00Z", "to": "2026-12-01T10:00:00Z"}), 422,
    ),
    "no time": ({k: v for k, v in scan_body().items() if k != "occurred_at"}, 422),
    "a time without zone": (scan_body(occurred_at="2026-11-24T06:12:00"), 422),
    "the end of time": (scan_body(occurred_at="9999-12-31T23:59:59Z"), 422),
    "a state of a carrier": (scan_body("DELIVERED"), 422),
    "a line break": (scan_body(place="Ljubljana\r\nBcc: x"), 422),
    "NUL": (scan_body(place="a\0b"), 422),
    "a number of 101": (scan_body(tracking_number="1" * 101), 422),
    "a flag as text": (scan_body(action_required="yes"), 422),
    "a colon in the order": (scan_body(order_id="a:b"), 422),
}  # fmt: skip


async def test_what_is_wrong_is_refused_whole_and_without_repeating_it(front: Front) -> None:
    wrong = {}
    for name, (body, status) in REFUSED.items():
        answer = await front.post(body)
        plain = set(answer.json()) <= {"error", "detail", "field", "index"}
        if answer.status_code != status or not plain or "Bcc" in answer.text:
            wrong[name] = answer.status_code, answer.json()
    assert wrong == {}
    assert await scans(front) == []


async def test_an_unknown_state_is_told_with_its_place_and_the_words_there_are(
    front: Front,
) -> None:
    answer = await front.post([scan_body(), scan_body("on_the_moon")])
    assert answer.status_code == 422
    told = answer.json()
    assert (told["index"], told["field"]) == (1, "state")
    assert all(word in told["detail"] for word in ("in_transit", "ready_for_pickup", "expired"))
    assert "on_the_moon" not in answer.text
    assert await scans(front) == []  # all or none


async def test_the_content_type_and_the_size_are_bounded(front: Front) -> None:
    for kind in ("text/plain", "", "application/xml", "application/json; charset=latin-1"):
        assert (await front.post(scan_body(), kind=kind)).status_code == 415, kind
    refused = (
        "afterglow_http_requests_total",
        {"service": "tracking", "route": "refused", "status": "413"},
    )
    before = REGISTRY.get_sample_value(*refused) or 0
    assert (await front.post(b" " * 2_000_000)).status_code == 413
    assert REGISTRY.get_sample_value(*refused) == before + 1


async def test_a_batch_is_an_array_and_one_event_is_none(front: Front) -> None:
    assert (await front.post([structured()], kind=SINGLE)).status_code == 422
    assert (await front.post(structured(), kind=BATCH)).status_code == 422
    other = structured(type="order.placed.v1")
    answer = await front.post([structured(), other], kind=BATCH)
    assert (answer.status_code, answer.json()["index"]) == (422, 1)


async def test_a_time_in_the_future_counts_from_now_and_is_kept_as_said(front: Front) -> None:
    far = rfc3339(now() + timedelta(days=400))
    await front.post(scan_body(occurred_at=far))
    await front.post(scan_body(occurred_at=far))
    [kept] = json.loads(await front.db.fetchval("select scans from track"))
    assert kept[1] < rfc3339(now() + timedelta(minutes=1))
    assert kept[5]["raw_at"] == far


async def never(_: Delivery | Choice) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_store_that_hangs_is_a_503_within_five_seconds() -> None:
    transport = httpx2.ASGITransport(app=http_app("tracking", public_routes(never, parse(SHOPS))))
    began = time.monotonic()
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://test", timeout=10
    ) as client:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        answer = await client.post("/v1/scans", json=scan_body(), headers=headers)
    assert time.monotonic() - began < 5
    assert (answer.status_code, bool(answer.headers["Retry-After"])) == (503, True)


# ---------------------------------------------------------------- webhooks


class Words:
    """A source whose bodies are scans already; `ruin` makes it fail, quoting what was sent."""

    def __init__(self, ruin: type[Exception] | None = None) -> None:
        self.ruin = ruin
        self.signed: list[Any] = []

    def verify(self, body: bytes, headers: Any, query: Any, secrets: Any, at: Any) -> str | None:
        self.signed.append((query, at))
        signature = headers.get("signature")
        if not signature:
            return "no_signature"
        return None if verify_hmac(body, signature, secrets) else "bad_signature"

    def read(self, body: bytes, _: Any, __: Any) -> Report:
        if self.ruin is not None:
            raise self.ruin(body.decode())
        value = json.loads(body)
        if value == "ping":
            return Report("ping", None, (), "not about a parcel")
        [said] = ingest._bare(value)
        return Report("update", "d1", (said.data,))


@pytest.fixture
def words(monkeypatch: Any) -> Words:
    made = Words()
    monkeypatch.setitem(ingest._SOURCES, "aftership", made)
    return made


def sign(body: bytes, secret: str = SECRETS["aftership"]) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()


async def hook(
    front: Front, body: Any, *, secret: str = SECRETS["aftership"], path: str = "demo/aftership"
) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await front.public.post(
        f"/webhooks/{path}", content=content, headers={"signature": sign(content, secret)}
    )


async def log(front: Front) -> list[tuple[str, str | None, str | None]]:
    rows = await front.db.fetch("select outcome, reason, ref from webhooks order by id")
    return [(r["outcome"], r["reason"], r["ref"]) for r in rows]


async def test_a_signed_delivery_is_kept_and_told_again_is_a_duplicate(
    front: Front, words: Words
) -> None:
    body = scan_body()
    first, again = (
        await hook(front, body),
        await hook(front, body, secret="former-secret-of-the-tests"),
    )
    assert (first.status_code, first.json()["outcome"]) == (202, "accepted")
    assert (again.status_code, again.json()["outcome"]) == (202, "duplicate")
    assert first.json()["ids"] == again.json()["ids"]
    assert (await hook(front, "ping")).json()["outcome"] == "ignored"
    assert [outcome for outcome, *_ in await log(front)] == ["accepted", "duplicate", "ignored"]
    assert (await front.post(body)).json()["replayed"] == 1  # whichever way it came


async def test_what_nobody_vouches_for_is_refused_counted_and_not_kept(
    front: Front, words: Words
) -> None:
    reasons = ("no_signature", "bad_signature")
    before = [WEBHOOKS.labels("aftership", r)._value.get() for r in reasons]
    content = json.dumps(scan_body()).encode()
    unsigned = await front.public.post("/webhooks/demo/aftership?token=x", content=content)
    forged = await hook(front, scan_body(), secret="somebody else's")
    assert [a.status_code for a in (unsigned, forged)] == [401, 401]
    assert [a.json()["error"] for a in (unsigned, forged)] == list(reasons)
    after = [WEBHOOKS.labels("aftership", r)._value.get() for r in reasons]
    assert after == [count + 1 for count in before]
    assert (await scans(front), await log(front)) == ([], [])
    assert words.signed[0][0] == {"token": "x"}
    twice = await front.public.post("/webhooks/demo/aftership?token=x&token=y", content=content)
    assert twice.status_code == 400


async def test_there_is_no_address_for_who_has_no_secret(front: Front, words: Words) -> None:
    for path in ("demo/shopify", "demo/unheard", "other/aftership", "nobody/aftership"):
        assert (await hook(front, scan_body(), path=path)).status_code == 404, path


@pytest.mark.parametrize("ruin", [Unusable, KeyError, RecursionError])
async def test_what_is_not_understood_is_quarantined_and_nobody_is_quoted(
    front: Front, monkeypatch: Any, capsys: Any, ruin: type[Exception]
) -> None:
    monkeypatch.setitem(ingest._SOURCES, "aftership", Words(ruin))
    body = {"data": [{"trackingNumber": "ab-1 2"}], "to": "Ana Novak"}
    answer = await hook(front, body)
    assert (answer.status_code, answer.json()) == (200, {"ids": [], "outcome": "quarantined"})
    [(outcome, reason, ref)] = await log(front)
    assert (outcome, ref) == ("quarantined", "AB12")
    assert ruin is Unusable or reason == ruin.__name__
    assert "Ana Novak" not in capsys.readouterr().out


async def test_a_fault_in_the_transaction_is_quarantined_and_a_passing_one_is_a_503(
    front: Front, words: Words, monkeypatch: Any
) -> None:
    shops = front.running.service.shops
    refused: list[Delivery] = []

    async def submit(item: Delivery | Choice, error: Exception) -> Answer:
        assert isinstance(item, Delivery)
        if item.unusable is None:
            raise error
        refused.append(item)
        return Answer((event_id("x"),), outcome="quarantined")

    async def answered(error: Exception) -> httpx2.Response:
        routes = public_routes(lambda item: submit(item, error), shops)
        transport = httpx2.ASGITransport(app=http_app("tracking", routes))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            body = json.dumps(scan_body()).encode()
            headers = {"signature": sign(body)}
            return await client.post("/webhooks/demo/aftership", content=body, headers=headers)

    assert (await answered(ValueError("Ana"))).status_code == 200
    assert [(r.unusable, r.scans, bool(r.body)) for r in refused] == [("ValueError", (), True)]
    away = await answered(ConnectionResetError())
    assert (away.status_code, bool(away.headers["Retry-After"])) == (503, True)


async def test_a_body_of_any_shape_ends_as_an_answer_at_every_source(front: Front) -> None:
    bodies = [b"", b"{}", b"[]", b"5", b'"x"', b"null", b"\xff", b"[[[[{}]]]]", NUMBER.encode()]
    for source in SOURCES:
        for body in bodies:
            shop = front.running.service.shops.get("demo")
            assert shop is not None
            read = ingest.read_webhook(source, body, {}, shop)
            assert read.unusable or read.ignored, (source, body)


def shippo(body: bytes, seconds_ago: int) -> dict[str, str]:
    """Return the header with which Shippo would have signed a body."""
    at = int(now().timestamp()) - seconds_ago
    mac = hmac.digest(SECRETS["shippo"].encode(), f"{at}.".encode() + body, "sha256").hex()
    return {"shippo-auth-signature": f"t={at},v1={mac}"}


async def test_deliveries_signed_as_their_sources_sign_are_taken(front: Front) -> None:
    tracking = {"tracking_number": NUMBER, "tag": "InTransit", "created_at": rfc3339(now())}
    body = json.dumps({"event": "tracking_update", "event_id": "e1", "msg": tracking}).encode()
    status = {"status": "DELIVERED", "status_date": rfc3339(now())}
    parcel = {"carrier": "ups", "tracking_number": NUMBER, "tracking_status": status}
    other = json.dumps({"event": "track_updated", "data": parcel}).encode()
    headers = {"aftership-hmac-sha256": sign(body)}
    for path, content, given, taken in (
        ("aftership", body, headers, 202),
        ("aftership", body + b" ", headers, 401),
        ("shippo", other, shippo(other, seconds_ago=10), 202),
        ("shippo", other, shippo(other, seconds_ago=400), 401),
    ):
        answer = await front.public.post(f"/webhooks/demo/{path}", content=content, headers=given)
        assert answer.status_code == taken, (path, answer.text)
    assert sorted(s["state"] for s in await scans(front)) == ["delivered", "in_transit"]


# ---------------------------------------------------------------- collected and damaged deliveries

OUTCOMES = {"accept": {"accepted", "duplicate"}, "ignore": {"ignored"}}
NAMES = {"17track": "seventeentrack"}
PAYLOADS = [
    e for e in vectors.entries({*SOURCES, *NAMES} - {"seventeentrack"}) if e["kind"] == "payload"
]


@pytest.fixture
def signed(monkeypatch: Any) -> None:
    """Let every delivery count as signed: what verifies them is tested elsewhere."""
    for name, adapter in list(ingest._SOURCES.items()):
        trusting = SimpleNamespace(verify=lambda *_: None, read=adapter.read)
        monkeypatch.setitem(ingest._SOURCES, name, trusting)


async def deliver(front: Front, entry: dict[str, Any], body: bytes) -> httpx2.Response:
    source = NAMES.get(entry["platform"], entry["platform"])
    headers = vectors.headers(entry)
    return await front.public.post(f"/webhooks/demo/{source}", content=body, headers=headers)


@vectors.needs_vectors
@pytest.mark.usefixtures("signed")
async def test_every_collected_delivery_is_taken_ignored_or_quarantined(front: Front) -> None:
    wrong = {}
    for entry in PAYLOADS:
        answer = await deliver(front, entry, vectors.body(entry))
        wanted = OUTCOMES.get(entry["expect"]["disposition"], {"quarantined"})
        status = 200 if wanted == {"quarantined"} else 202
        if answer.status_code != status or answer.json()["outcome"] not in wanted:
            wrong[entry["file"]] = answer.status_code, answer.text
    assert wrong == {}
    reasons = await front.db.fetch("select reason from webhooks where outcome = 'quarantined'")
    assert all(row["reason"] for row in reasons)


@vectors.needs_vectors
@pytest.mark.usefixtures("signed")
async def test_no_damage_to_a_delivery_is_ever_our_fault(front: Front) -> None:
    rng = random.Random(4)
    wrong = {}
    for entry in PAYLOADS:
        whole = vectors.body(entry)
        for _ in range(6):
            body = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                body[rng.randrange(len(body))] = rng.choice(b'0}]["\\\0\xff:, ')
            cut = bytes(body[: rng.randrange(len(body))] if rng.random() < 0.3 else body)
            answer = await deliver(front, entry, cut)
            if answer.status_code not in {200, 202}:
                wrong[entry["file"]] = answer.status_code, answer.text
    assert wrong == {}
