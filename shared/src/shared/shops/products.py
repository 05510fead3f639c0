"""What the shop knows about its products beyond the order: products.toml, by SKU pattern."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared.shops.model import Line, Texts, Url

Months = Annotated[int, Field(ge=0, le=600)]
DayCount = Annotated[int, Field(ge=1, le=3650)]


class Product(BaseModel):
    """What messages may say about the products whose SKU fits `sku` (`*` and `?` stand for any)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    sku: Line
    guide: Url | None = None
    safety: Texts | None = None
    strength: Texts | None = None
    warranty_months: Months | None = None
    return_days: DayCount | None = None
    service_days: DayCount | None = None
    related: tuple[Line, ...] = ()


class Products:
    """All products in file order: the first that fits speaks, so exceptions stand above the rule."""

    def __init__(self, products: Sequence[Product] = ()) -> None:
        self._products = tuple((product.sku.casefold(), product) for product in products)

    def match(self, sku: str | None) -> Product | None:
        """The product of an order line; upper and lower case are equal."""
        wanted = (sku or "").casefold()
        fits = (p for pattern, p in self._products if fnmatchcase(wanted, pattern))
        return next(fits, None) if wanted else None

    def __len__(self) -> int:
        return len(self._products)
