"""Owed work that failed: how often, why, and when it is tried next."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
TIME = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "setbacks",
        sa.Column("duty", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", TIME, server_default=NOW, nullable=False),
        sa.Column("next_try_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("duty", "run_id", "attempt"),
        sa.CheckConstraint("duty IN ('closing', 'removal', 'termination', 'adoption')", name="setbacks_duty_known"),
    )
