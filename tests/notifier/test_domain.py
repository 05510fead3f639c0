import random
import re
from datetime import UTC, datetime, timedelta

from hypothesis import given, strategies as st

from notifier import domain, policy
from notifier.domain import Identity, State, Wanted
from shared import facts
from shared.events import email_hash
from shared.facts import Fact
from shared.shops import Shop, parse

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TYPES = [
    "order.placed.v1",
    "order.updated.v1",
    "order.cancelled.v1",
    "order.shipped.v1",
    "shipment.updated.v1",
    "shipment.withdrawn.v1",
    "customer.erased.v1",
]
FACTS = st.builds(
    facts.fact,
    st.sampled_from(TYPES),
    st.integers(0, 5).map(lambda n: NOW + timedelta(hours=n)),
    st.integers(0, 30),
    subject=st.sampled_from(["1", "2"]),
    partial=st.sampled_from([None, True]),
)


def shop(more: str) -> Shop:
    made = parse(f"""
[shops.demo]
name = "Demo"
sender = {{ name = "Demo", address = "shop@demo.example.com" }}
reply_to = "help@demo.example.com"
{more}
""").get("demo")
    assert made is not None
    return made


def identity(wanted: Wanted) -> Identity:
    names = (wanted.kind, wanted.subject, "email", "buyer", wanted.round)
    return Identity(wanted.key("demo", "1", "email"), "demo", "1", *names)


LIVE = 'mode = "live"\nlive_from = 2026-11-01T00:00:00Z\n'


@given(st.lists(FACTS, max_size=12), st.randoms(use_true_random=False))
def test_any_order_and_any_duplication_of_facts_want_the_same_messages(
    known: list[Fact], dice: random.Random
) -> None:
    expected = domain.fold(facts.add((), known))
    for _ in range(3):
        arrived: tuple[Fact, ...] = ()
        for one in dice.sample(known * 2, len(known) * 2):
            arrived = facts.add(arrived, [one])
        assert domain.fold(arrived) == expected
        assert domain.plan(domain.fold(arrived)) == domain.plan(expected)


@given(st.lists(FACTS, max_size=12))
def test_nothing_is_wanted_before_the_order_is_placed_nor_after_an_erasure(
    known: list[Fact],
) -> None:
    wanted = domain.plan(domain.fold(facts.add((), known)))
    types = {f.type for f in facts.add((), known)}
    assert bool(wanted) is ("order.placed.v1" in types and "customer.erased.v1" not in types)
    assert sum(w.kind == "order_confirmed" for w in wanted) == bool(wanted)


def test_a_partial_cancellation_does_not_stop_the_confirmation() -> None:
    placed = facts.fact("order.placed.v1", NOW, 0)
    partly = facts.fact("order.cancelled.v1", NOW, 1, partial=True)
    whole = facts.fact("order.cancelled.v1", NOW, 2)
    row = identity(Wanted("order_confirmed", "", NOW))
    assert domain.guard(domain.fold([placed, partly]), row) is None
    assert domain.guard(domain.fold([placed, partly, whole]), row) == "cancelled"


def test_an_erasure_stops_every_kind() -> None:
    assert domain.guard(State(erased=True), identity(Wanted("anything", "", NOW))) == "erased"


def test_who_may_be_reached_depends_on_the_shop() -> None:
    kind, contact = "order_confirmed", "ana@good.example.com"
    listed = shop(LIVE.replace("live", "allowlist", 1) + 'allowlist = ["*@good.example.com"]')
    cases = [
        (shop(LIVE), contact, None),
        (shop(LIVE), None, "no_contact"),
        (shop(LIVE + 'kinds_off = ["order_confirmed"]'), contact, "kind_off"),
        (shop(""), contact, "shadow"),
        (listed, "ANA@Good.example.com", None),
        (listed, "ana@bad.example.com", "not_on_allowlist"),
    ]
    assert [policy.admit(s, kind, c) for s, c, _ in cases] == [reason for *_, reason in cases]


def test_facts_before_live_from_are_history() -> None:
    young = shop(LIVE)
    assert young.live_from is not None
    assert policy.is_history(young, young.live_from - timedelta(seconds=1))
    assert not policy.is_history(young, young.live_from)
    assert not policy.is_history(shop(""), NOW)


def test_the_key_names_everything_that_makes_a_message_another_one() -> None:
    wanted = Wanted("order_confirmed", "", NOW)
    assert wanted.key("demo", "1", "email") == "demo|1|order_confirmed||email|buyer|0"


def test_the_message_id_is_always_the_same_and_tells_nothing() -> None:
    said = policy.message_id("demo|1001|order_confirmed||email|buyer|0", "x.org", b"k" * 80)
    assert said == policy.message_id("demo|1001|order_confirmed||email|buyer|0", "x.org", b"k" * 80)
    assert re.fullmatch(r"<[0-9a-f]{40}@x\.org>", said)
    assert said != policy.message_id("demo|1002|order_confirmed||email|buyer|0", "x.org", b"k" * 80)
    assert said != policy.message_id("demo|1001|order_confirmed||email|buyer|0", "x.org", b"other")


def test_an_address_has_one_hash_however_it_is_written() -> None:
    assert email_hash(" Ana@Example.com ") == email_hash("ana@example.com")


def test_a_life_runs_from_the_fact() -> None:
    assert policy.expires_at("order_confirmed", NOW) == NOW + timedelta(hours=24)
