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
  email_hash text,
  updated_at timestamptz not null default now(),
  erased_at timestamptz,
  primary key (shop, order_id)
) with (fillfactor = 80);
create table message (
  id bigint generated always as identity primary key,
  key text not null unique,
  message_id text not null,
  shop text not null,
  order_id text not null,
  kind text not null,
  subject text not null,
  channel text not null,
  role text not null,
  round int not null,
  state text not null check (state in ('pending', 'claimed', 'dispatching', 'sent', 'failed',
    'unknown', 'held', 'suppressed', 'expired', 'forgotten')),
  queue text generated always as (case
    when state in ('pending', 'claimed', 'dispatching') then 'due'
    when state in ('unknown', 'held') then state end) stored,
  reason text,
  fact_at timestamptz not null,
  recorded_at timestamptz not null,
  due_at timestamptz not null,
  expires_at timestamptz not null,
  attempt int not null default 0,
  tries int not null default 0,
  resends int not null default 0,
  owner uuid,
  reply text,
  revoked text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
create index message_queue on message (queue, shop, due_at, id) where queue is not null;
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
