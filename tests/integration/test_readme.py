"""What the README tells a newcomer to type, typed."""

import asyncio
import json
import re
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.integration.stack import until

from afterglow.postgres import free_port

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def demo(data: Path) -> AsyncIterator[dict[str, Any]]:
    """Run `afterglow up --demo`; return what it writes into demo.json."""
    base = await asyncio.to_thread(_free_base)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afterglow", "up", "--demo"),
        *("--data", str(data), "--base-port", str(base)),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:

        async def ready() -> bool:
            return (data / "demo.json").exists() or child.returncode is not None

        await until(ready, 60)
        yield json.loads((data / "demo.json").read_text())
    finally:
        if child.returncode is None:
            child.terminate()
        await asyncio.wait_for(child.wait(), 60)


def _free_base() -> int:
    return max(free_port() - 2000, 20_000) // 10 * 10


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the database's own user may pass through, as root's temporary ones may not be."""
    with tempfile.TemporaryDirectory(prefix="afterglow-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def test_the_quick_start_of_the_readme_ends_in_one_slovenian_mail(folder: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- quick start.*?-->\n```sh\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    async with demo(folder) as running:
        command = block[1].replace("http://127.0.0.1:8001", running["public"]["order-events"])
        command = command.replace(".afterglow/", shlex.quote(str(folder)) + "/")
        first, second = await _shell(command), await _shell(command)
        assert (len(first["ids"]), first["replayed"]) == (1, 0)
        assert len(second["ids"]) == 1

        async def mails() -> list[Any]:
            async with httpx2.AsyncClient() as client:
                return list((await client.get(running["inbox"] + "/api/messages")).json())

        async def arrived() -> bool:
            return bool(await mails())

        await until(arrived)
        await asyncio.sleep(1)
        (mail,) = await mails()
    assert "ana@example.com" in str(mail["to"])
    assert "naročilo" in mail["subject"]
    for said in ("Zeleni čaj", "20,80", "Ana Novak"):
        assert said in mail["text"]
        assert said in mail["html"]


async def _shell(command: str) -> dict[str, Any]:
    child = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    answer: dict[str, Any] = json.loads(out)
    return answer
