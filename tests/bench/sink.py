"""A fast mail server in a process of its own: takes everything, remembers when and from which order.

Commands on standard input, one JSON line back for each: `reset`, `dump FILE`. The running count is
shared through a mapped file, so that watching it costs nothing.
"""

import argparse
import asyncio
import json
import mmap
import re
import sys
import time
from pathlib import Path
from typing import Any, cast

import orjson
import uvloop
from tests.bench.orders import number_of

KEEP_EACH = 97  # of so many messages one is kept whole, for its content to be checked
_MESSAGE_ID = re.compile(rb"(?im)^message-id:\s*(\S+)")
_END = b"\r\n.\r\n"
_EHLO = b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 50000000\r\n"


class Memory:
    def __init__(self, counter: mmap.mmap | bytearray) -> None:
        self.counter = counter
        self.reset()

    def reset(self) -> None:
        self.seen: list[tuple[float, int, str, int]] = []
        self.kept: list[tuple[int, bytes]] = []
        self.counter[:8] = bytes(8)

    def add(self, recipient: bytes, body: bytes) -> None:
        at = time.time()
        found = _MESSAGE_ID.search(body, 0, 4096)
        order = number_of(recipient)
        self.seen.append((at, order, found[1].decode() if found else "", len(body)))
        if len(self.seen) % KEEP_EACH == 1:
            self.kept.append((order, body))
        self.counter[:8] = len(self.seen).to_bytes(8, "little")

    def dump(self, path: Path) -> None:
        kept = [(order, body.decode("latin-1")) for order, body in self.kept]
        path.write_bytes(orjson.dumps({"seen": self.seen, "kept": kept}))


class Session(asyncio.Protocol):
    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.pending = b""
        self.in_body = False
        self.recipient = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(b"220 sink.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.pending = self.pending + data if self.pending else data
        replies: list[bytes] = []
        while self.pending and (self.take_body(replies) if self.in_body else self.take(replies)):
            pass
        if replies:
            self.transport.write(b"".join(replies))

    def take_body(self, replies: list[bytes]) -> bool:
        end = self.pending.find(_END)
        if end < 0:
            return False
        self.memory.add(self.recipient, self.pending[: end + 2])
        self.pending = self.pending[end + 5 :]
        self.in_body = False
        replies.append(b"250 2.0.0 queued\r\n")
        return True

    def take(self, replies: list[bytes]) -> bool:
        line, newline, rest = self.pending.partition(b"\r\n")
        if not newline:
            return False
        self.pending = rest
        match line[:4].upper():
            case b"RCPT":
                self.recipient = line[line.find(b"<") + 1 : line.find(b">")]
                replies.append(b"250 2.1.5 ok\r\n")
            case b"DATA":
                self.in_body = True
                replies.append(b"354 go on\r\n")
            case b"EHLO":
                replies.append(_EHLO)
            case b"QUIT":
                self.transport.write(b"".join(replies) + b"221 2.0.0 bye\r\n")
                self.transport.close()
                replies.clear()
                return False
            case _:
                replies.append(b"250 2.0.0 ok\r\n")
        return True


async def serve(counter: mmap.mmap) -> None:
    loop = asyncio.get_running_loop()
    memory = Memory(counter)
    server = await loop.create_server(lambda: Session(memory), "127.0.0.1", 0, backlog=1024)
    answer({"port": server.sockets[0].getsockname()[1]})
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command, _, argument = line.decode().strip().partition(" ")
        if command == "reset":
            memory.reset()
        elif command == "dump":
            memory.dump(Path(argument))
        answer({"count": len(memory.seen)})
    server.close()


def answer(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counter", type=Path, required=True)
    path = parser.parse_args().counter
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8) as counter:
        uvloop.run(serve(counter))


if __name__ == "__main__":
    main()
