"""How every service runs: two HTTP ports and some loops in one TaskGroup.

The program owns its loops: when one dies the process dies, and whoever started it starts it again.
SIGTERM drains: no new requests, loops finish what they hold, clients are closed within a deadline.
"""

import asyncio
import contextlib
import signal
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
import uvicorn
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared import failpoints, migrations, store
from shared.bus import Bus, open_bus
from shared.consumer import Consumer
from shared.errors import (
    AfterglowError,
    BusUnavailable,
    GiveUp,
    Malformed,
    Refused,
    Retry,
    UnknownType,
)
from shared.group_commit import GroupCommit
from shared.life import Life
from shared.observability import (
    CONSUMER_LAG,
    DEAD_EVENTS,
    HTTP_REQUESTS,
    OUTBOX_AGE,
    configure_logs,
)
from shared.relay import Relay
from shared.security import BodyLimit, OperatorKeys, SecurityHeaders
from shared.settings import Settings
from shared.shops import Shops
from shared.store import Database, is_transient

MEASURE_SECONDS = 5.0
CLEAN_UP_SECONDS = 600.0
RETRY_AFTER_SECONDS = 5
BIGINT_DIGITS = 18
log = structlog.get_logger(__name__)

Loop = Callable[[Life], Coroutine[Any, Any, None]]
Endpoint = Callable[[Request], Awaitable[Response]]


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


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with JSON; datetimes in RFC 3339, in UTC."""
    return Response(
        orjson.dumps(body, option=orjson.OPT_UTC_Z | orjson.OPT_SORT_KEYS, default=str),
        status,
        headers=headers,
        media_type="application/json",
    )


def parts(name: str, settings: Settings) -> tuple[Database, Bus, Relay]:
    """Build the parts that all services share; nothing connects yet."""
    db = Database(
        settings.database_url.get_secret_value(), name, pool_size=settings.database_pool_size
    )
    bus = open_bus(settings, db)
    return db, bus, Relay(db, bus)


# ---------------------------------------------------------------- HTTP


async def _refused(_: Request, error: Any) -> Response:
    body = {"error": error.code, "detail": error.detail, "field": error.field, "index": error.index}
    return json_response(
        {k: v for k, v in body.items() if v is not None}, error.status, error.headers
    )


async def _http_error(_: Request, error: Any) -> Response:
    names = {404: "not_found", 405: "method_not_allowed"}
    code = names.get(error.status_code, "refused")
    return json_response({"error": code, "detail": error.detail}, error.status_code, error.headers)


def _unavailable() -> Response:
    body = {"error": "unavailable", "detail": "the store cannot be reached; send it again later"}
    return json_response(body, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)})


def _check_texts(request: Request) -> None:
    """Refuse a NUL in an address: no id holds one, and no text of the database can."""
    if any("\0" in str(text) for text in request.path_params.values()):
        raise Refused(404, "not_found", "no such address")
    if any("\0" in text for text in request.query_params.values()):
        raise Refused(422, "invalid_text", "a parameter contains the NUL character")


def _counted(service: str, route: Route) -> Route:
    """Wrap a route: count its answers, turn a database that is away into 503, hide everything else."""
    inner: Endpoint = route.endpoint

    async def endpoint(request: Request) -> Response:
        try:
            _check_texts(request)
            response = await inner(request)
        except Refused as error:
            response = await _refused(request, error)
        except GiveUp as error:
            response = await _refused(request, Refused(422, "unacceptable", str(error)))
        except Exception as error:
            if is_transient(error) or isinstance(error, Retry):
                log.warning("request_unavailable", route=route.path, reason=type(error).__name__)
                response = _unavailable()
            else:
                log.exception("request_failed", route=route.path)
                body = {"error": "internal", "detail": "this is our fault; it has been logged"}
                response = json_response(body, 500)
        HTTP_REQUESTS.labels(service, route.path, str(response.status_code)).inc()
        return response

    return Route(route.path, endpoint, methods=sorted(route.methods or {"GET"}), name=route.name)


def http_app(service: str, routes: Sequence[Route]) -> Any:
    """Build one port's ASGI app: routes, uniform errors, body limit, security headers."""
    app = FastAPI(title=f"afterglow {service}", openapi_url=None)
    app.router.routes.extend(_counted(service, route) for route in routes)
    app.add_exception_handler(HTTPException, _http_error)
    return SecurityHeaders(BodyLimit(app))


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
            async with asyncio.timeout(3):
                await service.db.fetchval("select 1")
        except Exception as error:
            if not is_transient(error):
                raise
            checks["database"] = "unreachable"
        try:
            async with asyncio.timeout(5):
                await service.bus.ready()
        except (BusUnavailable, TimeoutError):
            checks["bus"] = "unreachable"
        # ingest works without the bus, so only the database decides whether traffic may come
        ready = checks["database"] == "ok"
        body = {"status": "ready" if ready else "not ready", **checks}
        return json_response(body, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    open_routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    return open_routes + [guarded(r) for r in (*_dead_routes(service), *service.internal)]


def _dead_routes(service: Service) -> list[Route]:
    db = service.db
    columns = """id, consumer, topic, partition, "offset", key, error_class, error_text, attempts,
                 first_at, last_at, state"""

    async def listing(request: Request) -> Response:
        state = request.query_params.get("state", "open")
        rows = await db.fetch(
            f"select {columns} from dead_event where state = $1 order by id limit 500",  # noqa: S608
            state,
        )
        return json_response({"dead": [dict(r) for r in rows]})

    async def show(request: Request) -> Response:
        row = await db.fetchrow(
            f"select {columns}, headers, value from dead_event where id = $1",  # noqa: S608
            _number(request),
        )
        if row is None:
            raise Refused(404, "not_found", "no dead event has this number")
        value = row["value"]
        body = dict(row) | {
            "headers": orjson.loads(row["headers"]),
            "value": None if value is None else bytes(value).decode(errors="replace"),
        }
        return json_response(body)

    async def again(request: Request) -> Response:
        if service.consumer is None:
            raise Refused(409, "no_consumer", "this service reads no topic")
        try:
            done = await service.consumer.replay(_number(request))
        except (GiveUp, Malformed, UnknownType) as error:
            raise Refused(409, "still_dead", str(error)) from None
        if not done:
            raise Refused(404, "not_found", "no open dead event of the consumer has this number")
        return json_response({"state": "replayed"})

    async def discard(request: Request) -> Response:
        tag = await db.execute(
            "update dead_event set state = 'discarded' where id = $1 and state = 'open'",
            _number(request),
        )
        if tag.endswith(" 0"):
            raise Refused(404, "not_found", "no open dead event has this number")
        return json_response({"state": "discarded"})

    return [
        Route("/v1/dead", listing),
        Route("/v1/dead/{id}", show),
        Route("/v1/dead/{id}/replay", again, methods=["POST"]),
        Route("/v1/dead/{id}/discard", discard, methods=["POST"]),
    ]


def _number(request: Request) -> int:
    text = request.path_params["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= BIGINT_DIGITS):
        raise Refused(404, "not_found", "no such number")
    return int(text)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the service decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(life: Life, app: Any, host: str, port: int) -> None:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="httptools",  # h11 does not refuse a length beside chunked encoding
        server_header=False,
        date_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        backlog=1024,
    )
    server = _Server(config)

    async def stop() -> None:
        await life.stopping.wait()
        server.should_exit = True

    async with asyncio.TaskGroup() as group:
        group.create_task(stop())
        await server.serve()
        if not life.stopping.is_set():
            message = f"the HTTP server on port {port} ended by itself"
            raise RuntimeError(message)


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
    behind: dict[str, int] = {}
    for (topic, _), records in (await service.consumer.subscription.lag()).items():
        behind[topic] = behind.get(topic, 0) + records
    for topic, records in behind.items():
        CONSUMER_LAG.labels(service.name, topic).set(records)


async def _clean_up(service: Service, life: Life) -> None:
    while not life.stopping.is_set():
        await life.sleep(CLEAN_UP_SECONDS)
        try:
            await store.clean_up(service.db)
            if service.tidy is not None:
                await service.tidy()
        except Exception as error:
            if not is_transient(error):
                raise


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
        work.create_task(_serve(life, public, settings.http_host, settings.http_port))
        work.create_task(_serve(life, internal, settings.internal_host, settings.internal_port))
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
    """Be the process: logs, failpoints, event loop, exit code (0 after SIGTERM, 1 when a loop died)."""
    import uvloop  # noqa: PLC0415 - only a process needs it, tests use the standard loop

    configure_logs(name, settings.log_level)
    try:
        failpoints.arm(settings.failpoints)
        service = build()
    except (AfterglowError, ValueError) as error:
        raise SystemExit(f"{name} cannot start: {error}") from None
    try:
        uvloop.run(run(service))
    except ExceptionGroup as group:
        log.exception("process_dies", errors=len(group.exceptions))
        raise SystemExit(1) from None
