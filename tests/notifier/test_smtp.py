import asyncio
import datetime as dt
import hashlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiosmtpd import smtp as independent_smtp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.chaos.sink import Sink

from notifier.adapters.smtp import Connection, Endpoint, Outcome, RouteFault, Timeouts
from notifier.replies import classify

QUICK = Timeouts(
    connect_seconds=2, command_seconds=0.3, body_seconds=0.5, dot_seconds=0.3, quit_seconds=0.2
)
BODY = b"Message-ID: <m1@shop.test>\r\nX-Afterglow-Kind: order_confirmed\r\n\r\nHello\r\n..dot\r\n"


async def granted() -> bool:
    return True


def address_of(port: int) -> Endpoint:
    return Endpoint.parse(f"smtp://127.0.0.1:{port}")


async def submit(
    connection: Connection,
    wire: bytes = BODY,
    *,
    sender: str = "shop@shop.test",
    recipient: str = "ana@example.test",
    smtputf8: bool = False,
    mark: Callable[[], Awaitable[bool]] = granted,
) -> Outcome:
    return await connection.submit(
        sender=sender, recipient=recipient, wire=wire, smtputf8=smtputf8, mark=mark
    )


@asynccontextmanager
async def connected(sink: Sink, timeouts: Timeouts = QUICK) -> AsyncIterator[Connection]:
    connection = await Connection.open(address_of(sink.port), timeouts=timeouts)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def scripted(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> AsyncIterator[int]:
    """Serve EHLO, then leave the rest of the conversation to `talk`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 hi\r\n")
            await reader.readline()
            writer.write(b"250-hi\r\n250 PIPELINING\r\n")
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.01)


# --- one message after another


async def test_many_messages_go_over_one_connection_and_arrive_as_written(tmp_path: Path) -> None:
    record = tmp_path / "accepted.jsonl"
    async with Sink(collect=True, record=record) as sink, connected(sink) as connection:
        for number in range(50):
            wire = BODY.replace(b"m1", b"m%d" % number)
            outcome = await submit(connection, wire)
            assert (outcome.fate, outcome.phase, outcome.code) == ("accepted", "dot", 250)
            assert outcome.enhanced == "2.0.0"
            assert f"<m{number}@shop.test>" in outcome.text
        assert connection.messages == 50
        assert connection.usable
    assert sink.connections == 1
    rows = [json.loads(line) for line in record.read_bytes().splitlines()]
    assert [row["message_id"] for row in rows] == [f"<m{n}@shop.test>" for n in range(50)]
    assert rows[0]["kind"] == "order_confirmed"
    assert sink.accepted[0].content == BODY.replace(b"m1", b"m0").replace(b"..dot", b".dot")
    assert rows[0]["sha256"] == hashlib.sha256(sink.accepted[0].content).hexdigest()


async def test_only_what_the_server_offers_is_used() -> None:
    wire = BODY + "Čaj\r\n".encode()
    async with Sink(collect=True) as sink, connected(sink) as connection:
        assert (await submit(connection, wire)).fate == "accepted"
        assert (await submit(connection, BODY)).fate == "accepted"
        utf8 = await submit(connection, wire, recipient="аня@пример.test", smtputf8=True)
        assert utf8.fate == "accepted"
    mails = [line for line in sink.commands if line.startswith(b"MAIL")]
    assert mails[0] == b"MAIL FROM:<shop@shop.test> SIZE=%d BODY=8BITMIME" % len(wire)
    assert mails[1] == b"MAIL FROM:<shop@shop.test> SIZE=%d" % len(BODY)
    assert mails[2].endswith(b" BODY=8BITMIME SMTPUTF8")
    assert sink.accepted[2].rcpt == "аня@пример.test"

    bare = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE", "ENHANCEDSTATUSCODES")
    async with Sink(collect=True, without=bare) as sink, connected(sink) as connection:
        assert (connection.pipelining, connection.eight_bit, connection.smtputf8) == (False,) * 3
        assert connection.size_max is None
        assert (await submit(connection)).fate == "accepted"
        assert b"MAIL FROM:<shop@shop.test>" in sink.commands
        refused = await submit(connection, wire)
        assert (refused.fate, refused.enhanced) == ("refused", "5.6.3")
        refused = await submit(connection, recipient="аня@пример.test", smtputf8=True)
        assert classify(refused).reason == "smtputf8_unsupported"
        refused = await submit(connection, recipient="аня@пример.test")
        assert classify(refused).reason == "smtputf8_unsupported"
        assert (await submit(connection, recipient="ana@čaj.test")).fate == "accepted"
        assert sink.accepted[-1].rcpt == "ana@xn--aj-dma.test"


async def test_what_is_too_big_is_refused_before_a_byte_is_sent() -> None:
    async with Sink(collect=True, size_max=40) as sink, connected(sink) as connection:
        outcome = await submit(connection)
        assert (outcome.fate, outcome.phase, outcome.enhanced) == ("refused", "mail", "5.3.4")
        assert classify(outcome).reason == "too_big"
        assert not [line for line in sink.commands if line.startswith(b"MAIL")]
        assert connection.usable


@pytest.mark.parametrize(
    "address",
    ["a b@x.test", "a@x.test>\r\nRCPT TO:<b@x.test", "a\x00@x.test", "<a@x.test>", "a\n@b"],
)
async def test_an_address_never_becomes_a_command(address: str) -> None:
    async with Sink(collect=True) as sink, connected(sink) as connection:
        as_recipient = await submit(connection, recipient=address)
        assert (as_recipient.phase, as_recipient.enhanced) == ("rcpt", "5.1.3")
        as_sender = await submit(connection, sender=address)
        assert (as_sender.phase, as_sender.enhanced) == ("mail", "5.1.7")
        assert sink.commands[1:] == []


# --- the split at the dot


async def test_the_mark_is_asked_after_the_whole_body_and_before_the_dot() -> None:
    wire = BODY + b"x" * 70 + b"\r\n"
    seen: list[tuple[int, int]] = []
    async with Sink() as sink, connected(sink) as connection:

        async def mark() -> bool:
            await asyncio.sleep(0.05)  # time for the body to arrive, and for a dot that must not
            seen.append((sink.body_bytes, sink.count))
            return True

        assert (await submit(connection, wire, mark=mark)).fate == "accepted"
        assert seen == [(len(wire), 0)]
        assert sink.count == 1


async def test_a_refused_mark_means_the_server_never_accepts() -> None:
    async def refused() -> bool:
        return False

    async with Sink() as sink:
        async with connected(sink) as connection:
            outcome = await submit(connection, mark=refused)
            assert (outcome.fate, outcome.phase) == ("withdrawn", "mark")
            assert not connection.usable
        await asyncio.sleep(0.02)
        assert (sink.count, sink.open) == (0, 0)


async def test_a_mark_that_raises_closes_before_the_dot_and_is_raised() -> None:
    async def broken() -> bool:
        raise LookupError("database away")

    async with Sink() as sink, connected(sink) as connection:
        with pytest.raises(LookupError):
            await submit(connection, mark=broken)
        assert connection.outcome is not None
        assert (connection.outcome.fate, connection.outcome.phase) == ("not_sent", "mark")
        assert not connection.usable
        await asyncio.sleep(0.02)
        assert sink.count == 0


CUTS = [
    # fault at the server, then fate, phase, marked, messages the server accepted
    ("drop@mail", "not_sent", "mail", False, 0),
    ("drop@rcpt", "not_sent", "rcpt", False, 0),
    ("drop@data", "not_sent", "data", False, 0),
    ("stall@mail", "not_sent", "mail", False, 0),
    ("stall@rcpt", "not_sent", "rcpt", False, 0),
    ("stall@data", "not_sent", "data", False, 0),
    ("tarpit@mail:0.05", "not_sent", "mail", False, 0),
    ("drop@dot", "unknown", "dot", True, 0),
    ("drop@accepted", "unknown", "dot", True, 1),
    ("stall@dot", "unknown", "dot", True, 1),
    ("slow@dot:1", "unknown", "dot", True, 1),
    ("tarpit@dot:0.1", "unknown", "dot", True, 1),
    ("slow@dot:0.1", "accepted", "dot", True, 1),
    ("refuse@mail:451 4.3.0 later", "refused", "mail", False, 0),
    ("refuse@rcpt:550 5.1.1 nobody", "refused", "rcpt", False, 0),
    ("refuse@data:554 5.7.1 no", "refused", "data", False, 0),
    ("refuse@dot:554 5.7.1 spam", "refused", "dot", True, 0),
    ("refuse@dot:451 4.3.0 later", "refused", "dot", True, 0),
    ("refuse@dot:421 4.3.2 closing", "refused", "dot", True, 0),
    ("refuse@mail:421 4.3.2 closing", "refused", "mail", False, 0),
    ("refuse@rcpt:421 4.7.0 closing", "refused", "rcpt", False, 0),
    # garbage: before the dot nothing was sent, after it nobody knows
    *(
        (f"{action}@{phase}", "not_sent", phase, False, 0)
        for action in ("garbage", "long", "endless", "lf", "code")
        for phase in ("mail", "rcpt", "data")
    ),
    *(
        (f"{a}@dot", "unknown", "dot", True, 1)
        for a in ("garbage", "long", "endless", "lf", "code")
    ),
    ("say@data:250-half", "not_sent", "data", False, 0),
    ("say@rcpt:252 cannot verify", "not_sent", "rcpt", False, 0),
    ("say@data:250 2.0.0 ok", "not_sent", "data", False, 0),
    ("say@dot:251 2.1.5 forwarded", "unknown", "dot", True, 1),
    ("say@dot:252 2.0.0 maybe", "unknown", "dot", True, 1),
    ("say@dot:354 go on", "unknown", "dot", True, 1),
    ("say@dot:250-half", "unknown", "dot", True, 1),
]


@pytest.mark.parametrize("without", [(), ("PIPELINING",)], ids=["pipelined", "one-by-one"])
@pytest.mark.parametrize(("fault", "fate", "phase", "marked", "accepted"), CUTS)
async def test_every_cut_has_its_fate(
    without: tuple[str, ...], fault: str, fate: str, phase: str, *, marked: bool, accepted: int
) -> None:
    marks: list[int] = []

    async def mark() -> bool:
        marks.append(1)
        return True

    async with Sink(without=without, faults=f"{fault}*1") as sink, connected(sink) as connection:
        outcome = await submit(connection, mark=mark)
        assert (outcome.fate, outcome.phase) == (fate, phase)
        assert bool(marks) is marked
        await asyncio.sleep(0.02)
        assert sink.count == accepted
        if fate in {"not_sent", "unknown"} or outcome.code == 421:
            assert not connection.usable
        assert len(outcome.text) <= 200
        if connection.usable:  # refused or late: the connection must still be in step
            again = await submit(connection, BODY.replace(b"m1", b"m2"))
            assert again.fate == "accepted"
            assert "<m2@shop.test>" in again.text


async def test_a_cut_inside_the_body_is_not_sent() -> None:
    wire = BODY + (b"x" * 998 + b"\r\n") * 8_000
    for fault, fate in (("drop@body", "not_sent"), ("early@body:552 5.3.4 too big", "refused")):
        async with Sink(faults=fault) as sink, connected(sink) as connection:

            async def late() -> bool:
                await asyncio.sleep(0.05)
                return True

            outcome = await submit(connection, wire, mark=late)
            assert (outcome.fate, connection.usable, sink.count) == (fate, False, 0)
            if fate == "refused":
                assert (outcome.phase, outcome.code) == ("body", 552)


async def test_a_server_that_stops_reading_holds_back_the_mark() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readline()
        writer.write(b"250 ok\r\n250 ok\r\n354 go\r\n")
        await asyncio.sleep(1)

    async def never() -> bool:
        raise AssertionError("the body has not left")

    async with scripted(talk) as port:
        connection = await Connection.open(address_of(port), timeouts=QUICK)
        outcome = await submit(connection, b"x" * 30_000_000, mark=never)
        assert (outcome.fate, outcome.phase, outcome.text) == ("not_sent", "body", "timed out")


@pytest.mark.parametrize("fault", ["stall@mail", "stall@data", "stall@dot"])
async def test_a_cancelled_submit_closes_and_says_how_far_it_came(fault: str) -> None:
    async with Sink(faults=fault) as sink:
        connection = await Connection.open(address_of(sink.port))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(submit(connection))
            await asyncio.sleep(0.05)
            task.cancel()
        assert task.cancelled()
        assert connection.outcome is not None
        assert connection.outcome.fate == ("unknown" if fault == "stall@dot" else "not_sent")
        assert not connection.usable
        late = await submit(connection)
        assert (late.fate, late.phase) == ("not_sent", "connect")


async def test_a_connection_carries_one_message_at_a_time() -> None:
    async with Sink(faults="slow@mail:0.1") as sink, connected(sink) as connection:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(submit(connection))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError):
                await submit(connection)
        assert first.result().fate == "accepted"


# --- out of step


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "dot"])
@pytest.mark.parametrize("line", ["250 2.0.0 extra", "550 5.1.1 extra", "354 extra"])
@pytest.mark.parametrize("without", [(), ("PIPELINING",)], ids=["pipelined", "one-by-one"])
async def test_an_extra_line_never_answers_for_another_message(
    phase: str, line: str, without: tuple[str, ...]
) -> None:
    async with (
        Sink(collect=True, faults=f"extra@{phase}:{line}*1", without=without) as sink,
        connected(sink) as connection,
    ):
        first = await submit(connection)
        if phase == "dot":
            assert (first.fate, connection.usable) == ("accepted", False)
        elif first.fate == "refused":
            assert not connection.usable or line.startswith("550")
        else:
            assert (first.fate, connection.usable) == ("not_sent", False)
        assert len(sink.accepted) == (1 if phase == "dot" else 0)
        second = await submit(connection, BODY.replace(b"m1", b"m2"))
        if second.fate == "accepted":
            assert "<m2@shop.test>" in second.text


@pytest.mark.parametrize(
    "spoken", [b"421 4.4.2 idle too long\r\n", b"250 what\r\n", b"25", b"???\r\n"]
)
async def test_a_line_nobody_asked_for_ends_an_idle_connection(spoken: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(spoken)
        await reader.read()

    async with scripted(talk) as port:
        connection = await Connection.open(address_of(port), timeouts=QUICK)
        assert connection.usable
        await asyncio.sleep(0.1)
        assert not connection.usable
        outcome = await submit(connection)
        assert (outcome.fate, outcome.phase) == ("not_sent", "connect")
        assert not await connection.noop()
        await connection.close()


async def test_a_line_between_354_and_the_dot_is_not_the_answer_to_the_dot() -> None:
    dots: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readline()
        writer.write(b"250 ok\r\n250 ok\r\n354 go\r\n")
        await reader.readuntil(b"dot\r\n")
        writer.write(b"250 2.0.0 of another message\r\n")
        dots.append(await reader.read())

    async def late() -> bool:
        await asyncio.sleep(0.05)
        return True

    async with scripted(talk) as port:
        connection = await Connection.open(address_of(port), timeouts=QUICK)
        outcome = await submit(connection, mark=late)
        assert (outcome.fate, outcome.phase) == ("not_sent", "mark")
    assert dots in ([b""], [])


async def test_a_refused_recipient_with_an_accepted_data_closes_without_a_body() -> None:
    rest: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readline()
        writer.write(b"250 ok\r\n550 5.1.1 nobody\r\n354 go\r\n")
        rest.append(await reader.read())

    async with scripted(talk) as port:
        connection = await Connection.open(address_of(port), timeouts=QUICK)
        outcome = await submit(connection)
        assert (outcome.fate, outcome.phase, outcome.enhanced) == ("refused", "rcpt", "5.1.1")
        assert not connection.usable
    assert rest in ([b""], [])


async def test_a_refusal_is_reset_before_the_next_message() -> None:
    rejects = [(r"^bounce", "550 5.1.1 <bounce@example.test> nobody")]
    async with Sink(collect=True, rejects=rejects) as sink, connected(sink) as connection:
        refused = await submit(connection, recipient="bounce@example.test")
        assert refused.text == "5.1.1 <<address>> nobody"
        assert classify(refused).suppress_address
        assert (await submit(connection)).fate == "accepted"
        assert sink.commands.count(b"RSET") == 1
        assert (sink.connections, sink.count) == (1, 1)


async def test_noop_and_reset_tell_a_live_connection_from_a_dead_one() -> None:
    async with Sink() as sink:
        connection = await Connection.open(address_of(sink.port), timeouts=QUICK)
        assert await connection.noop()
        assert await connection.reset()
        assert connection.idle_seconds < 1
        assert connection.age < 5
        for session in tuple(sink.sessions):
            session.transport.abort()
        assert not await connection.noop()
        assert not connection.usable
        await connection.close()


# --- reaching the server


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("refuse@greeting:421 4.3.2 full", "greeting", 421),
        ("refuse@greeting:554 no", "greeting", 554),
        ("drop@greeting", "connect", None),
        ("garbage@greeting", "connect", None),
        ("stall@greeting", "connect", None),
        ("tarpit@greeting:0.1", "connect", None),
        ("refuse@ehlo:421 4.3.2 closing", "ehlo", None),
        ("drop@ehlo", "ehlo", None),
        ("stall@ehlo", "ehlo", None),
        ("endless@ehlo", "ehlo", None),
    ],
)
async def test_a_server_that_cannot_be_reached_is_a_retryable_route_fault(
    fault: str, kind: str, code: int | None
) -> None:
    async with Sink(faults=fault) as sink:
        with pytest.raises(RouteFault) as caught:
            await Connection.open(address_of(sink.port), timeouts=Timeouts(connect_seconds=0.3))
        assert caught.value.retryable
        if fault != "garbage@greeting":
            assert caught.value.kind == kind
        if code is not None:
            assert caught.value.code == code
    with pytest.raises(RouteFault) as caught:
        await Connection.open(address_of(sink.port), timeouts=QUICK)
    assert (caught.value.kind, caught.value.retryable) == ("connect", True)


async def test_a_server_without_ehlo_is_greeted_with_helo() -> None:
    async with Sink(faults="refuse@ehlo:502 5.5.1 old", collect=True) as sink:
        async with connected(sink) as connection:
            assert not connection.pipelining
            assert (await submit(connection)).fate == "accepted"
        assert sink.commands[1].startswith(b"HELO ")


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("smtp://127.0.0.1:1025", "127.0.0.1", 1025, "none"),
        ("smtp://localhost", "localhost", 25, "none"),
        ("smtp://[::1]:2525", "::1", 2525, "none"),
        ("smtp://mail.test", "mail.test", 587, "starttls"),
        ("smtp://mail.test:25?tls=none", "mail.test", 25, "none"),
        ("smtp://127.0.0.1?tls=starttls", "127.0.0.1", 587, "starttls"),
        ("smtps://mail.test", "mail.test", 465, "implicit"),
    ],
)
def test_an_address_is_plain_only_on_loopback_or_when_it_says_so(
    url: str, host: str, port: int, tls: str
) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.host, endpoint.port, endpoint.tls) == (host, port, tls)


def test_a_password_is_unquoted_and_never_shown() -> None:
    endpoint = Endpoint.parse(
        "smtp://us%40er:p%2Fw%3A@mail.test?ca_file=/ca.pem&local_hostname=a.test"
    )
    assert endpoint.username == "us@er"
    assert endpoint.password is not None
    assert endpoint.password.get_secret_value() == "p/w:"
    assert (endpoint.ca_file, endpoint.local_hostname) == ("/ca.pem", "a.test")
    assert "p/w" not in repr(endpoint)
    assert "us@er" not in repr(endpoint)


@pytest.mark.parametrize(
    "url",
    [
        "http://mail.test",
        "mail.test:25",
        "smtp://",
        "smtp://user@mail.test",
        "smtp://mail.test?tls=maybe",
        "smtp://mail.test?tls=implicit",
        "smtps://mail.test?tls=none",
        "smtp://secret:word@mail.test?verify=no",
        "smtp://mail.test:99999",
        "smtp://mail.test?local_hostname=a%20b",
    ],
)
def test_a_wrong_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Endpoint.parse(url)
    assert "secret" not in str(caught.value)


# --- TLS and AUTH, against certificates of our own and a second server implementation


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and localhost.pem and other.pem signed by it (key included)."""
    folder = tmp_path_factory.mktemp("certificates")
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    end = dt.datetime(2090, 1, 1, tzinfo=dt.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])

    def signed(
        subject: x509.Name, key: ec.EllipticCurvePrivateKey, *names: x509.GeneralName
    ) -> bytes:
        ca = key is ca_key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (folder / "ca.pem").write_bytes(signed(issuer, ca_key))
    for name in ("localhost", "other.test"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if name == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / f"{name}.pem").write_bytes(private + signed(subject, key, *names))
    return folder


def server_context(certificates: Path, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem")
    return context


class Mailbox:
    """What the independent server was given, and the password it wants."""

    def __init__(self) -> None:
        self.contents: list[bytes] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.contents.append(envelope.content)
        return "250 2.0.0 kept"

    def authenticate(self, *args: Any) -> independent_smtp.AuthResult:
        data = args[-1]
        right = (data.login, data.password) == (b"shop", b"right")
        return independent_smtp.AuthResult(success=right, handled=right)  # not handled: it says 535


@asynccontextmanager
async def independent(**options: Any) -> AsyncIterator[tuple[int, Mailbox]]:
    loop = asyncio.get_running_loop()
    box = Mailbox()
    server = await loop.create_server(
        lambda: independent_smtp.SMTP(box, loop=loop, hostname="box.test", **options),
        "127.0.0.1",
        0,
    )
    try:
        yield server.sockets[0].getsockname()[1], box
    finally:
        server.close()
        await asyncio.sleep(0.05)


async def test_an_independent_server_without_pipelining_takes_our_messages() -> None:
    async with independent() as (port, box):
        connection = await Connection.open(address_of(port), timeouts=QUICK)
        assert not connection.pipelining
        assert connection.eight_bit
        for _ in range(3):
            assert (await submit(connection, BODY + "Čaj\r\n".encode())).fate == "accepted"
        await connection.close()
    assert box.contents == [(BODY + "Čaj\r\n".encode()).replace(b"..dot", b".dot")] * 3


async def test_starttls_then_auth_then_messages(certificates: Path) -> None:
    context = server_context(certificates)
    async with independent(
        tls_context=context,
        require_starttls=True,
        authenticator=Mailbox().authenticate,
        auth_required=True,
    ) as (port, box):
        url = f"smtp://shop:right@localhost:{port}?tls=starttls&ca_file={certificates}/ca.pem"
        connection = await Connection.open(Endpoint.parse(url))
        for _ in range(3):
            assert (await submit(connection)).fate == "accepted"
        await connection.close()
    assert len(box.contents) == 3


async def test_a_wrong_password_is_a_route_fault_that_wants_a_person(certificates: Path) -> None:
    context = server_context(certificates)
    async with independent(
        tls_context=context, require_starttls=True, authenticator=Mailbox().authenticate
    ) as (port, box):
        url = f"smtp://shop:wrong@localhost:{port}?tls=starttls&ca_file={certificates}/ca.pem"
        with pytest.raises(RouteFault) as caught:
            await Connection.open(Endpoint.parse(url))
    assert (caught.value.kind, caught.value.retryable, caught.value.code) == ("auth", False, 535)
    assert "wrong" not in str(caught.value)
    assert box.contents == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("wrong", ["name", "issuer"])
async def test_a_certificate_that_is_not_the_servers_is_refused(
    certificates: Path, tls: str, wrong: str
) -> None:
    context = server_context(certificates, "other.test" if wrong == "name" else "localhost")
    ca_file = f"&ca_file={certificates}/ca.pem" if wrong == "name" else ""
    options = {"tls_context": context} if tls == "starttls" else {}
    async with independent(**options) as (plain, _), Sink(tls=context, collect=True) as sink:
        port = plain if tls == "starttls" else sink.port
        scheme = "smtp" if tls == "starttls" else "smtps"
        url = f"{scheme}://shop:right@localhost:{port}?tls={tls}{ca_file}"
        with pytest.raises(RouteFault) as caught:
            await Connection.open(Endpoint.parse(url))
    assert (caught.value.kind, caught.value.retryable) == ("tls", False)
    assert sink.commands == []


async def test_a_server_whose_starttls_was_taken_away_hears_no_secret_and_no_message() -> None:
    async with Sink(collect=True) as sink:
        url = f"smtp://shop:right@localhost:{sink.port}?tls=starttls"
        with pytest.raises(RouteFault) as caught:
            await Connection.open(Endpoint.parse(url))
        assert (caught.value.kind, caught.value.retryable) == ("tls", False)
        assert [line[:4] for line in sink.commands] == [b"EHLO"]


async def test_an_unreadable_ca_file_is_a_route_fault() -> None:
    with pytest.raises(RouteFault) as caught:
        await Connection.open(Endpoint.parse("smtps://localhost:1?ca_file=/nowhere.pem"))
    assert (caught.value.kind, caught.value.retryable) == ("tls", False)


RUNNERS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}


@pytest.mark.parametrize("runner", list(RUNNERS))
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_dialogue_works_on_both_loops_with_and_without_tls(
    certificates: Path, runner: str, *, tls: bool
) -> None:
    wire = BODY + (b"x" * 900 + b"\r\n") * 3_000

    async def scenario() -> None:
        context = server_context(certificates) if tls else None
        url = "smtps://localhost:{}?ca_file={}/ca.pem" if tls else "smtp://localhost:{}"
        async with Sink(tls=context, collect=True) as sink:
            endpoint = Endpoint.parse(url.format(sink.port, certificates))
            connection = await Connection.open(endpoint, timeouts=Timeouts(dot_seconds=5))
            for number in range(3):
                content = wire.replace(b"m1", b"m%d" % number)
                assert (await submit(connection, content)).fate == "accepted"
            sink.inject("drop@accepted")
            assert (await submit(connection)).fate == "unknown"
            assert not connection.usable
            assert [kept.size for kept in sink.accepted] == [len(wire) - 1] * 3 + [len(BODY) - 1]
            quitting = await Connection.open(endpoint)
            await quitting.close()
            await asyncio.sleep(0.05)

    RUNNERS[runner](scenario())
