"""The languages customers read: words from gettext catalogues, formats from CLDR.

A `Language` answers everything that differs between languages: a sentence, a plural form, an amount,
a date, a country. Catalogues are `<code>.po` files keyed by the English text, so English needs none:
those beside this module hold what every service says, each service adds its own. What costs (parsing,
CLDR look-ups) happens once per language or once per value.
"""

import gettext
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, get_timezone_location
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from babel.numbers import get_currency_symbol

FALLBACK = "en"
_FOLDER = Path(__file__).parent
_NBSP = "\u00a0"

# ISO 4217 exponents that are not two. CLDR's own digits differ (it shows HUF and IQD without any),
# but the amounts on the wire are ISO minor units.
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_MORE_DECIMALS = {**dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3), "CLF": 4, "UYW": 4}
_EXPONENTS: Mapping[str, int] = {**dict.fromkeys(_NO_DECIMALS.split(), 0), **_MORE_DECIMALS}

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
UNTIL = "until"  # gettext context of weekdays, months and their order after "by", "до", "do"
_UNTIL_PATTERN = "%(weekday)s %(day)s %(month)s"


@dataclass(frozen=True)
class _Formats:
    locale: str
    day: str
    date: str
    group_from: int = (
        4  # shortest whole part that gets group separators (CLDR minimumGroupingDigits)
    )


_FORMATS: Mapping[str, _Formats] = {
    # British English: €1,299.90, US$ told apart from other dollars, day before month.
    "en": _Formats("en_GB", "EEEE d MMMM", "d MMMM y"),
    "ru": _Formats("ru", "EEEE, d MMMM", "d MMMM y 'года'"),
    "pl": _Formats("pl", "EEEE, d MMMM", "d MMMM y", group_from=5),
    "sl": _Formats("sl", "EEEE, d. MMMM", "d. MMMM y"),
}
CODES: tuple[str, ...] = tuple(_FORMATS)


@dataclass(frozen=True)
class Language:
    """One language. Build it with `load`; `code` is its ISO 639-1 code."""

    code: str
    _locale: Locale
    _formats: _Formats
    _catalogue: Catalog
    _plural: Callable[[int], int]
    _money: dict[str, Callable[[int], str]] = field(default_factory=dict)
    _days: dict[tuple[str, str], str] = field(default_factory=dict)

    def text(self, msgid: str, context: str | None = None) -> str:
        """Return the translation, or `msgid` itself where the catalogue has none."""
        message = self._catalogue.get(msgid, context)
        return str(message.string) if message and message.string else msgid

    def plurals(self, singular: str, plural: str) -> Sequence[str]:
        """Return every plural form in the order that `plural_form` counts."""
        message = self._catalogue.get(singular)
        forms = message.string if message else None
        if isinstance(forms, (tuple, list)) and all(forms):
            return tuple(forms)
        return (singular, *[plural] * (self._catalogue.num_plurals - 1))

    def plural_form(self, count: int) -> int:
        """Return which of `plurals` a whole number takes."""
        return self._plural(count)

    def money(self, minor: int, currency: str) -> str:
        """Format integer minor units of an ISO 4217 currency; its spaces never break."""
        formatter = self._money.get(currency)
        if formatter is None:
            formatter = self._money[currency] = self._money_formatter(currency)
        return formatter(minor)

    def quantity(self, amount: str) -> str:
        """Format a decimal quantity: "5" and "5.00" are 5, "1.5" gets this language's separator."""
        if amount.isdigit():
            return amount
        return f"{Decimal(amount).normalize():f}".replace(".", self._symbol("decimal"))

    def day(self, iso: str) -> str:
        """Return weekday, day and month of an ISO date, as a label."""
        return self._cached("day", iso)

    def full_date(self, iso: str) -> str:
        """Return day, month and year of an ISO date, as a label."""
        return self._cached("date", iso)

    def until(self, iso: str) -> str:
        """Return weekday, day and month in the case that follows "by" or "until"."""
        return self._cached(UNTIL, iso)

    def country(self, code: str) -> str:
        """Return a country's name, or its code where CLDR has no name."""
        return str(self._locale.territories.get(code.upper(), code))

    def clock(self, zone: ZoneInfo) -> str:
        """Return the place whose clock a time zone is."""
        return str(get_timezone_location(zone, locale=self.code, return_city=True))

    def _cached(self, form: str, iso: str) -> str:
        key = (form, iso)
        found = self._days.get(key)
        if found is None:
            if len(self._days) > 4096:  # noqa: PLR2004 - a few years of days; only then start over
                self._days.clear()
            found = self._days[key] = self._format(form, date.fromisoformat(iso))
        return found

    def _format(self, form: str, day: date) -> str:
        if form == UNTIL:
            return self.text(_UNTIL_PATTERN, UNTIL) % {
                "weekday": self.text(_WEEKDAYS[day.weekday()], UNTIL),
                "day": day.day,
                "month": self.text(_MONTHS[day.month - 1], UNTIL),
            }
        pattern = self._formats.day if form == "day" else self._formats.date
        return format_date(day, pattern, locale=self._locale)

    def _symbol(self, name: str) -> str:
        return str(self._locale.number_symbols["latn"][name])

    def _money_formatter(self, currency: str) -> Callable[[int], str]:
        symbol = get_currency_symbol(currency, locale=self._locale)
        pattern = self._locale.currency_formats["standard"]
        prefix = pattern.prefix[0].replace("¤", symbol)
        if prefix[-1:].isalpha():  # CLDR currencySpacing: a letter never touches a digit
            prefix += _NBSP
        suffix = pattern.suffix[0].replace("¤", symbol)
        decimal, group = self._symbol("decimal"), self._symbol("group")
        exponent, group_from = _EXPONENTS.get(currency, 2), self._formats.group_from

        def format_minor(minor: int) -> str:
            whole, fraction = str(abs(minor)), ""
            if exponent:
                whole = whole.zfill(exponent + 1)
                whole, fraction = whole[:-exponent], decimal + whole[-exponent:]
            if len(whole) >= group_from:
                whole = f"{int(whole):,}".replace(",", group)
            return f"{'−' if minor < 0 else ''}{prefix}{whole}{fraction}{suffix}"

        return lru_cache(maxsize=4096, typed=True)(format_minor)  # most prices come again


@lru_cache
def load(code: str, folder: Path) -> Language:
    """Load one language: the words here, then those of the catalogue in `folder`.

    `KeyError` when `code` is not one of `CODES`.
    """
    formats = _FORMATS[code]
    catalogue = Catalog(locale=code)
    for path in (_FOLDER / f"{code}.po", folder / f"{code}.po"):
        if path.exists():
            with path.open("rb") as file:
                read = read_po(file, locale=code, abort_invalid=True)
            for message in catalogue:
                if message.id and not read.get(message.id, message.context):
                    read[message.id] = message
            catalogue = read
    # gettext's own compiler of the Plural-Forms expression: the catalogue decides, not a table here.
    plural: Callable[[int], int] = gettext.c2py(catalogue.plural_expr)
    return Language(code, Locale.parse(formats.locale), formats, catalogue, plural)


def choose(*wishes: str | None) -> str:
    """Return the first of the wished locales ("sl-SI", "pl_PL", "ru") that has a language here."""
    for wish in wishes:
        if wish and (code := wish[:2].lower()) in _FORMATS and wish[2:3] in ("", "-", "_"):
            return code
    return FALLBACK


def local_day(value: str, zone: ZoneInfo) -> str:
    """Return the ISO date on which a moment (or a date already) falls for people in `zone`."""
    if len(value) == len("2026-11-25"):
        return value
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(zone).date().isoformat()
