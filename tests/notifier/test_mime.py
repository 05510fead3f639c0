"""The bytes after DATA: what the standard library reads back is what went in."""

import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from notifier.adapters.mime import LINE_MAX, Mail, build, wire_address
from notifier.adapters.render import Content
from notifier.adapters.wording import clean
from shared.errors import GiveUp

WHEN = datetime(2026, 11, 22, 9, 15, tzinfo=UTC)


def mail(**changes: Any) -> Mail:
    content = Content(
        changes.pop("language", "en"),
        changes.pop("subject", "We have your order #1234"),
        changes.pop("text", "Hello\n"),
        changes.pop("html", "<p>Hello</p>\n"),
    )
    plain = {
        "kind": "order_confirmed",
        "sender": ("Leaf & Cup", "orders@leafandcup.example"),
        "recipient": ("Ana Novak", "ana@example.com"),
        "reply_to": "hello@leafandcup.example",
        "content": content,
        "message_id": "<abc.def@mail.example>",
        "date": WHEN,
    }
    return Mail(**(plain | changes))


def received(data: bytes) -> EmailMessage:
    """Undo what SMTP undoes, then read it as the standard library does."""
    assert data.endswith(b"\r\n")
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert b"\r" not in data.replace(b"\r\n", b"")
    assert b"\r\n.\r\n" not in data
    assert all(len(line) <= LINE_MAX for line in data.split(b"\r\n"))
    return message_from_bytes(data.replace(b"\r\n..", b"\r\n."), policy=SMTP)


def bodies(message: EmailMessage) -> tuple[str, str]:
    return tuple(
        part.get_payload(decode=True).decode().replace("\r\n", "\n")
        for part in message.iter_parts()
    )


def line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
NASTY = st.lists(
    st.sampled_from(["\r", "\n", ".", "\r\n", "a", "ž", "--", "=", "\0", "x" * 1000, " "])
).map("".join)


@given(st.one_of(TEXT, NASTY), st.one_of(TEXT, NASTY), st.booleans())
@example("\n.\n", "\r.\r", True)
@example("\r\n.\r\nMAIL FROM:<v@example.com>\r\n", "\n.\r\n", True)
@example("x" * 999, "ž" * 600, True)
@example("", "", False)
def test_bodies_come_back_as_they_went_in(text: str, html: str, eight_bit: bool) -> None:  # noqa: FBT001
    message = received(build(mail(text=text, html=html), eight_bit=eight_bit))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert bodies(message) == (line_ends(text), line_ends(html))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=200))
@example("Ваш заказ №1234 принят")
@example("=?utf-8?B?eA==?=")
@example("ž" * 200)
@example("a" * 300)
def test_subjects_come_back_as_they_went_in(subject: str) -> None:
    data = build(mail(subject=subject), eight_bit=True)
    header = data[: data.index(b"\r\n\r\n")]
    assert header.isascii()
    assert all(len(line) <= 78 for line in header.split(b"\r\n"))
    assert all(len(word) <= 75 for word in re.findall(rb"=\?[^ ]*\?=", header))
    assert received(data)["subject"] == subject


@given(st.text(max_size=300), st.text(max_size=300))
@example('Ana "Nana" O\'Neil, Ltd.', "Лист и чашка")
@example("Ana\r\nBcc: victim@example.com", "\u202eevil\0")
@example("=?utf-8?Q?x?=", "a" * 300)
def test_names_come_back_cleaned_and_never_become_headers(name: str, shop: str) -> None:
    sent = mail(recipient=(name, "ana@example.com"), sender=(shop, "orders@leafandcup.example"))
    message = received(build(sent, eight_bit=True))
    assert message["bcc"] is None
    for header, given_name, address in (
        ("to", name, "ana@example.com"),
        ("from", shop, "orders@leafandcup.example"),
    ):
        found: tuple[Address, ...] = message[header].addresses
        assert [one.addr_spec for one in found] == [address]
        # Python before 3.13 puts a blank between the encoded words of a long name.
        assert "".join(found[0].display_name.split()) == "".join(clean(given_name).split())


def test_the_headers_a_mail_carries() -> None:
    message = received(build(mail(language="sl"), eight_bit=True))
    assert dict(message.items()) == {
        "From": "Leaf & Cup <orders@leafandcup.example>",
        "To": "Ana Novak <ana@example.com>",
        "Reply-To": "hello@leafandcup.example",
        "Subject": "We have your order #1234",
        "Date": "Sun, 22 Nov 2026 09:15:00 +0000",
        "Message-ID": "<abc.def@mail.example>",
        "MIME-Version": "1.0",
        "Auto-Submitted": "auto-generated",
        "X-Afterglow-Kind": "order_confirmed",
        "Content-Language": "sl",
        "Content-Type": message["content-type"],
    }


def test_an_optional_kind_carries_one_click_unsubscribe_and_others_do_not() -> None:
    url = "https://prefs.example/u/abc"
    message = received(build(mail(unsubscribe=url), eight_bit=True))
    assert message["list-unsubscribe"] == f"<{url}>"
    assert message["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    with pytest.raises(GiveUp):
        build(mail(unsubscribe="https://prefs.example/>\r\nBcc: v@example.com"), eight_bit=True)


def test_the_same_message_is_the_same_bytes() -> None:
    assert build(mail(), eight_bit=True) == build(mail(), eight_bit=True)
    other = build(mail(message_id="<other@mail.example>"), eight_bit=True)
    boundary = received(other).get_boundary()
    assert boundary
    assert boundary != received(build(mail(), eight_bit=True)).get_boundary()


def test_content_that_knows_the_boundary_does_not_break_out() -> None:
    boundary = received(build(mail(), eight_bit=True)).get_boundary()
    text = f"x\n--{boundary}--\nContent-Type: text/html\n\n<b>hi</b>\n"
    assert bodies(received(build(mail(text=text), eight_bit=True)))[0] == text


@pytest.mark.parametrize(
    ("text", "eight_bit", "encoding"),
    [
        ("plain\n", False, "7bit"),
        ("Čaj\n", True, "8bit"),
        ("Čaj\n", False, "base64"),
        ("Č" * 499 + "\n", True, "8bit"),
        ("Č" * 500 + "\n", True, "base64"),
        ("x" * 999, True, "base64"),
        ("a\0b\n", True, "base64"),
    ],
)
def test_the_encoding_is_the_lightest_the_server_takes(
    text: str,
    eight_bit: bool,  # noqa: FBT001
    encoding: str,
) -> None:
    part = next(received(build(mail(text=text), eight_bit=eight_bit)).iter_parts())
    assert part["content-transfer-encoding"] == encoding


@given(st.lists(st.integers(0, 1200), max_size=8))
def test_a_long_line_is_found_wherever_it_stands(lengths: list[int]) -> None:
    text = "\n".join("ž" * (length // 2) for length in lengths)
    part = next(received(build(mail(text=text), eight_bit=True)).iter_parts())
    too_long = any(length // 2 * 2 > LINE_MAX for length in lengths)
    assert (part["content-transfer-encoding"] == "base64") == too_long


@pytest.mark.parametrize(
    "address",
    [
        *("a@b.example\r\nBcc: v@example.com", "a@x.example, v@y.example", "<a@x.example> SIZE=1"),
        *(f"{'a' * 65}@x.example", f"a@{'b' * 60}.{'c' * 200}.example", '"a b"@x.example'),
        *("a@localhost", "a@[127.0.0.1]", "x@-a-.example", "a@b@x.example", "", "@x.example", "a@"),
        *("a..b@x.example", ".a@x.example", "a@x.example\0", "a@x..example", "a\u202e@x.example"),
        *(
            "a b@x.example",
            "a(c)@x.example",
            "a@x.example.",
            "\ud800@x.example",
            "a\u0085@x.example",
        ),
    ],
)
def test_what_is_not_one_mailbox_is_given_up(address: str) -> None:
    with pytest.raises(GiveUp) as raised:
        build(mail(recipient=("Ana", address)), eight_bit=True)
    assert "example" not in str(raised.value)


def test_domains_go_out_as_idna_and_unicode_local_parts_ask_for_smtputf8() -> None:
    assert wire_address("Ana@ČAJ.example") == "Ana@xn--aj-dma.example"
    assert not mail(recipient=("", "ana@čaj.example")).needs_smtputf8
    assert mail(recipient=("", "а@пример.рф")).needs_smtputf8
    assert wire_address("а@пример.рф") == "а@xn--e1afmkfd.xn--p1ai"


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "a\r\nBcc: v@example.com"},
        {"subject": "a\0"},
        {"subject": "\ud800"},
        {"text": "\ud800"},
        {"message_id": "<a@b>\r\nX: y"},
        {"message_id": "abc"},
        {"kind": "a\nb"},
        {"language": "en\r\nX: y"},
        {"date": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"reply_to": "a@x.example, b@x.example"},
    ],
)
def test_what_no_header_may_carry_is_given_up(changes: dict) -> None:
    with pytest.raises(GiveUp):
        build(mail(**changes), eight_bit=True)


@given(st.text(max_size=9), st.sampled_from(["", "@"]), st.text(max_size=5))
def test_an_accepted_address_is_one_plain_token(local: str, at: str, domain: str) -> None:
    try:
        wire = wire_address(f"ana{local}{at}@{domain}x.example")
    except GiveUp:
        return
    assert wire.count("@") == 1
    assert not re.search(r"[\s<>,;()\[\]\"\\\x00-\x1f\x7f]", wire)
