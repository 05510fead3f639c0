"""SMTP with the one unknowable instant fenced off: the transaction is split at the final dot.

aiosmtplib opens the connection (TLS, EHLO, AUTH); then `_Dialogue` takes its transport over, because
a message's fate hangs on knowing whether the dot was written before the connection broke. One
recipient a message, one message at a time, many messages a connection (RFC 5321, 2920, 1870, 6152,
6531).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Self

import idna

from notifier.adapters.smtp_endpoint import Endpoint, Timeouts, connect
from notifier.replies import Fate, Outcome, Phase, Reply, ReplyParser, RouteFault, outcome_of
from shared.failpoints import failpoint

__all__ = ["Connection", "Endpoint", "Outcome", "RouteFault", "Timeouts"]

Step = Literal["rset", "mail", "rcpt", "data"]

_EXPECTED: Mapping[Step, frozenset[int]] = {
    "rset": frozenset({250}),
    "mail": frozenset({250}),
    "rcpt": frozenset({250, 251}),
    "data": frozenset({354}),
}
_OK, _START_INPUT, _CLOSING, _NEGATIVE = 250, 354, 421, 400

_FORBIDDEN_IN_PATH = re.compile(r"[\x00-\x20\x7f<>]")


class _Dialogue(asyncio.Protocol):
    """Commands out, replies in, in order; whatever nobody waits for makes the connection unusable."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.fault: str | None = None
        self.stray: Reply | None = None
        self._transport = transport
        self._loop = loop
        self._parser = ReplyParser()
        self._got: list[Reply] = []
        self._wanted = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # "Written" has to mean: handed to the kernel (up to 64 KiB less certain under TLS, where the
        # inner transport keeps its own buffer).
        transport.set_write_buffer_limits(high=1)
        transport.set_protocol(self)

    @property
    def broken(self) -> bool:
        return self.fault is not None or self._transport.is_closing()

    async def ask(
        self, data: bytes, count: int, seconds: float, *, point: str | None = None
    ) -> list[Reply]:
        """Write `data` and return its `count` replies; fewer when the connection broke or closes.

        `point` names the failpoint between the two.
        """
        got: list[Reply] = []
        self._got = got
        self._wanted = count
        self._transport.write(data)
        if point is not None:
            await failpoint(point)
        self._start(seconds)
        while self._wanted and self.fault is None:
            await self._wait()
        self._wanted = 0
        return got

    async def send(self, data: bytes, seconds: float) -> None:
        """Write `data` and wait until it left, or the connection broke."""
        self._transport.write(data)
        self._start(seconds)
        while self._paused and self.fault is None:
            await self._wait()

    def abort(self, reason: str = "closed here") -> None:
        """Drop the connection at once, with whatever was not written yet."""
        self._fail(reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        for reply in self._parser.feed(data):
            if not self._wanted:
                self.stray = self.stray or reply
                self._fail("unsolicited reply")
                continue
            self._got.append(reply)
            self._wanted -= 1
            if reply.code == _CLOSING:
                self._fail("server is closing")
        if self._parser.bad is not None:
            self._fail(self._parser.bad)
        elif not self._wanted and self._parser.partial:
            self._fail("unsolicited reply")
        if not self._wanted:
            self._wake()

    def eof_received(self) -> None:
        self._fail("server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("connection lost" if exc is None else f"connection lost: {type(exc).__name__}")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def _fail(self, reason: str) -> None:
        if self.fault is None:
            self.fault = reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _start(self, seconds: float) -> None:
        # One timer a connection that looks again when it fires: setting and cancelling one per reply
        # would cost more than parsing it.
        self._deadline = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and not self.broken:
            self._timer = self._loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._tick)
        else:
            self._fail("timed out")


class Connection:
    """An open, authenticated connection that carries one message at a time.

    How many messages it carries and how long it idles is the caller's rule; `messages`, `age` and
    `idle_seconds` are there for it. Once `usable` is False it stays so.
    """

    def __init__(
        self, transport: asyncio.Transport, extensions: Mapping[str, str], timeouts: Timeouts
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialogue = _Dialogue(transport, self._loop)
        self._timeouts = timeouts
        self._phase: Phase = "connect"
        self._busy = False
        self._dirty = False
        self._opened = self._last_used = self._loop.time()
        size = extensions.get("size", "").split(" ")[0]
        self.pipelining = "pipelining" in extensions
        self.eight_bit = "8bitmime" in extensions
        self.smtputf8 = "smtputf8" in extensions
        self.size_max: int | None = int(size) or None if size.isdecimal() else None
        self._size_offered = "size" in extensions
        self.messages = 0
        self.outcome: Outcome | None = None

    @classmethod
    async def open(cls, endpoint: Endpoint, *, timeouts: Timeouts | None = None) -> Self:
        """Connect, secure, greet and authenticate; raises RouteFault, never falls back to plaintext."""
        timeouts = timeouts or Timeouts()
        transport, extensions = await connect(endpoint, timeouts)
        return cls(transport, extensions, timeouts)

    @property
    def usable(self) -> bool:
        """Whether the next message may go out on it."""
        return not self._dialogue.broken

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return self._loop.time() - self._opened

    @property
    def idle_seconds(self) -> float:
        """Seconds since its last exchange ended."""
        return self._loop.time() - self._last_used

    async def submit(
        self,
        *,
        sender: str,
        recipient: str,
        wire: bytes,
        smtputf8: bool,
        mark: Callable[[], Awaitable[bool]],
    ) -> Outcome:
        """Offer one message and say how it ended.

        `wire` is the message with CRLF line ends, dot-stuffed, ending in CRLF, without the final dot.
        `mark` is awaited once the whole body has left; when it answers False the connection is
        closed and the dot never written. It answers True only for a mark that is durable.

        Faults of the connection are outcomes. What `mark` raises, and a cancellation, close the
        connection and are raised again; `outcome` then says whether the dot had been written.
        """
        if self._busy:
            raise RuntimeError("a connection carries one message at a time")
        self._busy, self._phase, self.outcome = True, "connect", None
        try:
            envelope = self._envelope(sender, recipient, wire, smtputf8=smtputf8)
            if isinstance(envelope, Outcome):
                self.outcome = envelope
            else:
                self.outcome = await self._transact(envelope, recipient, wire, mark)
        except BaseException:
            self._dialogue.abort()
            self.outcome = self._interrupted()
            raise
        finally:
            self._busy = False
            self._last_used = self._loop.time()
        return self.outcome

    def _interrupted(self) -> Outcome:
        fate: Fate = "unknown" if self._phase == "dot" else "not_sent"
        return Outcome(fate, self._phase, None, None, "interrupted")

    async def noop(self) -> bool:
        """Ask whether the server is still there; False closes the connection."""
        return await self._simple(b"NOOP\r\n")

    async def reset(self) -> bool:
        """End whatever transaction is open (RSET); False closes the connection."""
        self._dirty = False
        return await self._simple(b"RSET\r\n")

    async def close(self) -> None:
        """Say QUIT, wait for its reply a moment, and close."""
        try:
            if self.usable and not self._busy:
                await self._dialogue.ask(b"QUIT\r\n", 1, self._timeouts.quit_seconds)
        finally:
            self._dialogue.abort()

    async def _simple(self, command: bytes) -> bool:
        if self._busy:
            raise RuntimeError("a connection carries one message at a time")
        if not self.usable:
            return False
        replies: list[Reply] = []
        try:
            replies = await self._dialogue.ask(command, 1, self._timeouts.command_seconds)
        finally:
            self._last_used = self._loop.time()
            if not replies or replies[0].code != _OK:
                self._dialogue.abort()
        return self.usable

    async def _transact(
        self,
        envelope: list[tuple[Step, bytes]],
        recipient: str,
        wire: bytes,
        mark: Callable[[], Awaitable[bool]],
    ) -> Outcome:
        dialogue, timeouts = self._dialogue, self._timeouts
        if dialogue.broken:
            return Outcome("not_sent", "connect", None, None, dialogue.fault or "closed")
        stopped = await self._offer(envelope)
        if stopped is not None:
            return stopped
        self._phase = "body"
        if not dialogue.broken:
            await dialogue.send(wire, timeouts.body_seconds)
        if not dialogue.broken:
            self._phase = "mark"
            if not await mark():
                dialogue.abort()
                return Outcome("withdrawn", "mark", None, None, "the mark was refused")
        if dialogue.broken:
            return self._broken_before_dot()
        self._phase = "dot"
        replies = await dialogue.ask(b".\r\n", 1, timeouts.dot_seconds, point="di.after_dot")
        return self._final(replies, recipient)

    async def _offer(self, envelope: list[tuple[Step, bytes]]) -> Outcome | None:
        """Send the commands before the body; None when the server waits for it."""
        dialogue, seconds = self._dialogue, self._timeouts.command_seconds
        self._phase = "mail"
        steps = [step for step, _ in envelope]
        replies: list[Reply] = []
        if self.pipelining:
            group = b"".join(command for _, command in envelope)
            replies = await dialogue.ask(group, len(envelope), seconds)
        else:
            for step, command in envelope:
                replies += await dialogue.ask(command, 1, seconds)
                if dialogue.broken or replies[-1].code not in _EXPECTED[step]:
                    break
        self._dirty = False
        stopped = _first_no(steps, replies, dialogue.fault)
        if stopped is None:
            return None
        # After a 354 only a body or the end of the connection can follow.
        if stopped.fate != "refused" or any(reply.code == _START_INPUT for reply in replies):
            dialogue.abort(stopped.text)
        self._dirty = True
        return stopped

    def _broken_before_dot(self) -> Outcome:
        dialogue = self._dialogue
        stray, fault = dialogue.stray, dialogue.fault or "server closed the connection"
        dialogue.abort()
        if stray is not None and stray.code >= _NEGATIVE:  # it would not even hear the message out
            return outcome_of("refused", "body", stray)
        return Outcome("not_sent", self._phase, None, None, fault)

    def _final(self, replies: list[Reply], recipient: str) -> Outcome:
        if not replies:
            fault = self._dialogue.fault or "connection lost"
            self._dialogue.abort()
            return Outcome("unknown", "dot", None, None, fault)
        reply = replies[0]
        if reply.code == _OK:
            self.messages += 1
            return outcome_of("accepted", "dot", reply, recipient=recipient)
        self._dialogue.abort()
        return outcome_of("refused" if reply.code >= _NEGATIVE else "unknown", "dot", reply)

    def _announced_refusal(self, wire: bytes, *, smtputf8: bool) -> Outcome | None:
        if self.size_max is not None and len(wire) > self.size_max:
            text = f"message of {len(wire)} bytes, the server takes {self.size_max}"
            return Outcome("refused", "mail", 552, "5.3.4", text)
        if smtputf8 and not self.smtputf8:
            return Outcome("refused", "mail", 553, "5.6.7", "the server has no SMTPUTF8")
        if not self.eight_bit and not wire.isascii():
            return Outcome("refused", "mail", 554, "5.6.3", "the server has no 8BITMIME")
        return None

    def _envelope(
        self, sender: str, recipient: str, wire: bytes, *, smtputf8: bool
    ) -> list[tuple[Step, bytes]] | Outcome:
        """Return the commands before the body, or the refusal the server announced in EHLO."""
        refusal = self._announced_refusal(wire, smtputf8=smtputf8)
        if refusal is not None:
            return refusal
        try:
            mail = b"MAIL FROM:<" + _path(sender, smtputf8=smtputf8) + b">"
        except ValueError:
            return Outcome("refused", "mail", 553, "5.1.7", "sender is no usable address")
        try:
            rcpt = b"RCPT TO:<" + _path(recipient, smtputf8=smtputf8) + b">\r\n"
        except UnicodeEncodeError:
            return Outcome("refused", "rcpt", 553, "5.6.7", "the address needs SMTPUTF8")
        except ValueError:
            return Outcome("refused", "rcpt", 553, "5.1.3", "recipient is no usable address")
        if self._size_offered:
            mail += b" SIZE=%d" % len(wire)
        if smtputf8:
            mail += b" BODY=8BITMIME SMTPUTF8"
        elif not wire.isascii():
            mail += b" BODY=8BITMIME"
        commands: list[tuple[Step, bytes]] = [("rset", b"RSET\r\n")] if self._dirty else []
        commands += [("mail", mail + b"\r\n"), ("rcpt", rcpt), ("data", b"DATA\r\n")]
        return commands


def _first_no(steps: list[Step], replies: list[Reply], fault: str | None) -> Outcome | None:
    """Judge the replies to one group of commands; None when the server waits for the body."""
    for position, (step, reply) in enumerate(zip(steps, replies, strict=False)):
        if reply.code in _EXPECTED[step]:
            continue
        phase: Phase = "mail" if step == "rset" else step
        later_yes = any(later.code < 300 for later in replies[position + 1 :])  # noqa: PLR2004 - 2xx
        if reply.code < _NEGATIVE or step == "rset" or later_yes:
            # A yes that cannot follow this no: some reply answers another command.
            return Outcome("not_sent", phase, reply.code, None, "replies out of step")
        return outcome_of("refused", phase, reply)
    if len(replies) == len(steps) and fault is None:
        return None
    missing = steps[min(len(replies), len(steps) - 1)]
    return Outcome(
        "not_sent", "mail" if missing == "rset" else missing, None, None, fault or "connection lost"
    )


def _path(address: str, *, smtputf8: bool) -> bytes:
    """Return an address as it stands in MAIL and RCPT; its domain in A-labels without SMTPUTF8."""
    if _FORBIDDEN_IN_PATH.search(address):
        raise ValueError("an address with a space, a bracket or a control character")
    if address.isascii():
        return address.encode("ascii")
    if smtputf8:
        return address.encode()
    local, _, domain = address.rpartition("@")
    return local.encode("ascii") + b"@" + idna.encode(domain, uts46=True)
