from datetime import UTC, datetime
from typing import Any

import phonenumbers
import pytest
from email_validator import validate_email
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

from shared.events import (
    clean_text,
    countries,
    country_or_none,
    currencies,
    email_or_none,
    locale_or_none,
    parse_email,
    parse_instant,
    parse_phone,
    phone_or_none,
    rfc3339,
    url_or_none,
    values,
)

KINDS = ["OrderId", "Ref", "Line", "Text", "Url", "Locale", "Currency", "Country", "Quantity"]
KINDS += ["Money", "Amount", "Day", "Email", "Phone", "Instant", "Token", "Flag"]
ADAPTERS: dict[str, TypeAdapter[Any]] = {kind: TypeAdapter(getattr(values, kind)) for kind in KINDS}

ACCEPTED: dict[str, list[object]] = {
    "OrderId": [
        "820982911946154508", "#1234", "SV-10452", "2026/1042", "100.2", "a_b", "x" * 128,
        "6f1d2c0e-5a0b-4c52-9d0e-4a3f5b7c8d91", "123-1234567-1234567",
    ],
    "Ref": ["255858046/1", "gid://shopify/Order/1", "TEA-5"],
    "Line": ["", "Čaj <script>", "{{7*7}}", "%s", "\u202egnirts", "👩‍👩‍👧", "O'Neil \"x\""],
    "Text": ["two\r\nlines\tand a tab"],
    "Url": [
        "https://shop.example/orders/abc?x=1#y", "http://xn--e1afmkfd.xn--p1ai:8080/",
        "https://пример.рф/путь", "https://cdn.shop.example", "https://my_cdn.shop.example/a|b",
    ],
    "Locale": ["sl", "sl-SI", "zh-Hant-TW", "es-419"],
    "Currency": ["EUR", "JPY", "KWD", "PLN", "RUB", "XOF"],
    "Country": ["SI", "PL", "GB", "XK"],
    "Quantity": ["0", "5", "0.5", "999999999.123456"],
    "Money": [0, -1, 999_999_999_999],
    "Amount": [0, 12345],
    "Day": ["2026-11-25"],
    "Email": [
        "ana@example.com", "a.b+c@sub.example.co.uk", "o'neil@example.com", "а@пример.рф",
        "x" * 64 + "@example.com", "a@xn--e1afmkfd.xn--p1ai",
    ],
    "Phone": ["+38640123456", "+12025550123", "+79161234567", "+442071838750"],
    "Instant": [
        "2026-11-22T09:15:00Z", "2026-11-22t09:15:00.123456789+05:30", "2026-11-22 09:15:00-08:00",
    ],
}  # fmt: skip

REFUSED: dict[str, list[object]] = {
    "OrderId": [
        "", "../../etc", "a:b", "a\nb", "x" * 129, "💥", "a b", "/a", "a/", "a//b", "a/../b",
        ".", "..", "a|b", 7, None, "a\n",
    ],
    "Ref": ["", "a b", "a|b", "č", "x" * 129, "a\n"],
    "Line": ["a\nb", "a\x00", "a\x7f", "a\x85", "a\u2028", "x" * 501, "\ud800", 5, b"x\xff"],
    "Text": ["\x00", "\x1b[31m", "x" * 4001],
    "Url": [
        "javascript:alert(1)", "data:text/html,x", "//evil.example", "http://169.254.169.254/",
        "https://user@evil.example", "https://a:b@evil.example/", "http://localhost/",
        "http://[::1]/", "http://0x7f.1/", "http://127.1/", "https://shop.example\\@evil.example",
        "https://shop.example/a b", "https://shop.example/\n", "ftp://shop.example/", "",
        "https://shop.example/" + "x" * 2048, 'https://shop.example/"onclick', "https://a..example",
    ],
    "Locale": ["", "sl_SI", "s", "english please", "en-"],
    "Currency": ["XXX", "usd", "US$", "DEM", "XAU", ""],
    "Country": ["si", "SVN", "ZZ", ""],
    "Quantity": ["", "-1", "1e3", "1.", ".5", "1,5", "NaN", "1e999999", "1" * 10, 5, "٣", "1\n"],
    "Money": ["5", 5.5, True, 10**12, -(10**12)],
    "Amount": [-1, "0"],
    "Day": ["2026-11-25T00:00:00Z", "2026-02-30", "20261125", 20000, "0001-01-01"],
    "Email": [
        "a@b.c\r\nBcc: v@y", "a@x.org, v@y.org", "<a@x.org> SIZE=1", "x" * 65 + "@x.org",
        "a@" + "x." * 125 + "org", '"a b"@x.org', "a@localhost", "a@[127.0.0.1]", "x@-a-.com",
        "a@127.0.0.1", "a@x.local", "a@host.test", "", "a", "@x.org", "a@", "a..b@x.org", "a@x..org",
        ".a@x.org", "a@x.org\n", " a@x.org", "a\x00@x.org", "Ana <a@x.org>", 5, None,
    ],
    "Phone": [
        "+1 (900) 555-0100x2", "112", "+0", "+" + "1" * 40, "0038640123456", "+386 40 123 456", "",
        "+2101234567", "+1202555", "+38640123456\n", "+٣٨٦٤٠١٢٣٤٥٦",
    ],
    "Instant": [
        "2026-11-22T09:15:00", "2026-11-22", "1795000000", 1795000000, "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-12:00", "1999-12-31T23:59:59Z", "2026-11-22T25:00:00Z", "", None,
        "2026-11-22T09:15:00+99:99", "2026-W47-7T09:15:00Z", "2026-11-22T09:15:60Z",
        "٢٠٢٦-11-22T09:15:00Z",
    ],
    "Token": ["", "Order", "a b", "a" * 65, "1a"],
    "Flag": ["yes", 1, 0, "true"],
}  # fmt: skip


def accepts(kind: str, value: object) -> bool:
    try:
        ADAPTERS[kind].validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("kind", ACCEPTED)
def test_real_values_are_accepted(kind: str) -> None:
    assert [value for value in ACCEPTED[kind] if not accepts(kind, value)] == []


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_values_are_refused(kind: str) -> None:
    assert [value for value in REFUSED[kind] if accepts(kind, value)] == []


@given(st.emails() | st.text(alphabet="abAB.-_+@'01x", max_size=30))
def test_the_quick_look_at_an_address_agrees_with_the_full_one(address: str) -> None:
    quick = email_or_none(address)
    try:
        full = validate_email(address, check_deliverability=False, strict=True).normalized
    except ValueError:
        full = None
    assert quick == full


def test_the_domain_of_an_address_is_written_in_lower_case_and_the_rest_kept() -> None:
    assert parse_email("Ana.Novak@Example.COM") == "Ana.Novak@example.com"


def test_the_example_numbers_of_every_country_are_accepted() -> None:
    for region in phonenumbers.SUPPORTED_REGIONS:
        number = phonenumbers.example_number(region)
        assert number is not None
        written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        assert parse_phone(written) == written


def test_a_national_phone_number_is_read_as_of_its_region_and_an_odd_one_dropped() -> None:
    assert phone_or_none("040 123 456", ["SI"]) == "+38640123456"
    assert phone_or_none("+386 (0)40 123-456", ["US"]) == "+38640123456"
    assert phone_or_none("040 123 456") is None
    assert phone_or_none("call me", ["SI"]) is None
    assert phone_or_none("112", ["SI"]) is None
    assert phone_or_none("1" * 5000, ["SI"]) is None
    assert phone_or_none(None, ["SI"]) is None


def test_what_cannot_be_normalised_is_dropped() -> None:
    assert email_or_none(" Ana@Example.com ") == "Ana@example.com"
    assert email_or_none("a@x.org, b@x.org") is None
    assert email_or_none(7) is None
    assert country_or_none(" si ") == "SI"
    assert country_or_none("Slovenia") is None
    assert locale_or_none("sl_SI") == "sl-SI"
    assert locale_or_none("in english") is None
    assert url_or_none("https://shop.example/a") == "https://shop.example/a"
    assert url_or_none("javascript:alert(1)") is None
    assert clean_text(" a\r\nBcc: b\x00 ") == "a Bcc: b"
    assert clean_text("\x00 ") is None
    assert clean_text("x" * 10_000, 80) == "x" * 80
    assert clean_text("a\ud800b") == "a b"
    assert clean_text({}) is None


@given(st.text(), st.integers(1, 100))
def test_cleaned_text_is_always_a_line(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit)
    if cleaned is not None:
        assert ADAPTERS["Line"].validate_python(cleaned)
        assert len(cleaned) <= limit


@given(st.text(max_size=80), st.sampled_from(KINDS))
def test_any_text_is_valid_or_refused_and_never_an_accident(text: str, kind: str) -> None:
    assert accepts(kind, text) in {True, False}


@given(st.datetimes(datetime(2000, 1, 2), datetime(2099, 12, 30), timezones=st.timezones()))  # noqa: DTZ001 - the zone is drawn apart
def test_an_instant_survives_the_wire(instant: datetime) -> None:
    if instant.utcoffset() is None:
        return
    written = rfc3339(instant)
    assert written.endswith("Z")
    assert parse_instant(written) == instant.astimezone(UTC)


def test_currencies_and_countries_are_todays() -> None:
    assert {"EUR", "USD", "JPY", "KWD", "PLN"} <= currencies()
    assert not {"XXX", "XTS", "XAU", "DEM", "SIT"} & currencies()
    assert {"SI", "PL", "RU", "GB", "XK"} <= countries()
    assert not {"EU", "ZZ", "UK"} & countries()
