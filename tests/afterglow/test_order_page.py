import io
from typing import Any

import pytest
from rich.console import Console

from afterglow.order_page import page_console, print_order

AT = "2026-11-23T06:52:10.696229Z"
LATER = "2026-11-25T09:00:00Z"
SCAN = {
    "at": AT,
    "type": "scan.reported.v1",
    "id": "s",
    "state": "in_transit",
    "place": "Graz, AT",
    "source": "aftership",
    "raw": "InTransit/InTransit_003",
    "eta_from": "2026-11-27T08:00:00Z",
    "eta_to": "2026-11-27T12:00:00Z",
    "received": AT,
}
WATCHING = {
    "ref": "AB1",
    "provider": "aftership",
    "registered_at": AT,
    "next_at": LATER,
    "attempts": 0,
    "trouble": None,
}
PARCEL = {
    "shipment_id": "1/1",
    "state": "exception",
    "since": AT,
    "since_day": True,
    "reason": "consignee_incorrect_address",
    "action_required": True,
    "shipped_at": AT,
    "stated": {"carrier": "Hermes", "tracking_number": "AB1"},
    "scans": [SCAN],
    "watching": [WATCHING, {"ref": "#1/1", "provider": None, "attempts": 0}],
}
DELAY = {
    "at": AT,
    "n": 1,
    "cause": "silence",
    "old": ["2026-11-25", "2026-11-27"],
    "new": ["2026-12-01", "2026-12-01"],
    "open": True,
    "contact": LATER,
}
WEBHOOK = {
    "id": 7,
    "received_at": AT,
    "source": "aftership",
    "topic": "tracking_update",
    "outcome": "quarantined",
    "reason": "tag: missing",
    "delivery_id": "e-1",
}
MESSAGE = {
    "due_at": AT,
    "kind": "shipment_delayed",
    "subject": "1/1#1",
    "channel": "email",
    "role": "buyer",
    "state": "suppressed",
    "reason": "shop in shadow mode",
    "attempts": 0,
    "reply": None,
}
PLACED = {"type": "order.placed.v1", "at": AT, "id": "p", "promise": "2026-11-25/2026-11-27"}
SENT = {"type": "order.shipped.v1", "at": LATER, "id": "q", "subject": "1/1"}
ANSWERS: dict[str, Any] = {
    "order-events": {
        "shop": "demo",
        "order_id": "1",
        "order": {
            "number": "#1",
            "placed_at": AT,
            "payment": "paid",
            "customer": {"name": "Nina Kos", "email": "nina@example.com", "locale": "sl"},
            "ship_to": {"city": "Ljubljana", "country": "SI"},
            "items": [{"line_id": "1", "name": "Tea", "quantity": "3"}],
        },
        "state": {"stage": "shipped", "cancelled": False},
        "facts": [PLACED, SENT],
        "webhooks": [],
    },
    "tracking": {
        "shop": "demo",
        "order_id": "1",
        "state": {
            "promise": {"from": "2026-11-25", "to": "2026-11-27", "source": "shop"},
            "open": {"1": "2"},
        },
        "parcels": [PARCEL],
        "episodes": {"1/1": DELAY},
        "choices": [{"at": AT, "shipment": "1/1", "wish": "call_me", "words": "9d1a413f03b752e4"}],
        "pages": [{"expires_at": None, "opens": True}],
        "webhooks": [WEBHOOK],
        "facts": [PLACED],
    },
    "notifier": {"shop": "demo", "order_id": "1", "messages": [MESSAGE], "facts": [PLACED]},
}


def printed(answers: dict[str, Any]) -> str:
    out = io.StringIO()
    print_order(answers, Console(file=out, width=200, highlight=False))
    return out.getvalue()


def row(out: str, start: str) -> str:
    """Return the only line that begins so, its gaps as one space."""
    [line] = [line for line in out.splitlines() if line.strip().startswith(start)]
    return " ".join(line.split())


def test_the_page_says_where_the_order_stands() -> None:
    out = printed(ANSWERS)
    assert row(out, "Order") == "Order #1 of demo shipped"
    assert row(out, "placed") == "placed 2026-11-23 06:52:10"
    assert row(out, "customer") == "customer Nina Kos, nina@example.com, sl"
    assert row(out, "promised") == "promised 2026-11-25 – 2026-11-27, shop"
    assert row(out, "items") == "items 2 × Tea"


def test_a_parcel_stands_with_its_state_its_scans_and_who_watches_it() -> None:
    out = printed(ANSWERS)
    assert row(out, "Parcel") == "Parcel 1/1 exception"
    assert row(out, "by") == "by Hermes, AB1"
    state = "state exception since 2026-11-23, consignee_incorrect_address, somebody must act"
    assert row(out, "state") == state
    [scan] = [line for line in out.splitlines() if "Graz" in line]
    assert "in_transit" in scan
    assert "InTransit/InTransit_003" in scan
    assert "2026-11-27 08:00:00 – 2026-11-27 12:00:00" in scan
    registered = "aftership, AB1, registered 2026-11-23 06:52:10, next look 2026-11-25 09:00:00"
    assert row(out, "watched") == f"watched {registered}"


@pytest.mark.parametrize(
    ("trouble", "next_at", "said"),
    [
        ("carrier_unknown", None, "no longer looked at"),
        ("key_refused", LATER, "next look 2026-11-25 09:00:00"),
        ("4005", None, "TROUBLE: 4005, failed 3 time(s) in a row"),
    ],
)
def test_trouble_with_watching_is_seen(trouble: str, next_at: str | None, said: str) -> None:
    broken = WATCHING | {
        "registered_at": None,
        "trouble": trouble,
        "attempts": 3,
        "next_at": next_at,
    }
    tracking = ANSWERS["tracking"] | {"parcels": [PARCEL | {"watching": [broken]}]}
    out = printed(ANSWERS | {"tracking": tracking})
    assert f"TROUBLE: {trouble}" in row(out, "watched")
    assert said in row(out, "watched")


def test_delays_messages_and_webhooks_say_what_came_of_them_and_why() -> None:
    out = printed(ANSWERS)
    assert "2026-11-25 – 2026-11-27 2026-12-01 open 2026-11-25 09:00:00" in " ".join(out.split())
    for words in ("silence", "shop in shadow mode", "tag: missing", "e-1", "call_me"):
        assert words in out
    assert "9d1a413f03b752e4" not in out  # what she wrote is known here by its digest only


def test_an_event_that_several_services_know_stands_once() -> None:
    out = printed(ANSWERS)
    assert out.count("order.placed") == 1
    assert out.index("order.placed") < out.index("order.shipped")


def test_an_order_without_a_message_says_why() -> None:
    notifier = {"order_id": "1", "messages": [], "silent": "history: placed before live_from"}
    assert "history: placed before live_from" in printed(ANSWERS | {"notifier": notifier})


@pytest.mark.parametrize("service", ANSWERS)
def test_each_service_alone_makes_a_page(service: str) -> None:
    assert "of demo" in printed({service: ANSWERS[service]})
    assert "Order 1" in printed({service: {"order_id": "1"}})


def test_what_customers_and_carriers_write_moves_no_cursor_and_is_no_markup() -> None:
    nasty = "[/red]\x1b]0;owned\x07\u202e\nOrder #9"
    order = ANSWERS["order-events"]
    mine = order | {"order": order["order"] | {"customer": {"name": nasty}}}
    scans = [SCAN | {"raw": nasty, "place": nasty}]
    tracking = ANSWERS["tracking"] | {"parcels": [PARCEL | {"scans": scans}]}
    out = printed(ANSWERS | {"order-events": mine, "tracking": tracking})
    assert out.count("[/red]") == 3
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert not [line for line in out.splitlines() if line.startswith("Order #9")]


def test_what_is_no_terminal_gets_wide_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_order(ANSWERS, page_console())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) > 80


def test_of_each_parcel_it_says_when_we_write_about_a_delay_or_why_we_do_not() -> None:
    promised = {"due": "2026-11-27", "promised": True, "next_alarm": None, "because": None}
    alarm = {"next_alarm": "silence", "next_alarm_at": LATER, "next_contact_at": LATER}
    delays = [
        {"shipment_id": None, "because": "no_promise"},
        {"shipment_id": "1/1", **promised, **alarm},
        {"shipment_id": "1/2", **promised, "promised": False, "because": "a_newer_word"},
    ]
    out = printed({"tracking": ANSWERS["tracking"] | {"delays": delays}}).partition("Delay watch")[
        2
    ]
    no_promise = "no_promise (nobody promised a day, so what is not sent cannot be late)"
    assert row(out, "the order") == f"the order nothing: {no_promise}"
    again = "2026-11-25 09:00:00 we write again, as we said"
    late = "2026-11-25 09:00:00 called late: silence"
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f"1/1 2026-11-27 {late}; {again}" in lines
    unpromised = "2026-11-27, by what is usual; nobody promised it"
    assert f"1/2 {unpromised} nothing: a_newer_word" in lines
    assert "Delay watch" not in printed(ANSWERS)  # a tracking that is older than this
