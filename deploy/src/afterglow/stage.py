"""What the demo's stories stand on: how to say something to the services, and to look into the inbox."""

import asyncio
import html
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from shared.errors import AfterglowError

ACCEPTED = 202
_MAIL_SECONDS = 45.0
_POLL_SECONDS = 0.1
_KIND_HEADER = "X-Afterglow-Kind"
_FILES = Path(__file__).parent / "demo_files"

Tell = Callable[[str], None]
Mail = dict[str, Any]


class StoryFailed(AfterglowError):
    """Something did not happen as it should; the message says what."""


class Stage:
    """What runs, as its users see it; `connection` is the content of demo.json."""

    def __init__(
        self, connection: Mapping[str, Any], session: aiohttp.ClientSession, tell: Tell
    ) -> None:
        self.connection = connection
        self.session = session
        self.tell = tell
        self.run = secrets.token_hex(3)

    def address(self, person: str) -> str:
        """Return a mail address that no other run uses."""
        return f"{person}.{self.run}@example.com"

    async def post(
        self,
        service: str,
        path: str,
        body: Any,
        *,
        kind: str = "application/json",
        status: int = ACCEPTED,
    ) -> None:
        """Say something as the shop does, with its API key."""
        headers = {"Authorization": f"Bearer {self.connection['api_key']}", "Content-Type": kind}
        url = f"{self.connection['public'][service]}{path}"
        async with self.session.post(url, data=orjson.dumps(body), headers=headers) as answer:
            check_status(answer.status, status, f"{path} ({await answer.text()})")

    async def event(self, type_: str, said: str, time_: str, data: Mapping[str, Any]) -> None:
        """Post one event about an order; `said` is its id."""
        event = {
            "specversion": "1.0",
            "id": said,
            "type": type_,
            "source": f"/shops/{self.connection['shop']}/story",
            "time": time_,
            "datacontenttype": "application/json",
            "data": data,
        }
        kind = "application/cloudevents+json"
        await self.post("order-events", "/v1/events", event, kind=kind)

    async def mails(self, email: str, kind: str) -> list[Mail]:
        """Return the mails of a kind that this address got."""
        async with self.session.get(f"{self.connection['inbox']}/api/messages") as answer:
            found: list[Mail] = await answer.json()
        return [m for m in found if email in m["to"] and m["headers"].get(_KIND_HEADER) == kind]

    async def mail(self, email: str, kind: str, about: str) -> Mail:
        """Wait for the first mail of a kind; StoryFailed when it does not come."""
        began = time.monotonic()
        found: list[Mail] = []
        while not found:
            waited = time.monotonic() - began
            check(waited < _MAIL_SECONDS, f"{about}: no {kind} mail after {_MAIL_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)
            found = await self.mails(email, kind)
        return found[0]


def template(name: str) -> dict[str, Any]:
    """Return one of the demo's sample bodies."""
    loaded: dict[str, Any] = orjson.loads((_FILES / name).read_bytes())
    return loaded


def visible(source: str) -> str:
    """Return the text of an HTML mail or page, roughly as a reader sees it."""
    body = re.sub(r"(?is)<(style|head|title)\b.*?</\1>", " ", source)
    return plain(html.unescape(re.sub(r"<[^>]+>", " ", body)))


def plain(text: str) -> str:
    """Return the text with every run of blanks as one."""
    return re.sub(r"\s+", " ", text)


def check(holds: bool, problem: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raise StoryFailed with the problem unless it holds."""
    if not holds:
        raise StoryFailed(problem)


def check_status(status: int, wanted: int, what: str) -> None:
    """Raise StoryFailed unless the answer's status is the wanted one."""
    check(status == wanted, f"{what} was answered {status} instead of {wanted}")
