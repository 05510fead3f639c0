"""The event contract over time: bodies written by any earlier version must stay readable.

`samples/` holds one body of every type and version; they are never edited, only added to.
`schemas/` holds what the models say today; after a change, run this file as a program to write them
again. It refuses a change that would break somebody who reads or writes the old form.
"""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsoncompat
import pytest
from pydantic import BaseModel, create_model

from shared.events import REGISTRY, TOPICS, EventData, OrderPlaced

HERE = Path(__file__).parent
SAMPLES = {path.name.removesuffix(".json"): path for path in (HERE / "samples").glob("*.json")}
SCHEMAS = HERE / "schemas"

Schema = dict[str, Any]


def schema_of(model: type[BaseModel]) -> Schema:
    """The model's JSON Schema, without the prose."""

    def bare(node: Any) -> Any:
        if isinstance(node, list):
            return [bare(one) for one in node]
        if isinstance(node, dict):
            return {k: bare(v) for k, v in node.items() if k != "description"}
        return node

    schema: Schema = bare(model.model_json_schema())
    return schema


def closed(schema: Schema) -> str:
    """As a writer means it: nothing but the named fields."""

    def close(node: Any) -> None:
        if isinstance(node, list):
            for one in node:
                close(one)
        elif isinstance(node, dict):
            if isinstance(node.get("properties"), dict):
                node["additionalProperties"] = False
            for one in node.values():
                close(one)

    copied = copy.deepcopy(schema)
    close(copied)
    return json.dumps(copied)


def breaks(old: Schema, new: Schema) -> list[str]:
    """Who a change would break; empty when it is compatible."""
    found = []
    if not jsoncompat.check_compat(closed(old), json.dumps(new), "deserializer"):
        found.append("we could no longer read what was written in the old form")
    if not jsoncompat.check_compat(json.dumps(old), closed(new), "serializer"):
        found.append("old readers could not read what we write now")
    if gone := fields(old) - fields(new):  # optional ones too: somebody may be reading them
        found.append(f"gone: {', '.join(sorted(gone))}")
    was, now = patterns(old), patterns(new)
    found += [f"the pattern of {path} changed" for path in was if was[path] != now.get(path)]
    return found


def patterns(node: Any, path: str = "") -> dict[str, str | None]:
    """The pattern of every string: jsoncompat does not compare them.

    Nothing can say whether one pattern allows more than another. Who widens one on purpose edits the
    committed schema by hand.
    """
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return {}
    found = {path: node.get("pattern")} if node.get("type") == "string" else {}
    for name, inner in node.items():
        found |= patterns(inner, f"{path}/{name}")
    return found


def fields(schema: Schema) -> set[str]:
    """Every field of the body and of its parts."""
    parts = {"body": schema, **schema.get("$defs", {})}
    return {f"{part}.{name}" for part, of in parts.items() for name in of.get("properties", {})}


def committed(name: str) -> Schema:
    schema: Schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return schema


def write_schemas() -> None:
    for name, model in REGISTRY.items():
        path, new = SCHEMAS / f"{name}.json", schema_of(model)
        found = breaks(committed(name), new) if path.exists() else []
        if found:
            sys.exit(f"{name}: {'; '.join(found)}. A new meaning is a new version of the type.")
        path.write_text(json.dumps(new, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def test_every_type_has_one_sample_and_one_schema_and_none_is_left_over() -> None:
    assert sorted(SAMPLES) == sorted(REGISTRY)
    assert sorted(path.stem for path in SCHEMAS.glob("*.json")) == sorted(REGISTRY)


def test_every_type_is_versioned_and_has_a_known_topic() -> None:
    for name, model in REGISTRY.items():
        assert name == model.type
        assert name.rpartition(".")[2].lstrip("v").isdigit()
        assert model.topic in TOPICS


@pytest.mark.parametrize("name", REGISTRY)
def test_the_sample_of_every_version_stays_readable_and_keeps_every_field(name: str) -> None:
    raw = SAMPLES[name].read_bytes()
    data = REGISTRY[name].model_validate_json(raw)
    written = json.loads(data.model_dump_json())
    for field, value in json.loads(raw).items():
        assert written[field] == value, field


@pytest.mark.parametrize("name", REGISTRY)
def test_the_models_are_compatible_with_the_committed_schema(name: str) -> None:
    found = breaks(committed(name), schema_of(REGISTRY[name]))
    assert found == []


@pytest.mark.parametrize("name", REGISTRY)
def test_the_committed_schema_is_the_one_of_the_models(name: str) -> None:
    same = committed(name) == schema_of(REGISTRY[name])
    assert same, "run tests/contracts/test_contracts.py as a program"


def drop_required(new: Schema) -> None:
    del new["properties"]["placed_at"]
    new["required"].remove("placed_at")


def drop_optional(new: Schema) -> None:
    del new["properties"]["number"]


def rename_nested(new: Schema) -> None:
    totals = new["$defs"]["Totals"]
    totals["properties"]["sum"] = totals["properties"].pop("total")
    totals["required"] = ["currency", "sum"]


def change_type(new: Schema) -> None:
    new["properties"]["hide_prices"] = {"type": "string"}


def narrow_values(new: Schema) -> None:
    new["properties"]["payment"]["enum"] = ["paid", "awaiting"]


def widen_values(new: Schema) -> None:
    new["properties"]["payment"]["enum"].append("in_gold")


def tighten_limit(new: Schema) -> None:
    new["properties"]["items"]["maxItems"] = 10


def tighten_pattern(new: Schema) -> None:
    new["properties"]["order_id"]["pattern"] = "^[0-9]+$"


def add_pattern(new: Schema) -> None:
    new["$defs"]["Totals"]["properties"]["currency"]["pattern"] = "^EUR$"


def require_optional(new: Schema) -> None:
    new["required"].append("number")


def add_required(new: Schema) -> None:
    new["properties"]["warehouse"] = {"type": "string"}
    new["required"].append("warehouse")


@pytest.mark.parametrize(
    "change",
    [
        drop_required,
        drop_optional,
        rename_nested,
        change_type,
        narrow_values,
        widen_values,
        tighten_limit,
        tighten_pattern,
        add_pattern,
        require_optional,
        add_required,
    ],
)
def test_a_change_that_breaks_somebody_is_found(change: Callable[[Schema], None]) -> None:
    old = schema_of(OrderPlaced)
    new = copy.deepcopy(old)
    change(new)
    found = breaks(old, new)
    assert found


def test_an_optional_field_may_be_added() -> None:
    added = create_model("OrderPlaced", __base__=OrderPlaced, gift_note=(str | None, None))
    found = breaks(schema_of(OrderPlaced), schema_of(added))
    assert found == []


def test_a_field_of_a_later_version_is_dropped_quietly() -> None:
    raw = json.loads(SAMPLES["order.placed.v1"].read_text(encoding="utf-8"))
    raw["from_the_future"] = {"deep": [1]}
    raw["customer"]["from_the_future"] = 1
    data: EventData = OrderPlaced.model_validate(raw)
    assert "from_the_future" not in data.model_dump_json()


if __name__ == "__main__":
    write_schemas()
