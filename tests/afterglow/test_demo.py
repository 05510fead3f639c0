"""The demo for real: Postgres, both services, the inbox, one story."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from afterglow import settings
from afterglow.stage import Stage, StoryFailed
from afterglow.story import Expected, Story

pytestmark = pytest.mark.timeout(180)
OURS = ("DATABASE_URL", "BUS_URL", "OPERATOR_KEYS", "LINK_KEYS")


def demo(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in settings.environment().items() if k not in OURS} | environment
    return subprocess.run(
        [sys.executable, "-m", "afterglow", "demo", "--once"],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def test_the_story_comes_true_and_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "still exactly one confirmation per order" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_demo_that_cannot_start_says_why_in_its_last_line(tmp_path: Path) -> None:
    elsewhere = "postgresql://elsewhere/x"  # no database of our own is needed or started
    done = demo(tmp_path, LINK_KEYS="short", DATABASE_URL=elsewhere)
    assert done.returncode == 1
    assert done.stderr.startswith("afterglow: order-events does not start: LINK_KEYS ")
    assert done.stderr.count("\n") == 1


class World:
    """Stands in for order-events and the inbox, and gets something wrong."""

    def __init__(self) -> None:
        self.status = 202
        self.checks_signatures = True
        self.mails: list[dict[str, Any]] = []

    async def accept(self, request: web.Request) -> web.Response:
        forged = b'"raid"' in await request.read() and self.checks_signatures
        return web.json_response({}, status=401 if forged else self.status)

    async def messages(self, _: web.Request) -> web.Response:
        return web.json_response(self.mails)


@pytest.fixture
async def world() -> AsyncIterator[tuple[World, Story]]:
    found = World()
    app = web.Application()
    app.router.add_post("/v1/events", found.accept)
    app.router.add_post("/webhooks/demo/shopify", found.accept)
    app.router.add_get("/api/messages", found.messages)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    url = f"http://{host}:{port}"
    connection = {
        "public": {"order-events": url},
        "inbox": url,
        "shop": "demo",
        "api_key": "key",
        "webhook_secrets": {"shopify": "secret"},
    }
    async with aiohttp.ClientSession() as session:
        yield found, Story(Stage(connection, session, lambda _: None))
    await runner.cleanup()


ORDER = Expected("1", "#1", "ana@example.com", "Ana", ("Sencha",), "68.90")


def mail(text: str) -> dict[str, Any]:
    return {
        "to": "ana@example.com",
        "subject": "Thank you",
        "headers": {"X-Afterglow-Kind": "order_confirmed"},
        "text": text,
        "html": f"<style>68.90</style><p>{text}</p>",
    }


async def test_a_mail_that_says_everything_passes(world: tuple[World, Story]) -> None:
    world[0].mails = [mail("Ana #1 Sencha 68.90")]
    await world[1].confirmation(ORDER)


@pytest.mark.parametrize("lacking", ["Ana", "#1", "Sencha", "68.90"])
async def test_a_mail_that_lacks_something_fails_the_story(
    world: tuple[World, Story], lacking: str
) -> None:
    world[0].mails = [mail("Ana #1 Sencha 68.90".replace(lacking, "…"))]
    with pytest.raises(StoryFailed, match=f"lacks “{lacking}”"):
        await world[1].confirmation(ORDER)


def mails_of_the_story(story: Story) -> list[dict[str, Any]]:
    _, one = story.api_order("ana", days_ago=0)
    _, two = story.shopify_order()
    return [
        mail(" ".join((o.name, o.number, *o.items, o.total))) | {"to": o.email} for o in (one, two)
    ]


async def test_an_accepted_forgery_fails_the_story(world: tuple[World, Story]) -> None:
    world[0].mails = mails_of_the_story(world[1])
    world[0].checks_signatures = False
    with pytest.raises(StoryFailed, match="one changed byte was answered 202"):
        await world[1].play()


async def test_a_second_mail_for_one_order_fails_the_story(world: tuple[World, Story]) -> None:
    world[0].mails = mails_of_the_story(world[1]) * 2
    with pytest.raises(StoryFailed, match="2 confirmations instead of 1"):
        await world[1].play()


async def test_mail_about_an_old_order_fails_the_story(world: tuple[World, Story]) -> None:
    stray = mail("old") | {"to": world[1]._stage.address("old")}
    world[0].mails = [*mails_of_the_story(world[1]), stray]
    with pytest.raises(StoryFailed, match="last year was mailed"):
        await world[1].play()


async def test_a_refused_event_fails_the_story(world: tuple[World, Story]) -> None:
    world[0].status = 503
    with pytest.raises(StoryFailed, match="503 instead of 202"):
        await world[1].play()
