"""What delivery messages need: how each parcel looks, and under which hash its receiver is known."""

from alembic import op

from shared.migrations import run

revision = "0002"
down_revision = "0001"

SQL = """
alter table orders add column parcels jsonb, add column recipient_hash text
"""


def upgrade() -> None:
    """Add the columns; a replica that does not know them goes on without."""
    run(op, SQL)
