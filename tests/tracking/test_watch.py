"""The watcher against HTTP servers that behave as the aggregators' APIs do, on their good days and bad."""

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from shared import failpoints
from shared.clock import now
from shared.events import ShipmentUpdated, ShipmentWithdrawn, rfc3339
from shared.life import Life
from shared.observability import REGISTRATIONS
from shared.settings import load
from shared.shops import Shops, parse
from shared.testing import placed
from tracking.adapters import calls
from tracking.adapters.reading import Call, Outcome
from tracking.handlers import Answer, Choice, Delivery
from tracking.settings import Settings
from tracking.store.watch import aggregator
from tracking.watch import Watcher

from .conftest import Front, Starter, scan, shipped

KEY = "aftership-key-never-in-a-log"
SHOP = """
[shops.{id}]
name = "Shop"
mode = "live"
live_from = 2020-01-01T00:00:00Z
sender = {{ name = "Shop", address = "shop@example.com" }}
reply_to = "help@example.com"
providers.{provider}.key = "{key}"
"""


def shops(**providers: str) -> Shops:
    """Return shops by id with the aggregator of each."""
    text = "".join(SHOP.format(id=i, provider=p, key="env:KEY") for i, p in providers.items())
    return parse(text, env={"KEY": KEY})


AFTERSHIP = shops(watched="aftership")

# ---------------------------------------------------------------- the other side


def tracking(number: str = "AB1", *scans: tuple[str, datetime]) -> dict[str, Any]:
    """Return a tracking as AfterShip writes it, with these tags at these times."""
    return {
        "id": "x",
        "tracking_number": number,
        "slug": "posta-slovenije",
        "tag": scans[-1][0] if scans else "Pending",
        "created_at": "2026-11-20T09:00:00+00:00",
        "checkpoints": [
            {"tag": tag, "checkpoint_time": at.isoformat(), "city": "Maribor"} for tag, at in scans
        ],
    }


@dataclass
class Api:
    """AfterShip's API: answers what is scripted, else as it does when all is well."""

    answers: deque[Any] = field(default_factory=deque)
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    times: list[float] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else dict(request.query)
        self.calls.append((request.method, request.path, body))
        self.times.append(time.monotonic())
        self.keys.add(request.headers.get("as-api-key", ""))
        if self.answers:
            scripted = self.answers.popleft()
            if callable(scripted):
                return await scripted(request)  # type: ignore[no-any-return]
            status, payload, headers = scripted
            text = payload if isinstance(payload, str) else json.dumps(payload)
            return web.Response(status=status, text=text, headers=headers)
        return self._well(request.method, body)

    def _well(self, method: str, body: Any) -> web.Response:
        if method == "GET":
            found = [t for n, t in self.known.items() if n == body["tracking_numbers"]]
            return web.json_response({"meta": {"code": 200}, "data": {"trackings": found}})
        if "tracker" in body:  # EasyPost's
            return web.json_response({"tracking_code": "CD1", "status": "unknown"})
        number = body["tracking_number"]
        if number in self.known:
            meta = {"code": 4003, "message": "Tracking already exists."}
            return web.json_response({"meta": meta, "data": {}}, status=400)
        self.known[number] = tracking(number)
        return web.json_response({"meta": {"code": 201}, "data": self.known[number]}, status=201)

    def posts(self) -> list[str]:
        return [body["tracking_number"] for method, _, body in self.calls if method == "POST"]


@asynccontextmanager
async def serving(api: Api, **tls: Any) -> AsyncIterator[Api]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", api.answer)
    async with TestServer(app, scheme="https" if tls else "http") as server:
        if not tls:
            api.url = str(server.make_url("")).rstrip("/")
        yield api


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving(Api()) as made:
        yield made


# ---------------------------------------------------------------- this side


@pytest.fixture
async def still(start: Starter, tracking_url: str) -> AsyncIterator[Front]:
    """The service without its loops; shop `watched` has an aggregator."""
    more = SHOP.format(id="watched", provider="aftership", key="file:aftership")
    async with start(tracking_url, loops=False, more=more) as made:
        yield made


def watcher(front: Front, api: Api, known: Shops = AFTERSHIP, **changes: Any) -> Watcher:
    async def submit(item: Delivery | Choice) -> Answer:
        return await front.submit(item)

    urls = {"aftership": api.url, "easypost": api.url}
    return Watcher(front.db, known, submit, urls=urls, **({"rate": 100.0} | changes))


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.02)


async def work(*watchers: Watcher, until_: Callable[[], Awaitable[Any]]) -> None:
    """Let watchers run until something is so."""
    life = Life()
    async with asyncio.TaskGroup() as group:
        for one in watchers:
            group.create_task(one.run(life))
        try:
            await until(until_)
        finally:
            life.stopping.set()


async def state(front: Front, number: str = "AB1") -> dict[str, Any]:
    row = await front.db.fetchrow(
        """select provider, registered_at, attempts, trouble,
                  extract(epoch from watch_at - now())::float8 as due_in
           from track where shop = 'watched' and ref = $1""",
        number,
    )
    return dict(row) if row else {}


def settled(front: Front, number: str = "AB1") -> Callable[[], Awaitable[bool]]:
    """Whether a number was looked at and waits for its next time, or for none."""

    async def is_settled() -> bool:
        found = await state(front, number)
        lease = 61 if found["trouble"] is None else 0
        return found["due_in"] is None or found["due_in"] > lease

    return is_settled


async def ship(front: Front, *numbers: str, ago: float = 24) -> None:
    for place, number in enumerate(numbers or ("AB1",)):
        order = str(1001 + place)
        await front.hear(
            placed(order),
            shipped(order, number, shipped_at=rfc3339(now() - timedelta(hours=ago))),
            shop="watched",
        )


async def due(front: Front, **columns: str) -> None:
    """Let every number's time come, with these columns changed."""
    more = "".join(f", {name} = {value}" for name, value in columns.items())
    await front.db.execute(f"update track set watch_at = now() {more} where provider is not null")


def counted(call: str, outcome: str) -> float:
    return float(REGISTRATIONS.labels("aftership", call, outcome)._value.get())


# ---------------------------------------------------------------- registering


async def test_a_shipped_parcel_is_registered_once(still: Front, api: Api) -> None:
    before = counted("register", "ok")
    await ship(still)
    await work(watcher(still, api), until_=settled(still))
    assert api.calls == [
        (
            "POST",
            "/trackings",
            {"tracking_number": "AB1", "order_id": "1001", "slug": "post-slovenia"},
        )
    ]
    assert api.keys == {KEY}
    found = await state(still)
    assert (found["provider"], found["trouble"], found["attempts"]) == ("aftership", None, 0)
    assert found["registered_at"] is not None
    assert 11.9 < found["due_in"] / 3600 <= 12  # then it is asked about, should it stay silent
    assert counted("register", "ok") == before + 1
    await still.hear(shipped(number="AB1"), shop="watched")  # stated again
    assert (await state(still))["registered_at"] == found["registered_at"]


async def test_a_parcel_stated_before_its_order_is_watched_too(still: Front) -> None:
    await still.hear(shipped(number="AB1"), shop="watched")
    await still.hear(placed(), shop="watched")
    assert (await state(still))["provider"] == "aftership"


async def test_what_is_registered_already_is_done(still: Front, api: Api) -> None:
    api.known["AB1"] = tracking()
    await ship(still)
    await work(watcher(still, api), until_=settled(still))
    found = await state(still)
    assert (found["trouble"], found["registered_at"] is not None) == (None, True)


async def test_a_shop_without_an_aggregator_calls_nobody(still: Front, api: Api) -> None:
    await still.hear(placed(), shipped())
    assert await still.db.fetchval("select count(*) from track where watch_at is not null") == 0
    assert aggregator(still.shop("demo")) is None
    assert api.calls == []


async def test_a_refusal_for_good_is_kept_where_an_operator_sees_it(still: Front, api: Api) -> None:
    before = counted("register", "give_up")
    api.answers.append((400, {"meta": {"code": 4005, "message": "AB1 is invalid"}}, {}))
    await ship(still)
    await work(watcher(still, api), until_=settled(still))
    found = await state(still)
    assert (found["due_in"], found["trouble"]) == (None, "4005")
    assert counted("register", "give_up") == before + 1
    shown = (await still.ask("/v1/orders/watched/1001")).json()["parcels"][0]["watching"]
    assert [w["trouble"] for w in shown if w["ref"] == "AB1"] == ["4005"]


UNKNOWN_CARRIER: Any = (400, {"meta": {"code": 4012, "message": "Cannot detect courier."}}, {})


async def test_a_carrier_the_aggregator_does_not_know_it_is_to_find_itself(
    still: Front, api: Api
) -> None:
    api.answers.append(UNKNOWN_CARRIER)
    await still.hear(placed(), shipped(number="AB1", carrier="my-cousin"), shop="watched")
    await work(watcher(still, api), until_=settled(still))
    assert [body.get("slug") for _, _, body in api.calls] == ["my-cousin", None]
    found = await state(still)
    assert (found["trouble"], found["registered_at"] is not None) == (None, True)


async def test_a_corrected_carrier_is_registered_however_the_wrong_one_ended(
    still: Front, api: Api
) -> None:
    api.answers.extend([UNKNOWN_CARRIER, UNKNOWN_CARRIER])
    await still.hear(placed(), shipped(number="AB1", carrier="my-cousin"), shop="watched")
    await work(watcher(still, api), until_=settled(still))
    found = await state(still)
    assert (found["due_in"], found["trouble"]) == (None, "carrier_unknown")
    await still.hear(restated(number="AB1", carrier="my-cousin"), shop="watched")
    assert (await state(still))["due_in"] is None  # nothing is new
    for carrier, slug in (("gls", "gls"), ("Pošta Slovenije", "post-slovenia"), (None, None)):
        api.known.clear()
        await still.hear(restated(number="AB1", carrier=carrier), shop="watched")
        await work(watcher(still, api), until_=settled(still))
        found = await state(still)
        assert (found["trouble"], found["registered_at"] is not None) == (None, True)
        assert api.calls[-1][2].get("slug") == slug
    assert len(api.calls) == 5


async def test_a_corrected_number_is_registered_and_so_is_the_first_when_it_was_right(
    still: Front, api: Api
) -> None:
    await ship(still)
    await work(watcher(still, api), until_=settled(still))
    await still.hear(restated(number="ZZ9"), shop="watched")
    await due(still)
    await work(watcher(still, api), until_=settled(still, "ZZ9"))
    await due(still)
    await work(watcher(still, api), until_=settled(still))
    assert (await state(still))["due_in"] is None
    await still.hear(restated(number="AB1"), shop="watched")
    await work(watcher(still, api), until_=settled(still))
    assert api.posts() == ["AB1", "ZZ9", "AB1"]
    assert (await state(still))["due_in"] is not None


def restated(**changes: Any) -> ShipmentUpdated:
    """State the parcel of order 1001 once more, as the shop corrects it."""
    return ShipmentUpdated(**shipped(**changes).model_dump())


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    raise AssertionError


async def flood(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    answer.enable_compression()
    await answer.prepare(request)
    for _ in range(64):
        await answer.write(b" " * 65_536)
    return answer


async def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


BAD_DAYS: dict[str, Any] = {
    "http_500": (500, "<html>", {}),
    "http_503": (503, "", {}),
    "timeout": hang,
    "unreachable": drop,
    "redirected": (302, "", {"Location": "http://169.254.169.254/"}),
    "unreadable": (200, "{", {}),
    "answer_too_large": flood,
    "key_refused": (401, {"meta": {"code": 401}}, {}),
}


@pytest.mark.parametrize("reason", BAD_DAYS)
async def test_on_a_bad_day_it_is_tried_again_later_and_then_all_is_well(
    still: Front, api: Api, reason: str
) -> None:
    api.answers.append(BAD_DAYS[reason])
    await ship(still)
    await work(watcher(still, api, call_seconds=0.5), until_=settled(still))
    found = await state(still)
    assert (found["trouble"], found["attempts"], found["registered_at"]) == (reason, 1, None)
    assert 1 < found["due_in"] <= 5
    await due(still)

    async def registered() -> bool:
        return (await state(still))["registered_at"] is not None

    await work(watcher(still, api), until_=registered)
    found = await state(still)
    assert (found["trouble"], found["attempts"]) == (None, 0)
    assert [path for _, path, _ in api.calls] == ["/trackings"] * 2


async def test_waits_grow_with_every_failure(still: Front, api: Api) -> None:
    await ship(still)
    waits = []
    for _ in range(5):
        api.answers.append((500, "", {}))
        await due(still, attempts="10", trouble="null")
        await work(watcher(still, api), until_=settled(still))
        waits.append((await state(still))["due_in"])
    assert max(waits) > 60
    assert max(waits) <= 3600


@pytest.mark.parametrize("dated", [False, True])
async def test_who_says_when_to_come_again_is_left_alone_until_then(
    still: Front, api: Api, *, dated: bool
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=120)) if dated else "120"  # noqa: TID251
    api.answers.append((429, {"meta": {"code": 429}}, {"Retry-After": later}))
    await ship(still)
    at_work = watcher(still, api)
    await work(at_work, until_=settled(still))
    assert (await state(still))["trouble"] == "rate_limited"
    assert 110 < (await state(still))["due_in"] <= 121
    await ship(still, "AB2")
    began = time.monotonic()

    async def some_time() -> bool:
        return time.monotonic() > began + 1.5

    await work(at_work, until_=some_time)
    assert len(api.calls) == 1


async def test_an_account_that_fails_is_called_seldom_while_others_go_on(still: Front) -> None:
    async with serving(Api()) as broken, serving(Api()) as sound:
        broken.answers.extend([(500, "", {})] * 50)
        both = shops(watched="aftership", demo="easypost")
        await ship(still, *(f"AB{n}" for n in range(30)))
        await still.hear(placed("9"), shipped("9", "CD1"), shop="demo")
        sql = "insert into track (shop, ref, provider, watch_at) values ('demo', 'CD1', 'easypost', now())"
        await still.db.execute(
            sql + " on conflict (shop, ref) do update set provider = 'easypost', watch_at = now()"
        )
        one = watcher(still, broken, both, rate=2.0)
        one._urls["easypost"] = sound.url

        async def tried() -> bool:
            return len(broken.calls) >= 3 and len(sound.calls) >= 1

        await work(one, until_=tried)
        account = one._accounts["watched", "aftership"]
        assert account.held_until > asyncio.get_running_loop().time()
        assert one._accounts["demo", "easypost"].held_until == 0


async def test_calls_are_spread_over_time(still: Front, api: Api) -> None:
    numbers = [f"AB{n}" for n in range(12)]
    await ship(still, *numbers)

    async def all_done() -> bool:
        return len(api.known) == len(numbers)

    await work(watcher(still, api, rate=8.0), until_=all_done)
    assert api.times[-1] - api.times[0] > 1.0
    assert sorted(api.posts()) == sorted(numbers)


async def test_replicas_share_the_work_and_register_nothing_twice(still: Front, api: Api) -> None:
    numbers = [f"AB{n}" for n in range(40)]
    await ship(still, *numbers)

    async def all_done() -> bool:
        left = "select count(*) from track where provider is not null and registered_at is null"
        return await still.db.fetchval(left) == 0

    await work(watcher(still, api), watcher(still, api), until_=all_done)
    assert sorted(api.posts()) == sorted(numbers)


async def test_a_crash_after_the_call_registers_again_and_nothing_is_lost(
    still: Front, api: Api
) -> None:
    await ship(still)
    failpoints.arm("wa.after_call=raise")
    try:
        with pytest.raises(ExceptionGroup):
            await work(watcher(still, api, lease_seconds=1), until_=lambda: asyncio.sleep(9))
    finally:
        failpoints.arm("")
    assert (await state(still))["registered_at"] is None
    await work(watcher(still, api), until_=settled(still))
    assert api.posts() == ["AB1", "AB1"]
    found = await state(still)
    assert (found["trouble"], found["registered_at"] is not None) == (None, True)


async def test_who_comes_late_does_not_undo_what_another_wrote(still: Front, api: Api) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await still.db.execute("update track set watch_at = now() + interval '5 days'")
        return web.Response(status=500)

    api.answers.append(slow)
    await ship(still)

    async def answered() -> bool:
        return bool(api.calls)

    await work(watcher(still, api), until_=answered)
    found = await state(still)
    assert (found["trouble"], found["due_in"] > 86_400) == (None, True)


async def test_a_shop_that_changes_its_aggregator_has_its_parcels_registered_there(
    still: Front, api: Api
) -> None:
    await ship(still)
    await due(still, registered_at="now()")
    api.answers.append((200, {"tracking_code": "AB1", "status": "unknown"}, {}))

    async def moved() -> bool:
        found = await state(still)
        return found["provider"] == "easypost" and found["registered_at"] is not None

    await work(watcher(still, api, shops(watched="easypost")), until_=moved)
    assert [(method, path) for method, path, _ in api.calls] == [("POST", "/trackers")]


# ---------------------------------------------------------------- asking


async def test_a_silent_parcel_is_asked_about_and_what_is_told_counts(
    still: Front, api: Api
) -> None:
    await ship(still, ago=72)
    told_at = now() - timedelta(hours=3)
    api.known["AB1"] = tracking("AB1", ("InTransit", told_at), ("OutForDelivery", told_at))
    await due(still, registered_at="now() - interval '60 hours'")
    await work(watcher(still, api), until_=settled(still))
    assert [(method, body) for method, _, body in api.calls] == [
        ("GET", {"tracking_numbers": "AB1"})
    ]
    assert await still.parcel_state() == "out_for_delivery"
    assert "shipment.status_changed.v1" in await still.told("1001")
    assert await still.db.fetchval("select count(*) from webhooks") == 0
    assert 29 < (await state(still))["due_in"] / 3600 <= 30  # half as long as it was silent
    await due(still)
    await work(watcher(still, api), until_=settled(still))
    assert len(api.calls) == 1  # something was heard a moment ago


async def test_a_parcel_that_is_heard_of_is_not_asked_about(still: Front, api: Api) -> None:
    await ship(still)
    await still.take(scan(number="AB1"), shop="watched")
    await due(still, registered_at="now() - interval '60 hours'")
    await work(watcher(still, api), until_=settled(still))
    assert api.calls == []
    assert 11.9 < (await state(still))["due_in"] / 3600 <= 12


async def test_a_number_the_aggregator_has_lost_is_registered_again(still: Front, api: Api) -> None:
    await ship(still, ago=72)
    await due(still, registered_at="now() - interval '60 hours'")
    await work(watcher(still, api), until_=settled(still))
    await due(still)

    async def twice() -> bool:
        return len(api.calls) == 2 and bool((await state(still))["registered_at"])

    await work(watcher(still, api), until_=twice)
    assert [method for method, *_ in api.calls] == ["GET", "POST"]


@pytest.mark.parametrize("end", ["delivered", "withdrawn", "another number", "forgotten"])
async def test_what_is_over_is_watched_no_more(still: Front, api: Api, end: str) -> None:
    await ship(still)
    match end:
        case "delivered":
            await still.take(scan("delivered", "AB1"), shop="watched")
        case "withdrawn":
            gone = ShipmentWithdrawn(order_id="1001", shipment_id="1001/1", at=now())
            await still.hear(gone, shop="watched")
        case "another number":
            await still.hear(shipped(number="ZZ9", shipped_at=rfc3339(now())), shop="watched")
        case _:
            await still.db.execute("update parcel set shipped_at = now() - interval '91 days'")
    await due(still)
    await still.db.execute("update track set watch_at = null where ref <> 'AB1'")
    await work(watcher(still, api), until_=settled(still))
    assert api.calls == []
    assert (await state(still))["due_in"] is None


async def test_days_pass_faster_in_a_demo(still: Front, api: Api) -> None:
    await ship(still, ago=0)
    await work(watcher(still, api, day_seconds=5.0), until_=settled_soon(still))
    assert len(api.calls) >= 1
    assert 0 < (await state(still))["due_in"] <= 2.5


def settled_soon(still: Front) -> Callable[[], Awaitable[bool]]:
    async def is_settled() -> bool:
        return (await state(still))["registered_at"] is not None

    return is_settled


# ---------------------------------------------------------------- secrets


async def test_no_key_and_no_number_is_ever_logged(still: Front, api: Api, capsys: Any) -> None:
    api.answers.extend([(401, f"wrong key {KEY}", {}), (400, f"bad {KEY}", {}), drop])
    await ship(still, "SECRETNUMBER1", "SECRETNUMBER2", "SECRETNUMBER3")
    for _ in range(3):
        await due(still)

        async def one_more(count: int = len(api.calls)) -> bool:
            return len(api.calls) > count

        await work(watcher(still, api, rate=1.0), until_=one_more)
    written = capsys.readouterr()
    assert "watch_fails" in written.out
    assert KEY not in written.out + written.err
    assert "SECRETNUMBER" not in written.out + written.err


def certificate(folder: Path) -> ssl.SSLContext:
    """Make a server's context with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_a_server_that_nobody_vouches_for_never_sees_the_key(tmp_path: Path) -> None:
    api = Api()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", api.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate(tmp_path))
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with calls.session(5, 1) as http:
            answer = await calls.ask(
                http,
                Call("GET", "/trackings"),
                base_url=f"https://127.0.0.1:{port}",
                headers={"as-api-key": KEY},
                read=lambda *_: Outcome("ok"),
            )
    finally:
        await runner.cleanup()
    assert (answer.outcome.verdict, answer.outcome.reason) == ("retry", "certificate")
    assert api.calls == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0", 0), ("999999999999", 86_400), ("-1", None), ("soon", None), ("", None)],
)
def test_retry_after_is_read_as_seconds_and_bounded(value: str, seconds: float | None) -> None:
    assert calls._retry_after(value) == seconds
    past = format_datetime(now() - timedelta(hours=1), usegmt=True)
    assert calls._retry_after(past) == 0


@pytest.mark.parametrize(
    "url",
    ["https://api.example.com/v2", "http://127.0.0.1:81", "http://[::1]:81", "http://localhost:81"],
)
def test_an_aggregators_address_may_be_another_one(url: str) -> None:
    assert settings(aftership_url=url).aftership_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
        "ftp://127.0.0.1",
        "https://",
        "api.example.com",
        "https://name:word@api.example.com",
        "https://api.example.com/?to=",
    ],
)
def test_a_key_never_leaves_this_machine_unencrypted(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("aftership_url", "easypost_url"):
        with pytest.raises(ValidationError, match="must start with https://"):
            settings(**{name: url})
    monkeypatch.setenv("AFTERSHIP_URL", url)
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/tracking")
    monkeypatch.setenv("OPERATOR_KEYS", "f" * 32)
    monkeypatch.setenv("LINK_KEYS", "f" * 32)
    with pytest.raises(SystemExit, match=r"^78$"):
        load(Settings)
    said = capsys.readouterr().err
    assert said.startswith("AFTERSHIP_URL ")
    assert "must start with https://" in said


def settings(**changes: str) -> Settings:
    known: Any = {"database_url": "postgresql://db/tracking"}
    return Settings(**known, operator_keys=("f" * 32,), link_keys=("f" * 32,), **changes)
