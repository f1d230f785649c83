"""What attempts used, what they may have in memory at the most, and what is needed to plot that."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from reprieve.stores.migrations.online import add_columns

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_columns("run_specs", sa.Column("max_memory", sa.BigInteger(), nullable=True))
    add_columns(
        "run_attempts",
        sa.Column("cpu_seconds", postgresql.DOUBLE_PRECISION(), nullable=True),
        sa.Column("peak_memory", sa.BigInteger(), nullable=True),
        sa.Column("memory_limit", sa.BigInteger(), nullable=True),
    )
    op.create_table(
        "attempt_samples",
        sa.Column("run_id", sa.Uuid(), sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("every", sa.Integer(), nullable=False),
        sa.Column("at", postgresql.ARRAY(postgresql.TIMESTAMP(timezone=True)), nullable=False),
        sa.Column("cpu_seconds", postgresql.ARRAY(postgresql.DOUBLE_PRECISION()), nullable=False),
        sa.Column("memory", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("peak_memory", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "attempt"),
    )
