"""Measurements tell which rows belong together; of older ones it is not known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty."""
    op.add_column("measurements", sa.Column("clusters", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Forget the groups."""
    op.drop_column("measurements", "clusters")
