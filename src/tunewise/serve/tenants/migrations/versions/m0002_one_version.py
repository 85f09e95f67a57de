"""The table `tenancy` held the version of the tables; alembic's own table does that now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the old version away."""
    op.drop_table("tenancy")


def downgrade() -> None:
    """Put it back as it was."""
    made = op.create_table(
        "tenancy",
        sa.Column("schema", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("schema"),
    )
    op.bulk_insert(made, [{"schema": 1}])
