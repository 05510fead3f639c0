import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from shared import failpoints
from shared.failpoints import arm, failpoint


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm("")


async def test_nothing_happens_unless_it_is_asked_for() -> None:
    for name in failpoints.POINTS:
        await failpoint(name)


async def test_a_point_may_raise_at_its_nth_pass_only() -> None:
    arm("co.before_commit=raise@n=2, rl.after_commit=raise")
    await failpoint("co.before_commit")
    with pytest.raises(RuntimeError, match=r"co\.before_commit"):
        await failpoint("co.before_commit")
    await failpoint("co.before_commit")
    with pytest.raises(RuntimeError):
        await failpoint("rl.after_commit")


async def test_a_probability_of_nought_never_strikes() -> None:
    arm("di.after_mark=raise@p=0")
    for _ in range(100):
        await failpoint("di.after_mark")


async def test_sleep_lets_others_work_and_hang_does_not() -> None:
    arm("di.after_claim=sleep:0.05,di.after_mark=hang:0.05")
    for name, others_work in (("di.after_claim", True), ("di.after_mark", False)):
        began = time.monotonic()
        beat = asyncio.get_running_loop().call_later(0.01, lambda: None)
        ticks = []
        asyncio.get_running_loop().call_later(0.01, lambda seen=ticks: seen.append(1))
        await failpoint(name)
        assert time.monotonic() - began >= 0.045
        assert bool(ticks) is others_work
        beat.cancel()


def test_kill_is_the_end_of_the_process() -> None:
    code = (
        "import asyncio; from shared.failpoints import arm, failpoint;"
        "arm('oe.after_commit=kill'); asyncio.run(failpoint('oe.after_commit')); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


@pytest.mark.parametrize(
    "part",
    [
        "nowhere=kill",
        "di.after_mark",
        "di.after_mark=explode",
        "di.after_mark=kill@p",
        "di.after_mark=kill@p=often",
        "di.after_mark=kill@p=7",
        "di.after_mark=hang:long",
        "di.after_mark=kill@n=-1",
    ],
)
def test_a_text_that_cannot_be_read_is_named(part: str) -> None:
    with pytest.raises(ValueError) as refused:
        arm(f"rl.after_commit=raise,{part}")
    assert repr(part) in str(refused.value)
