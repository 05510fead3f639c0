"""A stand-in for AfterShip that follows what it is told of, and now and then does not answer well."""

import random
from typing import Any

from aiohttp import web

CREATED, KNOWN, FAILED = 201, 400, 500
FAILURES = 0.03  # of all calls


class Aggregator:
    """The server; `numbers` are those that were registered."""

    def __init__(self, seed: int) -> None:
        self.numbers: set[str] = set()
        self.calls = 0
        self.url = ""
        self._dice = random.Random(seed)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/trackings", self._register)
        app.router.add_get("/trackings", self._asked)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _register(self, request: web.Request) -> web.Response:
        number = (await request.json())["tracking_number"]
        self.calls += 1
        if self._dice.random() < FAILURES:
            return web.json_response({"meta": {"code": FAILED}, "data": {}}, status=FAILED)
        if number in self.numbers:
            meta = {"code": 4003, "message": "Tracking already exists."}
            return web.json_response({"meta": meta, "data": {}}, status=KNOWN)
        self.numbers.add(number)
        return _answer(CREATED, _pending(number))

    async def _asked(self, request: web.Request) -> web.Response:
        number = request.query["tracking_numbers"]
        self.calls += 1
        known = [_pending(number)] if number in self.numbers else []
        return _answer(200, {"trackings": known})


def _pending(number: str) -> dict[str, Any]:
    """Return a tracking of which the carrier has said nothing yet."""
    return {"tracking_number": number, "tag": "Pending", "subtag": "Pending_001", "checkpoints": []}


def _answer(code: int, data: dict[str, Any]) -> web.Response:
    return web.json_response({"meta": {"code": code}, "data": data}, status=code)
