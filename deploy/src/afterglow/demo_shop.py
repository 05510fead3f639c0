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
_WEBHOOKS = (
    "shopify", "woocommerce",
    "aftership", "easypost", "shippo", "seventeentrack", "shipengine", "sendcloud",
)  # fmt: skip
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
    """Write the demo's files into `folder`, unless an earlier run of this version did.

    Secrets are kept, so the data of an earlier version stays usable.
    """
    api_key = kept_secret(folder, "api_key")
    webhook_secrets = {name: kept_secret(folder, name) for name in _WEBHOOKS}
    shops, products = folder / "shops.toml", folder / "products.toml"
    digest = sha256(api_key.encode()).hexdigest()
    template = (_FILES / "shops.toml").read_text(encoding="utf-8")
    version = sha256(template.encode()).hexdigest()[:8]
    known = shops.read_text(encoding="utf-8") if shops.exists() else ""
    if digest not in known or f"(version {version})" not in known:
        live_from = (now() - _LIVE_SLACK).isoformat(timespec="seconds")
        shops.write_text(
            Template(template).substitute(
                live_from=live_from, api_key_hash=digest, version=version
            ),
            encoding="utf-8",
        )
    if not products.exists():
        products.write_bytes((_FILES / "products.toml").read_bytes())
    return DemoShop(shops, products, api_key, webhook_secrets)
