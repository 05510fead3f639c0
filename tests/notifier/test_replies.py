import itertools
import random

import pytest
from hypothesis import given, strategies as st

from notifier.replies import (
    LINE_BYTES_MAX,
    REPLY_LINES_MAX,
    Fate,
    Outcome,
    Phase,
    Reply,
    ReplyParser,
    RouteFault,
    Verdict,
    backoff_seconds,
    classify,
    one_line,
    outcome_of,
)

# phase, code, enhanced -> action, reason, suppress_address
REFUSALS: list[tuple[Phase, int, str | None, str, str, bool]] = [
    # closing: the connection, not the message
    ("mail", 421, None, "close_and_retry", "server_closing", False),
    ("mail", 421, "4.3.2", "close_and_retry", "server_closing", False),
    ("rcpt", 421, "4.7.0", "close_and_retry", "server_closing", False),
    ("data", 421, "4.4.2", "close_and_retry", "server_closing", False),
    ("dot", 421, "4.3.2", "close_and_retry", "server_closing", False),
    # credentials
    ("mail", 530, None, "route_fault", "auth_refused", False),
    ("mail", 530, "5.7.0", "route_fault", "auth_refused", False),
    ("rcpt", 530, "5.7.1", "route_fault", "auth_refused", False),
    ("mail", 534, "5.7.9", "route_fault", "auth_refused", False),
    ("mail", 535, "5.7.8", "route_fault", "auth_refused", False),
    ("mail", 538, "5.7.11", "route_fault", "auth_refused", False),
    ("rcpt", 550, "5.7.8", "route_fault", "auth_refused", False),
    # the sender
    ("mail", 550, None, "route_fault", "sender_refused", False),
    ("mail", 553, None, "route_fault", "sender_refused", False),
    ("mail", 554, None, "route_fault", "sender_refused", False),
    ("mail", 550, "5.1.8", "route_fault", "sender_refused", False),
    ("mail", 501, "5.1.7", "route_fault", "sender_refused", False),
    ("mail", 550, "5.7.1", "route_fault", "sender_refused", False),
    ("mail", 553, "5.7.1", "route_fault", "sender_refused", False),
    ("mail", 554, "5.7.26", "route_fault", "sender_refused", False),
    ("mail", 550, "5.1.1", "route_fault", "sender_refused", False),
    ("rcpt", 550, "5.1.8", "route_fault", "sender_refused", False),
    ("rcpt", 553, "5.1.7", "route_fault", "sender_refused", False),
    # not now
    ("mail", 450, None, "retry", "refused_for_now", False),
    ("mail", 451, "4.7.1", "retry", "greylisted", False),
    ("mail", 452, "4.3.1", "retry", "server_busy", False),
    ("rcpt", 450, "4.7.1", "retry", "greylisted", False),
    ("rcpt", 450, "4.2.1", "retry", "mailbox_unavailable", False),
    ("rcpt", 451, "4.3.0", "retry", "server_busy", False),
    ("rcpt", 451, "4.4.1", "retry", "network", False),
    ("rcpt", 452, "4.2.2", "retry", "mailbox_full", False),
    ("rcpt", 452, "4.5.3", "retry", "refused_for_now", False),
    ("rcpt", 454, "4.7.0", "retry", "refused_for_now", False),
    ("data", 451, None, "retry", "refused_for_now", False),
    ("dot", 450, None, "retry", "refused_for_now", False),
    ("dot", 451, "4.3.0", "retry", "server_busy", False),
    ("dot", 452, "4.3.1", "retry", "server_busy", False),
    # the basic class wins over the text's
    ("rcpt", 450, "5.1.1", "retry", "refused_for_now", False),
    ("dot", 451, "5.7.1", "retry", "refused_for_now", False),
    ("rcpt", 550, "4.1.1", "failed", "recipient_refused", False),
    ("rcpt", 550, "2.1.5", "failed", "recipient_refused", False),
    # the address
    ("rcpt", 550, "5.1.1", "failed", "address_refused", True),
    ("rcpt", 550, "5.1.2", "failed", "address_refused", True),
    ("rcpt", 501, "5.1.3", "failed", "address_refused", True),
    ("rcpt", 553, "5.1.3", "failed", "address_refused", True),
    ("rcpt", 551, "5.1.6", "failed", "address_refused", True),
    ("rcpt", 556, "5.1.10", "failed", "address_refused", True),
    ("rcpt", 556, None, "failed", "address_refused", True),
    ("dot", 550, "5.1.1", "failed", "address_refused", False),
    ("rcpt", 550, "5.1.0", "failed", "recipient_refused", False),
    ("rcpt", 550, "5.1.11", "failed", "recipient_refused", False),
    ("rcpt", 550, None, "failed", "recipient_refused", False),
    ("rcpt", 551, None, "failed", "recipient_refused", False),
    ("rcpt", 553, None, "failed", "recipient_refused", False),
    ("rcpt", 550, "5.2.1", "failed", "recipient_refused", False),
    ("rcpt", 553, "5.6.7", "failed", "smtputf8_unsupported", False),
    ("mail", 553, "5.6.7", "failed", "smtputf8_unsupported", False),
    # the mailbox is full
    ("rcpt", 552, None, "retry", "mailbox_full", False),
    ("rcpt", 552, "5.2.2", "retry", "mailbox_full", False),
    ("rcpt", 550, "5.2.2", "retry", "mailbox_full", False),
    ("dot", 552, "5.2.2", "retry", "mailbox_full", False),
    # the message
    ("mail", 552, None, "failed", "too_big", False),
    ("mail", 552, "5.3.4", "failed", "too_big", False),
    ("body", 552, "5.3.4", "failed", "too_big", False),
    ("dot", 552, "5.3.4", "failed", "too_big", False),
    ("dot", 554, "5.2.3", "failed", "too_big", False),
    ("data", 550, "5.7.1", "failed", "policy", False),
    ("data", 554, "5.7.0", "failed", "policy", False),
    ("dot", 550, "5.7.1", "failed", "policy", False),
    ("dot", 554, "5.7.1", "failed", "policy", False),
    ("dot", 550, "5.7.26", "failed", "policy", False),
    ("rcpt", 554, "5.7.1", "failed", "policy", False),
    ("dot", 554, None, "failed", "policy", False),
    ("dot", 554, "5.6.0", "failed", "policy", False),
    ("dot", 571, None, "failed", "policy", False),
    # we spoke wrongly
    ("mail", 500, None, "close_and_retry", "protocol_error", False),
    ("mail", 501, "5.5.4", "close_and_retry", "protocol_error", False),
    ("mail", 555, "5.5.4", "close_and_retry", "protocol_error", False),
    ("rcpt", 502, None, "close_and_retry", "protocol_error", False),
    ("rcpt", 503, "5.5.1", "close_and_retry", "protocol_error", False),
    ("data", 503, "5.5.1", "close_and_retry", "protocol_error", False),
    ("data", 504, None, "close_and_retry", "protocol_error", False),
    ("dot", 500, "5.5.2", "failed", "protocol_error", False),
]


@pytest.mark.parametrize(("phase", "code", "enhanced", "action", "reason", "suppress"), REFUSALS)
def test_every_refusal_has_its_verdict(
    phase: Phase, code: int, enhanced: str | None, action: str, reason: str, *, suppress: bool
) -> None:
    verdict = classify(Outcome("refused", phase, code, enhanced, ""))
    assert (verdict.action, verdict.reason) == (action, reason)
    assert verdict.suppress_address is suppress


@pytest.mark.parametrize(
    ("fate", "phase", "action", "charged"),
    [
        ("accepted", "dot", "sent", True),
        ("withdrawn", "mark", "withdrawn", False),
        ("unknown", "dot", "unknown", True),
        ("not_sent", "connect", "close_and_retry", False),
        ("not_sent", "mail", "close_and_retry", False),
        ("not_sent", "rcpt", "close_and_retry", False),
        ("not_sent", "data", "close_and_retry", True),
        ("not_sent", "body", "close_and_retry", True),
        ("not_sent", "mark", "close_and_retry", False),
    ],
)
def test_every_other_fate_has_its_verdict(
    fate: Fate, phase: Phase, action: str, *, charged: bool
) -> None:
    verdict = classify(Outcome(fate, phase, None, None, ""))
    assert (verdict.action, verdict.charged) == (action, charged)


@given(
    st.sampled_from(["mail", "rcpt", "data", "body", "dot"]),
    st.integers(400, 559),
    st.none() | st.from_regex(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True),
)
def test_a_definite_no_is_never_sent_and_never_unknown(
    phase: Phase, code: int, enhanced: str | None
) -> None:
    verdict = classify(Outcome("refused", phase, code, enhanced, ""))
    assert verdict.action in {"retry", "failed", "route_fault", "close_and_retry"}
    if code < 500:
        assert verdict.action in {"retry", "close_and_retry"}
        assert verdict.retries is None
    if verdict.suppress_address:
        assert verdict.action == "failed"
        assert phase == "rcpt"
    if verdict.action in {"retry", "close_and_retry"}:
        assert verdict.backoff != "none"


def test_a_route_fault_and_a_closing_server_charge_no_attempt() -> None:
    wrong_password = classify(Outcome("refused", "mail", 535, "5.7.8", ""))
    closing = classify(Outcome("refused", "rcpt", 421, None, ""))
    assert not wrong_password.charged
    assert wrong_password.page
    assert (closing.charged, closing.backoff) == (False, "route")


def test_our_own_protocol_error_is_tried_once_more_and_pages() -> None:
    verdict = classify(Outcome("refused", "mail", 503, "5.5.1", ""))
    assert verdict == Verdict(
        "close_and_retry", "protocol_error", backoff="jitter", retries=1, page=True
    )


@given(st.integers(-3, 10_000), st.integers())
def test_backoff_stays_between_zero_and_its_ceiling(attempt: int, seed: int) -> None:
    pause = backoff_seconds(attempt, random.Random(seed))
    assert 0.0 <= pause <= min(60.0 * 2 ** min(max(attempt - 1, 0), 6), 3600.0)


def test_backoff_doubles_from_a_minute_to_an_hour_and_uses_the_whole_range() -> None:
    rng = random.Random(1)
    for attempt, ceiling in ((1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (50, 3600)):
        pauses = [backoff_seconds(attempt, rng) for _ in range(500)]
        assert max(pauses) > 0.95 * ceiling
        assert min(pauses) < 0.05 * ceiling


def test_a_reply_text_is_one_masked_printable_line() -> None:
    reply = Reply(
        550, "5.1.1 <Ana.Novak@example.com>: \x1b[31munknown\x1b[0m\r user\x00 " + "x" * 900
    )
    outcome = outcome_of("refused", "rcpt", reply)
    assert outcome.enhanced == "5.1.1"
    assert outcome.text.startswith("5.1.1 <<address>>: unknown  user  xxx")
    assert len(outcome.text) == 200
    assert outcome.text.isprintable()


def test_an_accepted_message_keeps_the_servers_id_but_not_the_address() -> None:
    reply = Reply(250, "2.0.0 OK <id-7@mx.example> queued for ana@example.com")
    outcome = outcome_of("accepted", "dot", reply, recipient="Ana@example.com")
    assert outcome.text == "2.0.0 OK <id-7@mx.example> queued for <address>"


@given(st.text())
def test_any_text_becomes_one_short_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= 200
    assert line.isprintable()


def test_a_route_fault_keeps_what_the_breaker_needs() -> None:
    fault = RouteFault("auth", "535 no", retryable=False, code=535)
    assert (fault.kind, fault.retryable, fault.code) == ("auth", False, 535)


# --- the parser


def replies_of(*chunks: bytes) -> tuple[list[tuple[int, str]], str | None]:
    parser = ReplyParser()
    got = [reply for chunk in chunks for reply in parser.feed(chunk)]
    return [(reply.code, reply.text) for reply in got], parser.bad


code_lines = st.tuples(
    st.integers(2, 5).flatmap(lambda d: st.integers(d * 100, d * 100 + 59)),
    st.lists(st.from_regex(r"[ -~]{0,30}", fullmatch=True), min_size=1, max_size=5),
)


def encoded(code: int, lines: list[str]) -> bytes:
    last = len(lines) - 1
    return b"".join(
        f"{code}{' ' if i == last else '-'}{line}\r\n".encode() for i, line in enumerate(lines)
    )


@given(st.lists(code_lines, max_size=6), st.data())
def test_replies_are_the_same_however_the_bytes_are_cut(
    replies: list[tuple[int, list[str]]], data: st.DataObject
) -> None:
    stream = b"".join(encoded(code, lines) for code, lines in replies)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    edges = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert replies_of(*chunks) == ([(code, " ".join(lines)) for code, lines in replies], None)


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_any_bytes_give_well_formed_replies_or_end_as_bad(chunks: list[bytes]) -> None:
    parser = ReplyParser()
    for chunk in chunks:
        for reply in parser.feed(chunk):
            assert 200 <= reply.code <= 559
    if parser.bad is not None:
        assert parser.feed(b"250 fine\r\n") == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n",
        b"250 only a line feed\n",
        b"999 beyond\r\n",
        b"199 below\r\n",
        b"260 no such class\r\n",
        b"25\r\n",
        b"2500 four digits\r\n",
        b"250_odd\r\n",
        b" 250 indented\r\n",
        b"\r\n",
        b"\xb2\xb5\xb0 not ascii\r\n",
        b"250-one\r\n251 another\r\n",
        b"250-more\r\n" * REPLY_LINES_MAX,
        b"250 " + b"x" * LINE_BYTES_MAX + b"\r\n",
        b"x" * (LINE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_reply_is_bad_and_what_came_before_counts(garbage: bytes) -> None:
    got, bad = replies_of(b"250 2.0.0 ok\r\n" + garbage)
    assert got == [(250, "2.0.0 ok")]
    assert bad is not None


def test_a_bare_code_is_a_reply() -> None:
    assert replies_of(b"250\r\n354 \r\n") == ([(250, ""), (354, "")], None)


def test_an_endless_line_in_small_pieces_keeps_no_more_than_its_limit() -> None:
    parser = ReplyParser()
    for _ in range(100):
        assert parser.feed(b"250 " + b"x" * 500) == []
    assert parser.bad == "reply line too long"
    assert not parser.partial
