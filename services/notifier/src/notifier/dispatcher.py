"""From claimed journal rows to the mail server: claim, render, submit, record; and the breaker.

Connections are few and long-lived. Each takes a job, renders it, offers it, and asks for the durable
mark only when the body has left; then come the dot, the reply and the record.
"""

import asyncio
import random
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
import structlog

from notifier import policy, store
from notifier.adapters.mime import Mail, build
from notifier.adapters.parcels import news
from notifier.adapters.render import Renderer
from notifier.adapters.smtp import Connection, Endpoint, RouteFault, Timeouts
from notifier.handlers import outcome_event
from notifier.journal import Journal, Mark
from notifier.replies import Outcome, Verdict, backoff_seconds, classify
from notifier.route import Route
from notifier.settings import Settings
from notifier.store import Job, Result
from shared.clock import now
from shared.errors import GiveUp
from shared.events import email_hash
from shared.failpoints import failpoint
from shared.life import Life
from shared.observability import EVENT_TO_ACCEPTED, MESSAGES, SMTP_OUTCOMES
from shared.security import Links
from shared.shops import Shop, Shops
from shared.store import Database, is_transient

POLL_SECONDS: Final = 0.5
SWEEP_SECONDS: Final = 1.0
EXPIRE_EVERY: Final = 30  # sweeps: looking for what expired reads the whole backlog
IDLE_SECONDS_MAX: Final = 60.0
NOOP_AFTER_SECONDS: Final = 15.0
LOW_MARGIN: Final = timedelta(seconds=60)  # longer than any transaction that makes rows may take
log = structlog.get_logger(__name__)

_Pending = tuple[Result, asyncio.Future[bool]]  # a result on its way to the disk


class Dispatcher:
    """Sends what the journal says is due. Everything it decides is on disk before it acts."""

    def __init__(self, db: Database, shops: Shops, renderer: Renderer, settings: Settings) -> None:
        self._db = db
        self._shops = shops
        self._renderer = renderer
        self._settings = settings
        self.owner: UUID = uuid4()
        self.journal = Journal(db, self.owner)
        self._endpoint = Endpoint.parse(settings.smtp_url.get_secret_value())
        self._links = Links(settings.link_keys)
        self._track_url = settings.track_url or settings.public_url
        self._timeouts = Timeouts(dot_seconds=settings.smtp_reply_seconds)
        self._route = Route()
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._wanted = asyncio.Event()
        self._room = asyncio.Event()
        self._low: datetime | None = None
        self._low_until = 0.0
        self._tokens = 0.0
        self._tokens_at = 0.0
        self._rng = random.SystemRandom()
        self._held: set[int] = set()
        self._claim_lost = False
        self._last_shop = ""
        self._accepted = SMTP_OUTCOMES.labels("accepted")

    def wake(self) -> None:
        """Look for due messages now: some were just made."""
        self._wanted.set()

    async def run(self, life: Life) -> None:
        """Work until the process stops; then finish what is at the dot and give back the rest."""
        ended = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_lease(life, ended))
                group.create_task(self._sweep(life))
                async with asyncio.TaskGroup() as work:
                    for _ in range(self._settings.smtp_connections):
                        work.create_task(self._connection())
                    await self._claim(life)
                    life.ended("dispatcher")
                    for _ in range(self._settings.smtp_connections):
                        self._jobs.put_nowait(None)
                ended.set()
        finally:
            await self._give_back()

    async def _give_back(self) -> None:
        try:
            async with asyncio.timeout(5):
                await store.end_lease(self._db, self.owner)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("claims_not_given_back", reason=type(error).__name__)

    async def _keep_lease(self, life: Life, ended: asyncio.Event) -> None:
        seconds = self._settings.dispatcher_lease_seconds
        while not ended.is_set():
            try:
                await store.renew_lease(self._db, self.owner, seconds)
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("lease_not_renewed", reason=type(error).__name__)
            await life.wait(ended, seconds / 3)

    # ---------------------------------------------------------------- claiming

    async def _claim(self, life: Life) -> None:
        most = self._settings.smtp_connections * 4
        while not life.stopping.is_set():
            life.turned("dispatcher")
            self._wanted.clear()
            self._room.clear()
            if wait := self._route.waits:
                await self._drop_queue()
                await life.sleep(min(wait, POLL_SECONDS))
                continue
            held = len(self._held)
            free = self._within_rate(1 - held if self._route.probing else most - held)
            if free < 1 or (not self._route.probing and self._jobs.qsize() > most // 2):
                await life.wait(self._room, 0.05)
                continue
            if not await self._claim_some(life, free):
                await life.unless_stopping(life.wait(self._wanted, POLL_SECONDS))

    async def _claim_some(self, life: Life, free: int) -> bool:
        """Claim at most so many messages and queue them; tell whether there were any."""
        clock = asyncio.get_running_loop().time()
        if clock > self._low_until:
            self._low, self._low_until = None, clock + 10
        try:
            if self._claim_lost:
                await store.give_back(self._db, self.owner, sorted(self._held))
                self._claim_lost = False
            jobs = await store.claim(
                self._db,
                self.owner,
                free,
                self._renderer.kinds,
                not_before=self._low,
                after_shop=self._last_shop,
            )
        except Exception as error:
            if not is_transient(error):
                raise
            self._claim_lost = True  # it may have been committed, and only its answer lost
            log.warning("claim_waits", reason=type(error).__name__)
            await life.sleep(1)
            return False
        await failpoint("di.after_claim")
        if jobs:
            self._tokens -= len(jobs)
            self._low = min(j.created_at for j in jobs) - LOW_MARGIN
            self._last_shop = jobs[-1].shop
        for job in jobs:
            self._held.add(job.id)
            self._jobs.put_nowait(job)
        return bool(jobs)

    def _within_rate(self, wanted: int) -> int:
        """Return how many of the wanted may go, by a token bucket that holds one second's worth."""
        rate = self._settings.smtp_rate_per_second
        if rate is None:
            return wanted
        clock = asyncio.get_running_loop().time()
        self._tokens = min(max(rate, 1.0), self._tokens + (clock - self._tokens_at) * rate)
        self._tokens_at = clock
        return min(wanted, int(self._tokens))

    async def _drop_queue(self) -> None:
        """Give queued claims back while the route is stopped: their life goes on, not their lease."""
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is not None:
                await self._record(Result(job, "pending", "route_stopped"))

    # ---------------------------------------------------------------- one connection

    async def _connection(self) -> None:
        connection: Connection | None = None
        last: _Pending | None = None
        try:
            while True:
                if last is not None and self._jobs.empty():
                    await self._settled(last)
                    last = None
                job = await self._next_job(connection)
                if self._jobs.qsize() <= self._settings.smtp_connections:
                    self._room.set()
                if job is None:
                    break
                connection = await self._ready(connection)
                if connection is None:
                    result = Result(job, "pending", "route_stopped")
                else:
                    result = await self._send(connection, job, last)
                if last is not None:
                    await self._settled(last)
                last = (result, self.journal.enqueue(result))
        finally:
            if connection is not None:
                await connection.close()
        if last is not None:
            await self._settled(last)

    async def _next_job(self, connection: Connection | None) -> Job | None:
        """Wait for a job; an idle connection is closed meanwhile."""
        if connection is None or not connection.usable:
            return await self._jobs.get()
        try:
            async with asyncio.timeout(IDLE_SECONDS_MAX):
                return await self._jobs.get()
        except TimeoutError:
            await connection.close()
        return await self._jobs.get()

    async def _ready(self, connection: Connection | None) -> Connection | None:
        """Return a connection that may carry the next message, None while the route is stopped."""
        if connection is not None and connection.usable:
            worn = connection.messages >= self._settings.smtp_messages_per_connection
            if not worn and (
                connection.idle_seconds < NOOP_AFTER_SECONDS or await connection.noop()
            ):
                return connection
            await connection.close()
        if self._route.waits:
            return None
        try:
            return await Connection.open(self._endpoint, timeouts=self._timeouts)
        except RouteFault as fault:
            SMTP_OUTCOMES.labels(f"route_{fault.kind}").inc()
            self._route.stop(f"{fault.kind}: {fault.text}", retryable=fault.retryable)
            return None

    async def _send(self, connection: Connection, job: Job, last: _Pending | None) -> Result:
        """Offer one message; whatever happens ends as a result."""
        shop = self._shops.get(job.shop)
        order = orjson.loads(job.snapshot or "{}")
        address: str | None = policy.reader(order, job.role).get("email")
        refusal = "unknown_shop" if shop is None else policy.admit(shop, job.kind, address)
        if refusal or job.suppressed_by:
            return Result(job, "suppressed", refusal or job.suppressed_by)
        assert shop is not None
        assert address is not None
        try:
            mail = self._mail(job, shop, order)
            wire = build(mail, eight_bit=connection.eight_bit)
        except Exception as error:  # noqa: BLE001 - nothing is sent yet, and one message must not stop all
            reason = str(error) if isinstance(error, GiveUp) else type(error).__name__
            log.error("message_cannot_be_built", kind=job.kind, reason=reason)  # noqa: TRY400
            return Result(job, "failed", f"template_error: {reason}"[:200])

        async def mark() -> bool:
            return await self._mark(job, last)

        try:
            outcome = await connection.submit(
                sender=shop.sender.address,
                recipient=address,
                wire=wire,
                smtputf8=mail.needs_smtputf8,
                mark=mark,
            )
        except Exception as error:
            if not is_transient(error) or connection.outcome is None:
                raise
            outcome = connection.outcome  # the mark could not be asked for: the database is away
        await failpoint("di.after_reply")
        return self._judge(job, address, outcome)

    async def _mark(self, job: Job, last: _Pending | None) -> bool:
        """Ask to write the dot. True only if the mark is durable, and so is this connection's last result."""
        clock = asyncio.get_running_loop().time
        asked = clock()
        await failpoint("di.before_mark")
        marked = await self.journal.submit(Mark(job))
        await failpoint("di.after_mark")
        if last is not None and last[1].exception() is not None:
            return False  # a crash now would leave two messages of unknown fate on one connection
        # after a longer freeze somebody else may have taken the message over
        return marked and clock() - asked < self._settings.dispatcher_lease_seconds

    def _mail(self, job: Job, shop: Shop, order: dict[str, Any]) -> Mail:
        self._renderer.products = self._shops.products
        reader = policy.reader(order, job.role)
        told: dict[str, Any] = (
            news(job, job.facts, job.parcels, policy.zone_for(shop, order))
            if job.facts is not None
            else {}
        )
        role = "recipient" if reader is order.get("recipient") else "buyer"
        track = f"{self._track_url}/t/{self._links.token('track', job.shop, job.order_id)}"
        content = self._renderer.render(
            job.kind,
            order=order,
            shop=shop,
            links={"track": track} if job.parcels or told else {},
            facts=told | {"role": role},
        )
        return Mail(
            kind=job.kind,
            sender=(shop.sender.name, shop.sender.address),
            recipient=(reader.get("name") or "", reader["email"]),
            reply_to=shop.reply_to,
            content=content,
            message_id=job.message_id,
            date=job.created_at,
        )

    def _judge(self, job: Job, address: str, outcome: Outcome) -> Result:
        verdict = classify(outcome)
        reply = f"{outcome.code or '-'} {outcome.text}"[:200]
        if verdict.action == "sent":
            self._accepted.inc()
            EVENT_TO_ACCEPTED.labels(job.kind).observe((now() - job.recorded_at).total_seconds())
            self._route.works()
            return Result(job, "sent", None, reply)
        SMTP_OUTCOMES.labels(verdict.reason).inc()
        if verdict.page:
            log.error("mail_server_needs_a_look", reason=verdict.reason, code=outcome.code)
        return self._not_sent(job, address, reply, verdict)

    def _not_sent(self, job: Job, address: str, reply: str, verdict: Verdict) -> Result:
        if verdict.action == "unknown":
            self._route.broke("no_reply_after_dot")
            return Result(job, "unknown", verdict.reason, reply)
        if verdict.action == "failed":
            self._route.works(policy=verdict.reason == "policy")
            hashed = email_hash(address) if verdict.suppress_address else None
            return Result(job, "failed", verdict.reason, reply, suppress_hash=hashed)
        if verdict.retries is not None and job.tries >= verdict.retries:
            return Result(job, "failed", verdict.reason, reply)
        wait = self._wait_before_retry(job, verdict)
        reason = None if verdict.action == "withdrawn" else verdict.reason
        charged = verdict.charged or reason == "sender_refused"
        return Result(job, "pending", reason, reply, retry_seconds=wait, charged=charged)

    def _wait_before_retry(self, job: Job, verdict: Verdict) -> float:
        """Return how long this message waits; a fault of the route stops the route instead."""
        match verdict.reason:
            case "mark_refused":
                return 0.0
            case "server_closing" if not verdict.charged:
                self._route.stop("server_closing", retryable=True)
                return 0.0
            case "connection_lost" if not verdict.charged:
                self._route.broke("connection_lost")
                return 1.0
            case reason if verdict.action == "route_fault" and reason != "sender_refused":
                self._route.stop(reason, retryable=False)
                return 0.0
            case _:
                self._route.works()
                # a refused sender among them: it is one shop's and must not stop the others
                return backoff_seconds(job.tries + 1, self._rng)

    # ---------------------------------------------------------------- recording

    async def _record(self, result: Result) -> None:
        await self._settled((result, self.journal.enqueue(result)))

    async def _settled(self, last: _Pending) -> None:
        """Wait until a result is on disk, however often the database is away meanwhile."""
        result, future = last
        while True:
            try:
                await future
            except Exception as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(0.5)
                future = self.journal.enqueue(result)
            else:
                self._held.discard(result.job.id)
                return

    # ---------------------------------------------------------------- the sweeper

    async def _sweep(self, life: Life) -> None:
        turns = 0
        while not life.stopping.is_set():
            await life.sleep(SWEEP_SECONDS)
            try:
                await self.sweep_once(expiry=turns % EXPIRE_EVERY == 0)
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("sweep_waits", reason=type(error).__name__)
            turns += 1

    async def sweep_once(self, *, expiry: bool = True) -> None:
        """Move on what dead dispatchers left behind, what may be resent and what outlived its use."""
        settings = self._settings
        kinds = sorted(settings.unknown_resend_kinds)
        async with self._db.transaction() as tx:
            moved = await store.sweep_dead_owners(tx)
            await store.resend_unknown(tx, kinds, settings.unknown_resend_after_seconds)
            if expiry:
                moved += await store.expire(tx)
            await tx.publish(
                [outcome_event(r, r.state, r.reason, now(), attempt=r.attempt) for r in moved]
            )
        for row in moved:
            MESSAGES.labels(row.kind, row.state).inc()
