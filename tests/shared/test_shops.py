from datetime import UTC, datetime, time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from structlog.testing import capture_logs

from shared.security import new_api_key, verify_hmac
from shared.shops import KINDS, QuietHours, Shop, ShopsInvalid, Support, in_language, load, parse

EXAMPLE = Path(__file__).parents[2] / "deploy" / "shops.example.toml"
EXAMPLE_ENV = {
    "TEA_SHOPIFY_SECRET": "sample-shopify-secret-0001",
    "TEA_WOOCOMMERCE_SECRET": "sample-woocommerce-secret-0001",
    "TEA_WOOCOMMERCE_SECRET_OLD": "sample-woocommerce-secret-0000",
    "TEA_TWILIO_TOKEN": "sample-twilio-token-0001",
}
SMALL = """
[shops.demo]
name = "Demo"
reply_to = "help@example.com"
sender = { name = "Demo", address = "orders@example.com" }
"""
UNMEASURED = """
[shops.demo.compensation]
currency = "EUR"
cap_per_order = 1
cap_per_day = 1
cap_per_customer_year = 1
rules = [{ when = "late", kind = "voucher" }]
"""
PRODUCTS = """
[[products]]
sku = "TEA-5"
strength = { en = "strong", "*" = "močan" }
[[products]]
sku = "tea-*"
warranty_months = 6
related = ["CUP-1"]
"""


def problems(shops: str, products: str = "", env: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ShopsInvalid) as caught:
        parse(shops, products, env)
    return caught.value.problems


def demo(extra: str = "", env: dict[str, str] | None = None) -> Shop:
    shop = parse(SMALL + extra, env=env).get("demo")
    assert shop is not None
    return shop


def test_the_example_file_is_valid_and_shows_every_key() -> None:
    shops = load(EXAMPLE, None, EXAMPLE_ENV)
    shop = shops.get("tea")
    assert shop is not None
    shown = set(shop.model_fields_set) - {"id"}
    assert shown == set(Shop.model_fields) - {"id"}
    tables = ("support", "brand", "followups", "quiet_hours", "compensation", "woocommerce")
    for name in tables:
        table = getattr(shop, name)
        assert table.model_fields_set == set(type(table).model_fields), name
    assert shop.delays.model_fields_set >= {"ship_from", "tolerance", "contact_days", "carriers"}
    assert shop.calendars["default"].cut_off == time(14)
    assert shop.live_from == datetime(2026, 10, 31, 23, tzinfo=UTC)
    assert shops.by_source("/shops/tea/erp") is shop


def test_a_small_shop_starts_in_shadow_with_everything_absent() -> None:
    shop = demo()
    assert shop.mode == "shadow"
    assert shop.support == Support()
    assert shop.quiet_hours is None
    assert shop.webhook_secrets("shopify") == []
    assert shop.promise("standard", "SI") is None
    assert not shop.may_reach("anybody@example.com")


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ("colour = 1", "shops.demo.colour: unknown key"),
        ('id = "other"', "shops.demo.id: unknown key"),
        ("[shops.demo.support]\nfax = '1'", "shops.demo.support.fax: unknown key"),
        ("time_zone = 'Europe/Atlantis'", "shops.demo.time_zone: is no IANA time zone"),
        ("time_zone = 'Europe'", "shops.demo.time_zone: is no IANA time zone"),
        ("time_zone = '../etc/passwd'", "shops.demo.time_zone: is no IANA time zone"),
        ("time_zone = ''", "shops.demo.time_zone: is no IANA time zone"),
        ("mode = 'on'", "shops.demo.mode: Input should be 'shadow', 'allowlist' or 'live'"),
        ("mode = 'live'", "shops.demo: mode live needs live_from"),
        ("live_from = 2026-01-01T00:00:00", "shops.demo.live_from: Input should have timezone"),
        (
            "mode = 'allowlist'\nlive_from = 2026-01-01T00:00:00Z",
            "shops.demo: mode allowlist needs",
        ),
        ("kinds_off = ['nonsense']", "shops.demo.kinds_off"),
        ("assume_delivered_days = -1", "shops.demo.assume_delivered_days: Input should be greater"),
        ("staff = ['a@x.org, v@y.org']", "shops.demo.staff[0]: must be one plain e-mail address"),
        ("staff = ['<a@x.org> SIZE=1']", "shops.demo.staff[0]: must be one plain e-mail address"),
        ('staff = ["a@x.org\\r\\nBcc: v@y.org"]', "shops.demo.staff[0]: must be one plain"),
        ('card_name = "a\\r\\nb"', "shops.demo.card_name: must be one line of text"),
        ("api_keys = ['abc']", "shops.demo.api_keys[0]: String should match"),
        (
            "[shops.demo.brand]\nlogo = 'http://x.org/l'",
            "shops.demo.brand.logo: must be an https://",
        ),
        ("[shops.demo.brand]\nlogo = 'javascript:alert(1)'", "shops.demo.brand.logo: must be an"),
        (
            "[shops.demo.brand]\nlogo = 'https://u@evil'",
            "shops.demo.brand.logo: must be an https://",
        ),
        (
            "[shops.demo.webhooks]\nshopfy = {}",
            "shops.demo.webhooks.shopfy: Input should be 'shopify'",
        ),
        ("[[shops.demo.promises]]\ndays = [3, 1]", "shops.demo.promises[0].days: the first number"),
        ("[[shops.demo.promises]]\ndays = [1, 3]\ncalendar = 'x'", "shops.demo: promises name a"),
        (
            "webhooks = { shopify = { secrets = [] } }",
            "shops.demo.webhooks.shopify.secrets: needs one",
        ),
        ("woocommerce = { preparing = ['Being packed'] }", "shops.demo.woocommerce.preparing[0]: "),
        ("[shops.demo.delays]\nsilence = 3", "shops.demo.delays.silence: unknown key"),
        (
            "[shops.demo.delays]\nsilence_days = 0",
            "shops.demo.delays.silence_days: Input should be",
        ),
        (
            "[shops.demo.delays]\nship_from = 'si'",
            "shops.demo.delays.ship_from: String should match",
        ),
        (
            "[shops.demo.delays]\ncontact_hour = 23:00:00",
            "shops.demo.delays.contact_hour: must lie",
        ),
        (
            "[shops.demo.delays]\ncalendar = 'x'",
            "shops.demo: delays.calendar names a calendar that is",
        ),
        (
            "[shops.demo.delays.carriers.dhl]\nhour = 1",
            "shops.demo.delays.carriers.dhl.hour: unknown key",
        ),
        (
            "[shops.demo.delays.carriers.dhl]\ncalendar = 'x'",
            "shops.demo: delays.carriers.dhl.calendar names a calendar",
        ),
        (
            UNMEASURED,
            "shops.demo.compensation.rules[0]: needs amount or percent",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named(extra: str, wanted: str) -> None:
    assert any(problem.startswith(wanted) for problem in problems(SMALL + extra)), problems(
        SMALL + extra
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x = ", "shops: the file is not TOML"),
        ("[shop.demo]", "shop: unknown key"),
        ("shops = 1", "shops: must be made of tables"),
        ("shops = { demo = 1 }", "shops: must be made of tables"),
        ("[shops.'Ä']", "shops.Ä.id: String should match"),
        ("[shops.demo]", "shops.demo.sender: is missing"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_with_a_reason(text: str, wanted: str) -> None:
    assert any(problem.startswith(wanted) for problem in problems(text)), problems(text)


def test_all_problems_are_told_at_once() -> None:
    text = SMALL + "[shops.other]\nname = 'x'\n[shops.other.brand]\ncolor = 'red'\n"
    assert len(problems(text, "[[products]]\nname = 'x'")) == 5


@pytest.mark.parametrize(
    ("reference", "env", "wanted"),
    [
        ("env:SHOPIFY_SECRET", {}, "environment variable SHOPIFY_SECRET is not set"),
        (
            "env:SHOPIFY_SECRET",
            {"SHOPIFY_SECRET": ""},
            "environment variable SHOPIFY_SECRET is empty",
        ),
        ("env:S", {"S": "changeme"}, "environment variable S holds a default that everybody knows"),
        ("file:/nowhere/at/all", {}, "file /nowhere/at/all cannot be read"),
        ("hush-hush-hush-hush", {}, "must be env:NAME or file:PATH, never the secret itself"),
        ("env:", {}, "must be env:NAME or file:PATH, never the secret itself"),
    ],
)
def test_a_secret_that_cannot_be_had_names_its_key(
    reference: str, env: dict[str, str], wanted: str
) -> None:
    text = SMALL + f"[shops.demo.webhooks.shopify]\nsecrets = ['{reference}']"
    assert problems(text, env=env) == (f"shops.demo.webhooks.shopify.secrets[0]: {wanted}",)


def test_a_secret_is_shown_nowhere() -> None:
    env = {"S": "a-very-secret-secret", "P": "another-secret-one"}
    extra = (
        "providers = { ses = { key = 'env:P' } }\nwebhooks = { shopify = { secrets = ['env:S'] } }"
    )
    shop = demo(extra, env)
    assert shop.webhook_secrets("shopify") == [b"a-very-secret-secret"]
    for text in (
        repr(shop),
        str(shop),
        shop.model_dump_json(),
        repr(parse(SMALL + extra, env=env)),
    ):
        assert "a-very" not in text
        assert "another" not in text


def test_two_secrets_of_a_source_are_active_while_one_is_rotated(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("file-secret-of-the-shop\n")
    path = tmp_path / "shops.toml"
    path.write_text(SMALL + "webhooks = { shopify = { secrets = ['file:new', 'env:OLD'] } }")
    shop = load(path, None, {"OLD": "older-secret-of-the-shop"}).get("demo")
    assert shop is not None
    active = shop.webhook_secrets("shopify")
    assert active == [b"file-secret-of-the-shop", b"older-secret-of-the-shop"]
    assert not verify_hmac(b"{}", "AAAA", active)


def test_a_short_webhook_secret_is_told_and_taken() -> None:
    with capture_logs() as logs:
        shop = demo("webhooks = { woocommerce = { secrets = ['env:W'] } }", {"W": "tiny!"})
    assert shop.webhook_secrets("woocommerce") == [b"tiny!"]
    assert [(e["event"], e["key"]) for e in logs] == [
        ("webhook_secret_short", "shops.demo.webhooks.woocommerce.secrets[0]")
    ]


def test_an_api_key_finds_its_shop_and_no_other_key_does() -> None:
    key, digest = new_api_key()
    shops = parse(SMALL + f"api_keys = ['{digest}']")
    assert shops.by_api_key(key) is shops.get("demo")
    for wrong in ("", digest, key[:-1], key + "x", key.upper(), "\udcff"):
        assert shops.by_api_key(wrong) is None


def test_a_key_or_source_belongs_to_one_shop() -> None:
    digest = new_api_key()[1]
    one = SMALL + f"api_keys = ['{digest}']\nsources = ['/erp']"
    assert problems(one + one.replace("shops.demo", "shops.other")) == (
        "shops.other.api_keys[0]: belongs to shop demo already",
        "shops.other.sources[0]: belongs to shop demo already",
    )


def test_a_bad_file_at_reload_keeps_the_old_shops_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "shops.toml"
    path.write_text(SMALL)
    shops = load(path, None, {})
    path.write_text(SMALL + "nonsense = 1")
    assert shops.reload() == "shops.demo.nonsense: unknown key"
    assert shops.get("demo") is not None
    path.unlink()
    assert "No such file" in (shops.reload() or "")
    path.write_text(SMALL.replace("shops.demo", "shops.next"))
    assert shops.reload() is None
    assert [shop.id for shop in shops] == ["next"]
    assert shops.get("demo") is None


@pytest.mark.parametrize(
    ("contact", "allowed"),
    [
        ("ana@example.com", True),
        ("Ana@Example.COM", True),
        ("ana@example.com.evil.org", False),
        ("+38640123456", True),
        ("+38641123456", False),
    ],
)
def test_allowlist_mode_reaches_listed_contacts_only(contact: str, *, allowed: bool) -> None:
    live_from = "live_from = 2026-01-01T00:00:00Z\n"
    listed = "mode = 'allowlist'\nallowlist = ['*@example.com', '+38640*']\n"
    assert demo(live_from + listed).may_reach(contact) is allowed
    assert demo(live_from + "mode = 'live'").may_reach(contact)


def test_support_speaks_the_customers_language_and_leaves_out_what_is_absent() -> None:
    support = demo(
        "support = { phone = '+386 1', hours = { sl = 'pon–pet', '*' = 'Mon–Fri' }, warranty ="
        " { pl = '2 lata' }, returns = { days = 30 } }"
    ).support
    assert support.model_fields_set == {"phone", "hours", "warranty", "returns"}
    assert in_language(support.hours, "sl") == "pon–pet"
    assert in_language(support.hours, "ru") == "Mon–Fri"
    assert in_language(support.warranty, "pl") == "2 lata"
    assert in_language(support.warranty, "sl") is None


def test_the_first_promise_that_fits_counts() -> None:
    shop = demo(
        "[[shops.demo.promises]]\nmethod = 'Express*'\ncountries = ['SI', 'AT']\ndays = [1, 1]\n"
        "[[shops.demo.promises]]\nmethod = 'standard'\ndays = [2, 4]\n"
    )
    found = [
        shop.promise(*asked)
        for asked in (("EXPRESS 24", "si"), ("express", "DE"), ("standard", None), (None, "SI"))
    ]
    assert [p and p.days for p in found] == [(1, 1), None, (2, 4), None]
    assert shop.calendar("default").weekday_numbers == {0, 1, 2, 3, 4}


@given(st.times(), st.times(), st.times())
def test_quiet_hours_and_their_reverse_make_a_whole_day(a: time, b: time, t: time) -> None:
    if a != b:
        one, other = QuietHours(start=a, end=b), QuietHours(start=b, end=a)
        assert one.covers(t) is not other.covers(t)


def test_what_a_carrier_does_not_differ_in_is_the_shops() -> None:
    delays = demo(
        "[shops.demo.delays]\nsilence_days = 3\ncollect_days = 2\n"
        "[shops.demo.delays.carriers.'DHL*']\nsilence_days = 5\n"
    ).delays
    assert (delays.of("dhl-express").silence_days, delays.of("dhl-express").collect_days) == (5, 2)
    assert (delays.of("gls").silence_days, delays.of(None).collect_days) == (3, 2)
    assert demo().delays.of("gls").silence_days is None


def test_a_woocommerce_status_may_be_written_with_its_prefix() -> None:
    shop = demo("woocommerce = { preparing = ['wc-packing', 'picking'] }")
    assert shop.woocommerce.preparing == ("packing", "picking")


def test_any_kind_can_be_off() -> None:
    assert demo(f"kinds_off = {list(KINDS)}").kinds_off == set(KINDS)


def test_the_first_product_that_fits_speaks() -> None:
    products = parse(SMALL, PRODUCTS).products
    exact, pattern = products.match("tea-5"), products.match("TEA-50")
    assert exact is not None
    assert exact.strength == {"en": "strong", "*": "močan"}
    assert exact.warranty_months is None
    assert pattern is not None
    assert pattern.warranty_months == 6
    assert products.match("CUP-1") is None
    assert products.match(None) is None
    assert len(products) == 2


def test_a_wrong_product_is_named_by_its_place() -> None:
    assert problems(SMALL, PRODUCTS + "[[products]]\nsku = 'x'\nwarranty = 1") == (
        "products[2].warranty: unknown key",
    )
