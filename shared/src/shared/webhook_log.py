"""The log of webhook deliveries that every service which takes them keeps: table `webhooks`.

What was signed and not understood stays in it with its body (quarantine) until somebody deals with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from shared.store import Database, Tx, in_steps

LOG_DAYS: Final = 90
_COLUMNS: Final = "id, source, topic, delivery_id, outcome, reason, received_at"


@dataclass(frozen=True, slots=True)
class Received:
    """What became of one delivery. The body is kept only where somebody must look at it."""

    shop: str
    source: str
    topic: str
    delivery_id: str | None
    subject: str | None  # what it is about, see WebhookLog
    outcome: str  # accepted, duplicate, history, ignored, quarantined, replayed
    reason: str | None
    body: bytes | None = None


class WebhookLog:
    """The SQL of the log. `subject` is the column that says what a delivery is about."""

    def __init__(self, subject: Literal["order_id", "ref"]) -> None:
        self._subject = subject

    async def save(self, tx: Tx, rows: Sequence[Received]) -> None:
        """Write down deliveries with their outcome."""
        if not rows:
            return
        await tx.execute(
            f"""insert into webhooks (shop, source, topic, delivery_id, {self._subject}, outcome,
                                      reason, body)
                select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
                                     $6::text[], $7::text[], $8::bytea[])""",  # noqa: S608 - one of two names
            [r.shop for r in rows],
            [r.source for r in rows],
            [r.topic for r in rows],
            [r.delivery_id for r in rows],
            [r.subject for r in rows],
            [r.outcome for r in rows],
            [r.reason for r in rows],
            [r.body for r in rows],
        )

    async def about(self, db: Database, shop: str, subjects: Sequence[str]) -> list[Any]:
        """Return the newest deliveries about one of these subjects, without their bodies."""
        return await db.fetch(
            f"""select {_COLUMNS} from webhooks
                where shop = $1 and {self._subject} = any($2::text[])
                order by id desc limit 200""",  # noqa: S608 - one of two names
            shop,
            subjects,
        )

    async def quarantine(self, db: Database) -> list[Any]:
        """Return the newest deliveries that were signed and not understood."""
        return await db.fetch(
            f"""select {_COLUMNS}, shop, {self._subject}, body from webhooks
                where outcome = 'quarantined' order by id desc limit 200"""  # noqa: S608 - one of two names
        )

    async def quarantined(self, db: Database, number: int) -> Any:
        """Return one delivery that was not understood and whose body is still there, or None."""
        return await db.fetchrow(
            """select id, shop, source, topic, body from webhooks
               where id = $1 and outcome = 'quarantined' and body is not null""",
            number,
        )

    async def settle(self, db: Database, number: int) -> None:
        """Close a delivery that was understood in the end: what it said stands elsewhere now."""
        await db.execute(
            "update webhooks set outcome = 'replayed', body = null where id = $1", number
        )

    async def forget_old(self, db: Database) -> None:
        """Drop what has served its time."""
        await in_steps(
            db,
            f"""delete from webhooks where ctid = any(array(select ctid from webhooks
                  where received_at < now() - interval '{LOG_DAYS} days' limit 5000))""",  # noqa: S608 - a number
        )
