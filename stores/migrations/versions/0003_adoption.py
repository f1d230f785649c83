"""Who follows what, what is to be adopted, what the reaper heard and asked, and why it spared."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
TIME = postgresql.TIMESTAMP(timezone=True)
KINDS = "kind IN ('enqueued', 'resent', 'claimed', 'spawned', 'dispatched', 'succeeded', 'failed', 'cancelled', 'reaped', 'retried', 'attached', 'noted', 'late_output', 'late_result', 'terminated', 'termination_failed')"
PROOFS = "last_proof IN ('claim', 'output', 'keepalive', 'heartbeat', 'probe')"


def upgrade() -> None:
    op.add_column("runs", sa.Column("not_before", TIME))
    op.add_column("run_attempts", sa.Column("worker_id", sa.Uuid()))
    op.add_column("run_attempts", sa.Column("adoption", sa.Text()))
    for column in ("reaped_at", "late_output_at", "late_result_at"):
        op.add_column("run_attempts", sa.Column(column, TIME))
    op.create_check_constraint("run_attempts_adoption_known", "run_attempts", "adoption = 'owed'")
    op.create_index(
        "run_attempts_to_adopt", "run_attempts", ["host", "run_id"], postgresql_where=sa.text("adoption = 'owed'")
    )
    op.create_index(
        "run_attempts_followed", "run_attempts", ["worker_id"], postgresql_where=sa.text("finished_at IS NULL")
    )
    op.create_index(
        "run_attempts_reaped", "run_attempts", ["run_id"], postgresql_where=sa.text("reaped_at IS NOT NULL")
    )
    op.add_column("attempt_logs", sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False))
    for column in ("hearing_since", "heard_at"):
        op.add_column("reaper_watch", sa.Column(column, TIME))
    for table, name, condition in (
        ("run_events", "run_events_kind_known", KINDS),
        ("runs", "runs_last_proof_known", PROOFS),
    ):
        op.drop_constraint(name, table, type_="check")
        op.create_check_constraint(name, table, condition)
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("started_at", TIME, server_default=NOW, nullable=False),
        sa.Column("seen_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "questions",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("handle", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("asked_at", TIME, server_default=NOW, nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "attempt"),
    )
    op.create_index("questions_open", "questions", ["host"], postgresql_where=sa.text("answer IS NULL"))
    op.create_table(
        "sparings",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("silent_since", TIME, nullable=False),
        sa.Column("judgement", sa.Text(), nullable=False),
        sa.Column("first_at", TIME, server_default=NOW, nullable=False),
        sa.Column("last_at", TIME, server_default=NOW, nullable=False),
        sa.Column("times", sa.Integer(), server_default="1", nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "attempt", "silent_since", "judgement"),
    )
