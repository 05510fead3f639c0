"""The first schema: the order projection and the send journal."""

from alembic import op

from shared.migrations import PLATFORM_1, run

revision = "0001"
down_revision = None

SQL = """
create table orders (
  shop text not null,
  order_id text not null,
  facts jsonb not null default '[]',
  snapshot jsonb,
  revision timestamptz,
  updated_at timestamptz not null default now(),
  erased_at timestamptz,
  primary key (shop, order_id)
) with (fillfactor = 80);
create table message (
  id bigint generated always as identity primary key,
  key text not null unique,
  shop text not null,
  order_id text not null,
  kind text not null,
  subject text not null,
  channel text not null,
  role text not null,
  round int not null,
  state text not null check (state in ('pending', 'claimed', 'dispatching', 'sent', 'failed',
    'unknown', 'held', 'suppressed', 'expired', 'forgotten')),
  reason text,
  fact_at timestamptz not null,
  recorded_at timestamptz not null,
  due_at timestamptz not null,
  expires_at timestamptz not null,
  attempt int not null default 0,
  resends int not null default 0,
  owner uuid,
  reply text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
create index message_due on message (shop, due_at, id) where state = 'pending';
create index message_owned on message (state, owner) where state in ('claimed', 'dispatching');
create index message_unknown on message (updated_at) where state = 'unknown';
create index message_order on message (shop, order_id, id);
create table dispatcher (
  owner uuid primary key,
  lease_until timestamptz not null
);
create table pause (
  scope text not null check (scope in ('all', 'shop', 'kind', 'channel')),
  name text not null,
  reason text not null,
  since timestamptz not null default now(),
  primary key (scope, name)
);
create table suppression (
  shop text not null,
  channel text not null,
  address_hash text not null,
  cause text not null,
  since timestamptz not null default now(),
  primary key (shop, channel, address_hash)
)
"""


def upgrade() -> None:
    """Make the tables."""
    run(op, PLATFORM_1)
    run(op, SQL)
