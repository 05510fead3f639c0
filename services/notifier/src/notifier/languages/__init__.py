"""What messages say in each language: the catalogues beside this module, over those of every service."""

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import shared.languages
from shared.languages import Language

_FOLDER = Path(__file__).parent


def load(code: str) -> Language:
    """Load one language with the sentences of messages; `KeyError` when it is unknown."""
    return shared.languages.load(code, _FOLDER)


def multiply(unit_price: int, quantity: str) -> int:
    """Return the minor units of a line: whole quantities exactly, fractions rounded half up."""
    if quantity.isdigit():
        return unit_price * int(quantity)
    amount = Decimal(quantity) * unit_price
    return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))
