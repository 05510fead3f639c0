"""Reading what platforms really send, on top of `shared.reading`: money as text, telephone numbers.

Everything here answers a value or None and never raises.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP
from typing import Any, Final

from shared.errors import Unusable
from shared.events import ItemQuantity, phone_or_none
from shared.reading import NUMBER_MAX, build, decimal, ident, obj, parse

# ISO 4217 exponents that are not two. CLDR's own digits differ: it shows HUF and IQD without any.
_NO_DECIMALS: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_EXPONENTS: Final = {
    **dict.fromkeys(_NO_DECIMALS.split(), 0),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
    **dict.fromkeys(["CLF", "UYW"], 4),
}
# Folded to Latin where the languages we write in spell it differently.
_ON_DELIVERY: Final = re.compile(
    r"cash[ _-]*on[ _-]*(?:delivery|pickup)|\bcod\b|pay[ _-]*on[ _-]*delivery|nachnahme|pobrani|"
    r"povzet|dobírk|dobierk|contre[ _-]*remboursement|contrassegno|contra[ _-]*reembolso|"
    r"при (?:получении|доставке)|налож",
    re.IGNORECASE,
)


def order_id_of(topic: str, body: bytes) -> str | None:
    """The order that a body which was not understood seems to be about, so that it is found again."""
    try:
        fields = obj(parse(body))
    except Unusable:
        return None
    own = ident(fields.get("id")) if topic.startswith("order") else None
    return ident(fields.get("order_id")) or own


def unwrap(value: Any, envelopes: Sequence[str]) -> Any:
    """What is inside `{"order": {…}}` and such: relays and REST answers wrap the webhook's body."""
    for _ in range(3):
        if not isinstance(value, dict) or "id" in value:
            break
        inner = next((value[e] for e in envelopes if isinstance(value.get(e), dict | list)), None)
        if inner is None:
            break
        value = inner
    return value


def minor(value: Any, currency: str) -> int | None:
    """Money in minor units of `currency` (ISO 4217: JPY has none, KWD three decimals), half up."""
    amount = decimal(value)
    if amount is None:
        return None
    units = int((amount.scaleb(_EXPONENTS.get(currency, 2))).to_integral_value(ROUND_HALF_UP))
    return units if abs(units) <= NUMBER_MAX else None


def quantity(value: Any) -> str | None:
    """How many, as a decimal text without trailing zeros; the sign is dropped (refunds carry one)."""
    number = decimal(value)
    if number is None or abs(number) >= 10**9:
        return None
    written = f"{abs(number):.6f}".rstrip("0").rstrip(".")
    return written or "0"


def phone(value: Any, regions: Iterable[str | None]) -> str | None:
    """A number in E.164 form; letters (`555-SHIP`, an extension) make it unusable for a text."""
    if not isinstance(value, str) or any(letter.isalpha() for letter in value):
        return None
    return phone_or_none(value, [region for region in regions if region])


def paid_on_delivery(*names: Any) -> bool:
    """Whether one of these payment method names means cash on delivery."""
    return any(isinstance(name, str) and _ON_DELIVERY.search(name[:200]) for name in names)


def item_quantities(pairs: Iterable[tuple[str | None, Any]]) -> tuple[ItemQuantity, ...] | None:
    """Line ids and how many of each, lines of none left out; None when no line is known."""
    found: list[ItemQuantity] = []
    for line_id, value in pairs:
        many = quantity(value)
        if line_id and many and many != "0":
            found.append(build(ItemQuantity, line_id=line_id, quantity=many))
    return tuple(found) or None
