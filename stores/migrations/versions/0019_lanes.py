"""Lanes: how many runs of a name may be running at once; and a queue that is read lane by lane, the most urgent first."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lanes",
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("at_once", sa.Integer(), nullable=True),
        sa.Column("paused_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("at_once > 0", name="lanes_at_once_positive"),
        sa.PrimaryKeyConstraint("pattern"),
    )
    queue = ["not_before", "lane", "adapter", sa.text("priority DESC"), "id"]
    op.create_index("runs_queue", "runs", queue, postgresql_where=sa.text("status = 'queued'"))
    op.create_index("runs_in_lane", "runs", ["lane"], postgresql_where=sa.text("status = 'running'"))
    op.create_index(
        "runs_start_by", "runs", ["start_by"], postgresql_where=sa.text("status = 'queued' AND start_by IS NOT NULL")
    )
    op.drop_index("runs_waiting", "runs")
