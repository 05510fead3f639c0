"""The shops (tenants) a process serves, read from shops.toml and products.toml.

Both files are checked as a whole before they count: a start with a bad file fails with every
problem named, a reload with a bad file keeps what was there.
"""

import hashlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from shared.errors import AfterglowError
from shared.shops.delays import Delays, Thresholds
from shared.shops.model import (
    KINDS,
    Brand,
    Calendar,
    Compensation,
    CompensationRule,
    Followups,
    Kind,
    Mode,
    Promise,
    Provider,
    QuietHours,
    Sender,
    Shop,
    Support,
    WebhookSource,
    in_language,
)
from shared.shops.products import Product, Products

SECRET_BYTES_WISE = 16

log = structlog.get_logger(__name__)
M = TypeVar("M", bound=BaseModel)


class ShopsInvalid(AfterglowError):
    """A shop or product file that cannot be used; `problems` names each key and what is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, repr=False)
class _Snapshot:
    shops: dict[str, Shop]
    by_api_key: dict[bytes, Shop]
    by_source: dict[str, Shop]
    products: Products


class Shops:
    """Every shop by id, by API key and by event source, and the products they share."""

    def __init__(self, read: Callable[[], _Snapshot]) -> None:
        self._read = read
        self._now = read()

    def get(self, shop_id: str) -> Shop | None:
        """The shop with this id."""
        return self._now.shops.get(shop_id)

    def by_api_key(self, key: str) -> Shop | None:
        """The shop an API key belongs to."""
        # A plain lookup is safe here: the digest of a guess cannot be steered towards a stored one,
        # so its time tells nothing.
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return self._now.by_api_key.get(digest)

    def by_source(self, ce_source: str) -> Shop | None:
        """The shop whose own system publishes with this CloudEvents source."""
        return self._now.by_source.get(ce_source)

    @property
    def products(self) -> Products:
        """What products.toml says."""
        return self._now.products

    def reload(self) -> str | None:
        """Read the files again; on a problem keep the old ones and return the reason."""
        try:
            self._now = self._read()
        except ShopsInvalid as error:
            return str(error)
        return None

    def __iter__(self) -> Iterator[Shop]:
        return iter(self._now.shops.values())

    def __len__(self) -> int:
        return len(self._now.shops)

    def __repr__(self) -> str:
        return f"Shops({', '.join(self._now.shops)})"


def load(shops_path: Path, products_path: Path | None, env: Mapping[str, str]) -> Shops:
    """Read the files; `env` and files beside shops.toml hold the secrets. Raises `ShopsInvalid`."""

    def read() -> _Snapshot:
        products = _text(products_path) if products_path else ""
        return _snapshot(_text(shops_path), products, env, shops_path.parent)

    return Shops(read)


def parse(shops_toml: str, products_toml: str = "", env: Mapping[str, str] | None = None) -> Shops:
    """Make shops of TOML text, as a test or a check does. Raises `ShopsInvalid`."""
    return Shops(lambda: _snapshot(shops_toml, products_toml, env or {}, Path()))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ShopsInvalid([f"{path}: {error.strerror or 'cannot be read'}"]) from None
    except UnicodeDecodeError:
        raise ShopsInvalid([f"{path}: is not UTF-8"]) from None


def _snapshot(
    shops_toml: str, products_toml: str, env: Mapping[str, str], folder: Path
) -> _Snapshot:
    problems: list[str] = []
    context = {"env": env, "folder": folder}
    shops: dict[str, Shop] = {}
    for shop_id, table in _tables(shops_toml, "shops", dict, problems).items():
        where = f"shops.{shop_id}"
        if "id" in table:
            problems.append(f"{where}.id: unknown key")
        if shop := _validate(Shop, {**table, "id": shop_id}, where, context, problems):
            shops[shop_id] = shop
    products = [
        _validate(Product, table, f"products[{index}]", context, problems)
        for index, table in enumerate(_tables(products_toml, "products", list, problems))
    ]
    by_api_key = _index(shops, "api_keys", bytes.fromhex, problems)
    by_source = _index(shops, "sources", str, problems)
    if problems:
        raise ShopsInvalid(problems)
    for shop in shops.values():
        _warn_of_short_secrets(shop)
    return _Snapshot(shops, by_api_key, by_source, Products([p for p in products if p]))


def _tables(text: str, name: str, kind: type[Any], problems: list[str]) -> Any:
    """The tables under the one top-level key of a file, well enough shaped to be validated."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{name}: the file is not TOML: {error}")
        return kind()
    problems += [f"{key}: unknown key" for key in document if key != name]
    tables = document.get(name, kind())
    members = tables.values() if isinstance(tables, dict) else tables
    if not isinstance(tables, kind) or not all(isinstance(member, dict) for member in members):
        problems.append(f"{name}: must be made of tables")
        return kind()
    return tables


def _validate(
    model: type[M], table: Mapping[str, Any], path: str, context: Any, problems: list[str]
) -> M | None:
    try:
        return model.model_validate(table, context=context)
    except ValidationError as error:
        for found in error.errors(include_url=False, include_input=False):
            where = path + "".join(
                f"[{part}]" if isinstance(part, int) else f".{part}"
                for part in found["loc"]
                if part != "[key]"
            )
            problems.append(f"{where}: {_reason(found)}")
        return None


def _reason(found: Any) -> str:
    known = {"extra_forbidden": "unknown key", "missing": "is missing"}
    return known.get(found["type"]) or found["msg"].removeprefix("Value error, ")


def _index(
    shops: Mapping[str, Shop], field: str, key: Callable[[str], Any], problems: list[str]
) -> dict[Any, Shop]:
    """Shops by something that must belong to one of them only."""
    found: dict[Any, Shop] = {}
    for shop in shops.values():
        for place, value in enumerate(getattr(shop, field)):
            if found.setdefault(key(value), shop) is not shop:
                other = found[key(value)].id
                problems.append(
                    f"shops.{shop.id}.{field}[{place}]: belongs to shop {other} already"
                )
    return found


def _warn_of_short_secrets(shop: Shop) -> None:
    """Some platforms make short secrets and a shop cannot change them, so they are only told."""
    for source, webhook in shop.webhooks.items():
        for place, secret in enumerate(webhook.secrets):
            if len(secret.get_secret_value().encode()) < SECRET_BYTES_WISE:
                key = f"shops.{shop.id}.webhooks.{source}.secrets[{place}]"
                log.warning("webhook_secret_short", key=key, wise_bytes=SECRET_BYTES_WISE)


__all__ = [
    "KINDS",
    "Brand",
    "Calendar",
    "Compensation",
    "CompensationRule",
    "Delays",
    "Followups",
    "Kind",
    "Mode",
    "Product",
    "Products",
    "Promise",
    "Provider",
    "QuietHours",
    "Sender",
    "Shop",
    "Shops",
    "ShopsInvalid",
    "Support",
    "Thresholds",
    "WebhookSource",
    "in_language",
    "load",
    "parse",
]
