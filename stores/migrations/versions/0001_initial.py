"""Runs, their specs, attempts, events and logs, and the reaper's watch."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: `TRANSITIONS` of `models/status.py`, as the database sees it. Fires only on statements that set `status`: a refresh
#: does not.
CHECK_TRANSITION = """
CREATE FUNCTION runs_check_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (
        ('queued', 'running'), ('queued', 'cancelled'),
        ('running', 'queued'), ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled')
    ) THEN
        RAISE EXCEPTION 'run % cannot go from % to %', OLD.id, OLD.status, NEW.status USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER runs_check_transition BEFORE UPDATE OF status ON runs
FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION runs_check_transition();
"""

KEEP_EVENTS = """
CREATE FUNCTION run_events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'run_events is append-only' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER run_events_are_append_only BEFORE UPDATE ON run_events
FOR EACH ROW EXECUTE FUNCTION run_events_are_append_only();
"""


def upgrade() -> None:
    op.create_table(
        "log_chunks",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column(
            "stored_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("run_id", "attempt", "seq"),
    )
    op.create_table(
        "reaper_watch",
        sa.Column("id", sa.Integer(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("watching_since", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("last_sweep_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("window_length", postgresql.INTERVAL(), nullable=False),
        sa.Column("last_completed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_report", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("id = 1", name="reaper_watch_single_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("out_of_process_liveness", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default="1", nullable=False),
        sa.Column("max_runtime", postgresql.INTERVAL(), nullable=True),
        sa.Column("sends", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("last_proof", sa.Text(), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="runs_failed_has_error_code"),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name="runs_final_has_finished_at",
        ),
        sa.CheckConstraint(
            "error_code IN ('adapter_liveness_lost', 'process_lost', 'adapter_error', 'exit_status', 'timed_out', 'unknown_adapter')",
            name="runs_error_code_known",
        ),
        sa.CheckConstraint("last_proof IN ('claim', 'output', 'keepalive', 'heartbeat')", name="runs_last_proof_known"),
        sa.CheckConstraint("status <> 'running' OR started_at IS NOT NULL", name="runs_running_has_started_at"),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="runs_status_known"
        ),
        sa.CheckConstraint("attempt BETWEEN 0 AND max_attempts AND max_attempts >= 1", name="runs_attempts_capped"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("ALTER TABLE runs SET (fillfactor = 70)")
    op.create_index("runs_queued", "runs", ["id"], unique=False, postgresql_where=sa.text("status = 'queued'"))
    op.create_index("runs_running", "runs", ["id"], unique=False, postgresql_where=sa.text("status = 'running'"))
    op.create_table(
        "run_attempts",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("worker_node", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("process_pid", sa.Integer(), nullable=True),
        sa.Column("process_group_id", sa.Integer(), nullable=True),
        sa.Column("process_started_at", sa.DOUBLE_PRECISION(), nullable=True),
        sa.Column("process_namespace", sa.Text(), nullable=True),
        sa.Column("handle", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("outcome", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("last_seq", sa.BigInteger(), nullable=True),
        sa.Column("termination", sa.Text(), nullable=True),
        sa.CheckConstraint("termination IN ('owed', 'done')", name="run_attempts_termination_known"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "attempt"),
    )
    op.create_index(
        "run_attempts_owed",
        "run_attempts",
        ["host", "run_id"],
        unique=False,
        postgresql_where=sa.text("termination = 'owed'"),
    )
    op.create_table(
        "run_events",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column(
            "at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint(
            "kind IN ('enqueued', 'resent', 'claimed', 'spawned', 'dispatched', 'succeeded', 'failed', 'cancelled', 'reaped', 'retried', 'terminated', 'termination_failed')",
            name="run_events_kind_known",
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("run_events_of_run", "run_events", ["run_id", "id"], unique=False)
    op.create_table(
        "run_specs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id"),
        sa.UniqueConstraint("idempotency_key"),
    )
    op.execute(CHECK_TRANSITION)
    op.execute(KEEP_EVENTS)
