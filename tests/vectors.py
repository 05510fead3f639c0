"""Real deliveries, collected by others, read in place; and what damage does to them.

The collection lies in $AFTERGLOW_VECTORS, else in `shared/vectors` beside the repository. Tests that
need it are skipped, visibly, where it is not.
"""

import json
import os
from collections.abc import Container, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

FOLDER = Path(
    os.environ.get("AFTERGLOW_VECTORS")  # noqa: TID251 - names a folder of test data
    or Path(__file__).parents[2] / "shared" / "vectors"
)
needs_vectors = pytest.mark.skipif(
    not (FOLDER / "index.json").is_file(),
    reason=f"no payload collection at {FOLDER} (set AFTERGLOW_VECTORS)",
)


def entries(platforms: Container[str]) -> list[dict[str, Any]]:
    """What the collection says of its files of these platforms; empty without a collection."""
    if not (FOLDER / "index.json").is_file():
        return []
    index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return [entry for entry in index["entries"] if entry["platform"] in platforms]


def name(entry: dict[str, Any]) -> str:
    return entry.get("file", "none")


def body(entry: dict[str, Any]) -> bytes:
    return (FOLDER / entry["file"]).read_bytes()


def headers(entry: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value for name, value in entry.get("headers", {}).items()}


def cases(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases of a file of signatures, headers in lower case."""
    listed = json.loads(body(entry))["cases"]
    return [case | {"headers": headers(case)} for case in listed]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from(
        ["", "0", "-1", "1e999", "x" * 600, "é\u202e🎁", "2026-13-45T99:99:99Z", "a|b c:d"]
    ),
    st.sampled_from([[], {}, [[]], [None], {"id": 1}, {"0": {}}, 1.5, -0.001, 99999999999999.99]),
    st.text(max_size=20).filter(lambda text: "\0" not in text),
)


def damage(value: Any, data: st.DataObject) -> Any:
    """Delete or replace one to three values anywhere in a body."""
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        *path, last = data.draw(st.sampled_from(places))
        parent = value
        for step in path:
            parent = parent[step]
        if data.draw(st.booleans()):
            del parent[last]
        else:
            parent[last] = deepcopy(data.draw(JUNK))  # the next round may damage it in turn
    return value


def _places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*here, key)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*here, key))
