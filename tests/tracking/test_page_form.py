"""The one form of the page, in a real browser that runs no script, against the real service."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.tracking.conftest import Front
from tests.tracking.test_page_api import TOKEN, UNKNOWN, choices, late

from shared.life import Life
from shared.web import serve

playwright = pytest.importorskip("playwright.async_api")


@asynccontextmanager
async def served(front: Front) -> AsyncIterator[str]:
    """Serve the public port to a browser."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    life = Life()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(life, front.running.public, "127.0.0.1", port))
        for _ in range(100):
            await asyncio.sleep(0.05)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}"
        life.stopping.set()


async def test_she_chooses_without_scripts_and_sees_it_as_requested(
    still: Front, chromium: Path
) -> None:
    await late(still)
    async with served(still) as address, playwright.async_playwright() as started:
        browser = await started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = await browser.new_context(java_script_enabled=False)
        page = await context.new_page()
        answer = await page.goto(f"{address}/t/{TOKEN}")
        assert answer is not None
        assert answer.status == 200
        await page.get_by_text("Call me", exact=True).click()
        await page.get_by_label("A few words, if you like").fill("after five, čšž")
        await page.get_by_role("button", name="Send").click()
        await page.wait_for_url(f"**/t/{TOKEN}#asked")
        assert await page.get_by_text("We have your request and will call you").is_visible()
        await page.reload()
        (told,) = await choices(still)
        assert (told["choice"], told["note"]) == ("call_me", "after five, čšž")
        missing = await page.goto(f"{address}/t/{UNKNOWN}")
        assert missing is not None
        assert missing.status == 404
        await browser.close()
