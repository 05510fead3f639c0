"""The story that the demo plays and checks: orders come in, each becomes exactly one mail."""

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson

from afterglow.stage import ACCEPTED, Mail, Stage, check, check_status, plain, template, visible
from shared.clock import now

CONFIRMED = "order_confirmed"
_QUIET_SECONDS = 2.0
_UNAUTHORIZED = 401


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
    """One play against what runs."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def play(self) -> list[Expected]:
        """Play all acts; return the orders whose customers got mail. Raises StoryFailed."""
        one = await self._over_the_api()
        two = await self._from_shopify()
        await self._an_old_order()
        await asyncio.sleep(_QUIET_SECONDS)
        for order in (one, two):
            found = await self._stage.mails(order.email, CONFIRMED)
            check(len(found) == 1, f"{order.number}: {len(found)} confirmations instead of 1")
        stray = await self._stage.mails(self._stage.address("old"), CONFIRMED)
        check(not stray, "an order of last year was mailed")
        self._stage.tell(
            "after a while there is still exactly one confirmation per order, and none for the old"
        )
        return [one, two]

    async def _over_the_api(self) -> Expected:
        data, expected = self.api_order("ana", days_ago=0)
        said = f"{expected.order_id}-placed"
        await self._placed(said, data)
        self._stage.tell(f"order {expected.number} posted to /v1/events: 202")
        await self.confirmation(expected)
        await self._placed(said, data)
        await self._placed(f"again-{said}", data)
        self._stage.tell(f"{expected.number} posted twice more, once under another event id: 202")
        return expected

    async def _from_shopify(self) -> Expected:
        body, expected = self.shopify_order()
        check_status(await self._webhook(body, sign=True), ACCEPTED, "the signed webhook")
        self._stage.tell(f"order {expected.number} came as a signed Shopify webhook: 202")
        await self.confirmation(expected)
        for _ in range(4):
            check_status(await self._webhook(body, sign=True), ACCEPTED, "the repeated webhook")
        self._stage.tell("Shopify delivered it four times more: 202")
        check_status(await self._webhook(body, sign=False), _UNAUTHORIZED, "one changed byte")
        self._stage.tell("the same with one byte changed: 401")
        return expected

    async def _an_old_order(self) -> None:
        data, expected = self.api_order("old", days_ago=365)
        await self._placed(f"{expected.order_id}-placed", data)
        self._stage.tell(f"order {expected.number} of last year, as in an import: 202, no mail")

    async def _placed(self, said: str, data: Mapping[str, Any]) -> None:
        await self._stage.event("order.placed.v1", said, data["placed_at"], data)

    async def _webhook(self, body: bytes, *, sign: bool) -> int:
        stage = self._stage
        key = stage.connection["webhook_secrets"]["shopify"].encode()
        digest = hmac.new(key, body, hashlib.sha256).digest()
        headers = {
            "Content-Type": "application/json",
            "X-Shopify-Topic": "orders/create",
            "X-Shopify-Shop-Domain": "leaf-and-kettle.myshopify.com",
            "X-Shopify-API-Version": "2026-10",
            "X-Shopify-Webhook-Id": secrets.token_hex(16),
            "X-Shopify-Event-Id": f"story-{stage.run}",
            "X-Shopify-Hmac-Sha256": base64.b64encode(digest).decode(),
        }
        sent = body if sign else body.replace(b'"paid"', b'"raid"', 1)
        front = stage.connection["public"]["order-events"]
        url = f"{front}/webhooks/{stage.connection['shop']}/shopify"
        async with stage.session.post(url, data=sent, headers=headers) as answer:
            return answer.status

    async def confirmation(self, order: Expected) -> Mail:
        """Wait for the confirmation and check what it says, in text and in HTML."""
        mail = await self._stage.mail(order.email, CONFIRMED, order.number)
        for part, said in (
            ("text", plain(mail["text"] or "")),
            ("HTML", visible(mail["html"] or "")),
        ):
            for wanted in (order.name, order.number, *order.items, order.total):
                check(wanted in said, f"{order.number}: the {part} lacks “{wanted}”")
        self._stage.tell(f"mail to {order.name}: “{mail['subject']}”")
        return mail

    def api_order(self, person: str, *, days_ago: int) -> tuple[dict[str, Any], Expected]:
        """Return the body of an order as a shop's own system states it, and what its mail must say."""
        placed_at = (now() - timedelta(days=days_ago)).isoformat()
        data, run = template("order.json"), self._stage.run
        order_id = f"api-{person}-{run}"
        number = f"#A-{run}" if not days_ago else f"#OLD-{run}"
        address = self._stage.address(person)
        data |= {"order_id": order_id, "number": number, "placed_at": placed_at}
        data["customer"]["email"] = address
        names = tuple(str(item["name"]) for item in data["items"])
        return data, Expected(order_id, number, address, "Ana", names, "68.90")

    def shopify_order(self) -> tuple[bytes, Expected]:
        """Return the body of a Shopify order, and what its mail must say."""
        data, run = template("shopify_order.json"), self._stage.run
        number = 10_000_000_000 + secrets.randbelow(10**9)
        address, stamp = self._stage.address("maja"), now().isoformat(timespec="seconds")
        data |= {"id": number, "name": f"#S-{run}", "email": address}
        data |= {"admin_graphql_api_id": f"gid://shopify/Order/{number}", "contact_email": address}
        data |= dict.fromkeys(("created_at", "processed_at", "updated_at"), stamp)
        data["customer"]["email"] = address
        names = tuple(str(item["name"]) for item in data["line_items"])
        expected = Expected(str(number), data["name"], address, "Maja", names, "52,40")
        return orjson.dumps(data), expected
