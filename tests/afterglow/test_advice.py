"""What `afterglow check` says of a shop file that can be used."""

import pytest

from afterglow.advice import advice
from shared.shops import parse

START = """
[shops.a]
name = "A"
sender = { name = "A", address = "a@example.com" }
reply_to = "help@example.com"
"""
PROMISES = "promises = [{ days = [1, 2] }]\n"
HOLIDAYS = '[shops.a.delays]\nship_from = "SI"\n'
ACCOUNT = '[shops.a.providers]\naftership = { key = "env:SECRET" }\n'
WEBHOOK = '[shops.a.webhooks]\naftership = { secrets = ["env:SECRET"] }\n'
API_KEY = f'api_keys = ["{"0" * 64}"]\n'


def told(more: str) -> list[str]:
    shop = parse(START + more, env={"SECRET": "a-secret-of-some-test"}).get("a")
    assert shop is not None
    return list(advice(shop))


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ("", ["promises", "delays.ship_from", "providers"]),
        (HOLIDAYS + ACCOUNT + WEBHOOK, ["promises"]),
        (PROMISES + ACCOUNT + WEBHOOK, ["delays.ship_from"]),
        (PROMISES + HOLIDAYS, ["providers"]),
        (PROMISES + HOLIDAYS + ACCOUNT, ["webhooks.aftership"]),
        (PROMISES + HOLIDAYS + WEBHOOK, ["providers.aftership"]),
        (PROMISES + HOLIDAYS + ACCOUNT + WEBHOOK, []),
    ],
)
def test_what_is_left_out_and_will_be_missed_is_named(more: str, keys: list[str]) -> None:
    assert [line.split(":")[0] for line in told(more)] == [f"shops.a.{key}" for key in keys]


def test_a_shop_without_a_carrier_hears_whether_its_own_systems_could_report() -> None:
    assert "no scan can come in" in told(PROMISES + HOLIDAYS)[0]
    assert "own systems must report" in told(PROMISES + API_KEY + HOLIDAYS)[0]
