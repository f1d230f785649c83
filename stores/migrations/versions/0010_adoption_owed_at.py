"""Since when an attempt is owed another follower: adoption may wait for a worker that has the adapter."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run_attempts", sa.Column("adoption_owed_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
