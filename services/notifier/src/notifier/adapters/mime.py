"""One message as the exact bytes that follow SMTP DATA, without the final dot.

Built by hand (RFC 5322, 2045, 2047) because the standard library's generator costs fifty times as
much. Equal input gives equal bytes, so a message sent again is the same message.
"""

import re
from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final

import idna

from notifier.adapters.render import Content
from shared.errors import GiveUp
from shared.languages.brand import clean

LINE_MAX: Final = 998  # octets between two CRLF, RFC 5322 2.1.1
_HEADER_TEXT_MAX = 66  # ASCII header text that stays on one line beside its name
_ENCODED_WORD_OCTETS = 39  # 52 in base64: with "Reply-To: " around it under 76 a line
_ADDRESS_MAX, _LOCAL_MAX = 254, 64

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_PLAIN_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*")
_MESSAGE_ID = re.compile(r"<[!#-;=?-~]+@[A-Za-z0-9.-]+>")
_UNSUBSCRIBE = re.compile(r"https?://[!#-;=?-~]{1,900}")
_TOKEN = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Mail:
    """Everything one e-mail is made of. `sender` and `recipient` are (display name, address).

    `date` is the row's own, `message_id` includes its angle brackets, `unsubscribe` is the one-click
    address of optional kinds (RFC 8058) and None for transactional ones.
    """

    kind: str
    sender: tuple[str, str]
    recipient: tuple[str, str]
    reply_to: str | None
    content: Content
    message_id: str
    date: datetime
    unsubscribe: str | None = None

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server with SMTPUTF8 (RFC 6531) can take it: a non-ASCII local part."""
        return any(not wire_address(a).isascii() for _, a in (self.sender, self.recipient)) or (
            self.reply_to is not None and not wire_address(self.reply_to).isascii()
        )


def wire_address(address: str) -> str:
    """Return an address as SMTP and headers carry it: the domain in ASCII (IDNA 2008).

    Raises `GiveUp` unless it is exactly one mailbox of the dot-atom form: quoted local parts,
    address literals, lists, comments and control characters are refused.
    """
    local, _, domain = address.rpartition("@")
    if (
        len(local.encode("utf-8", "replace")) > _LOCAL_MAX
        or not _LOCAL.fullmatch(local)
        or not (local.isascii() or local.isprintable())
    ):
        raise GiveUp("address is not one usable mailbox")
    wire = f"{local}@{_wire_domain(domain)}"
    if len(wire) > _ADDRESS_MAX:
        raise GiveUp("address is too long")
    return wire


def build(mail: Mail, *, eight_bit: bool) -> bytes:
    """Return the message with CRLF line ends and dots doubled, ending in CRLF.

    `eight_bit` says that the server offered 8BITMIME; without it, or with a line over 998 octets,
    what is not plain ASCII goes as base64. Raises `GiveUp` for what no header may carry.
    """
    content = mail.content
    text, text_encoding = _part(content.text, eight_bit=eight_bit)
    html, html_encoding = _part(content.html, eight_bit=eight_bit)
    boundary = _boundary(mail.message_id)
    while (mark := boundary.encode()) in text or mark in html:  # somebody wrote it into the content
        boundary = _boundary(boundary)
    head = _headers(mail, boundary).replace("\n", "\r\n").encode()
    data = b"%b%b%b%b%b\r\n--%b--\r\n" % (
        *(head, _part_head(mark, b"plain", text_encoding), text),
        *(_part_head(mark, b"html", html_encoding), html),
        mark,
    )
    # Our templates have no such line, and CPython looks backwards in half the time.
    return data if data.rfind(b"\r\n.") < 0 else data.replace(b"\r\n.", b"\r\n..")


def _part_head(boundary: bytes, subtype: bytes, encoding: bytes) -> bytes:
    return (
        b"\r\n--%b\r\nContent-Type: text/%b; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n"
    ) % (boundary, subtype, encoding)


def _headers(mail: Mail, boundary: str) -> str:
    if not _MESSAGE_ID.fullmatch(mail.message_id) or len(mail.message_id) > LINE_MAX // 2:
        raise GiveUp("message id is malformed")
    if not _TOKEN.fullmatch(mail.kind) or not _TOKEN.fullmatch(mail.content.language):
        raise GiveUp("message kind is malformed")
    reply_to = _mailbox("Reply-To", "", mail.reply_to) if mail.reply_to else ""
    unsubscribe = ""
    if mail.unsubscribe is not None:
        if not _UNSUBSCRIBE.fullmatch(mail.unsubscribe):
            raise GiveUp("unsubscribe address is malformed")
        unsubscribe = (
            f"List-Unsubscribe: <{mail.unsubscribe}>\n"
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click\n"
        )
    return (
        f"{_mailbox('From', *mail.sender)}"
        f"{_fresh_mailbox('To', *mail.recipient)}"
        f"{reply_to}"
        f"Subject: {_encode(_refuse_controls(mail.content.subject))}\n"
        f"Date: {_date(mail.date)}\n"
        f"Message-ID: {mail.message_id}\n"
        "MIME-Version: 1.0\n"
        "Auto-Submitted: auto-generated\n"
        f"X-Afterglow-Kind: {mail.kind}\n"
        f"Content-Language: {mail.content.language}\n"
        f"{unsubscribe}"
        f'Content-Type: multipart/alternative;\n boundary="{boundary}"\n'
    )


def _part(body: str, *, eight_bit: bool) -> tuple[bytes, bytes]:
    """Return a body with CRLF line ends, encoded, and the name of its encoding."""
    if "\r" in body:
        body = body.replace("\r\n", "\n").replace("\r", "\n")
    try:
        data = body.encode()
    except UnicodeEncodeError as error:
        raise GiveUp("body is not valid Unicode") from error
    ascii_only = body.isascii()
    if (eight_bit or ascii_only) and b"\0" not in data and not _has_long_line(data):
        return data.replace(b"\n", b"\r\n"), b"7bit" if ascii_only else b"8bit"
    encoded = b64encode(data.replace(b"\n", b"\r\n"))
    lines = [encoded[at : at + 76] for at in range(0, len(encoded), 76)]
    return b"\r\n".join(lines), b"base64"


def _has_long_line(data: bytes) -> bool:
    # From one line's start to the last line end that the limit allows, and so on.
    rfind, at, last = data.rfind, 0, len(data) - LINE_MAX
    while at < last:
        at = rfind(b"\n", at, at + LINE_MAX + 1) + 1
        if not at:
            return True
    return False


def _boundary(seed: str) -> str:
    return f"=_{sha256(seed.encode()).hexdigest()[:32]}"


@lru_cache(maxsize=64)
def _date(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise GiveUp("date has no time zone")
    return format_datetime(moment)


@lru_cache(maxsize=4096)
def _wire_domain(domain: str) -> str:
    try:
        wire = idna.encode(domain, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        wire = ""
    if not _DOMAIN.fullmatch(wire):
        raise GiveUp("address has no usable domain")
    return wire


def _fresh_mailbox(header: str, name: str, address: str) -> str:
    wire, phrase = wire_address(address), _phrase(clean(name))
    if not phrase:
        return f"{header}: {wire}\n"
    # A long or encoded name and the address stand on lines of their own.
    fold = "\n " if len(phrase) + len(wire) > _HEADER_TEXT_MAX else " "
    return f"{header}: {phrase}{fold}<{wire}>\n"


# A shop's own addresses; customers' are never kept.
_mailbox = lru_cache(maxsize=1024)(_fresh_mailbox)


def _phrase(name: str) -> str:
    if len(name) <= _HEADER_TEXT_MAX and "=?" not in name:
        if _PLAIN_PHRASE.fullmatch(name):
            return name
        if name.isascii():
            return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _encode(name, always=True)


def _encode(text: str, *, always: bool = False) -> str:
    """Return RFC 2047 encoded words for what a header cannot say plainly, split between characters."""
    plain = text.isascii() and len(text) <= _HEADER_TEXT_MAX and "=?" not in text
    if plain and not always and text == text.strip():
        return text
    data, words, start = text.encode(), [], 0
    while start < len(data):
        end = start + _ENCODED_WORD_OCTETS
        if end < len(data):
            # Best before a blank: readers that wrongly show the joint then show one more blank.
            blank = data.rfind(b" ", start + 1, end)
            end = blank if blank > 0 else end
            while data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a continuation byte
                end -= 1
        words.append(f"=?utf-8?B?{b64encode(data[start:end]).decode()}?=")
        start = end
    return "\n ".join(words)


def _refuse_controls(text: str) -> str:
    if not text.isprintable() and any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in text):  # noqa: PLR2004
        raise GiveUp("subject holds control characters")
    if any("\ud800" <= c <= "\udfff" for c in text if not c.isprintable()):
        raise GiveUp("subject is not valid Unicode")
    return text
