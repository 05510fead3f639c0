"""The first schema: orders, idempotency keys, the log of deliveries, tombstones."""

from alembic import op

from shared.migrations import PLATFORM_1, run

revision = "0001"
down_revision = None

SQL = """
create table orders (
  shop text not null,
  order_id text not null,
  facts jsonb not null default '[]',
  snapshot bytea,
  revision timestamptz,
  told jsonb not null default '{}',
  history text,
  email_hash text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  erased_at timestamptz,
  primary key (shop, order_id)
) with (fillfactor = 80);
create index orders_email on orders (shop, email_hash) where email_hash is not null;
create table idempotency (
  shop text not null,
  key text not null,
  body_sha256 bytea not null,
  ids uuid[] not null,
  created_at timestamptz not null default now(),
  primary key (shop, key)
);
create index idempotency_created on idempotency using brin (created_at);
create table webhooks (
  id bigint generated always as identity primary key,
  shop text not null,
  source text not null,
  topic text not null,
  delivery_id text,
  order_id text,
  outcome text not null check (outcome in
    ('accepted', 'duplicate', 'history', 'ignored', 'quarantined', 'replayed')),
  reason text,
  body bytea,
  received_at timestamptz not null default now()
);
create index webhooks_order on webhooks (shop, order_id) where order_id is not null;
create index webhooks_quarantined on webhooks (id) where outcome = 'quarantined';
create table erased (
  shop text not null,
  email_hash text not null,
  erased_at timestamptz not null default now(),
  primary key (shop, email_hash)
)
"""


def upgrade() -> None:
    """Make the tables."""
    run(op, PLATFORM_1)
    run(op, SQL)
