"""A mail server whose memory is the truth: it records each accepted message before it says 250.

    python -m tests.chaos.sink --port 2525 --record accepted.jsonl --faults "drop@dot=0.01" --seed 7

Each accepted message is one JSON line (at, message_id, kind, rcpt, sender, sha256, bytes, connection),
written and fsynced, one fsync for all that arrived together, before its reply leaves.

A fault is ACTION@PHASE[:ARG][=SHARE][*LIMIT]; several are parted by ";". SHARE is the probability (1 by
default), LIMIT how often at most. Phases: greeting ehlo mail rcpt data body dot accepted idle. Actions:

    refuse   reply ARG ("451 4.3.0 planned") and do nothing: never at `accepted`
    drop     close at once: @data before 354, @body at its first bytes, @dot not accepted, @accepted after
             the record and before the reply, @idle after the reply
    say      do the work, then reply ARG instead of the right answer (@dot: accepted and recorded)
    slow     do the work, reply ARG seconds later      stall    do the work, never reply
    tarpit   do the work, reply one byte each ARG seconds
    extra    the right reply, then the line ARG        early    @body: the line ARG while it still arrives
    garbage | long | endless | lf | code              do the work, reply with nonsense of that sort
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import ssl
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

PHASES = ("greeting", "ehlo", "mail", "rcpt", "data", "body", "dot", "accepted", "idle")
EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE", "ENHANCEDSTATUSCODES")
_FAULT = re.compile(r"([a-z]+)@([a-z]+)(?::(.*?))?(?:=([0-9.]+))?(?:\*(\d+))?")
_NONSENSE = {
    "garbage": b"hello? who is this\r\n",
    "long": b"250 " + b"x" * 40_000 + b"\r\n",
    "endless": b"250-still talking\r\n" * 5_000,
    "lf": b"250 2.0.0 fine\n",
    "code": b"999 9.9.9 beyond\r\n",
}
_DEFAULT_ARG = {
    "refuse": "451 4.3.0 planned",
    "slow": "0.2",
    "tarpit": "1",
    "extra": "250 2.0.0 once more",
    "early": "552 5.3.4 enough",
    "say": "252 2.0.0 maybe",
}


@dataclass(slots=True)
class Fault:
    action: str
    phase: str
    arg: str
    share: float = 1.0
    left: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _FAULT.fullmatch(text.strip())
        if match is None or match[2] not in PHASES:
            raise ValueError(f"not a fault: {text!r}")
        action, phase, arg, share, limit = match.groups()
        if action not in {"drop", "stall", *_DEFAULT_ARG, *_NONSENSE}:
            raise ValueError(f"no such action: {action}")
        return cls(
            action=action,
            phase=phase,
            arg=arg or _DEFAULT_ARG.get(action, ""),
            share=float(share) if share else 1.0,
            left=int(limit) if limit else None,
        )

    def strikes(self, dice: random.Random) -> bool:
        if self.left == 0 or (self.share < 1.0 and dice.random() >= self.share):
            return False
        if self.left is not None:
            self.left -= 1
        return True


def parse_faults(text: str) -> list[Fault]:
    return [Fault.parse(part) for part in text.split(";") if part.strip()]


@dataclass(frozen=True, slots=True)
class Accepted:
    """One message as recorded; `content` only with `keep_content`."""

    at: float
    message_id: str
    kind: str
    rcpt: str
    sender: str
    sha256: str
    size: int
    connection: int
    content: bytes = b""


class Sink:
    """The server and its memory. `async with Sink(...) as sink:` listens on `sink.port`."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        record: Path | None = None,
        fsync: bool = True,
        keep: Path | None = None,
        collect: bool = False,
        faults: str | Sequence[Fault] = (),
        rejects: Sequence[tuple[str, str]] = (),
        seed: int = 0,
        without: Sequence[str] = (),
        size_max: int = 50_000_000,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.host, self.port, self.seed, self.tls = host, port, seed, tls
        self.fsync, self.keep, self.collect = fsync, keep, collect
        self.record = record
        self.size_max = size_max
        self.extensions = [name for name in EXTENSIONS if name not in without]
        self.rejects = [(re.compile(pattern), reply) for pattern, reply in rejects]
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.inject(faults)
        self.accepted: list[Accepted] = []
        self.commands: list[bytes] = []
        self.struck: Counter[str] = Counter()
        self.count = self.connections = self.open = self.peak = self.body_bytes = 0
        self.sessions: set[_Session] = set()
        self._file: int | None = None
        self._lines: list[bytes] = []
        self._after: list[tuple[_Session, Accepted, Fault | None]] = []
        self._server: asyncio.Server | None = None

    def inject(self, faults: str | Sequence[Fault]) -> None:
        """Add faults while it runs; an empty string takes none away."""
        for fault in parse_faults(faults) if isinstance(faults, str) else faults:
            self.faults[fault.phase].append(fault)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self.record is not None:
            self._file = os.open(self.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
        self._server = await loop.create_server(
            lambda: _Session(self), self.host, self.port, ssl=self.tls, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for session in tuple(self.sessions):
            session.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def stats(self) -> dict[str, object]:
        return {
            "accepted": self.count,
            "connections": self.connections,
            "open": self.open,
            "peak": self.peak,
            "struck": dict(self.struck),
        }

    def accept(self, session: "_Session", message: Accepted, fault: Fault | None) -> None:
        """Take a message in; its reply leaves after the next flush."""
        if not self._after:
            session.loop.call_soon(self._flush)
        self._after.append((session, message, fault))

    def _flush(self) -> None:
        batch, self._after = self._after, []
        if self._file is not None:
            data = b"".join(_line(message) for _, message, _ in batch)
            os.write(self._file, data)
            if self.fsync:
                os.fsync(self._file)
        self.count += len(batch)
        for session, message, fault in batch:
            if self.keep is not None:
                (self.keep / f"{message.sha256}.eml").write_bytes(message.content)
            if self.collect:
                self.accepted.append(message)
            session.confirm(message, fault)


def _line(message: Accepted) -> bytes:
    fields = {
        "at": message.at,
        "message_id": message.message_id,
        "kind": message.kind,
        "rcpt": message.rcpt,
        "sender": message.sender,
        "sha256": message.sha256,
        "bytes": message.size,
        "connection": message.connection,
    }
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


class _Session(asyncio.Protocol):
    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.loop = asyncio.get_running_loop()
        self.number = 0
        self.dice = random.Random()
        self.buffer = b""
        self.chunks: list[bytes] | None = None
        self.tail = b""
        self.sender: str | None = None
        self.rcpt: str | None = None
        self.waiting = False  # a reply that must leave before the next command is read
        self.body_fault: Fault | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sink = self.sink
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        sink.sessions.add(self)
        sink.connections += 1
        sink.open += 1
        sink.peak = max(sink.peak, sink.open)
        self.number = sink.connections
        self.dice.seed(f"{sink.seed}/{self.number}")
        self.answer("greeting", b"220 sink.test ESMTP ready\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.sink.open -= 1
        self.sink.sessions.discard(self)

    def data_received(self, data: bytes) -> None:
        if self.chunks is not None and not self.waiting:
            self.take_body(data)
            return
        self.buffer += data
        self.take_commands()

    def take_commands(self) -> None:
        while not self.waiting and not self.transport.is_closing():
            if self.chunks is not None:
                data, self.buffer = self.buffer, b""
                if data:
                    self.take_body(data)
                return
            line, newline, rest = self.buffer.partition(b"\r\n")
            if not newline:
                return
            self.buffer = rest
            if self.sink.collect:
                self.sink.commands.append(line)
            self.take_command(line)

    def take_command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self.mail(line)
        elif verb == b"RCPT":
            self.recipient(line)
        elif verb == b"DATA":
            self.data()
        elif verb == b"EHLO":
            sink = self.sink
            lines = ["sink.test", *(n for n in sink.extensions if n != "SIZE")]
            if "SIZE" in sink.extensions:
                lines.append(f"SIZE {sink.size_max}")
            last = len(lines) - 1
            text = "".join(f"250{'-' if i < last else ' '}{n}\r\n" for i, n in enumerate(lines))
            self.answer("ehlo", text.encode())
        elif verb in {b"RSET", b"NOOP", b"HELO"}:
            if verb == b"RSET":
                self.sender = self.rcpt = None
            self.write(b"250 2.0.0 ok\r\n")
        elif verb == b"QUIT":
            self.write(b"221 2.0.0 bye\r\n")
            self.transport.close()
        else:
            self.write(b"502 5.5.2 not here\r\n")

    def mail(self, line: bytes) -> None:
        if self.sender is not None:
            self.write(b"503 5.5.1 nested MAIL\r\n")
            return
        address = _path(line)
        if address is None:
            self.write(b"501 5.5.4 MAIL FROM:<address>\r\n")
        elif self.answer("mail", b"250 2.1.0 ok\r\n"):
            self.sender, self.rcpt = address, None

    def recipient(self, line: bytes) -> None:
        if self.sender is None:
            self.write(b"503 5.5.1 MAIL first\r\n")
            return
        address = _path(line)
        if address is None:
            self.write(b"501 5.5.4 RCPT TO:<address>\r\n")
            return
        for pattern, reply in self.sink.rejects:
            if pattern.search(address):
                self.write(reply.encode() + b"\r\n")
                return
        if self.answer("rcpt", b"250 2.1.5 ok\r\n"):
            self.rcpt = address

    def data(self) -> None:
        if self.rcpt is None:
            self.write(b"503 5.5.1 RCPT first\r\n")
            return
        if self.answer("data", b"354 go on\r\n"):
            self.chunks, self.tail = [], b"\r\n"
            self.body_fault = self.fault("body")

    def take_body(self, data: bytes) -> None:
        assert self.chunks is not None
        self.sink.body_bytes += len(data)
        if self.body_fault is not None:
            fault, self.body_fault = self.body_fault, None
            if fault.action == "early":
                self.write(fault.arg.encode() + b"\r\n")
            else:
                self.transport.abort()
                return
        if data.endswith(b"\r\n.\r\n") and data.find(b"\r\n.\r\n") == len(data) - 5:
            self.chunks.append(data[:-3])
            rest = b""
        else:
            # The end may straddle reads: look from the last four bytes of what came before.
            start = len(self.tail)
            joined = self.tail + data
            at = joined.find(b"\r\n.\r\n")
            if at < 0:
                self.chunks.append(data)
                self.tail = joined[-4:]
                return
            end = at + 2 - start  # may be negative: part of ".\r\n" came earlier
            if end >= 0:
                self.chunks.append(data[:end])
            else:
                whole = b"".join(self.chunks)
                self.chunks = [whole[:end]]
            rest = joined[at + 5 :]
        body = b"".join(self.chunks)
        self.chunks = None
        self.buffer = rest + self.buffer
        self.finish(body)

    def finish(self, body: bytes) -> None:
        sender, rcpt = self.sender or "", self.rcpt or ""
        self.sender = self.rcpt = None
        if b"\r\n.." in body or body.startswith(b".."):
            body = (b"\r\n" + body).replace(b"\r\n..", b"\r\n.")[2:]
        fault = self.fault("dot")
        if fault is not None and fault.action == "drop":
            self.transport.abort()
            return
        if fault is not None and fault.action == "refuse":
            self.write(fault.arg.encode() + b"\r\n")
            self.take_commands()
            return
        head = body[: body.find(b"\r\n\r\n") + 2]
        message = Accepted(
            at=time.time(),
            message_id=_header(head, b"message-id"),
            kind=_header(head, b"x-afterglow-kind"),
            rcpt=rcpt,
            sender=sender,
            sha256=hashlib.sha256(body).hexdigest(),
            size=len(body),
            connection=self.number,
            content=body if self.sink.collect or self.sink.keep is not None else b"",
        )
        self.waiting = True
        self.sink.accept(self, message, fault)

    def confirm(self, message: Accepted, fault: Fault | None) -> None:
        self.waiting = False
        if self.transport.is_closing():
            return
        fault = fault or self.fault("accepted")
        reply = f"250 2.0.0 queued {message.message_id}\r\n".encode("utf-8", "surrogateescape")
        if fault is None:
            self.write(reply)
        else:
            self.strike(fault, reply)
        idle = self.fault("idle")
        if idle is not None:
            self.strike(idle, b"")
        if self.buffer:
            self.take_commands()

    def fault(self, phase: str) -> Fault | None:
        for fault in self.sink.faults.get(phase, ()):
            if fault.strikes(self.dice):
                self.sink.struck[f"{fault.action}@{phase}"] += 1
                return fault
        return None

    def answer(self, phase: str, reply: bytes) -> bool:
        """Reply to a command, or strike; False when the command must have no effect."""
        fault = self.fault(phase)
        if fault is None:
            self.write(reply)
            return True
        self.strike(fault, reply)
        return fault.action not in {"refuse", "drop"}

    def strike(self, fault: Fault, reply: bytes) -> None:
        action, arg = fault.action, fault.arg
        if action == "drop":
            self.transport.abort()
        elif action in {"refuse", "say"}:
            self.write(arg.encode() + b"\r\n")
        elif action == "extra":
            self.write(reply + arg.encode() + b"\r\n")
        elif action == "slow":
            self.later(float(arg), reply)
        elif action == "tarpit":
            self.drip(float(arg), reply)
        elif action == "stall":
            self.waiting = True
        else:
            self.write(_NONSENSE[action])

    def later(self, seconds: float, reply: bytes) -> None:
        self.waiting = True
        self.loop.call_later(seconds, self.resume, reply)

    def resume(self, reply: bytes) -> None:
        self.waiting = False
        self.write(reply)
        self.take_commands()

    def drip(self, seconds: float, reply: bytes) -> None:
        self.waiting = True
        if len(reply) == 1:
            self.resume(reply)
        elif not self.transport.is_closing():
            self.write(reply[:1])
            self.loop.call_later(seconds, self.drip, seconds, reply[1:])

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


def _path(line: bytes) -> str | None:
    match = re.match(rb"(?i)(?:MAIL FROM|RCPT TO): ?<([^>]*)>", line)
    return match[1].decode("utf-8", "surrogateescape") if match else None


def _header(head: bytes, name: bytes) -> str:
    match = re.search(rb"(?im)^" + name + rb":[ \t]*(\S*)", head)
    return match[1].decode("utf-8", "surrogateescape") if match else ""


async def _main(options: argparse.Namespace) -> None:
    sink = Sink(
        host=options.host,
        port=options.port,
        record=options.record,
        fsync=not options.no_fsync,
        keep=options.keep,
        faults=options.faults,
        rejects=[tuple(text.split("=", 1)) for text in options.reject],
        seed=options.seed,
        without=options.without,
        size_max=options.size_max,
    )
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with sink:
        sys.stdout.write(f"listening on {sink.host}:{sink.port}\n")
        sys.stdout.flush()
        await stopped.wait()
    sys.stdout.write(json.dumps(sink.stats()) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="A recording, fault-injecting SMTP server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--record", type=Path, help="file that accepted messages are appended to")
    parser.add_argument("--no-fsync", action="store_true", help="for benchmarks")
    parser.add_argument("--keep", type=Path, help="folder for whole messages, <sha256>.eml")
    parser.add_argument("--faults", default="", help="ACTION@PHASE[:ARG][=SHARE][*LIMIT];…")
    parser.add_argument("--reject", action="append", default=[], help="PATTERN=REPLY, at RCPT")
    parser.add_argument("--without", action="append", default=[], choices=EXTENSIONS)
    parser.add_argument("--size-max", type=int, default=50_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runner = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - faster where it is installed

        runner = uvloop.run
    runner(_main(options))


if __name__ == "__main__":
    main()
