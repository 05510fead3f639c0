from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.store import Database

Open = Callable[[], Awaitable[Database]]


@pytest.fixture
async def open_database(migrated: Callable[[str], Awaitable[str]]) -> AsyncIterator[Open]:
    """Give pools on one migrated schema, as several processes would have them."""
    url = await migrated("order_events")
    opened: list[Database] = []

    async def make() -> Database:
        opened.append(Database(url, "order_events", pool_size=4))
        await opened[-1].open()
        return opened[-1]

    yield make
    for db in opened:
        await db.close()


@pytest.fixture
async def db(open_database: Open) -> Database:
    return await open_database()
