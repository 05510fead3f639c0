"""The inbox in a real browser, at the width of a phone."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect

from afterglow import catcher
from afterglow.mailbox import Mailbox
from afterglow.postgres import free_port
from afterglow.settings import HOST

pytestmark = pytest.mark.timeout(120)
RAW = """From: Leaf & Kettle <tea@shop.example>
To: ana@example.com
Subject: Thank you, Ana: order #1234
X-Afterglow-Kind: order_confirmed
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="b"

--b
Content-Type: text/plain; charset=utf-8

Thank you, Ana
--b
Content-Type: text/html; charset=utf-8

<html><head><title>x</title></head><body><p>Thank you, <b>Ana</b></p>
<script>document.body.textContent = "a script ran"</script><img src="https://tracker.example/x.gif">
<a href="https://shop.example/">shop</a></body></html>
--b--
"""


@dataclass
class Inbox:
    url: str
    mailbox: Mailbox


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    mailbox, http_port = Mailbox(), free_port()
    loop, stopping = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(
            catcher.serve(mailbox, free_port(), http_port, stopping)
        )
    )
    thread.start()
    yield Inbox(f"http://{HOST}:{http_port}", mailbox)
    loop.call_soon_threadsafe(stopping.set)
    thread.join()
    loop.close()


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    yield context.new_page()
    context.close()


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_new_mail_appears_by_itself_and_can_be_read(inbox: Inbox, phone: Page) -> None:
    outside: list[str] = []
    phone.on(
        "request",
        lambda r: None if r.url.startswith((inbox.url, "data:")) else outside.append(r.url),
    )
    errors: list[str] = []
    phone.on("pageerror", lambda error: errors.append(str(error)))
    inbox.mailbox.clear()
    phone.goto(inbox.url)
    expect(phone.get_by_text("No mail yet")).to_be_visible()
    inbox.mailbox.add("b@shop.example", ("ana@example.com",), RAW.encode())
    link = phone.get_by_role("link", name="Thank you, Ana: order #1234")
    expect(link).to_be_visible(timeout=10_000)
    expect(phone.get_by_text("order_confirmed")).to_be_visible()
    assert fits(phone)

    link.click()
    body = phone.frame_locator("iframe").locator("body")
    expect(body).to_contain_text("Thank you, Ana")
    assert "a script ran" not in body.inner_text()
    assert fits(phone)
    phone.get_by_role("link", name="Text", exact=True).click()
    expect(phone.locator("pre")).to_have_text("Thank you, Ana")
    phone.get_by_role("link", name="Headers").click()
    expect(phone.get_by_role("cell", name="order_confirmed")).to_be_visible()
    assert fits(phone)
    assert outside in ([], ["https://tracker.example/x.gif"])  # asked for is not yet loaded
    assert not errors


def test_delete_all_empties_the_page(inbox: Inbox, phone: Page) -> None:
    inbox.mailbox.add("b@shop.example", ("ana@example.com",), RAW.encode())
    phone.goto(inbox.url)
    phone.get_by_role("button", name="Delete all").click()
    expect(phone.get_by_text("No mail yet")).to_be_visible()
    assert len(inbox.mailbox) == 0
