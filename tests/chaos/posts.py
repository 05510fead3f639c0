"""One request of a run's load, and the shop that sends it."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Post:
    """One request. `orders` are those it is about, `owed` those it certainly places.

    `shipped` are the parcels that it states, each (order, shipment id, number, parcels of the order,
    whether these are certainly all); `scanned` the scans in it, each (number, state, whether it is the
    last of its parcel's story).
    """

    way: str
    path: str
    headers: dict[str, str]
    body: bytes
    orders: tuple[str, ...]
    owed: tuple[str, ...] = ()
    to: Literal["orders", "tracking"] = "orders"
    shipped: tuple[tuple[str, str, str, int, bool], ...] = ()
    scanned: tuple[tuple[str, str, bool], ...] = ()


@dataclass
class Journey:
    """What one customer's shop does: rounds one after the other, the posts of a round at once."""

    orders: int
    rounds: list[list[Post]]
    pauses: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Shop:
    """The shop of a run and what it signs with. `base` makes its platform ids unlike any other run's."""

    id: str
    api_key: str
    shopify_secret: str
    woocommerce_secret: str
    base: int
    easypost_secret: str = ""

    def key(self, order_id: str) -> str:
        """Return an order's key on the bus."""
        return f"{self.id}:{order_id}"

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}

    def event(self, name: str, order_id: str, at: datetime, data: dict[str, Any], tag: str) -> Any:
        """Return a CloudEvent; the same tag makes the same id."""
        return {
            "specversion": "1.0",
            "id": f"{order_id}-{name}-{tag}",
            "type": name,
            "source": f"/shops/{self.id}/chaos",
            "time": at.isoformat(),
            "datacontenttype": "application/json",
            "data": data,
        }

    def post(self, way: str, event: Any, *, owed: bool, **more: Any) -> Post:
        """Return the request that tells one event."""
        headers = {"Content-Type": "application/cloudevents+json"} | self.bearer()
        key = self.key(event["data"]["order_id"])
        body = json.dumps(event).encode()
        return Post(way, "/v1/events", headers, body, (key,), (key,) if owed else (), **more)

    def signed(
        self, source: str, body: bytes, headers: dict[str, str]
    ) -> tuple[str, dict[str, str], bytes]:
        """Return path, headers and body of a webhook that a shop platform signs."""
        secret = self.shopify_secret if source == "shopify" else self.woocommerce_secret
        digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
        name = "X-Shopify-Hmac-Sha256" if source == "shopify" else "X-WC-Webhook-Signature"
        given = {name: base64.b64encode(digest).decode(), "Content-Type": "application/json"}
        return f"/webhooks/{self.id}/{source}", headers | given, body
