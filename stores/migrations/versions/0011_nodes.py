"""Nodes: the slot of a data folder beside the name of its host, and when each was last seen."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
TIME = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.add_column("workers", sa.Column("slot", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("namespace", sa.Text(), nullable=True))
    op.add_column("run_attempts", sa.Column("slot", sa.Text(), nullable=True))
    op.create_table(
        "nodes",
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("seen_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("slot"),
    )
    op.drop_constraint("run_attempts_termination_known", "run_attempts", type_="check")
    op.create_check_constraint(
        "run_attempts_termination_known", "run_attempts", "termination IN ('owed', 'waived', 'done')"
    )
    op.create_index(
        "run_attempts_waived", "run_attempts", ["host", "run_id"], postgresql_where=sa.text("termination = 'waived'")
    )
