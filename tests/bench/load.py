"""The generator: posts orders over connections that stay open, from bodies made beforehand.

Reads its plan (JSON) from standard input, answers `ready`, starts at the next line, answers with what it
saw. `rate` 0 means as fast as the answers come, one request a connection at a time; otherwise requests
leave at that rate, whatever the answers do.
"""

import asyncio
import sys
import time
from collections import Counter, deque
from typing import Any, cast

import orjson
import uvloop
from tests.bench import orders, parcels


class Client(asyncio.Protocol):
    """One connection; answers are told apart by their Content-Length alone."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.buffer = b""
        self.began = 0.0
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.load.done.done() and self.load.left:
            self.load.done.set_exception(RuntimeError("the service closed a connection"))

    def post(self, n: int, request: bytes) -> None:
        self.waiting = True
        self.began = time.perf_counter()
        self.load.sent[n] = time.time()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, blank, rest = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 : head.find(b"\r\n", at) if b"\r\n" in head[at:] else None])
        if len(rest) < length:
            return
        self.buffer = b""
        self.waiting = False
        self.load.answered(self, int(head[9:12]), time.perf_counter() - self.began)


class Load:
    def __init__(self, plan: dict[str, Any]) -> None:
        first, count = plan["first"], plan["count"]
        if plan["kind"] == "events":
            made = [orders.event_request(n, plan["api_key"]) for n in range(first, first + count)]
        elif plan["kind"] == "scans":
            made = [parcels.scan_request(n, plan["api_key"]) for n in range(first, first + count)]
        else:
            template, secret = plan["template"], plan["secret"]
            numbers = range(first, first + count)
            made = [orders.webhook_request(n, template, secret) for n in numbers]
        self.plan = plan
        self.requests = deque(enumerate(made, first))
        self.left = count
        self.sent: dict[int, float] = {}
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.free: deque[Client] = deque()
        self.late = 0

    async def run(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        clients = []
        for _ in range(self.plan["connections"]):
            _, client = await loop.create_connection(
                lambda: Client(self), "127.0.0.1", self.plan["port"]
            )
            clients.append(client)
        say({"ready": True})
        await loop.run_in_executor(None, sys.stdin.readline)
        self.began = time.time()
        if self.plan["rate"]:
            self.free.extend(clients)
            self.paced = loop.time()
            self.tick()
        else:
            for client in clients:
                self.next(client)
        await self.done
        return {
            "began": self.began,
            "ended": time.time(),
            "seconds": self.seconds,
            "statuses": {str(k): v for k, v in self.statuses.items()},
            "sent": list(self.sent.items()),
            "late": self.late,
        }

    def next(self, client: Client) -> None:
        if self.requests:
            client.post(*self.requests.popleft())

    def tick(self) -> None:
        if not self.requests:
            return
        if self.free:
            self.next(self.free.popleft())
        else:
            self.late += 1
        self.paced += 1 / self.plan["rate"]
        asyncio.get_running_loop().call_at(self.paced, self.tick)

    def answered(self, client: Client, status: int, seconds: float) -> None:
        self.seconds.append(seconds)
        self.statuses[status] += 1
        self.left -= 1
        if not self.left:
            self.done.set_result(None)
        elif self.plan["rate"]:
            self.free.append(client)
        else:
            self.next(client)


def say(fields: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(fields) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    plan = orjson.loads(sys.stdin.readline())
    say(uvloop.run(Load(plan).run()))


if __name__ == "__main__":
    main()
