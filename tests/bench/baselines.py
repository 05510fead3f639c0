"""What the platform is measured beside, each in a process of its own.

    tutorial   one message at a time: aiokafka (or a list) -> Jinja2 -> EmailMessage -> aiosmtplib
    pipelined  the limit of SMTP from Python: one ready mail, hand-written commands, 8 connections

Reads its plan (JSON) from standard input, answers `ready`, starts at the next line.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from email.message import EmailMessage
from typing import Any

import aiosmtplib
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer
from jinja2 import Environment, FileSystemLoader
from tests.bench.load import say


async def started() -> None:
    """Say that everything stands and wait for the word."""
    say({"ready": True})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def from_memory(plan: dict[str, Any]) -> AsyncIterator[bytes]:
    values = [text.encode() for text in plan["orders"]]
    await started()
    for value in values:
        yield value


async def from_kafka(plan: dict[str, Any]) -> AsyncIterator[bytes]:
    consumer = AIOKafkaConsumer(
        plan["topic"],
        bootstrap_servers=plan["kafka"],
        group_id=plan["topic"],
        auto_offset_reset="earliest",
    )
    await started()
    await consumer.start()
    left = plan["count"]
    try:
        async for record in consumer:
            yield record.value
            left -= 1
            if not left:
                break
    finally:
        await consumer.stop()


def build(environment: Environment, order: dict[str, Any]) -> EmailMessage:
    """Build the message as every tutorial does."""
    message = EmailMessage()
    message["From"] = "Leaf & Kettle <tea@leafandkettle.example>"
    message["To"] = order["customer"]["email"]
    message["Subject"] = f"Prejeli smo vaše naročilo {order['number']}"
    message["Message-ID"] = f"<{order['order_id']}@leafandkettle.example>"
    total = order["totals"]["total"]
    euros = f"{total // 100:,}".replace(",", ".") + f",{total % 100:02d}"
    message.set_content(environment.get_template("order.txt").render(order=order, total=euros))
    page = environment.get_template("order.html").render(order=order, total=euros)
    message.add_alternative(page, subtype="html")
    return message


async def tutorial(plan: dict[str, Any]) -> None:
    environment = Environment(loader=FileSystemLoader(plan["templates"]), autoescape=True)
    port, source = plan["port"], from_kafka(plan) if plan["kafka"] else from_memory(plan)
    if plan["kept"]:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port) as client:
            async for value in source:
                await client.send_message(build(environment, json.loads(value)))
    else:
        async for value in source:
            message = build(environment, json.loads(value))
            await aiosmtplib.send(message, hostname="127.0.0.1", port=port)


async def pipelined(plan: dict[str, Any]) -> None:
    """Send one ready mail again and again: the next envelope leaves together with the last dot."""
    mail = plan["mail"].encode("latin-1") + b".\r\n"
    left = plan["count"]

    async def connection() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", plan["port"])
        writer.write(b"EHLO bench.test\r\n")
        while not (await reader.readline()).startswith(b"250 "):
            pass
        envelope = (
            b"MAIL FROM:<a@example.com> BODY=8BITMIME\r\nRCPT TO:<c0@example.com>\r\nDATA\r\n"
        )
        writer.write(envelope)
        while left > 0:
            left -= 1
            await reader.readuntil(b"354 go on\r\n")
            writer.write(mail + envelope)
        await reader.readuntil(b"354 go on\r\n")
        writer.close()

    await started()
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(connection())


def main() -> None:
    plan = orjson.loads(sys.stdin.readline())
    began = time.process_time()
    if plan["what"] == "tutorial":
        asyncio.run(tutorial(plan))
    else:
        uvloop.run(pipelined(plan))
    say({"done": True, "cpu": time.process_time() - began})
    sys.stdin.readline()


if __name__ == "__main__":
    main()
