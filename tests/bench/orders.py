"""The orders that are measured with: four items each, told apart by number, name, address and total."""

import base64
import email
import email.policy
import hashlib
import hmac
import html
import re
from datetime import datetime
from email.message import EmailMessage
from typing import Any

import orjson

from shared.clock import now

SHOP = "demo"
SENDER = "tea@leafandkettle.example"
ITEMS = (
    ("TEA-5", "Čaj Assam, 250 g", 2, 1290),
    ("POT-1", "Čajnik Tetsubin, 0,8 l", 1, 6900),
    ("SCALE-2", "Tehtnica za čaj", 1, 2450),
    ("CUP-4", "Skodelica „Mah“", 4, 950),
)
FIRST_NAMES = ("Ana", "Špela", "Žiga", "Maja", "Jože", "Nuša", "Črt", "Ema")
LAST_NAMES = ("Novak", "Žagar", "Kranjc", "Hribar", "Šuštar", "Kos", "Vidmar", "Čeh")
_SUM = sum(quantity * price for _, _, quantity, price in ITEMS)


def name(n: int) -> str:
    return f"{FIRST_NAMES[n % 8]} {LAST_NAMES[n // 8 % 8]}"


def number(n: int) -> str:
    return f"B-{n:07d}"


def address(n: int) -> str:
    return f"c{n}@example.com"


def number_of(recipient: bytes) -> int:
    """Return which order a recipient's address stands for, −1 for a stranger."""
    match = re.match(rb"c(\d+)@", recipient)
    return int(match[1]) if match else -1


def shipping(n: int) -> int:
    return 490 + n % 997


def total(n: int) -> int:
    return _SUM + shipping(n)


def money(minor: int) -> str:
    """Return an amount in euros as Slovenian writes it, without the currency."""
    return f"{minor // 100:,}".replace(",", ".") + f",{minor % 100:02d}"


def order(n: int, at: datetime | None = None) -> dict[str, Any]:
    """Return the body of order.placed.v1."""
    placed_at = (at or now()).isoformat()
    return {
        "order_id": f"b{n}",
        "number": number(n),
        "revision": placed_at,
        "placed_at": placed_at,
        "payment": "paid",
        "customer": {
            "id": str(n),
            "name": name(n),
            "email": address(n),
            "phone": "+38640123456",
            "locale": "sl-SI",
            "segment": None,
            "consent": {"marketing": False, "survey": True},
        },
        "recipient": None,
        "hide_prices": False,
        "ship_to": {
            "name": name(n),
            "lines": ["Slovenska cesta 1"],
            "city": "Ljubljana",
            "postcode": "1000",
            "region": None,
            "country": "SI",
        },
        "items": [
            {
                "line_id": str(place),
                "sku": sku,
                "product_id": str(70 + place),
                "name": title,
                "quantity": str(quantity),
                "unit_price": price,
                "image_url": None,
                "url": None,
            }
            for place, (sku, title, quantity, price) in enumerate(ITEMS, 1)
        ],
        "totals": {
            "currency": "EUR",
            "items": _SUM,
            "shipping": shipping(n),
            "tax": 2767,
            "discount": 0,
            "total": total(n),
        },
        "shipping_method": "standard",
        "promise": None,
        "status_url": f"https://leafandkettle.example/orders/{n}",
        "source": {"platform": "shopify", "campaign": None},
    }


def event(n: int) -> bytes:
    """Return one structured CloudEvent."""
    data = order(n)
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": f"b{n}-placed",
            "type": "order.placed.v1",
            "source": f"/shops/{SHOP}/bench",
            "time": data["placed_at"],
            "datacontenttype": "application/json",
            "data": data,
        }
    )


def event_request(n: int, api_key: str) -> bytes:
    """Return the whole HTTP request that states one event."""
    headers = {
        "Authorization": f"Bearer {api_key}",
        "Content-Type": "application/cloudevents+json",
    }
    return request("/v1/events", headers, event(n))


def webhook_request(n: int, template: dict[str, Any], secret: str) -> bytes:
    """Return the whole HTTP request of a signed Shopify delivery made from `template`."""
    stamp, customer = now().isoformat(timespec="seconds"), template["customer"]
    data = template | {
        "id": 10_000_000_000 + n,
        "name": number(n),
        "email": address(n),
        "contact_email": address(n),
        "customer": customer | {"email": address(n)},
        **dict.fromkeys(("created_at", "processed_at", "updated_at"), stamp),
    }
    body = orjson.dumps(data)
    digest = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    headers = {
        "Content-Type": "application/json",
        "X-Shopify-Topic": "orders/create",
        "X-Shopify-Shop-Domain": "leaf-and-kettle.myshopify.com",
        "X-Shopify-API-Version": "2026-10",
        "X-Shopify-Webhook-Id": f"bench-{n}",
        "X-Shopify-Hmac-Sha256": base64.b64encode(digest).decode(),
    }
    return request(f"/webhooks/{SHOP}/shopify", headers, body)


def request(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return a whole POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def problems(raw: bytes, n: int) -> list[str]:
    """Return what a message about order `n` should say and does not, in its text and its HTML."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    missing = []
    for subtype in ("plain", "html"):
        part = message.get_body((subtype,))
        said = part.get_content() if part else ""
        if subtype == "html":
            said = html.unescape(re.sub(r"<[^>]+>", " ", said))
        said = re.sub(r"\s+", " ", said)
        wanted = (number(n), name(n), money(total(n)), *(title for _, title, _, _ in ITEMS))
        missing += [f"{subtype} part lacks {text!r}" for text in wanted if text not in said]
    return missing
