"""The story that the demo plays and checks: orders come in, each becomes exactly one mail."""

import asyncio
import base64
import hashlib
import hmac
import html
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from shared.clock import now
from shared.errors import AfterglowError

_MAIL_SECONDS = 30.0
_QUIET_SECONDS = 2.0
_POLL_SECONDS = 0.1
_ACCEPTED = 202
_UNAUTHORIZED = 401
_KIND_HEADER = "X-Afterglow-Kind"
_FILES = Path(__file__).parent / "demo_files"

Tell = Callable[[str], None]


class StoryFailed(AfterglowError):
    """Something did not happen as it should; the message says what."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the mail about an order must say."""

    order_id: str
    number: str
    email: str
    name: str
    items: tuple[str, ...]
    total: str


class Story:
    """One play against what runs; `connection` is the content of demo.json."""

    def __init__(
        self, connection: Mapping[str, Any], session: aiohttp.ClientSession, tell: Tell
    ) -> None:
        self._connection = connection
        self._session = session
        self._tell = tell
        self._run = secrets.token_hex(3)
        self._front: str = connection["public"]["order-events"]

    async def play(self) -> list[Expected]:
        """Play all acts; return the orders whose customers got mail. Raises StoryFailed."""
        one = await self._over_the_api()
        two = await self._from_shopify()
        await self._an_old_order()
        await asyncio.sleep(_QUIET_SECONDS)
        for order in (one, two):
            found = await self._confirmations(order.email)
            _check(len(found) == 1, f"{order.number}: {len(found)} confirmations instead of 1")
        stray = await self._confirmations(self._address("old"))
        _check(not stray, "an order of last year was mailed")
        self._tell("after a while there is still exactly one mail per order, and none for the old")
        return [one, two]

    async def _over_the_api(self) -> Expected:
        event, expected = self._api_order("ana", days_ago=0)
        await self._post_event(event)
        self._tell(f"order {expected.number} posted to /v1/events: 202")
        await self._mail(expected)
        await self._post_event(event)
        await self._post_event(event | {"id": f"again-{self._run}"})
        self._tell(f"{expected.number} posted twice more, once under another event id: 202")
        return expected

    async def _from_shopify(self) -> Expected:
        body, expected = self._shopify_order()
        _check_status(await self._webhook(body, sign=True), _ACCEPTED, "the signed webhook")
        self._tell(f"order {expected.number} came as a signed Shopify webhook: 202")
        await self._mail(expected)
        for _ in range(4):
            _check_status(await self._webhook(body, sign=True), _ACCEPTED, "the repeated webhook")
        self._tell("Shopify delivered it four times more: 202")
        _check_status(await self._webhook(body, sign=False), _UNAUTHORIZED, "one changed byte")
        self._tell("the same with one byte changed: 401")
        return expected

    async def _an_old_order(self) -> None:
        event, expected = self._api_order("old", days_ago=365)
        await self._post_event(event)
        self._tell(f"order {expected.number} of last year, as in an import: 202, no mail")

    async def _post_event(self, event: Mapping[str, Any]) -> None:
        headers = {
            "Authorization": f"Bearer {self._connection['api_key']}",
            "Content-Type": "application/cloudevents+json",
        }
        url = f"{self._front}/v1/events"
        async with self._session.post(url, data=orjson.dumps(event), headers=headers) as answer:
            _check_status(answer.status, _ACCEPTED, f"the event ({await answer.text()})")

    async def _webhook(self, body: bytes, *, sign: bool) -> int:
        key = self._connection["webhook_secrets"]["shopify"].encode()
        digest = hmac.new(key, body, hashlib.sha256).digest()
        headers = {
            "Content-Type": "application/json",
            "X-Shopify-Topic": "orders/create",
            "X-Shopify-Shop-Domain": "leaf-and-kettle.myshopify.com",
            "X-Shopify-API-Version": "2026-10",
            "X-Shopify-Webhook-Id": secrets.token_hex(16),
            "X-Shopify-Event-Id": f"story-{self._run}",
            "X-Shopify-Hmac-Sha256": base64.b64encode(digest).decode(),
        }
        sent = body if sign else body.replace(b'"paid"', b'"raid"', 1)
        url = f"{self._front}/webhooks/{self._connection['shop']}/shopify"
        async with self._session.post(url, data=sent, headers=headers) as answer:
            return answer.status

    async def _mail(self, order: Expected) -> None:
        """Wait for the confirmation and check what it says, in text and in HTML."""
        began = time.monotonic()
        found: list[dict[str, Any]] = []
        while not found:
            waited = time.monotonic() - began
            _check(waited < _MAIL_SECONDS, f"{order.number}: no mail after {_MAIL_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)
            found = await self._confirmations(order.email)
        mail = found[0]
        for part, said in (("text", mail["text"]), ("HTML", _visible(mail["html"] or ""))):
            for wanted in (order.name, order.number, *order.items, order.total):
                _check(wanted in _plain(said or ""), f"{order.number}: the {part} lacks “{wanted}”")
        self._tell(f"mail to {order.name}: “{mail['subject']}”")

    async def _confirmations(self, email: str) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._connection['inbox']}/api/messages") as answer:
            mails: list[dict[str, Any]] = await answer.json()
        return [
            m
            for m in mails
            if email in m["to"] and m["headers"].get(_KIND_HEADER) == "order_confirmed"
        ]

    def _address(self, person: str) -> str:
        return f"{person}.{self._run}@example.com"

    def _api_order(self, person: str, *, days_ago: int) -> tuple[dict[str, Any], Expected]:
        placed_at = (now() - timedelta(days=days_ago)).isoformat()
        data = _template("order.json")
        order_id = f"api-{person}-{self._run}"
        number = f"#A-{self._run}" if not days_ago else f"#OLD-{self._run}"
        data |= {"order_id": order_id, "number": number, "placed_at": placed_at}
        data["customer"]["email"] = self._address(person)
        event = {
            "specversion": "1.0",
            "id": f"{order_id}-placed",
            "type": "order.placed.v1",
            "source": f"/shops/{self._connection['shop']}/story",
            "time": placed_at,
            "datacontenttype": "application/json",
            "data": data,
        }
        names = tuple(str(item["name"]) for item in data["items"])
        address = self._address(person)
        return event, Expected(order_id, number, address, "Ana", names, "68.90")

    def _shopify_order(self) -> tuple[bytes, Expected]:
        data = _template("shopify_order.json")
        number = 10_000_000_000 + secrets.randbelow(10**9)
        address, stamp = self._address("maja"), now().isoformat(timespec="seconds")
        data |= {"id": number, "name": f"#S-{self._run}", "email": address}
        data |= {"admin_graphql_api_id": f"gid://shopify/Order/{number}", "contact_email": address}
        data |= dict.fromkeys(("created_at", "processed_at", "updated_at"), stamp)
        data["customer"]["email"] = address
        names = tuple(str(item["name"]) for item in data["line_items"])
        expected = Expected(str(number), data["name"], address, "Maja", names, "52,40")
        return orjson.dumps(data), expected


def _template(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads((_FILES / name).read_bytes())
    return loaded


def _visible(source: str) -> str:
    """Return the text of an HTML mail, roughly as a reader sees it."""
    body = re.sub(r"(?is)<(style|head|title)\b.*?</\1>", " ", source)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _check(holds: bool, problem: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise StoryFailed(problem)


def _check_status(status: int, wanted: int, what: str) -> None:
    _check(status == wanted, f"{what} was answered {status} instead of {wanted}")
