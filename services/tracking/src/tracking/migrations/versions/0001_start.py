"""The first schema: orders, their parcels, what is said under a number, pages, profiles, deliveries."""

from alembic import op

from shared.migrations import PLATFORM_1, run

revision = "0001"
down_revision = None

SQL = """
create table orders (
  shop text not null,
  order_id text not null,
  facts jsonb not null default '[]',
  about jsonb,
  revision timestamptz,
  told jsonb not null default '{}',
  known_since timestamptz not null default now(),
  check_at timestamptz,
  open text[],
  learn boolean not null default false,
  updated_at timestamptz not null default now(),
  erased_at timestamptz,
  primary key (shop, order_id)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
create index orders_check on orders (check_at) where check_at is not null;
create index orders_learn on orders (known_since) where learn;
create index orders_open on orders (known_since) where open is not null;
create index orders_personal on orders (known_since) where about is not null;
create table parcel (
  shop text not null,
  order_id text not null,
  shipment_id text not null,
  number_ref text,
  former text[],
  carrier text,
  body jsonb not null default '{}',
  stated_at timestamptz not null default '-infinity',
  stated_rank int not null default 0,
  stated_id text not null default '',
  shipped_at timestamptz,
  withdrawn boolean not null default false,
  state text not null default 'unknown',
  primary key (shop, order_id, shipment_id)
) with (fillfactor = 80);
create index parcel_number on parcel (shop, number_ref) where number_ref is not null;
create index parcel_shipment on parcel (shop, shipment_id);
create index parcel_stated on parcel using brin (stated_at);
create index parcel_under_way on parcel (state)
  where not withdrawn and state not in ('delivered', 'returned', 'cancelled', 'expired');
create table track (
  shop text not null,
  ref text not null,
  carrier text,
  scans jsonb not null default '[]',
  heard_at timestamptz,
  made_at timestamptz not null default now(),
  provider text,
  watch_at timestamptz,
  registered_at timestamptz,
  attempts int not null default 0,
  trouble text,
  watched_as text,
  primary key (shop, ref)
) with (fillfactor = 80);
create index track_watch on track (shop, watch_at) where watch_at is not null;
create index track_made on track using brin (made_at);
create table page (
  token_hash bytea primary key,
  shop text not null,
  order_id text not null,
  expires_at timestamptz
);
create index page_order on page (shop, order_id);
create index page_expires on page (expires_at) where expires_at is not null;
create table profile (
  shop text not null,
  carrier text not null,
  body jsonb not null default '{}',
  updated_at timestamptz not null default now(),
  primary key (shop, carrier)
);
create table webhooks (
  id bigint generated always as identity primary key,
  shop text not null,
  source text not null,
  topic text not null,
  delivery_id text,
  ref text,
  outcome text not null check (outcome in
    ('accepted', 'duplicate', 'ignored', 'quarantined', 'replayed')),
  reason text,
  body bytea,
  received_at timestamptz not null default now()
);
create index webhooks_ref on webhooks (shop, ref) where ref is not null;
create index webhooks_quarantined on webhooks (id) where outcome = 'quarantined';
create index webhooks_received on webhooks using brin (received_at)
"""


def upgrade() -> None:
    """Make the tables."""
    run(op, PLATFORM_1)
    run(op, SQL)
