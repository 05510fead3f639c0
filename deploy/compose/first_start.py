"""Make what `docker compose up` needs before its first start: fresh secrets and the shop `demo`.

It runs before every start and changes nothing that is there. Secrets go into the volume `config`, which
the services read; the database's password goes into `handover` as well, the only thing Postgres sees.
"""  # noqa: INP001 - a script, not a package

from pathlib import Path

from afterglow.demo_shop import kept_secret, make_demo_shop

CONFIG = Path("/config")
HANDOVER = Path("/handover")
DATABASE = "postgresql://afterglow:{password}@postgres:5432/afterglow"


def main() -> None:
    """Write /config/{shops,products}.toml, /config/secrets/* and /handover/postgres_password."""
    make_demo_shop(CONFIG)
    for name in ("operator_keys", "link_keys"):
        kept_secret(CONFIG, name)
    password = kept_secret(CONFIG, "postgres_password")
    url = CONFIG / "secrets" / "database_url"
    url.touch(mode=0o600)
    url.write_text(DATABASE.format(password=password) + "\n", encoding="utf-8")
    handed_over = HANDOVER / "postgres_password"
    handed_over.write_text(password + "\n", encoding="utf-8")
    handed_over.chmod(0o644)  # Postgres reads it as a user of its own


if __name__ == "__main__":
    main()
