"""Group commit: many small requests share few transactions.

A request that comes while a transaction commits waits for the next one, together with all others that
came meanwhile. Under light load nobody waits; under heavy load a commit is paid by many.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from shared.life import Life
from shared.store import is_transient

LINGER_FROM, LINGER_SECONDS = 4, 0.003  # busy means: a group of so many

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Calls `work` with everything submitted since its last call; its results go back in order.

    A result that is an exception is raised at its submitter. When `work` itself raises for a reason
    that does not pass, the requests are tried one by one, so that only the one at fault fails.
    """

    def __init__(
        self,
        work: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        size_max: int = 200,
    ) -> None:
        self._work = work
        self._size_max = size_max
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._arrived = asyncio.Event()
        self._last_size = 0

    async def submit(self, item: T) -> R:
        """Return the result for this item once its transaction is durable."""
        return await self.enqueue(item)

    def enqueue(self, item: T) -> "asyncio.Future[R]":
        """Take an item without waiting: it commits not later than any item enqueued after it."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return future

    async def run(self, life: Life) -> None:
        """Work until the process closes, then finish what still waits."""
        while not (life.closing.is_set() and not self._waiting):
            if not self._waiting:
                self._arrived.clear()
                await life.unless_closing(self._arrived.wait())
                continue
            if self._last_size >= LINGER_FROM:  # in this moment more come to share the commit
                await asyncio.sleep(LINGER_SECONDS)
            batch = self._waiting[: self._size_max]
            self._last_size = len(batch)
            del self._waiting[: self._size_max]
            await self._serve(batch)

    async def _serve(self, batch: list[tuple[T, "asyncio.Future[R]"]]) -> None:
        try:
            results = await self._work([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is raised again, at the submitters
            if len(batch) == 1 or is_transient(error):
                self._settle(batch, [error] * len(batch))
                return
            for one in batch:
                await self._serve([one])
            return
        self._settle(batch, results)

    @staticmethod
    def _settle(
        batch: list[tuple[T, "asyncio.Future[R]"]], results: Sequence[R | Exception]
    ) -> None:
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller went away; the work is durable all the same
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
