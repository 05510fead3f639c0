import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email import message_from_bytes
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import aiohttp
import aiosmtplib
import pytest

from afterglow import catcher
from afterglow.mailbox import Mailbox
from afterglow.postgres import free_port
from afterglow.settings import HOST

pytestmark = pytest.mark.timeout(60)


@dataclass
class Caught:
    mailbox: Mailbox
    smtp_port: int
    url: str
    session: aiohttp.ClientSession

    async def send(self, message: bytes, times: int = 1) -> None:
        client = aiosmtplib.SMTP(hostname=HOST, port=self.smtp_port)
        async with client:
            for _ in range(times):
                await client.sendmail("bounce@shop.example", ["ana@example.com"], message)


@pytest.fixture
async def caught() -> AsyncIterator[Caught]:
    mailbox = Mailbox(messages_kept=50)
    smtp_port, http_port = free_port(), free_port()
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
        group.create_task(catcher.serve(mailbox, smtp_port, http_port, stopping))
        url = f"http://{HOST}:{http_port}"
        for _ in range(200):
            try:
                async with session.get(f"{url}/healthz"):
                    break
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)
        yield Caught(mailbox, smtp_port, url, session)
        stopping.set()


def mail(subject: str = "Žito – hvala, Ana", html: str = "<p>Hvala, <b>Ana</b></p>") -> bytes:
    message = MIMEMultipart("alternative")
    message["Subject"] = subject
    message["From"] = "Leaf & Kettle <tea@shop.example>"
    message["To"] = "Ana <ana@example.com>"
    message["Message-ID"] = "<1@shop.example>"
    message["X-Afterglow-Kind"] = "order_confirmed"
    message.attach(MIMEText("Hvala, Ana", "plain", "utf-8"))
    message.attach(MIMEText(html, "html", "utf-8"))
    return message.as_bytes()


async def test_a_mail_is_told_with_envelope_headers_and_both_parts(caught: Caught) -> None:
    await caught.send(mail())
    async with caught.session.get(f"{caught.url}/api/messages") as answer:
        (told,) = await answer.json()
    assert told["to"] == "ana@example.com"
    assert told["from"] == "Leaf & Kettle <tea@shop.example>"
    assert told["subject"] == told["headers"]["Subject"] == "Žito – hvala, Ana"
    assert told["headers"]["X-Afterglow-Kind"] == "order_confirmed"
    assert told["text"] == "Hvala, Ana"
    assert told["html"] == "<p>Hvala, <b>Ana</b></p>"
    assert told["received_at"].endswith("+00:00")
    async with caught.session.get(f"{caught.url}/api/messages/{told['id']}.eml") as answer:
        raw = await answer.read()
    assert message_from_bytes(raw)["Message-ID"] == "<1@shop.example>"


async def test_delete_empties_the_inbox(caught: Caught) -> None:
    await caught.send(mail())
    async with caught.session.delete(f"{caught.url}/api/messages") as answer:
        assert answer.status == 204
    async with caught.session.get(f"{caught.url}/api/messages") as answer:
        assert await answer.json() == []


async def test_the_oldest_are_dropped_beyond_the_bound_and_it_says_so(caught: Caught) -> None:
    await caught.send(mail(), times=53)
    async with caught.session.get(f"{caught.url}/api/messages") as answer:
        told = await answer.json()
        assert answer.headers["X-Dropped"] == "3"
    assert [told[0]["id"], told[-1]["id"], len(told)] == ["4", "53", 50]
    async with caught.session.get(caught.url) as answer:
        assert "3 older messages were dropped" in await answer.text()


async def test_a_text_that_is_handed_over_is_kept(caught: Caught) -> None:
    async with caught.session.get(f"{caught.url}/api/sms") as answer:
        assert await answer.json() == []
    sent = {"to": "+38640123456", "from": "Leaf", "text": "Paket prihaja"}
    async with caught.session.post(f"{caught.url}/api/sms", json=sent) as answer:
        assert answer.status == 201
    async with caught.session.get(f"{caught.url}/api/sms") as answer:
        (told,) = await answer.json()
    assert told.items() >= sent.items()


@pytest.mark.parametrize("body", ["[]", "{}", '{"to": 1, "text": "x"}', "{", '{"to": "x"}'])
async def test_a_text_without_what_it_needs_is_refused(caught: Caught, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with caught.session.post(f"{caught.url}/api/sms", data=body, headers=headers) as answer:
        assert answer.status == 422


async def test_a_mail_that_carries_a_script_cannot_run_it(caught: Caught) -> None:
    await caught.send(mail("<script>alert(1)</script>", "<script>alert(2)</script>"))
    async with caught.session.get(caught.url) as answer:
        assert "<script>alert" not in await answer.text()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    async with caught.session.get(f"{caught.url}/messages/1") as answer:
        page = await answer.text()
    assert "<script>alert" not in page
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in page
    async with caught.session.get(f"{caught.url}/messages/1/body") as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-popups ")
    assert "allow-scripts" not in policy
    assert "script-src" not in policy


async def test_a_foreign_host_name_is_refused(caught: Caught) -> None:
    async with caught.session.get(caught.url, headers={"Host": "evil.example"}) as answer:
        assert answer.status == 400


@pytest.mark.parametrize("path", ["/messages/9", "/messages/9/body", "/api/messages/9.eml", "/x"])
async def test_what_is_not_there_is_404(caught: Caught, path: str) -> None:
    async with caught.session.get(caught.url + path) as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no headers at all",
        b"Subject: =?utf-8?q?broken=ZZ?= =?nope?b?!!?=\r\n\r\nx",
        b"Content-Type: text/plain; charset=no-such\r\n\r\n\xff\xfe",
        b"Content-Type: multipart/mixed\r\n\r\n",
        "Subject: žito\r\n\r\nčaj".encode(),
    ],
)
def test_a_malformed_mail_is_still_told(raw: bytes) -> None:
    mailbox = Mailbox()
    told = mailbox.add("", ("ana@example.com",), raw).as_json()
    assert json.loads(json.dumps(told, ensure_ascii=True))["id"] == "1"
