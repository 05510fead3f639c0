"""How events travel: CloudEvents 1.0 in Kafka's binary mode on the bus, as JSON over HTTP.

On the bus every attribute is a `ce_*` header and the value is the body alone, so a consumer can skip
a type without decoding anything. Our extensions: `partitionkey` (of the CloudEvents partitioning
extension), `shop`, `recordedtime` and `traceparent` (of the distributed tracing extension).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID, uuid5

from pydantic import ValidationError

from shared.errors import GiveUp, Malformed, Refused, UnknownType
from shared.events.orders import EventData
from shared.events.registry import REGISTRY
from shared.events.values import parse_instant, rfc3339

MAX_BODY_BYTES: Final = 256 * 1024
_MAX_HEADERS: Final = 32
_MAX_HEADER_BYTES: Final = 1024
_NAMESPACE: Final = UUID("6f1d2c0e-5a0b-5c52-9d0e-4a3f5b7c8d91")
_PREFIX: Final = "ce_"

_ID: Final = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,253}[\x21-\x7e]|[\x21-\x7e]")
_SOURCE: Final = re.compile(r"[\x21-\x7e]{1,255}")
_SHOP: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TYPE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_JSON_TYPE: Final = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json(?:\s*;.*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a bus stores it; a `value` of None was erased. -1: not stored yet."""

    topic: str
    key: str
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None
    partition: int = -1
    offset: int = -1


@dataclass(frozen=True, slots=True)
class Event:
    """One CloudEvent: a fact about an order or a person, told once under its `id`.

    `time` is when it happened, `recorded_at` when it was first written (the database's clock). `body`
    is `data` as JSON, where somebody has encoded it already: nobody has to do so again.
    """

    id: UUID
    type: str
    source: str
    shop: str
    key: str
    time: datetime
    data: EventData
    recorded_at: datetime
    traceparent: str | None = None
    body: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        data: EventData,
        *,
        id: UUID,  # noqa: A002 - the attribute's name in CloudEvents
        shop: str,
        source: str,
        time: datetime,
        recorded_at: datetime,
        traceparent: str | None = None,
        body: bytes | None = None,
    ) -> Self:
        """Put a body into its envelope: type and partition key follow from the body."""
        return cls(
            id=id,
            type=data.type,
            source=source,
            shop=shop,
            key=event_key(shop, data),
            time=time,
            data=data,
            recorded_at=recorded_at,
            traceparent=traceparent,
            body=body,
        )

    @property
    def topic(self) -> str:
        """The topic on which events of this type travel."""
        return self.data.topic

    def to_record(self) -> Record:
        """Return the event in binary mode; raises GiveUp when its body is larger than a bus takes."""
        body = self.body or self.data.model_dump_json().encode()
        if len(body) > MAX_BODY_BYTES:
            raise GiveUp(f"the body is larger than {MAX_BODY_BYTES} bytes")
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", str(self.id).encode()),
            ("ce_type", self.type.encode()),
            ("ce_source", self.source.encode()),
            ("ce_time", rfc3339(self.time).encode()),
            ("ce_partitionkey", self.key.encode()),
            ("ce_shop", self.shop.encode()),
            ("ce_recordedtime", rfc3339(self.recorded_at).encode()),
            ("content-type", b"application/json"),
        ]
        if self.traceparent is not None:
            headers.append(("ce_traceparent", self.traceparent.encode()))
        return Record(self.topic, self.key, tuple(headers), body)

    def to_structured(self) -> dict[str, Any]:
        """Return the event as the JSON object of structured mode (`application/cloudevents+json`)."""
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": str(self.id),
            "type": self.type,
            "source": self.source,
            "time": rfc3339(self.time),
            "partitionkey": self.key,
            "shop": self.shop,
            "recordedtime": rfc3339(self.recorded_at),
            "datacontenttype": "application/json",
            "data": self.data.model_dump(mode="json"),
        }
        if self.traceparent is not None:
            event["traceparent"] = self.traceparent
        return event


@dataclass(frozen=True, slots=True)
class Inbound:
    """What somebody outside stated: checked, but not yet an event of ours.

    `ce_id` and `ce_source` are empty for bare data, where the Idempotency-Key names the statement.
    """

    ce_id: str
    ce_source: str
    type: str
    time: datetime
    data: EventData
    traceparent: str | None = None


def event_id(*parts: str) -> UUID:
    """Derive an event id from what is stable about its source (RFC 9562 version 5).

    The parts are told apart by their lengths, so ("a", "bc") and ("ab", "c") differ.
    """
    return uuid5(_NAMESPACE, "".join(f"{len(part)}:{part}" for part in parts))


def event_key(shop: str, data: EventData) -> str:
    """Return the partition key of a body: `shop:order_id`, for a person `shop:person_hash`."""
    return data.key(shop)


def from_record(record: Record) -> Event:
    """Read one of our events from a bus.

    Raises UnknownType for a type or version that this process does not know (count it, skip it) and
    Malformed for everything else that is not an event of ours; no reason quotes a value.
    """
    headers = _headers(record)
    body_type = _known(headers, record.topic)
    if record.value is None:
        raise Malformed("the body was erased")
    try:
        shop, source = headers["shop"], headers["source"]
        event = Event(
            id=_uuid(headers["id"]),
            type=body_type.type,
            source=source,
            shop=shop,
            key=record.key,
            time=_time(headers["time"], "ce_time"),
            data=_body(body_type, record.value),
            recorded_at=_time(headers["recordedtime"], "ce_recordedtime"),
            traceparent=traceparent_or_none(headers.get("traceparent")),
            body=record.value,
        )
    except KeyError as missing:
        raise Malformed(f"header ce_{missing.args[0]} is missing") from None
    if not _SHOP.fullmatch(shop) or not _SOURCE.fullmatch(source):
        raise Malformed("ce_shop or ce_source is not of the agreed form")
    if (
        event.key != event_key(shop, event.data)
        or headers.get("partitionkey", event.key) != event.key
    ):
        raise Malformed("the key does not belong to the body: its order is not kept")
    return event


def read_inbound(record: Record, allowed: frozenset[str]) -> Inbound:
    """Read what a shop's own system wrote to a topic, in binary or structured mode.

    Such records name no shop; whoever calls maps `ce_source` to one and compares the record's key
    with `event_key(shop, data)`. Raises as `from_record` does; a type outside `allowed` is unknown.
    """
    headers = _headers(record)
    if record.value is None:
        raise Malformed("the body was erased")
    if "type" not in headers and headers.get("content-type", "").startswith(
        "application/cloudevents+json"
    ):
        return _structured_inbound(record.value, allowed)
    body_type = _known(headers, None)
    if body_type.type not in allowed:
        raise UnknownType("this type may not be stated here")
    if not _ID.fullmatch(headers.get("id", "")) or not _SOURCE.fullmatch(headers.get("source", "")):
        raise Malformed("ce_id or ce_source is missing or not of the agreed form")
    return Inbound(
        ce_id=headers["id"],
        ce_source=headers["source"],
        type=body_type.type,
        time=_time(headers.get("time", ""), "ce_time"),
        data=_body(body_type, record.value),
        traceparent=traceparent_or_none(headers.get("traceparent")),
    )


def from_http(
    obj: Mapping[str, Any], *, shop: str, allowed: frozenset[str], index: int | None = None
) -> Inbound:
    """Read one event of structured or batch mode, already parsed from strict JSON.

    The shop comes from the credentials; an event that names another one is refused. Raises Refused
    (422) with the dotted path of the field at fault and, in a batch, the event's `index`; values are
    never echoed. Unknown attributes are dropped quietly.
    """
    envelope = _Envelope(obj, index)
    envelope.check("specversion", 'must be "1.0"', ok=envelope.text("specversion") == "1.0")
    ce_id = envelope.matching("id", _ID, "must be 1 to 255 printable ASCII characters")
    source = envelope.matching("source", _SOURCE, "must be a URI reference without spaces")
    body_type = _allowed_type(obj.get("type"), allowed, index)
    envelope.check("shop", "is not the shop of this API key", ok=obj.get("shop", shop) == shop)
    content_type = obj.get("datacontenttype", "application/json")
    envelope.check(
        "datacontenttype",
        "must be application/json",
        ok=isinstance(content_type, str) and bool(_JSON_TYPE.fullmatch(content_type)),
    )
    envelope.check(
        "data_base64", "is not supported; send JSON in `data`", ok="data_base64" not in obj
    )
    time = envelope.time("time", obj.get("time"))
    data = _validated(body_type, obj.get("data"), prefix="data", index=index)
    return Inbound(
        ce_id=ce_id,
        ce_source=source,
        type=body_type.type,
        time=time,
        data=data,
        traceparent=traceparent_or_none(obj.get("traceparent")),
    )


def from_bare(
    type: str,  # noqa: A002 - the attribute's name in CloudEvents
    obj: object,
    *,
    allowed: frozenset[str],
    time: str | None = None,
    index: int | None = None,
) -> Inbound:
    """Read bare data, whose type stands in the address.

    Its time is the header `CE-Time` (`time` here) or else the body's own: `placed_at`, `revision`,
    `shipped_at`, `occurred_at` or `at`. Raises Refused as `from_http` does.
    """
    body_type = _allowed_type(type, allowed, index)
    data = _validated(body_type, obj, prefix="", index=index)
    stated = data.happened_at if time is None else _Envelope({}, None).time("CE-Time", time)
    if stated is None:
        own = data.time_field
        where = f"as {own} or in the header CE-Time" if own else "in the header CE-Time"
        raise Refused(422, "invalid_event", f"needs a time, {where}", field=own or "CE-Time")
    return Inbound(ce_id="", ce_source="", type=body_type.type, time=stated, data=data)


class _Envelope:
    """Reads attributes of a structured event and says which one is wrong."""

    def __init__(self, obj: Mapping[str, Any], index: int | None) -> None:
        if not isinstance(obj, Mapping):
            raise Refused(422, "invalid_event", "an event must be a JSON object", index=index)
        self._obj = obj
        self._index = index

    def check(self, field: str, rule: str, *, ok: bool) -> None:
        if not ok:
            raise Refused(422, "invalid_event", f"{field} {rule}", field=field, index=self._index)

    def text(self, field: str) -> str:
        value = self._obj.get(field)
        self.check(field, "is required", ok=value is not None)
        if not isinstance(value, str):
            self.check(field, "must be a string", ok=False)
            return ""
        return value

    def matching(self, field: str, pattern: re.Pattern[str], rule: str) -> str:
        value = self.text(field)
        self.check(field, rule, ok=bool(pattern.fullmatch(value)))
        return value

    def time(self, field: str, value: object) -> datetime:
        self.check(field, "is required", ok=value is not None)
        try:
            return parse_instant(value)
        except ValueError as rule:
            raise Refused(
                422, "invalid_event", f"{field} {rule}", field=field, index=self._index
            ) from None


def _allowed_type(name: object, allowed: frozenset[str], index: int | None) -> type[EventData]:
    if not isinstance(name, str) or name not in allowed or name not in REGISTRY:
        raise Refused(
            422,
            "unknown_type",
            f"type must be one of {', '.join(sorted(allowed))}",
            field="type",
            index=index,
        )
    return REGISTRY[name]


def _validated(
    body_type: type[EventData], obj: object, *, prefix: str, index: int | None
) -> EventData:
    if not isinstance(obj, Mapping):
        raise Refused(
            422, "invalid_event", "data must be a JSON object", field=prefix or None, index=index
        )
    try:
        return body_type.model_validate(obj)
    except ValidationError as error:
        path, rule = _first_finding(error, prefix)
        raise Refused(422, "invalid_event", f"{path}: {rule}", field=path, index=index) from None


def _first_finding(error: ValidationError, prefix: str) -> tuple[str, str]:
    """Return path and rule of the first finding; neither contains anything the sender wrote."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(step) for step in (*([prefix] if prefix else []), *first["loc"]))
    return path or "data", first["msg"].removeprefix("Value error, ")


def _headers(record: Record) -> dict[str, str]:
    """Return the CloudEvents attributes of a record, and its content type."""
    if len(record.headers) > _MAX_HEADERS:
        raise Malformed(f"more than {_MAX_HEADERS} headers")
    found: dict[str, str] = {}
    for name, value in record.headers:
        if name.startswith(_PREFIX):
            attribute = name[len(_PREFIX) :]
        elif name in {"content-type", "traceparent"}:
            attribute = name
            if name == "traceparent" and "traceparent" in found:
                continue
        else:
            continue
        if attribute in found and attribute != "traceparent":
            raise Malformed("a ce_* header stands there twice")
        if len(value) > _MAX_HEADER_BYTES:
            raise Malformed(f"a header is longer than {_MAX_HEADER_BYTES} bytes")
        try:
            found[attribute] = value.decode()
        except UnicodeDecodeError:
            raise Malformed("a header is not UTF-8") from None
    return found


def _known(headers: Mapping[str, str], topic: str | None) -> type[EventData]:
    """Return the body class of a record, which must travel on its own topic."""
    name = headers.get("type")
    if name is None:
        raise Malformed("header ce_type is missing")
    if headers.get("specversion") != "1.0":
        raise Malformed("ce_specversion is not 1.0")
    body_type = REGISTRY.get(name)
    if body_type is None:
        raise UnknownType(name if _TYPE.fullmatch(name) else "unreadable type")
    if topic is not None and topic != body_type.topic:
        raise Malformed("this type does not belong on this topic")
    content_type = headers.get("content-type", "application/json")
    if not _JSON_TYPE.fullmatch(content_type):
        raise Malformed("content-type is not JSON")
    return body_type


def _body(body_type: type[EventData], value: bytes) -> EventData:
    if len(value) > MAX_BODY_BYTES:
        raise Malformed(f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        return body_type.model_validate_json(value)
    except ValidationError as error:
        path, rule = _first_finding(error, "")
        raise Malformed(f"{path}: {rule}") from None


def _structured_inbound(value: bytes, allowed: frozenset[str]) -> Inbound:
    if len(value) > MAX_BODY_BYTES:
        raise Malformed(f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        obj = json.loads(value.decode())
    except (ValueError, RecursionError):
        raise Malformed("the body is not JSON") from None
    if not isinstance(obj, dict):
        raise Malformed("the body is not a JSON object")
    obj.pop("shop", None)  # who wrote it follows from its source, not from what it says
    try:
        return from_http(obj, shop="", allowed=allowed)
    except Refused as refused:
        if refused.code == "unknown_type":
            raise UnknownType("this type may not be stated here") from None
        raise Malformed(refused.detail) from None


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Malformed("ce_id is not a UUID") from None


def _time(text: str, header: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError as rule:
        raise Malformed(f"{header} {rule}") from None


def traceparent_or_none(value: object) -> str | None:
    """Return the trace context, or nothing when it is broken (W3C: start a new trace)."""
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None
