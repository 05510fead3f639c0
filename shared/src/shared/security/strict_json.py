"""Strict JSON: what reaches a model is what was written, or it is refused."""

import json
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from shared.errors import Refused

JSON_DEPTH_MAX = 32
JSON_DEPTH_READABLE = 256
NUMBER_CHARS_MAX = 64
INTEGER_CHARS_MAX = 32
EXPONENT_MAX = 308

_TOO_LARGE = Decimal("1e9999")
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


def read_json(body: bytes) -> Any:
    """Read JSON as RFC 8259 and I-JSON (RFC 7493) mean it, or refuse it.

    Fractions become `Decimal` with every digit as written, integers stay `int`, so money is exact.
    Raises `Refused` 400 for what is not JSON (empty, BOM, not UTF-8, NaN, a number beyond double
    range, an integer over 32 characters, a repeated key, nesting no parser should follow) and 422
    for JSON that no order contains: deeper than 32, a NUL or half a surrogate pair in a text.
    """
    if not body or body.isspace():
        raise Refused(400, "empty_body", "the body is empty")
    if body.startswith(b"\xef\xbb\xbf"):
        raise Refused(400, "invalid_json", "the body starts with a byte order mark")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        detail = f"the body is not UTF-8 (byte {error.start})"
        raise Refused(400, "invalid_json", detail) from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        detail = f"{error.msg} (line {error.lineno}, column {error.colno})"
        raise Refused(400, "invalid_json", detail) from None
    except RecursionError:
        raise Refused(400, "invalid_json", "nested too deep to read") from None
    # Few opening brackets cannot nest deep, and a NUL or a surrogate can only arrive as an escape:
    # raw ones are refused above. So an ordinary order is never walked.
    if text.count("{") + text.count("[") > JSON_DEPTH_MAX:
        _check_depth(value)
    if _SUSPECT_ESCAPE.search(text):
        _check_texts(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused(400, "invalid_json", "an object repeats a key")
    return found


def _integer(digits: str) -> int:
    if len(digits) > INTEGER_CHARS_MAX:
        raise Refused(400, "invalid_json", f"an integer has over {INTEGER_CHARS_MAX} characters")
    return int(digits)


def _fraction(digits: str) -> Decimal:
    # The length goes first: time and memory of Decimal grow with it.
    if len(digits) <= NUMBER_CHARS_MAX:
        try:
            value = Decimal(digits)
        except InvalidOperation:
            value = _TOO_LARGE
        if abs(value.adjusted()) <= EXPONENT_MAX:
            return value
    raise Refused(400, "invalid_json", "a number is out of range")


def _constant(_name: str) -> NoReturn:
    raise Refused(400, "invalid_json", "NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)


def _check_depth(value: Any) -> None:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for outer in level for inner in _members(outer)]
    if depth > JSON_DEPTH_READABLE:
        raise Refused(400, "invalid_json", "nested too deep to read")
    if depth > JSON_DEPTH_MAX:
        raise Refused(422, "too_deep", f"nested deeper than {JSON_DEPTH_MAX} levels")


def _check_texts(value: Any) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            _check_text(item)
        elif isinstance(item, dict | list):
            waiting.extend(_members(item))
            waiting.extend(item if isinstance(item, dict) else ())


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Refused(422, "invalid_text", "a text contains the NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(422, "invalid_text", "a text contains half a surrogate pair") from None


def _members(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def media_type(content_type: str | None, allowed: Iterable[str]) -> str:
    """The media type of a request in lower case, when it is one of `allowed` and its charset is UTF-8.

    Raises `Refused` 415 otherwise.
    """
    name, *parameters = (content_type or "").lower().split(";")
    charsets = [p.partition("=")[2].strip(' "') for p in parameters if p.strip()[:8] == "charset="]
    name, allowed = name.strip(), tuple(allowed)
    if name not in allowed:
        detail = f"Content-Type must be {' or '.join(allowed)}"
        raise Refused(415, "unsupported_media_type", detail)
    if any(charset not in {"utf-8", "utf8"} for charset in charsets):
        raise Refused(415, "unsupported_media_type", "the charset must be UTF-8")
    return name
