"""From due rows to a mail server that refuses, hangs up, stalls or goes away."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from email import message_from_bytes
from email.message import Message
from typing import Any
from uuid import uuid4

import pytest
from tests.chaos.sink import Sink

from afterglow.postgres import free_port
from notifier import store
from notifier.adapters.compiler import kinds
from notifier.dispatcher import Route
from notifier.store import Job, Result
from shared import failpoints
from shared.clock import now
from shared.events import CustomerErased, Event, OrderCancelled
from shared.testing import ADDRESS, event, placed

from .conftest import Desk, Make, operator

KINDS = kinds()


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


async def until(true: Callable[[], Awaitable[Any]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.02)


def orders(count: int, **changes: Any) -> list[Event]:
    return [event(placed(str(n), **changes)) for n in range(count)]


def cancelled(order_id: str = "0") -> Event:
    return event(OrderCancelled(order_id=order_id), at=now())


async def states(desk: Desk) -> Counter[str]:
    return Counter(state for _, state, _ in await desk.rows())


def all_in(desk: Desk, *wanted: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return set(await states(desk)) <= set(wanted)

    return check


async def due_now(desk: Desk) -> None:
    await desk.db.execute("update message set due_at = now() where state = 'pending'")


def mails(sink: Sink) -> list[Message]:
    return [message_from_bytes(m.content) for m in sink.accepted]


async def at(sink: Sink, make_desk: Make, **changes: Any) -> Desk:
    return await make_desk(smtp_url=f"smtp://127.0.0.1:{sink.port}", **changes)


async def test_each_due_message_is_sent_once_and_told(make_desk: Make) -> None:
    async with Sink(collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(30))
        async with desk.at_work():
            await until(all_in(desk, "sent"))
        assert sorted(m.rcpt for m in sink.accepted) == [ADDRESS] * 30
        assert len({m.message_id for m in sink.accepted}) == 30
        assert sink.connections <= 2
        (one, *_) = mails(sink)
        assert one["X-Afterglow-Kind"] == "order_confirmed"
        assert one["Reply-To"] == "help@demo.example.com"
        assert re.fullmatch(r"<[0-9a-f]{40}@demo\.example\.com>", one["Message-ID"])
        assert await desk.outcomes() == [("sent", None)] * 30
        told = await desk.db.fetch("select value from outbox")
        assert not any(ADDRESS.encode() in r["value"] for r in told)


async def test_a_refusal_that_passes_is_tried_again_as_the_same_message(make_desk: Make) -> None:
    async with Sink(faults="refuse@rcpt:450 4.2.1 greylisted*1", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(1))
        async with desk.at_work():

            async def tried() -> bool:
                return bool(await desk.db.fetchval("select tries from message"))

            await until(tried)
            row = await desk.db.fetchrow("select state, reason, reply, due_at from message")
            assert (row["state"], row["reason"]) == ("pending", "mailbox_unavailable")
            assert row["reply"].startswith("450 4.2.1")
            assert row["due_at"] < now() + timedelta(seconds=61)
            await due_now(desk)
            await until(all_in(desk, "sent"))
        assert len(sink.accepted) == 1


async def test_an_address_that_does_not_exist_fails_and_is_not_bothered_again(
    make_desk: Make,
) -> None:
    async with Sink(rejects=[("gone@", "550 5.1.1 nobody here")], collect=True) as sink:
        desk = await at(sink, make_desk)
        async with desk.at_work():
            await desk.hear(*orders(1, customer={"email": "gone@example.com"}))
            await until(all_in(desk, "failed"))
            await desk.hear(event(placed("later", customer={"email": "Gone@example.com"})))
            await until(all_in(desk, "failed", "suppressed"))
            await desk.hear(
                event(placed("x", customer={"email": "gone@example.com"}), shop="other")
            )
            await until(all_in(desk, "failed", "suppressed"))
        assert await desk.rows() == [
            ("0", "failed", "address_refused"),
            ("later", "suppressed", "hard_bounce"),
            ("x", "failed", "address_refused"),
        ]
        rows = await desk.db.fetch("select * from suppression")
        assert all("gone" not in str(tuple(r.values())) for r in rows)
        assert "gone@" not in str(await desk.db.fetchval("select reply from message limit 1"))


async def test_a_server_that_will_not_have_us_stops_the_route_and_burns_no_message(
    make_desk: Make,
) -> None:
    async with Sink(faults="refuse@mail:535 5.7.8 bad credentials", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(40))
        async with desk.at_work():
            await asyncio.sleep(1.5)
            assert sink.connections <= 2
        rows = await desk.db.fetch("select state, tries, attempt from message")
        assert {(r["state"], r["tries"]) for r in rows} == {("pending", 0)}
        assert sum(r["attempt"] for r in rows) <= 20


async def test_everything_follows_after_the_mail_server_was_away(make_desk: Make) -> None:
    port = free_port()
    desk = await make_desk(smtp_url=f"smtp://127.0.0.1:{port}")
    await desk.hear(*orders(20))
    async with desk.at_work():
        await asyncio.sleep(1.2)
        assert await states(desk) == {"pending": 20} or not await all_in(desk, "sent")()
        async with Sink(port=port, collect=True) as sink:
            await until(all_in(desk, "sent"))
            assert len(sink.accepted) == len({m.message_id for m in sink.accepted}) == 20


async def test_a_rate_is_kept(make_desk: Make) -> None:
    async with Sink(collect=True) as sink:
        desk = await at(sink, make_desk, smtp_rate_per_second=10)
        await desk.hear(*orders(20))
        began = time.monotonic()
        async with desk.at_work():
            await until(all_in(desk, "sent"))
        assert time.monotonic() - began >= 0.8
        times = sorted(m.at for m in sink.accepted)
        assert all(times[n + 12] - times[n] >= 0.15 for n in range(8))


# ---------------------------------------------------------------- taken back


async def test_a_message_taken_back_before_its_mark_is_never_finished(make_desk: Make) -> None:
    async with Sink(faults="slow@data:0.6", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(1))
        async with desk.at_work():
            await until(all_in(desk, "claimed"))
            await desk.hear(cancelled())
            await asyncio.sleep(0.8)
        assert await desk.rows() == [("0", "suppressed", "cancelled")]
        assert (sink.accepted, sink.connections) == ([], 1)
        assert await desk.outcomes() == [("suppressed", "cancelled")]


async def test_a_message_cancelled_at_the_dot_and_refused_for_now_is_not_offered_again(
    make_desk: Make,
) -> None:
    failpoints.arm("di.after_mark=sleep:0.5")
    async with Sink(faults="refuse@dot:451 4.3.0 later*1", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(1))
        async with desk.at_work():
            await until(all_in(desk, "dispatching"))
            await desk.hear(cancelled())
            assert await states(desk) == {"dispatching": 1}
            await until(all_in(desk, "suppressed"))
            await due_now(desk)
        assert await desk.rows() == [("0", "suppressed", "cancelled")]
        assert await desk.outcomes() == [("suppressed", "cancelled")]
        assert sink.accepted == []


async def test_a_message_that_was_accepted_counts_as_sent_although_it_was_revoked(
    make_desk: Make,
) -> None:
    failpoints.arm("di.after_mark=sleep:0.4")
    async with Sink(collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(1))
        async with desk.at_work():
            await until(all_in(desk, "dispatching"))
            await desk.hear(cancelled())
            await until(all_in(desk, "sent"))
        assert len(sink.accepted) == 1
        assert await desk.outcomes() == [("sent", None)]


async def test_a_message_of_an_erased_customer_does_not_leave(make_desk: Make) -> None:
    async with Sink(faults="slow@data:0.5", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(1))
        async with desk.at_work():
            await until(all_in(desk, "claimed"))
            await desk.hear(event(CustomerErased(order_id="0"), at=now()))
            await asyncio.sleep(0.7)
        assert await desk.rows() == [("0", "suppressed", "erased")]
        assert sink.accepted == []


# ---------------------------------------------------------------- of unknown fate


async def age_unknown(desk: Desk) -> None:
    await desk.db.execute(
        "update message set updated_at = now() - interval '1 hour' where state = 'unknown'"
    )


async def test_a_message_of_unknown_fate_is_sent_once_more_as_the_same_message(
    make_desk: Make,
) -> None:
    async with Sink(faults="drop@accepted*1", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(1))
        async with desk.at_work():
            await until(all_in(desk, "unknown"))
            await asyncio.sleep(1.2)
            assert await states(desk) == {"unknown": 1}
            await age_unknown(desk)
            await until(all_in(desk, "sent"))
        first, second = mails(sink)
        assert (first["Message-ID"], first["Date"]) == (second["Message-ID"], second["Date"])
        assert await desk.outcomes() == [("unknown", "no_reply_after_dot"), ("sent", None)]


async def test_a_message_is_not_sent_a_third_time(make_desk: Make) -> None:
    async with Sink(faults="drop@accepted", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(1))
        async with desk.at_work():
            for copies in (1, 2, 2):

                async def again(copies: int = copies) -> bool:
                    return len(sink.accepted) == copies and await all_in(desk, "unknown")()

                await until(again)
                await age_unknown(desk)
                await asyncio.sleep(1.2)
        assert len(sink.accepted) == 2


async def test_a_cancelled_order_of_unknown_fate_is_not_sent_once_more(make_desk: Make) -> None:
    async with Sink(faults="drop@accepted*1", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(1))
        async with desk.at_work() as made:
            await until(all_in(desk, "unknown"))
            await desk.hear(cancelled())
            await age_unknown(desk)
            await asyncio.sleep(1.5)
            async with operator(made) as ask:
                (listed,) = (await ask.get("/v1/unknown")).json()["unknown"]
                assert listed["revoked"] == "cancelled"
                resent = await ask.post(f"/v1/unknown/{listed['id']}/resend")
                assert resent.status_code == 404
                assert (await ask.post(f"/v1/unknown/{listed['id']}/forget")).status_code == 200
        assert len(sink.accepted) == 1
        assert await states(desk) == {"forgotten": 1}


# ---------------------------------------------------------------- the journal's rules


async def claimed(desk: Desk, limit: int = 10) -> tuple[Any, list[Job]]:
    owner = uuid4()
    await store.renew_lease(desk.db, owner, 30)
    return owner, await store.claim(desk.db, owner, limit, KINDS)


async def marked(desk: Desk, owner: Any, job: Job) -> bool:
    return bool(await store.commit(desk.db, owner, [], [], [job]))


async def sweep(desk: Desk) -> None:
    async with desk.db.transaction() as tx:
        await store.sweep_dead_owners(tx)
        await store.expire(tx)


async def test_claims_are_fair_over_the_shops(desk: Desk) -> None:
    await desk.hear(*orders(30))
    await desk.hear(*(event(placed(f"o{n}"), shop="other") for n in range(2)))
    _, jobs = await claimed(desk, 8)
    assert Counter(j.shop for j in jobs) == {"demo": 4, "other": 2}


async def test_of_one_order_only_the_first_message_that_is_due_is_claimed(desk: Desk) -> None:
    await desk.hear(*orders(1))
    await desk.db.execute(
        """insert into message (key, message_id, shop, order_id, kind, subject, channel, role, round, state,
                                fact_at, recorded_at, due_at, expires_at)
           select key || n, message_id || n, shop, order_id, kind, 's' || n, channel, role, round, state, fact_at,
                  recorded_at, due_at, expires_at from message, generate_series(1, 2) n"""
    )
    owner, jobs = await claimed(desk)
    assert [j.subject for j in jobs] == [""]
    assert await store.claim(desk.db, owner, 10, KINDS) == []
    await desk.db.execute(
        "update message set state = 'pending', owner = null, due_at = now() + interval '1 hour' "
        "where subject = ''"
    )
    assert [j.subject for j in await store.claim(desk.db, owner, 10, KINDS)] == ["s1"]


async def test_a_kind_of_a_newer_process_is_left_to_it_is_counted_and_holds_nothing_back(
    desk: Desk,
) -> None:
    await desk.hear(*orders(1))
    await desk.db.execute("update message set kind = 'thank_you_card', key = key || 'n'")
    owner, jobs = await claimed(desk)
    assert jobs == []
    await desk.db.execute(
        """insert into message (key, message_id, shop, order_id, kind, subject, channel, role, round, state,
                                fact_at, recorded_at, due_at, expires_at)
           select key || '2', message_id || '2', shop, order_id, 'order_confirmed', 'later', channel, role,
                  round, state, fact_at, recorded_at, due_at, expires_at from message"""
    )
    assert [j.subject for j in await store.claim(desk.db, owner, 10, KINDS)] == ["later"]
    assert ("thank_you_card", "pending", 1) in await store.open_counts(desk.db)
    newer = [*KINDS, "thank_you_card"]
    await desk.db.execute("update message set state = 'sent', owner = null where subject = 'later'")
    assert [j.kind for j in await store.claim(desk.db, owner, 10, newer)] == ["thank_you_card"]


async def test_many_claim_at_once_and_each_row_goes_to_one(make_desk: Make) -> None:
    desks = [await make_desk() for _ in range(3)]
    await desks[0].hear(*orders(60))
    found = await asyncio.gather(*(claimed(d, 30) for d in desks))
    ids = [j.id for _, jobs in found for j in jobs]
    assert len(ids) == len(set(ids)) > 0


async def test_a_dead_owners_claim_is_given_back_and_its_mark_is_refused(desk: Desk) -> None:
    await desk.hear(*orders(1))
    owner, (job,) = await claimed(desk)
    await store.renew_lease(desk.db, owner, -1)
    assert not await marked(desk, owner, job)
    await sweep(desk)
    assert await states(desk) == {"pending": 1}
    other, (again,) = await claimed(desk)
    await store.renew_lease(desk.db, owner, 30)
    assert not await marked(desk, owner, job)
    assert await marked(desk, other, again)


async def test_a_dead_owners_dot_is_of_unknown_fate_until_a_late_reply_tells(desk: Desk) -> None:
    await desk.hear(*orders(1))
    owner, (job,) = await claimed(desk)
    assert await marked(desk, owner, job)
    await store.renew_lease(desk.db, owner, -1)
    await sweep(desk)
    assert await desk.rows() == [("0", "unknown", "no_reply")]
    refused = Result(job, "pending", "late", "451 4.0.0")
    assert not await store.commit(desk.db, owner, [refused], [], [])
    assert await states(desk) == {"unknown": 1}
    accepted = Result(job, "sent", None, "250 2.0.0")
    assert await store.commit(desk.db, owner, [accepted], [], [])
    assert await desk.rows() == [("0", "sent", None)]
    assert not await store.commit(desk.db, owner, [accepted], [], [])


async def test_a_mark_is_refused_when_the_message_is_too_old_or_its_scope_is_paused(
    desk: Desk,
) -> None:
    for stop in ("update message set expires_at = now()", "insert into pause values ('kind', 'order_confirmed', 'why')"):  # fmt: skip
        await desk.hear(event(placed(uuid4().hex)))
        owner, (job,) = await claimed(desk)
        await desk.db.execute(stop)
        assert not await marked(desk, owner, job)
        await desk.db.execute("update message set state = 'forgotten', owner = null")


async def test_what_outlived_its_use_expires(desk: Desk) -> None:
    await desk.hear(*orders(1))
    await desk.db.execute("update message set expires_at = now()")
    assert (await claimed(desk))[1] == []
    await sweep(desk)
    assert await desk.rows() == [("0", "expired", "too_late")]


# ---------------------------------------------------------------- the kill switch

SCOPES = ["all/x", "shop/demo", "kind/order_confirmed", "channel/email"]


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_pause_stops_new_dots_of_its_scope_and_resuming_sends(
    make_desk: Make, scope: str
) -> None:
    async with Sink(faults="slow@data:0.3", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(6))
        if scope == "shop/demo":
            await desk.hear(event(placed("o1"), shop="other"))
        async with desk.at_work() as made, operator(made) as ask:
            paused = await ask.put(f"/v1/pauses/{scope}", json={"reason": "wrong price"})
            assert paused.status_code == 200
            stopped_at = time.time()
            await asyncio.sleep(1)
            allowed = 1 if scope == "shop/demo" else 0
            late = [m for m in sink.accepted if m.at > stopped_at + 0.1]
            assert len(late) <= allowed
            (listed,) = (await ask.get("/v1/pauses")).json()["pauses"]
            assert listed["reason"] == "wrong price"
            assert (await ask.delete(f"/v1/pauses/{scope}")).status_code == 200
            assert (await ask.delete(f"/v1/pauses/{scope}")).status_code == 404
            await until(all_in(desk, "sent"))
        assert len(sink.accepted) == 6 + allowed


# ---------------------------------------------------------------- stopping


async def test_what_is_at_the_dot_is_finished_before_the_process_stops(make_desk: Make) -> None:
    async with Sink(faults="slow@accepted:0.5", collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(2))
        async with desk.at_work():
            await until(all_in(desk, "dispatching", "sent"))
        assert await states(desk) == {"sent": 2}
        assert len(sink.accepted) == 2
        assert await desk.db.fetchval("select count(*) from message where owner is not null") == 0


async def test_a_message_that_cannot_be_built_fails_alone(make_desk: Make) -> None:
    async with Sink(collect=True) as sink:
        desk = await at(sink, make_desk)
        await desk.hear(*orders(3))
        await desk.db.execute(
            """update orders set snapshot = jsonb_set(snapshot, '{totals,total}', '"x"')
               where order_id = '1'"""
        )
        async with desk.at_work():
            await until(all_in(desk, "sent", "failed"))
        rows = {order: state for order, state, _ in await desk.rows()}
        assert rows == {"0": "sent", "1": "failed", "2": "sent"}
        assert ADDRESS not in str(await desk.rows())


# ---------------------------------------------------------------- the breaker


async def test_a_route_that_fails_waits_longer_each_time_and_forgets_it_when_it_works() -> None:
    route = Route()
    assert (route.waits, route.probing) == (0, False)
    route.stop("connect", retryable=True)
    assert 0 < route.waits <= 1
    assert route.probing
    route.stop("connect", retryable=True)  # the other connections saw the same fault
    assert route.waits <= 1
    route.works(policy=False)
    assert not route.probing


async def test_many_refusals_by_policy_stop_the_route() -> None:
    route = Route()
    for n in range(200):
        route.works(policy=n % 10 == 0)
    assert route.waits > 10
