"""Watching: tells the shop's aggregator of every parcel, and asks it about those that fell silent.

A number is leased for a minute, called about, and what came of it is written down; so several processes
share the work, and one that dies leaves nothing undone: its numbers come up again, and to register one
twice is harmless. A shop without an aggregator is followed by its own events alone.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Literal

import aiohttp
import structlog

from shared import ingest
from shared.errors import Retry
from shared.failpoints import failpoint
from shared.life import Life
from shared.observability import REGISTRATIONS
from shared.shops import Shop, Shops
from shared.store import Database, is_transient
from tracking.adapters import aftership, calls, easypost
from tracking.adapters.reading import CARRIER_UNKNOWN, Call, Outcome
from tracking.domain.pace import REAL_DAY_SECONDS
from tracking.handlers import Answer, Choice, Delivery
from tracking.store.watch import (
    Aggregator,
    Watch,
    Watched,
    aggregator,
    due,
    record,
    save,
)

CALLS_PER_SECOND: Final = 5.0  # of one process to one account: AfterShip takes ten, from all
CALLS_MAX: Final = 40  # at the same time, to all accounts
CALL_SECONDS: Final = 10.0
LEASE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 1.0
LOOK_AT: Final = 200  # numbers in one transaction
RETRY_SECONDS: Final = (5.0, 3600.0)  # the first wait of a number, and the longest
HOLD_SECONDS: Final = (2.0, 300.0)  # of a whole account
FAILURES_MAX: Final = 3  # in a row, until the whole account is left alone for a while
SILENT: Final = timedelta(hours=12)  # no scan for so long: asked about
SILENT_MAX: Final = timedelta(hours=72)  # the longest time between two questions
GIVE_UP: Final = timedelta(days=90)  # after it was shipped, nobody looks any more
_TERMINAL: Final = frozenset({"delivered", "returned", "cancelled", "expired"})
_ADAPTERS: Final[Mapping[Aggregator, Any]] = {"aftership": aftership, "easypost": easypost}
log = structlog.get_logger(__name__)

_What = Literal["register", "ask"]
Submit = Callable[[Delivery | Choice], Awaitable[Answer]]


@dataclass(slots=True)
class _Account:
    """One shop at one aggregator: how fast it may be called, and whether it may be called at all."""

    rate: float
    filled_at: float
    tokens: float = 1.0
    held_until: float = 0.0
    failures: int = 0

    def room(self, clock: float) -> int:
        """Return how many calls may be made now; the bucket holds one second's worth."""
        self.tokens = min(max(self.rate, 1.0), self.tokens + (clock - self.filled_at) * self.rate)
        self.filled_at = clock
        if clock < self.held_until:
            return 0
        if self.failures >= FAILURES_MAX:  # one call finds out whether it works again
            return min(1, int(self.tokens))
        return int(self.tokens)

    def judge(self, answer: calls.Answer, clock: float) -> None:
        """Leave the account alone for a while when it says so, or when it failed several times."""
        if not answer.account:
            self.failures = 0
            return
        self.failures += 1
        hold = answer.after_seconds
        if hold is None and (self.failures >= FAILURES_MAX or answer.outcome.reason in _SAYS_NO):
            hold = _backoff(self.failures, HOLD_SECONDS)
        self.held_until = max(self.held_until, clock + (hold or 0.0))


_SAYS_NO: Final = frozenset({"rate_limited", "key_refused", "account_refused"})


def _backoff(failures: int, seconds: tuple[float, float]) -> float:
    """Return how long to wait after so many failures in a row: full jitter under a doubling limit."""
    first, most = seconds
    limit = min(most, first * 2.0 ** min(failures, 20))
    return random.SystemRandom().uniform(first / 2, limit)


class Watcher:
    """The loop. `urls` names other addresses of the providers' APIs than they publish."""

    def __init__(
        self,
        db: Database,
        shops: Shops,
        submit: Submit,
        *,
        urls: Mapping[Aggregator, str | None],
        day_seconds: float = REAL_DAY_SECONDS,
        rate: float = CALLS_PER_SECOND,
        call_seconds: float = CALL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._db = db
        self._shops = shops
        self._submit = ingest.in_time(submit)
        self._scale = day_seconds / REAL_DAY_SECONDS
        self._urls = {n: (urls.get(n) or a.BASE_URL).rstrip("/") for n, a in _ADAPTERS.items()}
        self._rate = rate
        self._call_seconds = call_seconds
        self._lease = timedelta(seconds=lease_seconds)
        self._accounts: dict[tuple[str, Aggregator], _Account] = {}
        self._calls = 0

    async def run(self, life: Life) -> None:
        """Work until the process stops; what is asked at that moment is still written down."""
        async with (
            calls.session(self._call_seconds, CALLS_MAX) as http,
            asyncio.TaskGroup() as group,
        ):
            while not life.stopping.is_set():
                life.turned("watch")
                try:
                    called = await self._turn(http, group)
                except Exception as error:
                    if not is_transient(error):
                        raise
                    log.warning("watch_waits", reason=type(error).__name__)
                    called = False
                await life.sleep(1 / self._rate if called else POLL_SECONDS)
            life.ended("watch")

    async def _turn(self, http: aiohttp.ClientSession, group: asyncio.TaskGroup) -> bool:
        """Look at what is due, of every shop as much as its account takes; False when it is little."""
        clock = asyncio.get_running_loop().time()
        room = {}
        for shop in self._shops:
            if provider := aggregator(shop):
                account = self._account(shop.id, provider)
                room[shop.id] = min(account.room(clock), CALLS_MAX - self._calls)
        ready = [shop for shop, free in room.items() if free > 0]
        if not ready:
            return bool(room)
        random.shuffle(ready)  # when all are busy, each comes first now and then
        async with self._db.transaction() as tx:
            each = max(LOOK_AT // len(ready), 10)
            found = [self._followed(one) for one in await due(tx, ready, each)]
            known = [(one, self._without_a_call(one)) for one in found]
            settled = [(one, to) for one, to in known if to is not None]
            asked = self._within(room, [one for one, to in known if to is None])
            leases = [(one, self._leased(one)) for one in asked]
            await save(tx, [*settled, *leases])
        for one, lease in leases:
            self._calls += 1
            group.create_task(self._call_about(http, one, lease))
        return bool(found)

    def _within(self, room: Mapping[str, int], wanted: list[Watched]) -> list[Watched]:
        """Return those that may be called about now; the others stay as they are, and come up again."""
        taken: list[Watched] = []
        left = dict(room)
        for one in wanted:
            free = one.provider is not None and len(taken) < CALLS_MAX - self._calls
            if one.provider is not None and free and left[one.shop] > 0:
                left[one.shop] -= 1
                self._account(one.shop, one.provider).tokens -= 1
                taken.append(one)
        return taken

    def _followed(self, one: Watched) -> Watched:
        """Return it as followed by the aggregator that its shop has now."""
        shop = self._shops.get(one.shop)
        provider = aggregator(shop) if shop else None
        if provider in {None, one.provider}:
            return one
        return replace(one, provider=provider, registered_at=None, attempts=0)

    def _leased(self, one: Watched) -> Watch:
        until = one.now + self._lease
        return Watch(until, one.registered_at, one.attempts, one.trouble, one.provider)

    def _account(self, shop: str, provider: Aggregator) -> _Account:
        clock = asyncio.get_running_loop().time()
        return self._accounts.setdefault((shop, provider), _Account(self._rate, clock))

    def _without_a_call(self, one: Watched) -> Watch | None:
        """Return how it stands when nothing is to be asked: it is over, or was heard of; else None."""
        ended = one.state in _TERMINAL or (
            one.shipped_at is not None and one.now - one.shipped_at > GIVE_UP * self._scale
        )
        if ended or one.order_id is None or not one.number:
            return Watch(None, one.registered_at)
        if one.registered_at is None:
            return None
        next_at = self._last_sign(one) + SILENT * self._scale
        return (
            Watch(next_at, one.registered_at, provider=one.provider) if next_at > one.now else None
        )

    def _last_sign(self, one: Watched) -> datetime:
        """Return since when nothing is heard; for a number that is registered."""
        return max(at for at in (one.heard_at, one.registered_at, one.shipped_at) if at)

    # ---------------------------------------------------------------- one call

    async def _call_about(self, http: aiohttp.ClientSession, one: Watched, lease: Watch) -> None:
        try:
            found = await self._found(http, one)
            if lease.again_at is not None:
                await record(self._db, one, lease.again_at, found)
        except Exception as error:
            if not is_transient(error) and not isinstance(error, Retry):
                raise
            # The store is away. When the lease is over, the number comes up again.
            log.warning("watch_not_recorded", provider=one.provider, reason=type(error).__name__)
        finally:
            self._calls -= 1

    async def _found(self, http: aiohttp.ClientSession, one: Watched) -> Watch:
        """Make the call, hand on what was heard, and return how the number stands now."""
        shop = self._shops.get(one.shop)
        provider = one.provider
        what: _What = "register" if one.registered_at is None else "ask"
        if shop is None or provider is None or provider not in shop.providers:
            return self._leased(one)  # the shop file was changed just now
        answer = await self._ask(http, shop, provider, what, one)
        await failpoint("wa.after_call")
        self._account(shop.id, provider).judge(answer, asyncio.get_running_loop().time())
        outcome = await self._take(shop, provider, answer.outcome)
        REGISTRATIONS.labels(provider, what, outcome.verdict).inc()
        if outcome.verdict in {"ok", "already"}:
            return self._went_well(one, what, heard=bool(outcome.scans))
        log.warning(
            "watch_fails", shop=shop.id, provider=provider, call=what, reason=outcome.reason
        )
        return self._went_wrong(one, outcome, answer.after_seconds or 0.0)

    async def _ask(
        self,
        http: aiohttp.ClientSession,
        shop: Shop,
        provider: Aggregator,
        what: _What,
        one: Watched,
    ) -> calls.Answer:
        """Register or ask. Under a carrier that the aggregator does not know: once more, under none."""
        adapter = _ADAPTERS[provider]
        key = shop.providers[provider].key.get_secret_value()
        send = partial(
            calls.ask,
            http,
            base_url=self._urls[provider],
            headers=adapter.headers(key),
            read=partial(adapter.read_answer, zone=shop.zone),  # as its webhooks are read
        )

        def call(carrier: str | None) -> Call:
            made: Call = (
                adapter.registration(one.number, carrier, one.order_id)
                if what == "register"
                else adapter.question(one.number, carrier)
            )
            return made

        named, unnamed = call(one.carrier), call(None)
        answer = await send(named)
        if answer.outcome.reason != CARRIER_UNKNOWN or named == unnamed:
            return answer
        self._account(shop.id, provider).tokens -= 1
        return await send(unnamed)

    async def _take(self, shop: Shop, provider: str, outcome: Outcome) -> Outcome:
        """Keep what an answer told about the parcel; one that cannot be kept is trouble, and no more."""
        if not outcome.scans:
            return outcome
        try:
            await self._submit(Delivery(shop, provider, outcome.scans, log=False))
        except Exception as error:
            if is_transient(error) or isinstance(error, Retry):
                raise
            return Outcome("retry", ingest.fault(error, provider))
        return outcome

    def _went_well(self, one: Watched, what: _What, *, heard: bool) -> Watch:
        """Look again when it has been silent for long; the longer it is, the less often.

        A number of which the aggregator says nothing at all may be unknown to it: it is registered again.
        """
        if what == "register":
            return Watch(one.now + SILENT * self._scale, one.now, provider=one.provider)
        silent = (one.now - self._last_sign(one)) / self._scale
        again = one.now + min(max(silent / 2, SILENT), SILENT_MAX) * self._scale
        return Watch(again, one.registered_at if heard else None, provider=one.provider)

    def _went_wrong(self, one: Watched, outcome: Outcome, wait: float) -> Watch:
        failures = one.attempts + 1
        if outcome.verdict == "give_up":
            return Watch(None, one.registered_at, failures, outcome.reason, one.provider)
        wait = max(_backoff(one.attempts, RETRY_SECONDS), wait)
        again = one.now + timedelta(seconds=wait)
        return Watch(again, one.registered_at, failures, outcome.reason, one.provider)
