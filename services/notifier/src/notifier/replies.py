"""What a mail server answers and what that means for the message: pure rules, no I/O.

`ReplyParser` cuts the server's bytes into replies. An `Outcome` says what happened to one SMTP transaction, `classify` what to do about it, and
`RouteFault` is raised when no transaction could begin at all. Codes are those of RFC 5321 §4.2 and
RFC 3463; where an enhanced code is present it decides, unless its class contradicts the basic code.
"""

import random
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shared.errors import AfterglowError

Fate = Literal["accepted", "refused", "not_sent", "unknown", "withdrawn"]
Phase = Literal["connect", "mail", "rcpt", "data", "body", "mark", "dot"]
Action = Literal[
    "sent", "retry", "failed", "unknown", "route_fault", "close_and_retry", "withdrawn"
]
FaultKind = Literal["connect", "greeting", "tls", "ehlo", "auth"]

FIRST_BACKOFF_SECONDS = 60.0
LONGEST_BACKOFF_SECONDS = 3600.0
LINE_BYTES_MAX = 4096
REPLY_LINES_MAX = 100
_KEPT_CHARS = 400
_TEXT_CHARS = 200

_LINE = re.compile(rb"([2-5][0-5]\d)(?:([ -])(.*))?\r", re.DOTALL)
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_TERMINAL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_ADDRESS = re.compile(r"[^\s<>@,;()\"']+@[^\s<>@,;()\"']+")


class RouteFault(AfterglowError):
    """No message could be offered to the server; every message keeps its attempt.

    `retryable` False (a wrong password, a certificate that is not the server's, STARTTLS taken away)
    opens the breaker at once and wants a person; True counts as one fault towards opening it.
    """

    def __init__(
        self, kind: FaultKind, text: str, *, retryable: bool, code: int | None = None
    ) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind: FaultKind = kind
        self.text = text
        self.retryable = retryable
        self.code = code


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one SMTP transaction ended.

    - `accepted`: 250 after the dot.
    - `refused`: a definite no (4xx or 5xx) in `phase`; also what we refuse on the server's behalf
      because it announced it cannot take it.
    - `not_sent`: the exchange broke, and the dot was certainly not written.
    - `unknown`: the dot was or may have been written, and no definite reply was read.
    - `withdrawn`: the durable mark was refused, so the dot was never written.

    `text` is one printable line of at most 200 characters without addresses.
    """

    fate: Fate
    phase: Phase
    code: int | None
    enhanced: str | None
    text: str


class Reply(NamedTuple):
    """One complete reply; `text` holds the start of its lines, joined by a space, unsanitised."""

    code: int
    text: str


class ReplyParser:
    """Cuts a byte stream into replies, strictly (RFC 5321 §4.2) and in bounded memory.

    The first thing that is no reply sets `bad` for ever; replies complete before it still count.
    """

    __slots__ = ("_code", "_lines", "_tail", "_text", "bad")

    def __init__(self) -> None:
        self.bad: str | None = None
        self._tail = b""
        self._code = 0
        self._lines = 0
        self._text = ""

    @property
    def partial(self) -> bool:
        """Whether a reply has begun and not ended."""
        return bool(self._tail or self._lines)

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that `data` completes."""
        replies: list[Reply] = []
        if self.bad is not None:
            return replies
        *lines, tail = (self._tail + data).split(b"\n")
        self._tail = b""
        for line in lines:
            self._line(line, replies)
            if self.bad is not None:
                return replies
        if len(tail) > LINE_BYTES_MAX:
            self.bad = "reply line too long"
        else:
            self._tail = tail
        return replies

    def _line(self, line: bytes, replies: list[Reply]) -> None:
        if len(line) > LINE_BYTES_MAX:
            self.bad = "reply line too long"
            return
        match = _LINE.fullmatch(line)
        if match is None:
            self.bad = "not an SMTP reply"
            return
        code = int(match[1])
        if self._lines and code != self._code:
            self.bad = "reply changes its code"
            return
        text = (match[3] or b"")[:_KEPT_CHARS].decode("utf-8", "replace")
        if self._lines and len(self._text) < _KEPT_CHARS:
            text = f"{self._text} {text}"
        elif self._lines:
            text = self._text
        if match[2] != b"-":
            self._lines, self._text = 0, ""
            replies.append(Reply(code, text))
            return
        self._code, self._text = code, text
        self._lines += 1
        if self._lines >= REPLY_LINES_MAX:
            self.bad = "reply has too many lines"


def outcome_of(fate: Fate, phase: Phase, reply: Reply, *, recipient: str | None = None) -> Outcome:
    """Build the outcome a reply led to.

    All addresses in its text are masked; with `recipient` only that one, because what else holds an
    @ in the reply to an accepted message is the server's own id of it.
    """
    text = reply.text
    if recipient is not None and "@" in text:
        text = text.replace(recipient, "<address>").replace(recipient.lower(), "<address>")
    return Outcome(
        fate,
        phase,
        reply.code,
        (match := _ENHANCED.match(text)) and match[1],
        one_line(text, mask=recipient is None),
    )


def one_line(text: str, *, mask: bool = True) -> str:
    """Return at most 200 printable characters of a server's text, addresses masked."""
    text = text[:_KEPT_CHARS]
    if mask and "@" in text:
        text = _ADDRESS.sub("<address>", text)
    if not text.isprintable():
        text = _TERMINAL_SEQUENCE.sub("", text)
        text = "".join(char if char.isprintable() else " " for char in text)
    return text[:_TEXT_CHARS]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with the message, and with the route it was offered on.

    - `sent`, `failed`, `unknown`: final; `unknown` follows the policy of the message's kind.
    - `retry`: back to pending after `backoff`; `close_and_retry` the same on another connection.
    - `route_fault`: back to pending uncharged; open the route's breaker at once.
    - `withdrawn`: touch nothing; the row says who withdrew it and why.

    `charged` says whether this attempt counts for the backoff; `retries` how often the message may be
    tried again for this reason (None: until its life ends), after which it is failed; `page` asks for
    an operator. `backoff` "route" is the route's own pause, "jitter" is `backoff_seconds`.
    A caller that sees `reason` "policy" on more than 5 % of a route's last 200 messages treats it as
    a route fault.
    """

    action: Action
    reason: str
    suppress_address: bool = False
    charged: bool = True
    backoff: Literal["none", "jitter", "route"] = "none"
    retries: int | None = None
    page: bool = False


_AUTH_CODES = (530, 534, 535, 538)
_SERVICE_CLOSING = 421
_FIRST_PERMANENT = 500

_ADDRESS_REFUSED = Verdict("failed", "address_refused", suppress_address=True)
_AUTH_REFUSED = Verdict("route_fault", "auth_refused", charged=False, backoff="route", page=True)
_MAILBOX_FULL = Verdict("retry", "mailbox_full", backoff="jitter")
_POLICY = Verdict("failed", "policy")
_PROTOCOL = Verdict("close_and_retry", "protocol_error", backoff="jitter", retries=1, page=True)
_SENDER_REFUSED = Verdict(
    "route_fault", "sender_refused", charged=False, backoff="route", page=True
)
_TOO_BIG = Verdict("failed", "too_big", page=True)

_ANY: frozenset[Phase] = frozenset({"connect", "mail", "rcpt", "data", "body", "mark", "dot"})
_AT_MAIL: frozenset[Phase] = frozenset({"mail"})
_AT_RCPT: frozenset[Phase] = frozenset({"rcpt"})
_AT_DOT: frozenset[Phase] = frozenset({"body", "dot"})
_BEFORE_BODY: frozenset[Phase] = frozenset({"mail", "rcpt", "data"})

_BAD_ADDRESS = ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10")
_SYNTAX = (500, 501, 502, 503, 504, 555)

# The first row that fits decides; a code ending in a dot stands for its whole subject.
_PERMANENT_ENHANCED: tuple[tuple[frozenset[Phase], tuple[str, ...], Verdict], ...] = (
    (_ANY, ("5.7.8",), _AUTH_REFUSED),
    (_ANY, ("5.1.7", "5.1.8"), _SENDER_REFUSED),  # Postfix holds these back until RCPT
    (_AT_RCPT, _BAD_ADDRESS, _ADDRESS_REFUSED),
    (_ANY - _AT_MAIL, _BAD_ADDRESS, Verdict("failed", "address_refused")),
    (_ANY, ("5.2.2",), _MAILBOX_FULL),
    (_ANY, ("5.2.3", "5.3.4"), _TOO_BIG),
    (_ANY, ("5.6.7",), Verdict("failed", "smtputf8_unsupported")),
    (_AT_MAIL, ("5.7.",), _SENDER_REFUSED),
    (_ANY, ("5.7.",), _POLICY),
    (_BEFORE_BODY, ("5.5.",), _PROTOCOL),
)
_PERMANENT_BASIC: tuple[tuple[frozenset[Phase], tuple[int, ...], Verdict], ...] = (
    (_AT_DOT, _SYNTAX, Verdict("failed", "protocol_error", page=True)),
    (_ANY, _SYNTAX, _PROTOCOL),
    (_AT_MAIL, (552,), _TOO_BIG),  # the answer to SIZE=, RFC 1870 §6.1
    (_ANY, (552,), _MAILBOX_FULL),
    (_AT_RCPT, (556,), _ADDRESS_REFUSED),  # the domain takes no mail at all, RFC 7504
)
_PERMANENT: dict[Phase, Verdict] = {
    "mail": _SENDER_REFUSED,
    "rcpt": Verdict("failed", "recipient_refused"),
}
_TRANSIENT_REASONS = {
    "4.2.2": "mailbox_full",
    "4.7.1": "greylisted",
    "4.2.": "mailbox_unavailable",
    "4.3.": "server_busy",
    "4.4.": "network",
}


def classify(outcome: Outcome) -> Verdict:
    """Say what one transaction's outcome means for its message and its route."""
    match outcome.fate:
        case "accepted":
            return Verdict("sent", "accepted")
        case "withdrawn":
            return Verdict("withdrawn", "mark_refused", charged=False)
        case "unknown":
            return Verdict("unknown", "no_reply_after_dot")
        case "not_sent":
            # A body that makes the server hang up must not come straight back for ever.
            charged = outcome.phase in {"data", "body"}
            return Verdict(
                "close_and_retry",
                "connection_lost",
                charged=charged,
                backoff="jitter" if charged else "route",
            )
        case "refused":
            return _refused(outcome)


def _refused(outcome: Outcome) -> Verdict:
    code = outcome.code or 0
    enhanced = outcome.enhanced or ""
    if enhanced[:1] != str(code)[:1]:
        enhanced = ""  # "450 5.1.1 …" is transient: the basic class wins over the text
    if code == _SERVICE_CLOSING:
        return _closing(outcome.phase)
    if code < _FIRST_PERMANENT:
        return Verdict("retry", _transient_reason(enhanced), backoff="jitter")
    if code in _AUTH_CODES:
        return _AUTH_REFUSED
    for phases, prefixes, verdict in _PERMANENT_ENHANCED:
        if outcome.phase in phases and _in_subject(enhanced, prefixes):
            return verdict
    for phases, codes, verdict in _PERMANENT_BASIC:
        if outcome.phase in phases and code in codes:
            return verdict
    return _PERMANENT.get(outcome.phase, _POLICY)


def _closing(phase: Phase) -> Verdict:
    # At the dot the message itself may be the cause: charged, so that it falls back behind others.
    if phase in _AT_DOT:
        return Verdict("close_and_retry", "server_closing", backoff="jitter")
    return Verdict("close_and_retry", "server_closing", charged=False, backoff="route")


def _in_subject(enhanced: str, codes: tuple[str, ...]) -> bool:
    return any(
        enhanced.startswith(code) if code.endswith(".") else enhanced == code for code in codes
    )


def _transient_reason(enhanced: str) -> str:
    for code, reason in _TRANSIENT_REASONS.items():
        if _in_subject(enhanced, (code,)):
            return reason
    return "refused_for_now"


def backoff_seconds(attempt: int, rng: random.Random) -> float:
    """Return the pause before the next try: full jitter, from 0 to 60 s · 2^(attempt-1), at most 1 h.

    `attempt` counts from 1.
    """
    doublings = min(max(attempt, 1) - 1, 10)
    ceiling = min(FIRST_BACKOFF_SECONDS * 2**doublings, LONGEST_BACKOFF_SECONDS)
    return rng.uniform(0.0, ceiling)
