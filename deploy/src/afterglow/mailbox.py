"""What the catcher keeps: the newest messages, within bounds, and what they say."""

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser, BytesParser
from functools import cached_property
from typing import Any

from shared.clock import now

MESSAGES_KEPT = 20_000
BYTES_KEPT = 256 * 1024 * 1024
TEXTS_KEPT = 1_000


@dataclass
class Mail:
    """One accepted message: the envelope, the exact bytes, and what they say, read when asked for."""

    id: str
    sender: str
    recipients: tuple[str, ...]
    raw: bytes
    received_at: datetime

    @cached_property
    def headers(self) -> dict[str, str]:
        """Header fields with encoded words decoded; repeated ones stand on lines of one value."""
        found: dict[str, str] = {}
        for name, value in BytesHeaderParser().parsebytes(self.raw).items():
            text = _decoded(value)
            found[name] = f"{found[name]}\n{text}" if name in found else text
        return found

    @cached_property
    def bodies(self) -> dict[str, str]:
        """The first part of each text type, `text/plain` and `text/html`."""
        found: dict[str, str] = {}
        for part in BytesParser().parsebytes(self.raw).walk():
            kind = part.get_content_type()
            if part.get_content_maintype() == "text" and kind not in found:
                found[kind] = _text_of(part)
        return found

    @property
    def subject(self) -> str:
        """The decoded subject line."""
        return self.header("subject")

    def header(self, name: str) -> str:
        """Return a header whatever its letter case; empty when it is absent."""
        wanted = name.lower()
        return next((v for k, v in self.headers.items() if k.lower() == wanted), "")

    def as_json(self) -> dict[str, Any]:
        """Return the message as the inbox API tells it; `to` are the recipients of the envelope."""
        return {
            "id": self.id,
            "from": self.header("from") or self.sender,
            "to": ", ".join(self.recipients),
            "subject": self.subject,
            "received_at": self.received_at.isoformat(),
            "headers": self.headers,
            "text": self.bodies.get("text/plain"),
            "html": self.bodies.get("text/html"),
        }


@dataclass
class Mailbox:
    """The newest messages; older ones are dropped, and counted, beyond either bound."""

    messages_kept: int = MESSAGES_KEPT
    bytes_kept: int = BYTES_KEPT
    dropped: int = 0
    texts: list[dict[str, Any]] = field(default_factory=list)
    _mails: "OrderedDict[str, Mail]" = field(default_factory=OrderedDict)
    _bytes: int = 0
    _last: int = 0

    def add(self, sender: str, recipients: tuple[str, ...], raw: bytes) -> Mail:
        """Keep a message and return it."""
        self._last += 1
        mail = Mail(str(self._last), sender, recipients, raw, now())
        self._mails[mail.id] = mail
        self._bytes += len(raw)
        while len(self._mails) > self.messages_kept or (
            self._bytes > self.bytes_kept and len(self._mails) > 1
        ):
            _, oldest = self._mails.popitem(last=False)
            self._bytes -= len(oldest.raw)
            self.dropped += 1
        return mail

    def add_text(self, to: str, sender: str, text: str) -> dict[str, Any]:
        """Keep a text message (SMS) and return it as the API tells it."""
        self._last += 1
        said = {
            "id": str(self._last),
            "from": sender,
            "to": to,
            "text": text,
            "received_at": now().isoformat(),
        }
        self.texts.append(said)
        del self.texts[:-TEXTS_KEPT]
        return said

    def get(self, mail_id: str) -> Mail | None:
        """Return the message with this id while it is kept."""
        return self._mails.get(mail_id)

    def newest(self, limit: int) -> list[Mail]:
        """Return up to `limit` messages, the newest first."""
        chosen: list[Mail] = []
        for mail_id in reversed(self._mails):
            if len(chosen) == limit:
                break
            chosen.append(self._mails[mail_id])
        return chosen

    def clear(self) -> None:
        """Forget all messages and texts."""
        self._mails.clear()
        self.texts.clear()
        self._bytes = self.dropped = 0

    @property
    def version(self) -> str:
        """A value that changes with every change of the content."""
        return f"{self._last}-{len(self._mails)}-{len(self.texts)}"

    def __len__(self) -> int:
        return len(self._mails)

    def __iter__(self) -> Iterator[Mail]:
        return iter(list(self._mails.values()))


def _decoded(value: Any) -> str:
    unfolded = re.sub(r"\r?\n[ \t]+", " ", str(value))
    try:
        return str(make_header(decode_header(unfolded)))
    except (HeaderParseError, LookupError, UnicodeDecodeError):
        return unfolded


def _text_of(part: "Message[str, str]") -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    try:
        return data.decode(part.get_content_charset("utf-8"), errors="replace")
    except LookupError:
        return data.decode(errors="replace")
