"""The shop that `--demo` makes: a tea shop with everything on and secrets of its own."""

import os
import secrets
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from string import Template

from shared.clock import now

SHOP = "demo"
DAY_SECONDS = 5
_LIVE_SLACK = timedelta(days=30)
_FILES = Path(__file__).parent / "demo_files"


@dataclass(frozen=True, slots=True, repr=False)
class DemoShop:
    """Where the demo's files are, and its secrets."""

    shops_file: Path
    products_file: Path
    api_key: str
    webhook_secrets: dict[str, str]


def kept_secret(folder: Path, name: str) -> str:
    """Return the secret of this name, made once and kept in `folder`/secrets with mode 600."""
    path = folder / "secrets" / name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if text := path.read_text().strip():
            return text
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    made = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(made + "\n")
    return made


def make_demo_shop(folder: Path) -> DemoShop:
    """Write the demo's files into `folder`, unless an earlier run did; its data stays usable."""
    api_key = kept_secret(folder, "api_key")
    webhook_secrets = {name: kept_secret(folder, name) for name in ("shopify", "woocommerce")}
    shops, products = folder / "shops.toml", folder / "products.toml"
    digest = sha256(api_key.encode()).hexdigest()
    if not shops.exists() or digest not in shops.read_text(encoding="utf-8"):
        live_from = (now() - _LIVE_SLACK).isoformat(timespec="seconds")
        text = Template((_FILES / "shops.toml").read_text(encoding="utf-8"))
        filled = text.substitute(live_from=live_from, api_key_hash=digest)
        shops.write_text(filled, encoding="utf-8")
    if not products.exists():
        products.write_bytes((_FILES / "products.toml").read_bytes())
    return DemoShop(shops, products, api_key, webhook_secrets)
