"""Only who knows the secret is believed: right signatures pass, a million damaged ones do not."""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings, strategies as st

from tracking.adapters import aftership, easypost, sendcloud, seventeentrack, shipengine, shippo

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
BODY = b'{"event": "tracking_update", "msg": {"tracking_number": "AB123456789SI", "weight": 614.4}}'
TOKEN = "token-of-the-webhooks-address"


@dataclass(frozen=True)
class Request:
    """What arrives; `headers` as a server gives them, in lower case."""

    body: bytes
    headers: dict[str, str]
    query: dict[str, str]


Sign = Callable[[bytes, bytes, datetime], Request]


@dataclass(frozen=True)
class Scheme:
    """How one source vouches for a body: the adapter, what the shop states, what the source then sends."""

    adapter: Any
    secret: bytes
    other: bytes
    sign: Sign

    def verify(
        self, request: Request, secrets: list[bytes] | None = None, now: datetime = NOW
    ) -> str | None:
        known = [self.secret] if secrets is None else secrets
        refusal = self.adapter.verify(request.body, request.headers, request.query, known, now)
        assert refusal in {None, "no_signature", "bad_signature", "stale"}
        return str(refusal) if refusal else None


def _hex(secret: bytes, signed: bytes) -> str:
    return hmac.digest(secret, signed, "sha256").hex()


def _aftership(body: bytes, secret: bytes, _now: datetime) -> Request:
    signature = base64.b64encode(hmac.digest(secret, body, "sha256")).decode()
    return Request(body, {"aftership-hmac-sha256": signature}, {})


def _easypost(body: bytes, secret: bytes, _now: datetime) -> Request:
    return Request(body, {"x-hmac-signature": f"hmac-sha256-hex={_hex(secret, body)}"}, {})


def _shippo(body: bytes, secret: bytes, now: datetime) -> Request:
    stamp = str(int(now.timestamp()))
    signature = f"t={stamp},v1={_hex(secret, f'{stamp}.'.encode() + body)}"
    return Request(body, {"shippo-auth-signature": signature}, {})


def _seventeentrack(body: bytes, secret: bytes, _now: datetime) -> Request:
    return Request(body, {"sign": hashlib.sha256(body + b"/" + secret).hexdigest()}, {})


def _sendcloud(body: bytes, secret: bytes, _now: datetime) -> Request:
    return Request(body, {"sendcloud-signature": _hex(secret, body)}, {})


def _token(body: bytes, secret: bytes, _now: datetime) -> Request:
    return Request(body, {}, {"token": secret.removeprefix(b"token:").decode()})


@cache
def _private(number: int, bits: int = 2048) -> rsa.RSAPrivateKey:
    del number  # one key for each
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _pem(key: Any) -> bytes:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(pem, bytes)
    return pem


def _jwks(*keys: tuple[str, rsa.RSAPrivateKey]) -> bytes:
    def written(number: int) -> str:
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    rows = []
    for name, key in keys:
        numbers = key.public_key().public_numbers()
        rows.append({"kty": "RSA", "kid": name, "n": written(numbers.n), "e": written(numbers.e)})
    return json.dumps({"keys": rows}).encode()


def _shipengine(key: rsa.RSAPrivateKey, name: str) -> Sign:
    def sign(body: bytes, _secret: bytes, now: datetime) -> Request:
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        signature = key.sign(f"{stamp}.".encode() + body, padding.PKCS1v15(), SHA256())
        headers = {
            "x-shipengine-rsa-sha256-signature": base64.b64encode(signature).decode(),
            "x-shipengine-rsa-sha256-key-id": name,
            "x-shipengine-timestamp": stamp,
        }
        return Request(body, headers, {})

    return sign


@cache
def schemes() -> dict[str, Scheme]:
    one, two = b"the-secret-of-the-webhooks", b"another-secret-altogether"
    tokens = f"token:{TOKEN}".encode(), b"token:another-token-altogether"
    key, other = _private(1), _private(2)
    return {
        "aftership": Scheme(aftership, one, two, _aftership),
        "easypost": Scheme(easypost, one, two, _easypost),
        "shippo": Scheme(shippo, one, two, _shippo),
        "shippo token": Scheme(shippo, *tokens, _token),
        "seventeentrack": Scheme(seventeentrack, one, two, _seventeentrack),
        "shipengine": Scheme(
            shipengine, _jwks(("k1", key)), _jwks(("k2", other)), _shipengine(key, "k1")
        ),
        "shipengine pem": Scheme(shipengine, _pem(key), _pem(other), _shipengine(key, "any")),
        "shipengine token": Scheme(shipengine, TOKEN.encode(), b"another-long-token", _token),
        "sendcloud": Scheme(sendcloud, one, two, _sendcloud),
    }


NAMES = (
    "aftership",
    "easypost",
    "shippo",
    "shippo token",
    "seventeentrack",
    "shipengine",
    "shipengine pem",
    "shipengine token",
    "sendcloud",
)
WITH_TIME = ("shippo", "shipengine", "shipengine pem")


@pytest.fixture(params=NAMES)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return schemes()[request.param]


def test_a_right_signature_passes_and_the_other_key_of_a_rotation_too(scheme: Scheme) -> None:
    request = scheme.sign(BODY, scheme.secret, NOW)
    assert scheme.verify(request) is None
    assert scheme.verify(request, [scheme.other, scheme.secret]) is None
    assert scheme.verify(request, [scheme.secret, scheme.other]) is None


def test_a_wrong_key_no_key_and_an_empty_key_refuse(scheme: Scheme) -> None:
    request = scheme.sign(BODY, scheme.secret, NOW)
    assert scheme.verify(request, [scheme.other]) is not None
    assert scheme.verify(request, []) is not None
    assert scheme.verify(scheme.sign(BODY, scheme.secret, NOW), [b""]) is not None


def test_an_empty_secret_signs_nothing() -> None:
    for name in ("aftership", "easypost", "shippo", "seventeentrack", "sendcloud"):
        scheme = schemes()[name]
        assert scheme.verify(scheme.sign(BODY, b"", NOW), [b""]) == "bad_signature"


def test_a_request_without_a_signature_says_so(scheme: Scheme) -> None:
    assert scheme.verify(Request(BODY, {}, {})) == "no_signature"


@pytest.mark.parametrize("name", WITH_TIME)
@pytest.mark.parametrize("seconds", [-301, 301, 86_400, -900_000_000])
def test_a_signed_time_far_from_now_is_stale(name: str, seconds: int) -> None:
    scheme = schemes()[name]
    request = scheme.sign(BODY, scheme.secret, NOW + timedelta(seconds=seconds))
    assert scheme.verify(request) == "stale"


@pytest.mark.parametrize("name", WITH_TIME)
@pytest.mark.parametrize("seconds", [-299, 0, 299])
def test_a_signed_time_within_five_minutes_is_taken(name: str, seconds: int) -> None:
    scheme = schemes()[name]
    request = scheme.sign(BODY, scheme.secret, NOW + timedelta(seconds=seconds))
    assert scheme.verify(request) is None


def test_a_far_time_of_shippo_is_stale_and_no_error() -> None:
    secret = schemes()["shippo"].secret
    for stamp in ("0", "999999999999"):
        signed = _hex(secret, f"{stamp}.".encode() + BODY)
        headers = {"shippo-auth-signature": f"t={stamp},v1={signed}"}
        assert shippo.verify(BODY, headers, {}, [secret], NOW) == "stale"


@settings(deadline=None)  # a busy machine is no fault
@given(value=st.text(max_size=600) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
def test_no_header_and_no_token_raises_whatever_its_bytes(value: str) -> None:
    for scheme in schemes().values():
        right = scheme.sign(BODY, scheme.secret, NOW).headers
        signed = {name: text for name, text in right.items() if not name.endswith("key-id")}
        for headers in (dict.fromkeys(right, value), *(right | {n: value} for n in signed)):
            assert headers == right or scheme.verify(Request(BODY, headers, {})) is not None
        if value != TOKEN:
            assert scheme.verify(Request(BODY, {}, {"token": value})) is not None


def test_surrogates_in_a_header_are_refused() -> None:
    for scheme in schemes().values():
        names = scheme.sign(BODY, scheme.secret, NOW).headers
        broken = Request(BODY, dict.fromkeys(names, "\ud800"), {"token": "\udfff"})
        assert scheme.verify(broken) is not None


def test_easyposts_secret_is_normalised_before_it_signs() -> None:
    composed, decomposed = "s\u00e9cret-of-easypost", "se\u0301cret-of-easypost"
    request = _easypost(BODY, decomposed.encode(), NOW)
    assert easypost.verify(BODY, request.headers, {}, [composed.encode()], NOW) is None


def test_sendclouds_own_example_verifies() -> None:
    published = "1eed4b3d41f4653ac64fd56f1bf1cbfd349e4482cbc11dff7134bd93e5da4b0a"
    headers = {"sendcloud-signature": published}
    body = b'{"key": "value"}'
    assert sendcloud.verify(body, headers, {}, [b"secretkey"], NOW) is None


def test_a_token_never_signs_and_a_key_never_opens_as_a_token() -> None:
    key, token = b"the-secret-of-the-webhooks", f"token:{TOKEN}".encode()
    as_token = Request(BODY, {}, {"token": key.decode()})
    assert shippo.verify(BODY, {}, as_token.query, [key], NOW) is not None
    for secret in (token, TOKEN.encode()):
        signed = _shippo(BODY, secret, NOW)
        assert shippo.verify(BODY, signed.headers, {}, [token], NOW) is not None


def test_a_signature_that_is_wrong_is_not_saved_by_the_token() -> None:
    secrets = [b"the-secret-of-the-webhooks", f"token:{TOKEN}".encode()]
    signed = _shippo(BODY, b"a-third-secret", NOW)
    assert shippo.verify(BODY, signed.headers, {"token": TOKEN}, secrets, NOW) == "bad_signature"


@pytest.mark.parametrize("adapter", [shippo, shipengine])
def test_a_short_token_opens_nothing(adapter: Any) -> None:
    assert adapter.verify(BODY, {}, {"token": "short"}, [b"token:short"], NOW) is not None


def test_a_key_of_shipengine_never_opens_as_a_token() -> None:
    for secret in (_pem(_private(1)), _jwks(("k1", _private(1))), b"-----BEGIN NONSENSE", b"{}"):
        query = {"token": secret.decode()}
        assert shipengine.verify(BODY, {}, query, [secret], NOW) is not None


def test_the_key_id_chooses_among_several_keys() -> None:
    secret = _jwks(("k1", _private(1)), ("k2", _private(2)))
    request = _shipengine(_private(2), "k2")(BODY, b"", NOW)
    assert shipengine.verify(BODY, request.headers, {}, [secret], NOW) is None
    mixed = request.headers | {"x-shipengine-rsa-sha256-key-id": "k1"}
    assert shipengine.verify(BODY, mixed, {}, [secret], NOW) == "bad_signature"


def test_a_short_key_and_a_key_of_another_kind_verify_nothing() -> None:
    short = _private(3, bits=1024)
    request = _shipengine(short, "k1")(BODY, b"", NOW)
    for secret in (
        _pem(short),
        _jwks(("k1", short)),
        _pem(ec.generate_private_key(ec.SECP256R1())),
    ):
        assert shipengine.verify(BODY, request.headers, {}, [secret], NOW) is not None


def test_another_spelling_of_the_same_signature_is_refused() -> None:
    name = "x-shipengine-rsa-sha256-signature"
    scheme = schemes()["shipengine"]
    request = scheme.sign(BODY, scheme.secret, NOW)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    written = request.headers[name]
    other = letters[letters.index(written[-3]) + 1]  # its low bits are not part of the bytes
    spelt = f"{written[:-3]}{other}=="
    assert base64.b64decode(spelt) == base64.b64decode(written)
    refused = replace(request, headers=request.headers | {name: spelt})
    assert scheme.verify(refused) == "bad_signature"


# -- damage --------------------------------------------------------------------------------------


def _changed(data: bytes, dice: random.Random) -> bytes:
    """One small change: a bit, a byte more, a byte less, two swapped, cut, doubled."""
    where = dice.randrange(len(data)) if data else 0
    match dice.randrange(6):
        case 0 if data:
            return data[:where] + bytes([data[where] ^ 1 << dice.randrange(8)]) + data[where + 1 :]
        case 1:
            return data[:where] + bytes([dice.randrange(256)]) + data[where:]
        case 2 if data:
            return data[:where] + data[where + 1 :]
        case 3 if data:
            return data[:where]
        case 4:
            return data + data[where:]
        case _:
            return bytes(dice.randrange(256) for _ in range(dice.randrange(1, 90)))


def _damaged(request: Request, dice: random.Random) -> Request:
    """The request with its body, or one of its headers or its token, changed."""
    places = ["body", *request.headers, *request.query]
    place = dice.choice(places)
    if place == "body":
        return replace(request, body=_changed(request.body, dice))
    if place in request.query:
        changed = _changed(request.query[place].encode(), dice)
        return replace(request, query=request.query | {place: changed.decode("latin-1")})
    if dice.random() < 0.05:
        others = {k: v for k, v in request.headers.items() if k != place}
        return replace(request, headers=others)
    value = request.headers[place]
    spelt = [value.upper(), value.lower(), value + "=", value.rstrip("="), f" {value}", f"{value},"]
    if dice.random() < 0.2:
        return replace(request, headers=request.headers | {place: dice.choice(spelt)})
    changed = _changed(value.encode(), dice)
    return replace(request, headers=request.headers | {place: changed.decode("latin-1")})


# A token vouches for the sender, not for the body; with a PEM any key id is right.
TRIED = ("aftership", "easypost", "shippo", "seventeentrack", "shipengine", "sendcloud")


def _try(count: int, seed: int) -> int:
    """How many of so many damaged requests were taken; round the six schemes in turn."""
    dice = random.Random(seed)
    bodies = [BODY, b"", b"{}", bytes(range(256)), BODY * 20]
    taken = tried = 0
    while tried < count:
        for name in TRIED:
            scheme = schemes()[name]
            signed = scheme.sign(dice.choice(bodies), scheme.secret, NOW)
            for _ in range(20):
                request = _damaged(signed, dice)
                if request != signed:
                    tried += 1
                    taken += scheme.verify(request) is None
    return taken


def test_none_of_ten_thousand_damaged_signatures_is_taken() -> None:
    assert _try(10_000, seed=1) == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_none_of_a_million_damaged_signatures_is_taken() -> None:
    assert _try(1_000_000, seed=2) == 0
