"""What runs say of themselves: a row for each attempt that says anything, beside the rows that are refreshed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

TIME = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "run_reports",
        sa.Column("run_id", sa.Uuid(), sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=True),
        sa.Column("sentence", sa.Text(), nullable=True),
        sa.Column("usage", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("at", TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "attempt"),
    )
    # Room on each page for the next version of a row, as on those of runs.
    op.execute("ALTER TABLE run_reports SET (fillfactor = 70)")
