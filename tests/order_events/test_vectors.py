"""Real deliveries of shop platforms are translated rightly or set aside.

MEANS is the one place that says what the collection's words are called here.
"""

import json
from datetime import datetime
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests import vectors

from order_events.adapters import shopify, woocommerce
from order_events.domain import Delivery, Once, Scan, Shipment, Snapshot, Statement
from shared.errors import Unusable
from shared.shops import parse

S = TypeVar("S", bound=Statement)
PLATFORMS = {"shopify": shopify, "woocommerce": woocommerce}
SHOP = next(
    iter(
        parse("""
[shops.demo]
name = "Demo"
reply_to = "help@demo.example.com"
time_zone = "America/Toronto"
sender = { name = "Demo", address = "shop@demo.example.com" }
""")
    )
)

MEANS = {
    "order.placed": "order.placed.v1",
    "order.paid": "order.updated.v1",
    "order.updated": "order.updated.v1",
    "order.edited": "order.updated.v1",
    "order.restored": "order.updated.v1",
    "order.on_hold": "order.updated.v1",
    "order.fulfilled": "order.updated.v1",
    "order.partially_fulfilled": "order.updated.v1",
    "order.cancelled": "order.cancelled.v1",
    "order.refunded": "order.refunded.v1",
    "shipment.created": "order.shipped.v1",
    "shipment.updated": "shipment.updated.v1",
    "shipment.cancelled": "shipment.withdrawn.v1",
    "shipment.failed": "shipment.withdrawn.v1",
    "shipment.deleted": "shipment.withdrawn.v1",
    "shipment.status": "scan.reported.v1",
}
# The fulfilment states of Shopify that take a parcel back.
GONE = {"cancelled", "error", "failure"}
PAYMENT = {
    "paid": {"paid"},
    "authorized": {"paid"},
    "partially_refunded": {"paid"},
    "refunded": {"paid"},
    "pending": {"awaiting", "on_delivery"},
    "partially_paid": {"awaiting", "on_delivery"},
    "voided": {"awaiting"},
}
ORDER_STATE_PAYMENT = {
    "awaiting_payment": "awaiting",
    "on_hold": "awaiting",
    "paid_preparing": "paid",
}
NOT_PLACED = {"awaiting_payment", "payment_failed", "cancelled", "refunded"}
# Where we differ from the collection's own judgement, and the reason we give.
DIFFERS = {
    # Minor units of an unnamed currency would be a guess; the order itself follows and lists it.
    "woocommerce/refund_single.json": "the refund names no currency",
}


ENTRIES = vectors.entries(PLATFORMS)
SIGNATURES = [entry for entry in ENTRIES if entry["kind"] == "signature"] or [{}]
PAYLOADS = [entry for entry in ENTRIES if entry["kind"] == "payload"]


def _read(entry: dict[str, Any], body: bytes | None = None) -> Delivery:
    body = vectors.body(entry) if body is None else body
    return PLATFORMS[entry["platform"]].read(body, vectors.headers(entry), SHOP)


def _types(statement: Statement) -> set[str]:
    match statement:
        case Snapshot():
            return {"order.placed.v1", "order.updated.v1"}
        case Shipment(withdrawn=True):
            return {"shipment.withdrawn.v1"}
        case Shipment():
            return {"order.shipped.v1", "shipment.updated.v1"}
        case Once(data=data) | Scan(data=data):
            return {data.type}
    return set()


def _slug(name: str | None) -> str | None:
    return "-".join(name.lower().split()) if name else None


@vectors.needs_vectors
@pytest.mark.parametrize("entry", PAYLOADS or [{}], ids=vectors.name)
def test_each_delivery_is_told_ignored_or_set_aside_as_expected(entry: dict[str, Any]) -> None:
    wanted = entry["expect"]
    reason = DIFFERS.get(entry["file"])
    if reason or wanted["disposition"] in {"quarantine", "reject", "reference"}:
        with pytest.raises(Unusable, match=reason):
            _read(entry)
        return
    delivery = _read(entry)
    if wanted["disposition"] == "ignore":
        assert delivery.ignored
        assert not delivery.statements
        return
    assert delivery.ignored is None
    told = set().union(*(_types(statement) for statement in delivery.statements))
    assert MEANS[wanted["event"]] in told
    if "order_id" in wanted:
        assert delivery.order_id in {wanted["order_id"], wanted.get("order_id_also_ok")}


def _accepted(*words: str) -> list[dict[str, Any]]:
    """The deliveries that come out as events and of which the collection says one of these words."""
    return [
        entry
        for entry in PAYLOADS
        if entry["expect"]["disposition"] == "accept" and entry["file"] not in DIFFERS
        if any(word in entry["expect"] for word in words)
    ] or [{}]


def _found(entry: dict[str, Any], kind: type[S]) -> list[S]:
    return [statement for statement in _read(entry).statements if isinstance(statement, kind)]


ORDERS = _accepted("total_minor")
PARCELS = _accepted("shipments", "shop_status")
SCANS = [e for e in PAYLOADS if e["expect"].get("event") == "shipment.status"] or [{}]
REFUNDS = _accepted("refund_id")


@vectors.needs_vectors
@pytest.mark.parametrize("entry", ORDERS, ids=vectors.name)
def test_an_order_says_who_bought_what_for_how_much(entry: dict[str, Any]) -> None:
    wanted = entry["expect"]
    [snapshot] = _found(entry, Snapshot)
    order = snapshot.data
    assert order.number == wanted["order_name"]
    assert order.customer.email == wanted["customer_email"]
    digits = "".join(c for c in wanted["customer_phone"] or "" if c.isdigit())
    assert bool(order.customer.phone) == bool(digits)
    assert (order.customer.phone or "").endswith(digits)
    assert order.customer.locale == wanted["customer_locale"]
    assert (order.totals.currency, order.totals.total) == (
        wanted["currency"],
        wanted["total_minor"],
    )
    assert len(order.items) == wanted["line_count"]
    assert sum(float(item.quantity) for item in order.items) == wanted["item_count"]
    if "country" in wanted:
        assert (order.ship_to.country if order.ship_to else None) == wanted["country"]


@vectors.needs_vectors
@pytest.mark.parametrize("entry", ORDERS, ids=vectors.name)
def test_an_order_says_whether_it_is_placed_paid_or_only_history(entry: dict[str, Any]) -> None:
    wanted = entry["expect"]
    [snapshot] = _found(entry, Snapshot)
    if "payment_state" in wanted:
        assert snapshot.placed
        assert snapshot.data.payment in PAYMENT[wanted["payment_state"]]
        if wanted["is_test"]:
            assert snapshot.history == "test order"
        elif wanted["order_state"] == "cancelled":
            assert snapshot.history == "already cancelled"
        else:
            assert snapshot.history is None
    else:
        state = wanted["order_state"]
        assert snapshot.placed == (state not in NOT_PLACED)
        assert snapshot.data.payment == ORDER_STATE_PAYMENT.get(state, snapshot.data.payment)


@vectors.needs_vectors
@pytest.mark.parametrize("entry", PARCELS, ids=vectors.name)
def test_each_parcel_is_told_with_its_number_and_carrier(entry: dict[str, Any]) -> None:
    wanted, found = entry["expect"], _found(entry, Shipment)
    parcels = wanted.get("shipments") or [wanted]
    numbers = {s.data.tracking_number for s in found}
    assert numbers == {n for p in parcels for n in p["tracking_numbers"] or [None]}
    for parcel in parcels:
        for number in parcel["tracking_numbers"] or [None]:
            [shipment] = [s for s in found if s.data.tracking_number == number]
            assert shipment.data.carrier == _slug(parcel["carrier"])
            assert shipment.withdrawn == (parcel.get("shop_status") in GONE)
            if "shipment_id" in parcel:
                assert shipment.data.shipment_id == f"{parcel['shipment_id']}/1"
            if "shipped_at_unix" in parcel:
                assert shipment.data.shipped_at is not None
                assert shipment.data.shipped_at.timestamp() == parcel["shipped_at_unix"]


@vectors.needs_vectors
@pytest.mark.parametrize("entry", SCANS, ids=vectors.name)
def test_a_scan_keeps_its_state_and_time(entry: dict[str, Any]) -> None:
    wanted = entry["expect"]
    [scan] = _found(entry, Scan)
    assert scan.data.state == wanted["status"]
    assert scan.data.shipment_id == f"{wanted['shipment_id']}/1"
    assert scan.data.occurred_at == datetime.fromisoformat(wanted["occurred_at"])


@vectors.needs_vectors
@pytest.mark.parametrize("entry", REFUNDS, ids=vectors.name)
def test_a_refund_names_its_amount(entry: dict[str, Any]) -> None:
    wanted = entry["expect"]
    [once] = _found(entry, Once)
    assert once.subject == once.data.refund_id
    assert once.data.refund_id in {wanted["refund_id"], wanted.get("refund_id_also_ok")}
    assert once.data.amount == wanted["refund_minor"]
    assert once.data.currency == wanted.get("currency", once.data.currency)


@vectors.needs_vectors
@pytest.mark.parametrize("entry", SIGNATURES, ids=vectors.name)
def test_published_signatures_are_told_from_false_ones(entry: dict[str, Any]) -> None:
    adapter = PLATFORMS[entry["platform"]]
    for case in vectors.cases(entry):
        secrets = [case["secret"].encode()]
        verified = adapter.verify(case["body_utf8"].encode(), case["headers"], secrets)
        assert verified is case["valid"], case["name"]


# -- damaged bodies ------------------------------------------------------------------------------


def check_damaged(entry: dict[str, Any], body: Any, data: st.DataObject) -> None:
    """Whatever a damaged body becomes is an event that travels, or `Unusable`."""
    damaged = json.dumps(vectors.damage(body, data)).encode()
    try:
        delivery = _read(entry, damaged)
    except Unusable:
        return
    assert bool(delivery.ignored) != bool(delivery.statements)
    for statement in delivery.statements:
        if hasattr(statement, "data"):
            kind = type(statement.data)
            assert kind.model_validate_json(statement.data.model_dump_json()) == statement.data


@vectors.needs_vectors
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_delivery_is_an_event_that_travels_or_is_set_aside(data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(PAYLOADS))
    check_damaged(entry, json.loads(vectors.body(entry)), data)
