import asyncio
import base64
import hmac
import json
import random
import string
from collections.abc import AsyncGenerator, Callable, Iterable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, strategies as st
from starlette.types import Message, Receive, Scope, Send

from shared.errors import Refused
from shared.security import (
    BodyLimit,
    Links,
    OperatorKeys,
    SecurityHeaders,
    bearer_token,
    is_link_token,
    media_type,
    new_api_key,
    read_json,
    refusal_body,
    token_hash,
    unauthorized,
    verify_hmac,
)

SECRET = b"sample-secret-0123456789"
BODY = b'{"id":820982911946154508,"name":"#1234"}'
LIMIT = 256 * 1024


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or how it refuses."""
    try:
        return call()
    except Refused as refused:
        return refused


def refusal(body: bytes) -> tuple[int, str]:
    refused = outcome(lambda: read_json(body))
    assert isinstance(refused, Refused)
    return refused.status, refused.code


# ---------------------------------------------------------------- strict JSON


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b" \n", 400),
        (b'{"id": ', 400),
        (b"{'id': 1}", 400),
        (b'{"id": 1} x', 400),
        (b"<html></html>", 400),
        (b'{"total": NaN}', 400),
        (b'{"total": Infinity}', 400),
        (b'{"total": -Infinity}', 400),
        (b'{"total": 1e400}', 400),
        (b'{"total": -1.5E+999999999999999999999999}', 400),
        (b'{"total": 1e-999999999999999999999999}', 400),
        (b'{"total": 0e999}', 400),
        (b'{"total": 0.' + b"1" * 5000 + b"}", 400),
        (b'{"total": ' + b"9" * 5000 + b"}", 400),
        (b'{"total": 01}', 400),
        (b'{"id": "a", "id": "b"}', 400),
        (b'{"x": {"id": "a", "\\u0069d": "b"}}', 400),
        (b"[" * 100_000, 400),
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400),
        (b"[" * 300 + b"]" * 300, 400),
        (b"[" * 200 + b"]" * 200, 422),
        (b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}", 422),
        (b'{"x": "\\u0000"}', 422),
        (b'{"\\u0000": 1}', 422),
        (b'{"x": "\\ud800"}', 422),
        (b'{"x": ["\\udc00\\ud800"]}', 422),
        (b'{"\\uDFFF": 1}', 422),
        (b'{"x": "a\x00b"}', 400),
        (b'{"x": "a\nb"}', 400),
        (b'{"x": "\xff"}', 400),
        (b'{"x": "\xed\xa0\x80"}', 400),
        (b'{"x": "\xc0\x80"}', 400),
        ('{"x": 1}'.encode("utf-16"), 400),
        ('{"x": 1}'.encode("utf-16-le"), 400),
        ('{"x": 1}'.encode("utf-32-be"), 400),
        (b'\xef\xbb\xbf{"x": 1}', 400),
    ],
    ids=lambda value: f"{value[:24]!r}-{len(value)}" if isinstance(value, bytes) else None,
)
@pytest.mark.timeout(10)  # a parser that is not linear takes minutes over the deep ones
def test_bad_json_is_refused(body: bytes, status: int) -> None:
    assert refusal(body)[0] == status


def test_an_answer_does_not_repeat_the_value() -> None:
    with pytest.raises(Refused) as caught:
        read_json(b'{"ana@example.com": ana@example.com}')
    assert b"ana" not in refusal_body(caught.value)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"[]", []),
        (b"null", None),
        (b'"x"', "x"),
        (b'{"a": 12.30}', {"a": Decimal("12.30")}),
        (b'{"a": 614.4, "b": -0.0}', {"a": Decimal("614.4"), "b": Decimal("-0.0")}),
        (b'{"id": 820982911946154508}', {"id": 820982911946154508}),
        (b'{"x": "\\\\u0000"}', {"x": "\\u0000"}),
        (b'{"x": "\\ud83d\\ude00"}', {"x": "\U0001f600"}),
        (b'{"x": "[[[[{{{{\\"]"}', {"x": '[[[[{{{{"]'}),
        (b"[" * 32 + b"]" * 32, json.loads("[" * 32 + "]" * 32)),
        (b"[" + b"[]," * 500 + b"[]]", [[]] * 501),
    ],
)
def test_good_json_is_read_exactly(body: bytes, value: Any) -> None:
    assert read_json(body) == value


def test_a_fraction_keeps_every_digit() -> None:
    assert str(read_json(b"[2369.90]")[0]) == "2369.90"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(string.printable), inner),
    max_leaves=40,
)


@given(json_values, st.booleans())
def test_whatever_was_written_is_read_back(value: Any, ascii_only: bool) -> None:  # noqa: FBT001
    assert read_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=200) | st.text('{}[]",:\\u0d8e+-.19 ', max_size=60).map(str.encode))
def test_any_bytes_end_as_a_clean_value_or_a_refusal(body: bytes) -> None:
    value = outcome(lambda: read_json(body))
    if isinstance(value, Refused):
        assert value.status in {400, 422}
    else:
        text = json.dumps(value, default=str, ensure_ascii=False)
        assert "\\u0000" not in text.replace("\\\\", "")
        text.encode()


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/json; charset=latin-1", False),
        ("text/plain", False),
        ("application/json-patch", False),
        ("", False),
        (None, False),
    ],
)
def test_only_json_in_utf8_is_a_body(header: str | None, accepted: bool) -> None:  # noqa: FBT001
    if accepted:
        assert media_type(header, ["application/json"]) == "application/json"
    else:
        with pytest.raises(Refused) as caught:
            media_type(header, ["application/json"])
        assert caught.value.status == 415


# ---------------------------------------------------------------- middleware


class Caller:
    """Sends a request as a server would and keeps the answer."""

    def __init__(self, *chunks: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.chunks = list(chunks)
        self.read = 0
        self.read_when_answered = -1
        self.sent: list[Message] = []
        self.scope: Scope = {"type": "http", "method": "POST", "headers": list(headers)}

    async def receive(self) -> Message:
        if self.read >= len(self.chunks):
            return {"type": "http.disconnect"}
        chunk, self.read = self.chunks[self.read], self.read + 1
        return {"type": "http.request", "body": chunk, "more_body": self.read < len(self.chunks)}

    async def send(self, message: Message) -> None:
        if not self.sent:
            self.read_when_answered = self.read
        self.sent.append(message)

    async def call(self, app: Any) -> int | None:
        await app(self.scope, self.receive, self.send)
        return self.sent[0]["status"] if self.sent else None

    @property
    def body(self) -> Any:
        return json.loads(self.sent[1]["body"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


class Echo:
    """Reads the whole body and the message behind it, answers 200."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.own_headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert message["more_body"] is False
        self.bodies.append(message["body"])
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": self.own_headers})
        await send({"type": "http.response.body", "body": b""})


async def test_a_body_within_the_limit_reaches_the_application_whole() -> None:
    echo, caller = Echo(), Caller(b"a" * (LIMIT - 1), b"", b"b")
    assert await caller.call(BodyLimit(echo)) == 200
    assert echo.bodies == [b"a" * (LIMIT - 1) + b"b"]


async def test_a_length_over_the_limit_is_refused_before_reading() -> None:
    echo = Echo()
    caller = Caller(b"x", headers=[(b"content-length", str(LIMIT + 1).encode())])
    assert await caller.call(SecurityHeaders(BodyLimit(echo))) == 413
    assert caller.read_when_answered == 0
    assert caller.body == {"error": "body_too_large", "detail": f"the body is over {LIMIT} bytes"}
    assert caller.headers[b"connection"] == b"close"
    assert caller.headers[b"x-content-type-options"] == b"nosniff"
    assert echo.bodies == []


async def test_a_streamed_body_over_the_limit_is_refused_while_streaming() -> None:
    echo, caller = Echo(), Caller(*[b"x" * 65_536] * 10)
    assert await caller.call(BodyLimit(echo)) == 413
    assert caller.read_when_answered == 5
    assert echo.bodies == []


async def test_a_caller_who_sends_without_end_is_cut_off_after_the_answer() -> None:
    caller = Caller(*[b"x" * 65_536] * 1000)
    assert await caller.call(BodyLimit(Echo())) == 413
    assert caller.read == 5 + 16
    assert caller.sent[-1].get("more_body", False) is False


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"content-encoding", b"gzip", 415),
        (b"content-encoding", b"identity, br", 415),
        (b"content-encoding", b"Identity", 200),
        (b"content-length", b"-1", 400),
        (b"content-length", b"+1", 400),
        (b"content-length", b"\xff", 400),
        (b"content-length", b"9" * 10_000, 413),
        (b"content-length", b"1", 200),
    ],
)
async def test_a_strange_body_header_is_refused(name: bytes, value: bytes, status: int) -> None:
    assert await Caller(b"x", headers=[(name, value)]).call(BodyLimit(Echo())) == status


async def test_a_slow_body_is_given_up() -> None:
    async def trickle() -> AsyncGenerator[Message, None]:
        while True:
            yield {"type": "http.request", "body": b"x", "more_body": True}
            await asyncio.sleep(0.01)

    caller, stream = Caller(), trickle()
    await BodyLimit(Echo(), max_seconds=0.05)(caller.scope, stream.__anext__, caller.send)
    assert caller.sent[0]["status"] == 408
    assert caller.body["error"] == "body_timeout"
    assert caller.headers[b"connection"] == b"close"
    await stream.aclose()


async def test_a_timeout_inside_the_application_is_its_own() -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await Caller(b"x").call(BodyLimit(late))


async def test_a_caller_who_leaves_starts_nothing() -> None:
    echo, caller = Echo(), Caller()
    assert await caller.call(BodyLimit(echo)) is None
    assert echo.bodies == []


async def test_every_answer_has_the_headers_and_a_page_keeps_its_own_policy() -> None:
    echo, caller = Echo(), Caller(b"")
    echo.own_headers = [(b"Content-Security-Policy", b"default-src 'self'")]
    await caller.call(SecurityHeaders(echo))
    assert caller.headers == {
        b"Content-Security-Policy": b"default-src 'self'",
        b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"no-referrer",
        b"cache-control": b"no-store",
    }


async def test_a_lifespan_passes_through() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    caller = Caller()
    caller.scope = {"type": "lifespan"}
    await caller.call(SecurityHeaders(BodyLimit(app)))
    assert seen == ["lifespan"]


def test_an_error_names_field_and_index_where_they_are_known() -> None:
    body = refusal_body(Refused(422, "invalid", "must be aware", field="data.at", index=3))
    assert json.loads(body) == {
        "error": "invalid",
        "detail": "must be aware",
        "field": "data.at",
        "index": 3,
    }


# ---------------------------------------------------------------- signatures


def sign(body: bytes, secret: bytes = SECRET) -> bytes:
    return base64.b64encode(hmac.digest(secret, body, "sha256"))


def test_a_known_signature_is_accepted() -> None:
    # RFC 4231 test case 2
    digest = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    signed, secret = b"what do ya want for nothing?", [b"Jefe"]
    assert verify_hmac(signed, digest, secret, encoding="hex")
    assert verify_hmac(signed, digest.upper().encode(), secret, encoding="hex")
    assert verify_hmac(signed, base64.b64encode(bytes.fromhex(digest)), secret)


def test_either_of_two_secrets_is_accepted_while_one_is_rotated() -> None:
    assert verify_hmac(BODY, sign(BODY), [SECRET, b"older-secret-0123"])
    assert verify_hmac(BODY, sign(BODY), [b"newer-secret-0123", SECRET])
    assert not verify_hmac(BODY, sign(BODY), [b"newer-secret-0123"])
    assert not verify_hmac(BODY, sign(BODY), [])


@pytest.mark.parametrize(
    "signature",
    [None, "", b"", "x", b"\xff", "\xff", "Ā", "\ud800", sign(BODY)[:-1], sign(BODY) + b"=",
     b" " + sign(BODY), sign(BODY) * 1000, b",".join([sign(BODY)] * 4), sign(BODY).lower(),
     hmac.digest(SECRET, BODY, "sha256"), hmac.digest(SECRET, BODY, "sha256").hex()],
    ids=lambda signature: f"{signature!r:.20}-{len(signature or '')}",
)  # fmt: skip
def test_a_bad_signature_is_false_and_never_an_error(signature: bytes | str | None) -> None:
    assert verify_hmac(BODY, signature, [SECRET]) is False


def test_an_empty_secret_signs_nothing() -> None:
    assert not verify_hmac(BODY, sign(BODY, b""), [b""])


def test_the_raw_bytes_are_signed_and_not_their_meaning() -> None:
    again = json.dumps(json.loads(BODY)).encode()
    assert json.loads(again) == json.loads(BODY)
    assert not verify_hmac(again, sign(BODY), [SECRET])


def test_none_of_ten_thousand_changed_bodies_or_signatures_is_accepted() -> None:
    dice = random.Random(4711)
    good = sign(BODY)
    for _ in range(10_000):
        body, signature = bytearray(BODY), bytearray(good)
        changed = dice.choice([body, signature])
        changed[dice.randrange(len(changed))] ^= dice.randrange(1, 256)
        assert not verify_hmac(bytes(body), bytes(signature), [SECRET])
    assert verify_hmac(BODY, good, [SECRET])


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_header_is_answered(signature: bytes | str) -> None:
    assert verify_hmac(BODY, signature, [SECRET]) is False
    assert verify_hmac(BODY, signature, [SECRET], encoding="hex") is False


# ---------------------------------------------------------------- keys


def scope_with(*values: bytes) -> Scope:
    return {"type": "http", "headers": [(b"authorization", value) for value in values]}


@pytest.mark.parametrize("value", [b"Bearer abc", b"bearer abc", b"BEARER   abc "])
def test_a_bearer_token_is_read(value: bytes) -> None:
    assert bearer_token(scope_with(value)) == "abc"


BAD_AUTHORIZATIONS = [
    (),
    (b"",),
    (b"Bearer",),
    (b"Bearer ",),
    (b"Basic abc",),
    (b"abc",),
    (b"Bearer a b",),
    (b"Bearer abc\xff",),
    (b"Bearer ab\x00c",),
    (b"Bearer ab\tc",),
    (b"Bearer " + b"a" * 10_000,),
    (b"Bearer abc", b"Bearer abc"),
    (b"Bearer a-wrong-key-of-the-same-length-000000",),
]


@pytest.mark.parametrize("values", BAD_AUTHORIZATIONS, ids=lambda values: repr(values)[:30])
def test_every_bad_credential_gets_the_same_answer(values: tuple[bytes, ...]) -> None:
    with pytest.raises(Refused) as caught:
        OperatorKeys([new_api_key()[0]]).check(scope_with(*values))
    assert caught.value.status == 401
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
    assert refusal_body(caught.value) == refusal_body(unauthorized())


@given(st.binary(max_size=300))
def test_any_authorization_is_a_token_or_a_401(value: bytes) -> None:
    token = outcome(lambda: bearer_token(scope_with(value)))
    assert token.status == 401 if isinstance(token, Refused) else token.isascii()


def test_every_active_operator_key_opens() -> None:
    keys = [new_api_key()[0] for _ in range(3)]
    operators = OperatorKeys(keys)
    for key in keys:
        operators.check(scope_with(b"Bearer " + key.encode()))
    assert not any(key in repr(operators) for key in keys)


def test_no_operator_key_opens_nothing_and_a_short_one_is_refused() -> None:
    with pytest.raises(Refused):
        OperatorKeys([]).check(scope_with(b"Bearer abc"))
    with pytest.raises(ValueError, match="at least 16"):
        OperatorKeys(["changeme"])


def test_new_keys_are_long_and_differ() -> None:
    pairs = [new_api_key() for _ in range(100)]
    assert len({key for key, _ in pairs}) == 100
    assert all(len(key) == 47 and key.startswith("agk_") and len(d) == 64 for key, d in pairs)


# ---------------------------------------------------------------- derived links

LINK_KEYS = ["sample-link-key-0001", "sample-link-key-0000"]


def test_a_link_token_stays_what_it_was_when_links_were_sent() -> None:
    token = Links(["sample-link-key-0001"]).token("track", "demo", "820982911946154508")
    assert token == "mWY3IBLVwNA2moY8jKcxDQ"
    assert is_link_token(token)


def test_a_link_made_with_the_older_key_still_opens_its_page() -> None:
    stored = Links(LINK_KEYS).hashes("survey", "demo", "s1")
    older, newer = Links(LINK_KEYS[1:]), Links(LINK_KEYS[:1])
    assert stored[0] == token_hash(Links(LINK_KEYS).token("survey", "demo", "s1"))
    assert stored == newer.hashes("survey", "demo", "s1") + older.hashes("survey", "demo", "s1")


parts = st.tuples(
    st.sampled_from(["track", "survey", "case", "preferences", "unsubscribe"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)


@given(parts, parts)
def test_different_subjects_have_different_tokens(one: Any, other: Any) -> None:
    links = Links(LINK_KEYS)
    assert (links.token(*one) == links.token(*other)) is (one == other)
    assert is_link_token(links.token(*one))


def test_the_parts_of_a_link_cannot_be_shifted_into_each_other() -> None:
    links = Links(LINK_KEYS)
    assert links.token("track", "a", "bc") != links.token("track", "ab", "c")
    assert links.token("track", "a", "b") != links.token("case", "a", "b")


@pytest.mark.parametrize(
    "text",
    ["", "a" * 21, "a" * 23, "a" * 10_000, "a" * 21 + "%", "a" * 22 + "\n", "ä" * 22, "../" * 8],
)
def test_what_cannot_be_a_token_is_known_without_asking_the_database(text: str) -> None:
    assert not is_link_token(text)
    assert len(token_hash(text)) == 32


def test_links_need_a_strong_key_and_show_none() -> None:
    assert LINK_KEYS[0] not in repr(Links(LINK_KEYS))
    for keys in ([], ["short"]):
        with pytest.raises(ValueError, match="key"):
            Links(keys)
