"""The journal's commits: the durable mark before each dot, and what became of each attempt.

Marks and results of all connections share transactions, in the order in which they were handed in. So
a connection's next mark never commits before its last result, and a crash leaves at most one message
of unknown fate for each open connection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from notifier import store
from notifier.handlers import outcome_event
from notifier.store import Job, Result
from shared.clock import now
from shared.events import Event
from shared.failpoints import failpoint
from shared.group_commit import GroupCommit
from shared.observability import MESSAGES
from shared.store import Database

_TOLD = frozenset({"sent", "failed", "suppressed", "unknown"})


@dataclass(frozen=True, slots=True)
class Mark:
    """Ask to write the dot of this attempt."""

    job: Job


class Journal(GroupCommit[Mark | Result, bool]):
    """Commits marks and results in groups; a result is True when the row took it."""

    def __init__(self, db: Database, owner: UUID) -> None:
        super().__init__(self._commit)
        self._db = db
        self._owner = owner

    async def _commit(self, operations: Sequence[Mark | Result]) -> list[bool | Exception]:
        results = [o for o in operations if isinstance(o, Result)]
        marks = [o.job for o in operations if isinstance(o, Mark)]
        events = [(r.job.id, r.state, _event(r)) for r in results if r.state in _TOLD]
        if any(r.state == "pending" for r in results):
            # one that was revoked meanwhile ends as suppressed, for a reason that only its row knows
            async with self._db.transaction() as tx:
                became = await store.commit(tx, self._owner, results, events, marks)
                await tx.publish([_event(r) for r in _revoked(results, became)])
        else:
            became = await store.commit(self._db, self._owner, results, events, marks)
        for result in results:
            if (now_is := became.get(result.job.token)) is not None and now_is[0] in _TOLD:
                MESSAGES.labels(result.job.kind, now_is[0]).inc()
        if results:
            await failpoint("di.after_record")
        return [o.job.token in became for o in operations]


def _revoked(
    results: Sequence[Result], became: Mapping[tuple[int, int], tuple[str, str | None]]
) -> list[Result]:
    return [
        replace(r, state="suppressed", reason=became[r.job.token][1])
        for r in results
        if r.state == "pending" and became.get(r.job.token, ("",))[0] == "suppressed"
    ]


def _event(result: Result) -> Event:
    job = result.job
    return outcome_event(job, result.state, result.reason, now(), attempt=job.attempt)
