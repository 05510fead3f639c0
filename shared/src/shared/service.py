"""How every service runs: two HTTP ports and some loops in one TaskGroup.

The program owns its loops: when one dies the process dies, and whoever started it starts it again.
SIGTERM drains: no new requests, loops finish what they hold, clients are closed within a deadline.
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared import failpoints, migrations, store
from shared.bus import Bus, open_bus
from shared.consumer import Consumer
from shared.dead_api import dead_routes
from shared.errors import AfterglowError, BusUnavailable, Retry
from shared.group_commit import GroupCommit
from shared.life import Life, within
from shared.observability import CONSUMER_LAG, DEAD_EVENTS, OUTBOX_AGE, configure_logs
from shared.relay import Relay
from shared.security import OperatorKeys
from shared.settings import Settings, end_misconfigured
from shared.shops import Shops
from shared.store import Database, is_transient
from shared.web import Endpoint, http_app, json_response, serve

MEASURE_SECONDS = 5.0
CLEAN_UP_SECONDS = 600.0
log = structlog.get_logger(__name__)

Loop = Callable[[Life], Coroutine[Any, Any, None]]


@dataclass
class Service:
    """The parts of one running service; `app.py` of each service puts them together.

    `public` and `internal` are the routes of the two ports, `loops` what runs beside them, `gates`
    what those hand their transactions to (they outlive both), `consumer` reads the bus, `measure` is
    called every few seconds to refresh gauges, `tidy` now and then to forget what is old.
    """

    name: str
    settings: Settings
    db: Database
    bus: Bus
    shops: Shops
    relay: Relay
    public: Sequence[Route] = ()
    internal: Sequence[Route] = ()
    loops: Sequence[Loop] = ()
    gates: Sequence[GroupCommit[Any, Any]] = ()
    consumer: Consumer | None = None
    measure: Callable[[], Awaitable[None]] | None = None
    tidy: Callable[[], Awaitable[None]] | None = None


def parts(name: str, settings: Settings) -> tuple[Database, Bus, Relay]:
    """Build the parts that all services share; nothing connects yet."""
    db = Database(
        settings.database_url.get_secret_value(), name, pool_size=settings.database_pool_size
    )
    bus = open_bus(settings, db)
    return db, bus, Relay(db, bus)


# ---------------------------------------------------------------- HTTP


def internal_routes(service: Service) -> list[Route]:
    """Return the routes of the internal port: open ones, and those that need an operator's key."""
    operators = OperatorKeys([k.get_secret_value() for k in service.settings.operator_keys])

    def guarded(route: Route) -> Route:
        inner: Endpoint = route.endpoint

        async def endpoint(request: Request) -> Response:
            operators.check(request.scope)
            return await inner(request)

        return Route(route.path, endpoint, methods=sorted(route.methods or {"GET"}))

    async def healthz(_: Request) -> Response:
        return json_response({"status": "alive"})

    async def readyz(_: Request) -> Response:
        checks = {"database": "ok", "bus": "ok"}
        try:
            await within(3, service.db.fetchval("select 1"))
        except Exception as error:
            if not is_transient(error):
                raise
            checks["database"] = "unreachable"
        try:
            await within(5, service.bus.ready())
        except (BusUnavailable, TimeoutError):
            checks["bus"] = "unreachable"
        # ingest works without the bus, so only the database decides whether traffic may come
        ready = checks["database"] == "ok"
        body = {"status": "ready" if ready else "not ready", **checks}
        return json_response(body, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    open_routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    return open_routes + [
        guarded(r) for r in (*dead_routes(service.db, service.consumer), *service.internal)
    ]


# ---------------------------------------------------------------- loops


async def _measure(service: Service, life: Life) -> None:
    while not life.stopping.is_set():
        try:
            OUTBOX_AGE.labels(service.name).set(await service.relay.oldest_seconds())
            dead = "select count(*) from dead_event where state = 'open'"
            DEAD_EVENTS.labels(service.name).set(await service.db.fetchval(dead))
            await _measure_lag(service)
            if service.measure is not None:
                await service.measure()
        except Exception as error:
            if not is_transient(error) and not isinstance(error, Retry):
                raise
            log.warning("gauges_are_stale", reason=type(error).__name__)
        await life.sleep(MEASURE_SECONDS)


async def _measure_lag(service: Service) -> None:
    if service.consumer is None or service.consumer.subscription is None:
        return
    behind = dict.fromkeys(
        service.consumer.topics, 0
    )  # of a topic, all partitions may be elsewhere
    for (topic, _), records in (await service.consumer.subscription.lag()).items():
        behind[topic] = behind.get(topic, 0) + records
    for topic, records in behind.items():
        CONSUMER_LAG.labels(service.name, topic).set(records)


async def _clean_up(service: Service, life: Life) -> None:
    while not life.stopping.is_set():
        await life.sleep(CLEAN_UP_SECONDS)
        try:
            await life.unless_stopping(_forget(service))
        except Exception as error:
            if not is_transient(error):
                raise


async def _forget(service: Service) -> None:
    await store.clean_up(service.db)
    if service.tidy is not None:
        await service.tidy()


async def _until_signal(life: Life, shops: Shops) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.stopping.set)

    def reload() -> None:
        reason = shops.reload()
        log.info("shops_reloaded") if reason is None else log.error("shops_kept", reason=reason)

    loop.add_signal_handler(signal.SIGHUP, reload)
    await life.stopping.wait()


async def _drain_deadline(life: Life, seconds: float) -> None:
    """End the process when it is still at work so long after it was told to stop."""
    await life.stopping.wait()
    await asyncio.sleep(seconds)
    message = f"not drained within {seconds:g} s"
    raise RuntimeError(message)


async def _patiently(life: Life, what: str, attempt: Callable[[], Awaitable[None]]) -> None:
    """Repeat a start step until the other side is there: services may start in any order."""
    backoff = 0.2
    while not life.stopping.is_set():
        try:
            await attempt()
        except Exception as error:
            if not is_transient(error) and not isinstance(error, Retry):
                raise
            log.warning("start_waits", what=what, reason=type(error).__name__)
            await life.sleep(backoff)
            backoff = min(backoff * 2, 5)
        else:
            return


@contextlib.asynccontextmanager
async def _open(service: Service, life: Life) -> AsyncIterator[None]:
    url = service.settings.database_url.get_secret_value()
    await _patiently(life, "migrations", lambda: migrations.ensure(url, service.name))
    await _patiently(life, "database", service.db.open)
    try:
        yield
    finally:
        await service.bus.stop()
        await service.db.close()


async def _start_bus(service: Service, life: Life) -> None:
    """Connect the bus beside the HTTP ports: ingest must not wait for it."""
    await _patiently(life, "bus", service.bus.start)
    async with asyncio.TaskGroup() as group:
        group.create_task(service.relay.run(life))
        if service.consumer is not None:
            group.create_task(service.consumer.run(life))


async def _work(service: Service, life: Life) -> None:
    if life.stopping.is_set():  # before the database was there
        return
    settings = service.settings
    public = http_app(service.name, service.public)
    internal = http_app(service.name, internal_routes(service))
    async with asyncio.TaskGroup() as work:
        work.create_task(_start_bus(service, life))
        work.create_task(_measure(service, life))
        work.create_task(_clean_up(service, life))
        for loop in service.loops:
            work.create_task(loop(life))
        work.create_task(serve(life, public, settings.http_host, settings.http_port))
        work.create_task(serve(life, internal, settings.internal_host, settings.internal_port))
        log.info("started", http=settings.http_port, internal=settings.internal_port)


async def run(service: Service) -> None:
    """Run the service until SIGTERM; raises what a loop dies of."""
    life = Life()
    life.watch()
    async with asyncio.TaskGroup() as group:
        signals = group.create_task(_until_signal(life, service.shops))
        deadline = group.create_task(_drain_deadline(life, service.settings.drain_seconds))
        try:
            async with _open(service, life), asyncio.TaskGroup() as keepers:
                for gate in service.gates:
                    keepers.create_task(gate.run(life))
                await _work(service, life)
                life.closing.set()
        finally:
            signals.cancel()
            deadline.cancel()
    log.info("stopped")


def main(name: str, settings: Settings, build: Callable[[], Service]) -> None:
    """Be the process: logs, failpoints, event loop, exit code (0 after SIGTERM, 1 when a loop died, 78 when misconfigured)."""
    import uvloop  # noqa: PLC0415 - only a process needs it, tests use the standard loop

    configure_logs(name, settings.log_level)
    try:
        failpoints.arm(settings.failpoints)
        service = build()
    except (AfterglowError, ValueError) as error:
        end_misconfigured(f"{name} cannot start: {error}")
    # What start-up made lives as long as the process: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        uvloop.run(run(service))
    except ExceptionGroup as group:
        log.exception("process_dies", errors=len(group.exceptions))
        raise SystemExit(1) from None
