from datetime import UTC
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from shared import reading
from shared.errors import Unusable

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(ANYTHING)
def test_reading_one_field_never_raises(value: Any) -> None:
    assert isinstance(reading.obj(value), dict)
    reading.ident(value)
    reading.word(value)
    reading.slug(value)
    reading.text(value)
    reading.rows(value)
    reading.decimal(value)
    reading.instant(value, UTC)
    reading.midnight(value, UTC)
    reading.unix_time(value)


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_json_or_unusable(body: bytes) -> None:
    try:
        reading.parse(body)
    except Unusable:
        return


def test_what_is_wrong_is_named_without_the_value() -> None:
    with pytest.raises(Unusable) as raised:
        reading.parse(b'{"email": "ana@example.com"')
    assert "ana" not in str(raised.value)
