"""The values that event bodies are made of: what a string, a time or an amount may look like.

Everything here is bounded and free of control characters, so a body that was accepted once can be
stored, logged by id, rendered and put into a mail header without another look. The `*_or_none` and
`clean_text` functions are for the translators of platform bodies: one odd phone number must not lose
an order, so they normalise what can be read and drop what cannot.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import phonenumbers
from babel.core import get_global
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

MAX_ITEMS: Final = 200
_MAX_DIGITS: Final = 999_999_999_999
_MAX_EMAIL: Final = 254
_MAX_LOCAL_PART: Final = 64
_MAX_URL: Final = 2048
_YEARS: Final = range(2000, 2100)

_LINE: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_TEXT: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FRACTION: Final = re.compile(r"(\.\d{6})\d+", re.ASCII)


def parse_instant(value: object) -> datetime:
    """Read an RFC 3339 timestamp (or an aware datetime) as UTC, years 2000-2099.

    Raises ValueError; a time without a zone is refused, never guessed, and so is a number.
    """
    if isinstance(value, str):
        if not _RFC3339.fullmatch(value):
            raise ValueError("must be an RFC 3339 date and time with a zone, as a string")
        try:
            exact = _FRACTION.sub(r"\1", value) if "." in value else value
            value = datetime.fromisoformat(exact.upper())
        except ValueError:
            raise ValueError("is no date and time of the calendar") from None
    if not isinstance(value, datetime):
        raise ValueError("must be an RFC 3339 date and time with a zone, as a string")  # noqa: TRY004 - only a ValueError is a finding
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError("must have a time zone")
    if value.year not in _YEARS:
        raise ValueError("must lie between 2000 and 2099")
    return value.astimezone(UTC)


def rfc3339(value: datetime) -> str:
    """Write an aware time the way it goes on the wire: RFC 3339, UTC, `Z`."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _parse_day(value: object) -> object:
    if isinstance(value, str):
        if not _DAY.fullmatch(value):
            raise ValueError("must be a date, YYYY-MM-DD")
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise ValueError("is no date of the calendar") from None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError("must be a date, YYYY-MM-DD")  # noqa: TRY004 - only a ValueError is a finding
    if value.year not in _YEARS:
        raise ValueError("must lie between 2000 and 2099")
    return value


# Ordinary addresses are recognised here, because the full validator costs more than a whole order.
# What this pattern accepts is a subset of what the full one accepts, with the same result.
_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?!-))*(?<!-)"
_PLAIN_EMAIL: Final = re.compile(
    rf"(?P<local>{_ATEXT}(?:\.{_ATEXT})*)@(?P<domain>(?:{_LABEL}\.)+(?P<top>[A-Za-z]{{2,63}}))"
)
_MAX_LABEL: Final = 63


def parse_email(value: str) -> str:
    """Return one mailbox address with its domain in lower case; ValueError for anything else.

    RFC 5321 sizes, no quoted local part, no address literal, no special-use domain (RFC 6761);
    internationalised addresses pass (RFC 6531). Nothing is looked up.
    """
    plain = _PLAIN_EMAIL.fullmatch(value) if len(value) <= _MAX_EMAIL else None
    if (
        plain
        and len(plain["local"]) <= _MAX_LOCAL_PART
        and plain["top"].lower() not in SPECIAL_USE_DOMAIN_NAMES
        and len(plain["domain"]) <= _MAX_LABEL
    ):
        return f"{plain['local']}@{plain['domain'].lower()}"
    return _parse_unusual_email(value)


def _parse_unusual_email(value: str) -> str:
    if len(value) > _MAX_EMAIL:
        raise ValueError("must be one e-mail address")
    try:
        found = validate_email(value, check_deliverability=False, strict=True)
    except (EmailNotValidError, ValueError):
        # Its own sentence quotes the address; this one never does.
        raise ValueError("must be one e-mail address") from None
    return found.normalized


_E164: Final = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_LONGEST_CALLING_CODE: Final = 3


def parse_phone(value: str, region: str | None = None) -> str:
    """Return a phone number in E.164 form; ValueError when it is none.

    With `region` (ISO 3166 alpha-2) national spellings are read too; without it only E.164 itself
    passes, with a calling code and a length that exist.
    """
    if region is not None:
        value = _from_national(value, region)
    if not _E164.fullmatch(value):
        raise ValueError("must be a phone number in E.164 form")
    lengths = _number_lengths()
    for digits in range(1, _LONGEST_CALLING_CODE + 1):
        known = lengths.get(value[1 : 1 + digits])
        if known is not None and len(value) - 1 - digits in known:
            return value
    raise ValueError("must be a phone number in E.164 form")


def _from_national(value: str, region: str) -> str:
    try:
        number = phonenumbers.parse(value, region)
    except phonenumbers.NumberParseException:
        raise ValueError("must be a phone number") from None
    if number.extension:
        raise ValueError("must be a phone number without an extension")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@cache
def _number_lengths() -> Mapping[str, frozenset[int]]:
    """Return calling code → lengths that its national numbers have (ITU-T E.164, libphonenumber).

    A look-up here costs a twentieth of parsing the number.
    """

    def lengths(code: int, regions: Iterable[str]) -> Iterator[int]:
        for region in regions:
            known = PhoneMetadata.metadata_for_region_or_calling_code(code, region)
            if known is not None and known.general_desc is not None:
                yield from known.general_desc.possible_length

    return {
        str(code): frozenset(lengths(code, regions))
        for code, regions in COUNTRY_CODE_TO_REGION_CODE.items()
    }


@cache
def currencies() -> frozenset[str]:
    """Return the ISO 4217 codes that are legal tender somewhere today (CLDR)."""
    return frozenset(
        code
        for entries in get_global("territory_currencies").values()
        for code, _start, end, tender in entries
        if tender and end is None
    )


@cache
def countries() -> frozenset[str]:
    """Return the ISO 3166-1 alpha-2 codes, and XK for Kosovo (CLDR)."""
    codes = {code for code in get_global("territory_languages") if re.fullmatch("[A-Z]{2}", code)}
    return frozenset(codes - {"AC", "CQ", "DG", "EA", "IC", "TA", "ZZ"})  # CLDR's own


def _known_currency(value: str) -> str:
    if value not in currencies():
        raise ValueError("must be an ISO 4217 currency code in use")
    return value


def _known_country(value: str) -> str:
    if value not in countries():
        raise ValueError("must be an ISO 3166-1 alpha-2 country code")
    return value


# The host is a name with a dot and a top level that starts with a letter: no user@, no IP address in
# any spelling, no localhost.
_URL: Final = (
    r"^https?://(?:[0-9A-Za-z_\u00a1-\uffff-]{1,63}\.)+[A-Za-z\u00a1-\uffff][0-9A-Za-z\u00a1-\uffff-]{0,62}"
    r"(?::[0-9]{1,5})?(?:[/?#][^\s\x00-\x1f\x7f-\x9f<>\"\\]*)?$"
)
_COMPILED_URL: Final = re.compile(_URL)

Instant = Annotated[datetime, BeforeValidator(parse_instant)]
"""A point in time: an RFC 3339 string with a zone, held in UTC."""

Day = Annotated[date, BeforeValidator(_parse_day)]
"""A calendar date, YYYY-MM-DD."""

OrderId = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_#-]+(?:[./][A-Za-z0-9_#-]+)*$"
    ),
]
"""The shop's own id of an order: letters, digits, `_ # -`, and single `.` or `/` inside.

Platform ids, UUIDs, `#1234`, `SV-10452` and `2026/1042` pass. A colon would break the partition key
`shop:order_id`; spaces, `..` and leading slashes would make an id that no path or log line can hold.
"""

Ref = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x21-\x7b\x7d\x7e]+$")
]
"""Any other id a shop or platform gives: printable ASCII without spaces or `|` (our key separator)."""

Line = Annotated[str, StringConstraints(max_length=500, pattern=_LINE)]
"""One line of text for people: no control characters, at most 500 characters."""

ShortLine = Annotated[str, StringConstraints(max_length=100, pattern=_LINE)]
"""One short line: a code, a carrier, a tracking number, a place."""

Text = Annotated[str, StringConstraints(max_length=4000, pattern=_TEXT)]
"""Text for people with line breaks: at most 4,000 characters."""

Token = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]
"""A word of our own vocabularies: a message kind, a reason, a role."""

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,64}$")]
"""A person's address as a hash, lower-case hex."""

Email = Annotated[str, StringConstraints(max_length=_MAX_EMAIL), AfterValidator(parse_email)]
"""One mailbox, validated without a look-up."""

Phone = Annotated[str, StringConstraints(max_length=16), AfterValidator(parse_phone)]
"""A phone number in E.164 form."""

Url = Annotated[str, StringConstraints(max_length=_MAX_URL, pattern=_URL)]
"""An http or https address of a named host, without credentials. We link to it and never fetch it."""

Locale = Annotated[
    str, StringConstraints(max_length=35, pattern=r"^[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*$")
]
"""A language tag (BCP 47)."""

Currency = Annotated[str, StringConstraints(max_length=3), AfterValidator(_known_currency)]
Country = Annotated[str, StringConstraints(max_length=2), AfterValidator(_known_country)]

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(?:\.[0-9]{1,6})?$")]
"""How many, as a decimal string, so that 0.5 kg stays 0.5 kg."""

Money = Annotated[int, Field(strict=True, ge=-_MAX_DIGITS, le=_MAX_DIGITS)]
"""Minor units of the currency beside it (JPY has none, KWD three decimals); may be negative."""

Amount = Annotated[int, Field(strict=True, ge=0, le=_MAX_DIGITS)]
"""Minor units, never negative."""

Count = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Flag = Annotated[bool, Field(strict=True)]
Precision = Literal["second", "day"]
"""How exact a stated time is; `day` means that only the date is known, held as that day's midnight."""


def clean_text(value: object, max_chars: int = 500) -> str | None:
    """Return `value` as one line without control characters, cut to length; None when nothing is left."""
    if not isinstance(value, str):
        return None
    return _CONTROLS.sub(" ", value[: 4 * max_chars]).strip()[:max_chars].rstrip() or None


def email_or_none(value: object) -> str | None:
    """Return the address in normal form, or None when it is not exactly one mailbox."""
    try:
        return parse_email(value.strip()) if isinstance(value, str) else None
    except ValueError:
        return None


def phone_or_none(value: object, regions: Iterable[str | None] = ()) -> str | None:
    """Return the number in E.164 form, read as of the first of `regions` in which it makes sense."""
    if not isinstance(value, str) or len(value) > 40:  # noqa: PLR2004 - the longest spelling seen is half of it
        return None
    for region in (None, *regions):
        try:
            return parse_phone(value.strip(), region)
        except ValueError:
            continue
    return None


def url_or_none(value: object) -> str | None:
    """Return the address when it is one that may stand in a message."""
    if not isinstance(value, str) or len(value) > _MAX_URL:
        return None
    return value if _COMPILED_URL.fullmatch(value) and urlsplit(value).hostname else None


def country_or_none(value: object) -> str | None:
    """Return the country code in upper case when it is one."""
    code = value.strip().upper() if isinstance(value, str) else ""
    return code if code in countries() else None


_COMPILED_LOCALE: Final = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*")


def locale_or_none(value: object) -> str | None:
    """Return a language tag with hyphens (`sl_SI` becomes `sl-SI`), or None."""
    tag = value.strip().replace("_", "-") if isinstance(value, str) else ""
    return tag if len(tag) <= 35 and _COMPILED_LOCALE.fullmatch(tag) else None  # noqa: PLR2004 - RFC 5646 §4.4.1
