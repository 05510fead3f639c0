import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, strategies as st

from shared.errors import GiveUp, Malformed, Refused, UnknownType
from shared.events import (
    INBOUND_TYPES,
    MAX_BODY_BYTES,
    REGISTRY,
    ContactLogged,
    ContactOptedOut,
    Customer,
    Event,
    OrderCancelled,
    OrderPlaced,
    Promise,
    Record,
    ScanReported,
    event_id,
    event_key,
    from_bare,
    from_http,
    from_record,
    person_hash,
    read_inbound,
)

SAMPLES = Path(__file__).parent.parent / "contracts" / "samples"
TIME = datetime(2026, 11, 22, 9, 15, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def sample(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    return body


def event(name: str = "order.placed.v1", trace: str | None = TRACE) -> Event:
    return Event.of(
        REGISTRY[name].model_validate(sample(name)),
        id=UUID(int=7),
        shop="demo",
        source="/shops/demo/shopify",
        time=TIME,
        recorded_at=TIME + timedelta(microseconds=1500),
        traceparent=trace,
    )


def structured(**changes: Any) -> dict[str, Any]:
    stated = {
        "specversion": "1.0",
        "id": "order-1",
        "source": "/shop/erp",
        "type": "order.placed.v1",
        "time": "2026-11-22T10:15:00+01:00",
        "data": sample("order.placed.v1"),
    }
    return {k: v for k, v in {**stated, **changes}.items() if v is not ...}


def changed(record: Record, **headers: bytes | None) -> Record:
    kept = {**dict(record.headers), **{k.replace("__", "-"): v for k, v in headers.items()}}
    return Record(
        record.topic,
        record.key,
        tuple((k, v) for k, v in kept.items() if v is not None),
        record.value,
    )


def refused(obj: Mapping[str, Any], index: int | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        from_http(obj, shop="demo", allowed=INBOUND_TYPES, index=index)
    assert caught.value.status == 422
    return caught.value


# On the bus


@pytest.mark.parametrize("name", REGISTRY)
def test_every_type_travels_the_bus_unchanged(name: str) -> None:
    sent = event(name)
    record = sent.to_record()
    assert record.topic == sent.topic == REGISTRY[name].topic
    assert from_record(record) == sent
    assert from_record(event(name, trace=None).to_record()).traceparent is None


def test_the_key_is_the_shop_and_the_order_or_the_person_or_the_parcel() -> None:
    assert event().key == "demo:820982911946154508"
    person = ContactLogged(customer=Customer(email="Ana@example.com"))
    assert event_key("demo", person) == f"demo:{person_hash('demo', 'ana@example.com')}"
    assert event_key("demo", ContactOptedOut(person_hash="0" * 32)) == "demo:" + "0" * 32
    scan = ScanReported(tracking_number="ab 12-34", state="unknown", occurred_at=TIME)
    assert event_key("demo", scan) == "demo:AB1234"


def test_a_person_has_another_hash_in_another_shop() -> None:
    assert person_hash("a", "x@example.com") != person_hash("b", "x@example.com")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"ce_id": b"17"}, "UUID"),
        ({"ce_id": None}, "ce_id"),
        ({"ce_source": None}, "ce_source"),
        ({"ce_shop": None}, "ce_shop"),
        ({"ce_shop": b"Demo:x"}, "ce_shop"),
        ({"ce_shop": b"other"}, "key"),
        ({"ce_time": b"2026-11-22T09:15:00"}, "zone"),
        ({"ce_time": b"1795000000"}, "RFC 3339"),
        ({"ce_recordedtime": None}, "recordedtime"),
        ({"ce_partitionkey": b"demo:other"}, "key"),
        ({"ce_type": None}, "ce_type"),
        ({"ce_type": b"order.shipped.v1"}, "shipment_id"),
        ({"ce_type": b"message.sent.v1"}, "topic"),
        ({"ce_specversion": b"0.3"}, "specversion"),
        ({"ce_source": b"\xff"}, "UTF-8"),
        ({"ce_source": b"x" * 5000}, "longer"),
        ({"content__type": b"text/plain"}, "content-type"),
        ({f"x{n}": b"" for n in range(500)}, "headers"),
    ],
)
def test_wrong_headers_are_malformed(headers: dict[str, bytes | None], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        from_record(changed(event().to_record(), **headers))


def test_a_header_that_stands_there_twice_is_malformed() -> None:
    record = event().to_record()
    twice = Record(record.topic, record.key, (*record.headers, ("ce_id", b"x")), record.value)
    with pytest.raises(Malformed, match="twice"):
        from_record(twice)


def test_a_broken_trace_is_dropped_and_a_plain_traceparent_header_is_read() -> None:
    record = event().to_record()
    assert from_record(changed(record, ce_traceparent=b"nonsense")).traceparent is None
    plain = changed(record, ce_traceparent=None, traceparent=TRACE.encode())
    assert from_record(plain).traceparent == TRACE


@pytest.mark.parametrize("name", ["order.placed.v2", "nothing.like.this.v1", "\n"])
def test_an_unknown_type_or_version_is_unknown_whatever_its_body(name: str) -> None:
    record = changed(event().to_record(), ce_type=name.encode())
    with pytest.raises(UnknownType):
        from_record(Record(record.topic, record.key, record.headers, b"\xff"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the body was erased"),
        (b"", "body|data"),
        (b"[]", "data"),
        (b"\x1f\x8b\x08", "data"),
        (b'\xef\xbb\xbf{"order_id": "1"}', "data"),
        (b"[" * 100_000, "data"),
        (b'{"order_id": ' + b"9" * 5000 + b"}", "order_id|data"),
        (b" " * (MAX_BODY_BYTES + 1), "larger"),
    ],
)
def test_a_body_that_is_none_is_malformed(value: bytes | None, reason: str) -> None:
    record = event().to_record()
    with pytest.raises(Malformed, match=reason):
        from_record(Record(record.topic, record.key, record.headers, value))


def test_the_key_of_another_order_is_malformed() -> None:
    record = event().to_record()
    with pytest.raises(Malformed, match="order is not kept"):
        from_record(Record(record.topic, "demo:1", record.headers, record.value))


def test_a_body_that_no_bus_takes_is_given_up() -> None:
    body = sample("order.placed.v1")
    body["items"] = [{**body["items"][0], "name": "Č" * 500, "sku": "Č" * 500}] * 200
    large = OrderPlaced.model_validate(body)
    with pytest.raises(GiveUp, match="larger"):
        Event.of(
            large, id=uuid4(), shop="demo", source="/x", time=TIME, recorded_at=TIME
        ).to_record()


@given(st.binary(max_size=200))
def test_garbage_bodies_are_malformed_and_nothing_else(value: bytes) -> None:
    record = event().to_record()
    with pytest.raises(Malformed):
        from_record(Record(record.topic, record.key, record.headers, value))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([name for name, _ in event().to_record().headers])
            | st.text(max_size=12),
            st.binary(max_size=40),
        ),
        max_size=40,
    ),
    st.sampled_from(["orders", "scans", ""]),
)
def test_garbage_headers_never_raise_anything_else(
    headers: list[tuple[str, bytes]], topic: str
) -> None:
    value = event().to_record().value
    for candidate in (headers, [*event().to_record().headers, *headers]):
        record = Record(topic, "demo:1", tuple(candidate), value)
        with contextlib.suppress(Malformed, UnknownType):
            from_record(record)
        with contextlib.suppress(Malformed, UnknownType):
            read_inbound(record, INBOUND_TYPES)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@given(st.sampled_from(sorted(sample("order.placed.v1"))), json_values)
def test_any_json_in_any_field_is_an_order_or_refused_with_its_path(field: str, value: Any) -> None:
    stated = structured(data={**sample("order.placed.v1"), field: value})
    try:
        found = from_http(stated, shop="demo", allowed=INBOUND_TYPES)
    except Refused:
        found = None
    if found is None:
        path = refused(stated).field or ""
        assert path.startswith(f"data.{field}")
        return
    sent = Event.of(found.data, id=uuid4(), shop="demo", source="/x", time=TIME, recorded_at=TIME)
    assert from_record(sent.to_record()) == sent


@given(json_values)
def test_any_json_at_all_is_refused_and_nothing_worse(value: Any) -> None:
    assert refused(value).code in {"invalid_event", "unknown_type"}
    with pytest.raises(Refused):
        from_bare("order.placed.v1", value, allowed=INBOUND_TYPES)


# Over HTTP


def test_a_structured_event_is_read_in_utc() -> None:
    found = from_http(structured(extension="dropped"), shop="demo", allowed=INBOUND_TYPES)
    assert (found.ce_id, found.ce_source, found.type) == ("order-1", "/shop/erp", "order.placed.v1")
    assert found.time == found.data.happened_at == TIME
    assert found.time.tzinfo is UTC
    assert isinstance(found.data, OrderPlaced)
    assert found.data.promise == Promise(
        from_=date(2026, 11, 25), to=date(2026, 11, 27), source="shop"
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"specversion": ...}, "specversion"),
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ...}, "id"),
        ({"id": ""}, "id"),
        ({"id": "x" * 256}, "id"),
        ({"id": "a\nb"}, "id"),
        ({"id": 7}, "id"),
        ({"source": ...}, "source"),
        ({"source": "a b"}, "source"),
        ({"type": ...}, "type"),
        ({"type": ["order.placed.v1"]}, "type"),
        ({"type": "message.sent.v1"}, "type"),
        ({"time": ...}, "time"),
        ({"time": "2026-11-22T09:15:00"}, "time"),
        ({"time": "2026-11-22"}, "time"),
        ({"time": 1795000000}, "time"),
        ({"time": "0000-01-01T00:00:00Z"}, "time"),
        ({"time": "9999-12-31T23:59:59-12:00"}, "time"),
        ({"time": "2026-02-30T00:00:00Z"}, "time"),
        ({"shop": "other"}, "shop"),
        ({"datacontenttype": "text/xml"}, "datacontenttype"),
        ({"data_base64": "e30="}, "data_base64"),
        ({"data": ...}, "data"),
        ({"data": "{}"}, "data"),
    ],
)
def test_a_wrong_attribute_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    assert refused(structured(**changes)).field == field


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    error = refused(structured(type="order.plcaed.v1"), index=3)
    assert (error.code, error.index) == ("unknown_type", 3)
    assert "order.placed.v1" in error.detail
    assert "plcaed" not in error.detail


def test_a_wrong_field_is_named_by_path_and_index_and_its_value_never_echoed() -> None:
    data = sample("order.placed.v1")
    data["items"].append({**data["items"][0], "quantity": "s3cret"})
    error = refused(structured(data=data), index=2)
    assert (error.field, error.index) == ("data.items.1.quantity", 2)
    assert "s3cret" not in error.detail


SECRET = "s3cret-value"


@pytest.mark.parametrize(
    "path",
    [
        "order_id", "number", "revision", "placed_at", "payment", "customer", "customer.id",
        "customer.email", "customer.phone", "customer.locale", "customer.consent.marketing",
        "hide_prices", "ship_to", "ship_to.lines", "ship_to.country", "items", "items.0.line_id",
        "items.0.unit_price", "items.0.url", "totals.currency", "totals.total", "promise.from",
        "promise.to", "promise.source", "status_url", "source.platform",
    ],
)  # fmt: skip
def test_no_finding_contains_what_was_sent(path: str) -> None:
    data = sample("order.placed.v1")
    *steps, last = path.split(".")
    node: Any = data
    for step in steps:
        node = node[int(step)] if step.isdigit() else node[step]
    node[last] = f"{SECRET} <x>\n|"
    error = refused(structured(data=data))
    assert error.field is not None
    assert error.field.startswith(f"data.{path}")
    assert SECRET not in error.detail


def test_bare_data_takes_its_time_from_the_header_or_else_from_the_body() -> None:
    body = sample("order.cancelled.v1")
    stated = from_bare("order.cancelled.v1", body, allowed=INBOUND_TYPES)
    assert stated.time == datetime(2026, 11, 23, 8, tzinfo=UTC)
    assert (stated.ce_id, stated.ce_source) == ("", "")
    header = from_bare(
        "order.cancelled.v1", body, allowed=INBOUND_TYPES, time="2026-11-24T00:00:00Z"
    )
    assert header.time == datetime(2026, 11, 24, tzinfo=UTC)
    assert header.data.happened_at == stated.time
    del body["at"]
    with pytest.raises(Refused, match="CE-Time") as caught:
        from_bare("order.cancelled.v1", body, allowed=INBOUND_TYPES)
    assert caught.value.field == "at"


@pytest.mark.parametrize(
    ("type_", "field"),
    [
        ("order.updated.v1", "revision"),
        ("order.shipped.v1", "shipped_at"),
        ("shipment.updated.v1", "CE-Time"),
        ("order.preparing.v1", "at"),
    ],
)
def test_a_time_that_is_missing_is_named_as_the_field_that_would_hold_it(
    type_: str, field: str
) -> None:
    body = sample(type_) | {"revision": None, "shipped_at": None}
    body |= {"at": None} if field == "at" else {"at": "2026-11-23T08:00:00Z"}
    with pytest.raises(Refused, match="CE-Time") as caught:
        from_bare(type_, body, allowed=INBOUND_TYPES)
    assert caught.value.field == field
    assert field in caught.value.detail


def test_bare_data_names_its_fields_without_a_prefix() -> None:
    with pytest.raises(Refused) as caught:
        from_bare("order.cancelled.v1", {"order_id": ".."}, allowed=INBOUND_TYPES)
    assert caught.value.field == "order_id"


def test_what_a_shop_may_state_is_the_orders_topic() -> None:
    assert len(INBOUND_TYPES) == 17
    assert {REGISTRY[name].topic for name in INBOUND_TYPES} == {"orders"}


# On orders.inbound


def test_a_shops_own_record_is_read_in_binary_and_in_structured_mode() -> None:
    body = json.dumps(sample("order.cancelled.v1")).encode()
    binary = Record(
        "orders.inbound",
        "demo:1",
        (
            ("ce_specversion", b"1.0"),
            ("ce_id", b"erp-77"),
            ("ce_source", b"/erp"),
            ("ce_type", b"order.cancelled.v1"),
            ("ce_time", b"2026-11-22T09:15:00Z"),
        ),
        body,
    )
    found = read_inbound(binary, INBOUND_TYPES)
    assert (found.ce_id, found.ce_source, found.time) == ("erp-77", "/erp", TIME)
    assert isinstance(found.data, OrderCancelled)
    whole = structured(id="erp-77", source="/erp", shop="spoofed")
    whole |= {"type": "order.cancelled.v1", "data": json.loads(body)}
    headers = (("content-type", b"application/cloudevents+json; charset=utf-8"),)
    record = Record("orders.inbound", "demo:1", headers, json.dumps(whole).encode())
    assert read_inbound(record, INBOUND_TYPES) == found
    with pytest.raises(UnknownType):
        read_inbound(binary, frozenset({"order.placed.v1"}))
    with pytest.raises(UnknownType):
        read_inbound(record, frozenset({"order.placed.v1"}))


@given(st.binary(max_size=100))
def test_garbage_on_the_inbound_topic_is_malformed(value: bytes) -> None:
    headers = (("content-type", b"application/cloudevents+json"),)
    with pytest.raises((Malformed, UnknownType)):
        read_inbound(Record("orders.inbound", "x", headers, value), INBOUND_TYPES)


# Ids


def test_an_event_id_is_stable_and_its_parts_do_not_run_together() -> None:
    assert event_id("shopify", "demo", "1") == UUID("f0c90929-cc6c-5a01-9064-2ecc874d530a")
    assert event_id("a", "bc") != event_id("ab", "c")
    assert event_id("a", "") != event_id("a")
    assert event_id("a").version == 5


# What the reference implementation says


def kafka_message(record: Record) -> kafka.KafkaMessage:
    assert record.value is not None
    return kafka.KafkaMessage(dict(record.headers), record.key.encode(), record.value)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_cloudevents_sdk_reads_what_we_put_on_the_bus(name: str) -> None:
    sent = event(name)
    read = kafka.from_kafka_event(kafka_message(sent.to_record()))
    assert read.get_specversion() == "1.0"
    assert (read.get_id(), read.get_type()) == (str(sent.id), name)
    assert (read.get_source(), read.get_time()) == (sent.source, sent.time)
    assert read.get_datacontenttype() == "application/json"
    assert read.get_extension("partitionkey") == sent.key
    assert read.get_extension("shop") == "demo"
    assert read.get_extension("recordedtime") == "2026-11-22T09:15:00.001500Z"
    assert read.get_extension("traceparent") == TRACE
    assert read.get_data() == sent.data.model_dump(mode="json")


def sdk_event(sent: Event) -> CloudEvent:
    whole = sent.to_structured()
    data = whole.pop("data")
    attributes = {**whole, "time": sent.time.astimezone(timezone(timedelta(hours=2)))}
    return CloudEvent(attributes, data)


@pytest.mark.parametrize("name", REGISTRY)
def test_we_read_what_the_cloudevents_sdk_puts_on_the_bus(name: str) -> None:
    sent = event(name)
    message = kafka.to_binary_event(sdk_event(sent))
    assert message.key == sent.key
    record = Record(sent.topic, sent.key, tuple(message.headers.items()), message.value)
    assert from_record(record) == sent


@pytest.mark.parametrize("name", sorted(INBOUND_TYPES))
def test_structured_and_batch_mode_agree_with_the_cloudevents_sdk(name: str) -> None:
    sent = event(name)
    theirs = JSONFormat().write(sdk_event(sent))
    batch = json.loads(b"[" + theirs + b"," + theirs + b"]")
    for index, one in enumerate(batch):
        found = from_http(one, shop="demo", allowed=INBOUND_TYPES, index=index)
        assert (found.data, found.time, found.type) == (sent.data, sent.time, name)
    ours = json.dumps(sent.to_structured()).encode()
    read = JSONFormat().read(None, ours)
    assert (read.get_id(), read.get_time()) == (str(sent.id), sent.time)
    assert read.get_data() == sent.data.model_dump(mode="json")
    message = http.HTTPMessage({"content-type": "application/cloudevents+json"}, ours)
    assert http.from_http_event(message).get_type() == name
