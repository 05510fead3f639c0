"""Reading what others really send: ids of any type, times without a zone, lists that are texts.

Everything here answers a value or None and never raises, except `parse` and `build`, which raise
`Unusable` with the path and the rule at fault, never the value: it may be somebody's address.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import Refused, Unusable
from shared.events import clean_text
from shared.security import read_json

Json = Mapping[str, Any]
M = TypeVar("M", bound=BaseModel)

NUMBER_MAX: Final = 999_999_999_999
_NUMBER_CHARS: Final = 40
_YEARS: Final = range(2000, 2100)
_UNIX_TIMES: Final = range(946_684_800, 4_102_444_800)
_ID: Final = re.compile(r"[\x21-\x7b\x7d\x7e]{1,120}", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d*)?", re.ASCII)
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,6})?\d*\s?([Zz]|[+-]\d\d:?\d\d)?", re.ASCII
)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def parse(body: bytes) -> Any:
    """The JSON of a webhook body; raises `Unusable`."""
    try:
        return read_json(body)
    except Refused as refused:
        raise Unusable(f"{refused.code}: {refused.detail}") from None


def build(model: type[M], /, **fields: Any) -> M:
    """Make an event body; what its rules refuse is `Unusable`, named by path and rule."""
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or model.__name__
        raise Unusable(f"{model.__name__}: {path}: {first['type']}") from None


def obj(value: Any) -> Json:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[Json]:
    """The objects of a list; plugins also send a list as JSON in a string, or as numbered keys."""
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        try:
            value = read_json(value.encode("utf-8", "replace"))
        except Refused:
            return []
    if isinstance(value, dict) and value and all(key.isdigit() for key in value):
        value = list(value.values())
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def ident(value: Any) -> str | None:
    """An id as text, whether it came as text or as a number; 0 and "" are platforms' "none"."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Decimal):
        value = int(value) if _is_whole(value) else None
    text = str(value).strip() if isinstance(value, int | str) else ""
    return text if text != "0" and _ID.fullmatch(text) else None


def _is_whole(value: Decimal) -> bool:
    return value.is_finite() and abs(value) < 10**28 and value == value.to_integral_value()


def word(value: Any) -> str:
    """A status word in lower case; "" for what is none."""
    return value.strip().lower()[:64] if isinstance(value, str) else ""


def text(*values: Any, max_chars: int = 500) -> str | None:
    """The first value that has something to read, on one line and cut to length."""
    return next((found for v in values if (found := clean_text(v, max_chars))), None)


def slug(value: Any) -> str | None:
    """A carrier's name as we write it: `DHL eCommerce` becomes `dhl-ecommerce`."""
    name = re.sub(r"[\W_]+", "-", word(clean_text(value, 100))).strip("-")
    return name or None


def decimal(value: Any) -> Decimal | None:
    """A number, written as such or as text with a decimal point."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    written = str(value).strip()
    if isinstance(value, str) and not _NUMBER.fullmatch(written):
        return None
    try:
        number = Decimal(written) if len(written) <= _NUMBER_CHARS else None
    except InvalidOperation:
        return None
    if number is None or not number.is_finite() or abs(number) > NUMBER_MAX:
        return None
    return number


def instant(value: Any, zone: tzinfo) -> datetime | None:
    """A time in UTC; one without an offset was written in `zone`. None outside 2000-2099."""
    found = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if not found:
        return None
    day, clock, fraction, offset = found.groups(default="")
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{fraction}{offset.upper()}")
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year in _YEARS else None


def midnight(value: Any, zone: tzinfo) -> datetime | None:
    """The start of a date (YYYY-MM-DD) in `zone`, in UTC."""
    if not isinstance(value, str) or not _DATE.fullmatch(value.strip()):
        return None
    return instant(f"{value.strip()} 00:00:00", zone)


def unix_time(value: Any) -> datetime | None:
    """Seconds since 1970, as a number or as text."""
    seconds = decimal(value)
    if seconds is None or int(seconds) not in _UNIX_TIMES:
        return None
    return datetime.fromtimestamp(int(seconds), UTC)
