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


async def test_the_quick_start_of_the_readme_comes_true(folder: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- quick start.*?-->\n```sh\n(.*?)```", readme, re.DOTALL)
    async with demo(folder) as running, httpx2.AsyncClient() as client:
        place, ship = (_here(block, folder, running) for block in blocks)
        first, second = await _shell(place), await _shell(place)
        assert (len(first["ids"]), first["replayed"]) == (1, 0)
        assert len(second["ids"]) == 1

        async def mails() -> list[Any]:
            return list((await client.get(running["inbox"] + "/api/messages")).json())

        async def arrived(kind: str) -> Any:
            return [m for m in await mails() if m["headers"]["X-Afterglow-Kind"] == kind]

        await until(lambda: arrived("order_confirmed"))
        await asyncio.sleep(1)
        (mail,) = await mails()
        await until(lambda: arrived("order_delayed"), 40)
        await _shell(ship)
        await until(lambda: arrived("delivered"))
        (delivered,) = await arrived("delivered")
        link = re.search(r"https?://\S+/t/\S+", delivered["text"])
        assert link is not None
        page = (await client.get(link.group())).text
    assert "sosed" in page
    assert "ana@example.com" in str(mail["to"])
    assert "naročilo" in mail["subject"]
    for said in ("Zeleni čaj", "20,80", "Ana Novak"):
        assert said in mail["text"]
        assert said in mail["html"]


def _here(block: str, folder: Path, running: dict[str, Any]) -> str:
    """Return the commands as they are typed when the demo runs in this folder, on its ports."""
    for port, service in ((8001, "order-events"), (8002, "tracking")):
        block = block.replace(f"http://127.0.0.1:{port}", running["public"][service])
    return block.replace(".afterglow/", shlex.quote(str(folder)) + "/")


async def _shell(command: str) -> dict[str, Any]:
    child = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    answer: dict[str, Any] = json.loads(out.rpartition(b"}{")[0] + b"}" if b"}{" in out else out)
    return answer  # the first of several
