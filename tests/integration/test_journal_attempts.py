"""One process may hold an old and a new attempt of one message: frozen meanwhile, it lost the old one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from notifier import store
from notifier.journal import Journal, Mark
from notifier.store import Job, Message, Result
from shared.clock import now
from shared.store import Database

OWNER = uuid4()


@pytest.fixture
async def db(migrated: Callable[[str], Awaitable[str]]) -> AsyncIterator[Database]:
    database = Database(await migrated("notifier"), "notifier")
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def attempts(db: Database) -> tuple[Job, Job]:
    """The attempt that this owner lost, and the one that it claimed after that."""
    at = now()
    message = Message(
        "k", "shop", "1", "order_confirmed", "", "email", "buyer", 0, "<k@shop.example>", "pending", None,
        at, at, at + timedelta(hours=1),
    )  # fmt: skip
    async with db.transaction() as tx:
        await tx.execute("insert into orders (shop, order_id) values ('shop', '1')")
        await store.make_messages(tx, [message])
    await store.renew_lease(db, OWNER, 60)
    (old,) = await store.claim(db, OWNER, 1, ["order_confirmed"])
    await db.execute("update message set state = 'pending', owner = null")
    (new,) = await store.claim(db, OWNER, 1, ["order_confirmed"])
    assert (old.id, old.attempt + 1) == (new.id, new.attempt)
    return old, new


async def test_of_two_attempts_that_ask_together_only_the_new_one_may_write_the_dot(
    db: Database, attempts: tuple[Job, Job]
) -> None:
    old, new = attempts
    assert await Journal(db, OWNER)._commit([Mark(old), Mark(new)]) == [False, True]


async def test_an_old_attempt_is_refused_beside_the_result_of_the_new_one(
    db: Database, attempts: tuple[Job, Job]
) -> None:
    old, new = attempts
    journal = Journal(db, OWNER)
    assert await journal._commit([Mark(new)]) == [True]
    assert await journal._commit([Result(new, "sent"), Mark(old)]) == [True, False]


async def test_what_became_of_an_old_attempt_changes_nothing(
    db: Database, attempts: tuple[Job, Job]
) -> None:
    old, new = attempts
    late = replace(Result(old, "pending"), retry_seconds=60)
    assert await Journal(db, OWNER)._commit([late, Mark(new)]) == [False, True]
