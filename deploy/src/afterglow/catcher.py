"""Catches what the shop would send: an SMTP server that keeps every message, and a page to read them.

It runs as a process of its own, `python -m afterglow.catcher --smtp-port 8025 --http-port 8080`, on
the loopback address, and forwards nothing.
"""

import argparse
import asyncio
import signal
from typing import Any

import structlog
import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session

from afterglow.inbox import inbox_app
from afterglow.mailbox import Mailbox
from afterglow.settings import HOST
from shared.observability import configure_logs
from shared.web import Server

_LARGEST_MESSAGE = 32 * 1024 * 1024
log = structlog.get_logger(__name__)


class _Handler:
    """Takes every message; the method's name is aiosmtpd's."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def handle_DATA(  # noqa: N802 - the name that aiosmtpd calls
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        content = envelope.original_content or b""
        mail = self._mailbox.add(envelope.mail_from or "", tuple(envelope.rcpt_tos), content)
        return f"250 2.0.0 kept as {mail.id}"


async def serve(
    mailbox: Mailbox, smtp_port: int, http_port: int, stopping: asyncio.Event, host: str = HOST
) -> None:
    """Serve both ports until `stopping` is set; raises OSError when a port is taken."""
    loop = asyncio.get_running_loop()

    def protocol() -> SMTP:
        return SMTP(
            _Handler(mailbox),
            data_size_limit=_LARGEST_MESSAGE,
            enable_SMTPUTF8=True,
            hostname="afterglow.local",
            loop=loop,
        )

    config: Any = uvicorn.Config(
        inbox_app(mailbox),
        host=host,
        port=http_port,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    web = Server(config)
    smtp = await loop.create_server(protocol, host, smtp_port, backlog=512)
    async with smtp, asyncio.TaskGroup() as group:
        log.info("catcher_started", smtp=smtp_port, inbox=http_port)
        serving = group.create_task(web.serve())
        await asyncio.wait(
            [serving, group.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        web.should_exit = True
        stopping.set()


async def _run(smtp_port: int, http_port: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await serve(Mailbox(), smtp_port, http_port, stopping)


def main() -> None:
    """Read the ports from the command line and serve until SIGTERM."""
    import uvloop  # noqa: PLC0415 - only the process needs it, tests use the standard loop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smtp-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    arguments = parser.parse_args()
    configure_logs("catcher", "info")
    uvloop.run(_run(arguments.smtp_port, arguments.http_port))


if __name__ == "__main__":
    main()
