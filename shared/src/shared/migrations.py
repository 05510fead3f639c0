"""Schema changes: alembic with plain SQL, one history per service schema.

`ensure` is called at each start; several replicas may do so at once, one of them does the work. Alembic
and SQLAlchemy are loaded in a child process only, so that a running service does not carry them.
"""

import asyncio
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import asyncpg
import structlog

_STATEMENT_END = re.compile(r";\s*\n")
log = structlog.get_logger(__name__)

PLATFORM_1 = """
create table outbox (
  seq bigint generated always as identity primary key,
  event_id uuid not null unique,
  topic text not null,
  key text not null,
  headers jsonb not null,
  value bytea,
  created_at timestamptz not null default now()
);
create index outbox_key on outbox (key);
create index outbox_created on outbox using brin (created_at);
create table outbox_unpublished (
  seq bigint primary key
) with (autovacuum_vacuum_scale_factor = 0.02);
create table inbox (
  consumer text not null,
  event_id uuid not null,
  recorded_on date not null default current_date,
  primary key (consumer, event_id)
);
create index inbox_recorded_on on inbox using brin (recorded_on);
create table dead_event (
  id bigint generated always as identity primary key,
  consumer text not null,
  topic text not null,
  partition int not null,
  "offset" bigint not null,
  key text not null,
  headers jsonb not null,
  value bytea,
  error_class text not null,
  error_text text not null,
  attempts int not null default 1,
  first_at timestamptz not null default now(),
  last_at timestamptz not null default now(),
  state text not null default 'open' check (state in ('open', 'replayed', 'discarded'))
);
create unique index dead_event_place on dead_event (consumer, topic, partition, "offset")
  where "offset" >= 0;
create index dead_event_open on dead_event (id) where state = 'open';
create index dead_event_key on dead_event (key);
create table consumer_guard (
  consumer text not null,
  topic text not null,
  partition int not null,
  "offset" bigint not null,
  starts int not null,
  primary key (consumer, topic, partition)
);
create table timer (
  key text primary key,
  kind text not null,
  due_at timestamptz not null,
  payload jsonb not null
) with (autovacuum_vacuum_scale_factor = 0.01);
create index timer_due on timer (due_at)
"""


def run(op: Any, sql: str) -> None:
    """Run a migration's SQL text, one statement at a time (each ends with `;` at a line's end)."""
    for statement in _STATEMENT_END.split(sql):
        if statement.strip():
            op.execute(statement)


def _folder(package: str) -> Path:
    return Path(str(importlib.import_module(package).__file__)).parent / "migrations"


def head(package: str) -> str:
    """Return the newest revision of a service; its files are named by revision, in order."""
    names = sorted(p.stem for p in (_folder(package) / "versions").glob("[0-9]*.py"))
    return names[-1].partition("_")[0]


async def ensure(database_url: str, package: str) -> None:
    """Bring the schema named like the package to its newest revision; do nothing if it is there.

    A schema newer than this code is left alone: during a rolling update old and new replicas share it.
    Raises RuntimeError with the last lines of the attempt when it fails.
    """
    conn = await asyncpg.connect(database_url, timeout=10)
    try:
        there = await conn.fetchval("select to_regclass($1)", f"{package}.alembic_version")
        current = there and await conn.fetchval(
            f"select version_num from {package}.alembic_version"
        )
    finally:
        await conn.close()
    newest = head(package)
    if current is not None and current >= newest:  # revisions are numbers of four digits
        if current > newest:
            log.warning("schema_is_newer_than_this_code", schema=package, revision=current)
        return
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shared.migrations",
        package,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    # the URL holds a password, so it goes through standard input: arguments show in process lists
    _, err = await child.communicate(database_url.encode())
    if child.returncode:
        message = f"migration of {package} failed: {err.decode(errors='replace')[-2000:]}"
        raise RuntimeError(message)


def main() -> None:
    """Migrate the package named as argument; the database URL comes on standard input."""
    asyncio.run(_migrate(sys.stdin.read().strip(), sys.argv[1]))


async def _migrate(url: str, package: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - loaded here only
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    async with engine.begin() as conn:
        await conn.run_sync(_upgrade, package)
    await engine.dispose()


def _upgrade(conn: Any, package: str) -> None:
    from alembic.config import Config  # noqa: PLC0415
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    # held until commit: a second replica waits here, then finds nothing to do
    conn.exec_driver_sql(f"select pg_advisory_xact_lock(hashtext('migrate {package}'))")
    conn.exec_driver_sql(f"create schema if not exists {package}")
    conn.exec_driver_sql(f"set local search_path to {package}")
    script = ScriptDirectory(str(_folder(package)))

    def upgrade(revision: Any, _: Any) -> Any:
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - alembic's own commands do so

    with EnvironmentContext(Config(), script, fn=upgrade) as env:
        env.configure(connection=conn, version_table_schema=package, transactional_ddl=True)
        env.run_migrations()


if __name__ == "__main__":
    main()
