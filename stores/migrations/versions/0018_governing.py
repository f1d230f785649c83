"""What a run may be asked for with: a lane, a time to start, causes of a retry, notices, and how long it may be quiet.

Columns without a value, or with a constant one, are added without writing a row, and the checks of what is there are
made while others read and write.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from reprieve.stores.migrations.online import add_columns, replace_check_online

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

TIME, LENGTH = postgresql.TIMESTAMP(timezone=True), postgresql.INTERVAL()
COLUMNS: dict[str, list[sa.Column[Any]]] = {
    "runs": [
        sa.Column("lane", sa.Text(), server_default="default", nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("start_by", TIME, nullable=True),
        sa.Column("quiet_after", LENGTH, nullable=True),
        sa.Column("max_silence", LENGTH, nullable=True),
        sa.Column("output_at", TIME, nullable=True),
        sa.Column("quiet_at", TIME, nullable=True),
        sa.Column("snoozed_until", TIME, nullable=True),
        sa.Column("longest_silence", LENGTH, nullable=True),
    ],
    "run_specs": [
        sa.Column("retry_on", postgresql.JSONB(), nullable=True),
        sa.Column("retry_delay", LENGTH, nullable=True),
        sa.Column("notify", postgresql.JSONB(), nullable=True),
        sa.Column("again_of", sa.Uuid(), nullable=True),
    ],
    "run_attempts": [
        sa.Column("output_at", TIME, nullable=True),
        sa.Column("longest_silence", LENGTH, nullable=True),
    ],
    "workers": [sa.Column("lanes", postgresql.ARRAY(sa.Text()), nullable=True)],
}

CHECKS = {
    (
        "runs",
        "runs_error_code_known",
    ): "error_code IN ('adapter_liveness_lost', 'process_lost', 'adapter_error', 'exit_status', 'timed_out', 'not_started', 'stalled', 'oom_killed', 'unknown_adapter')",
    (
        "run_events",
        "run_events_kind_known",
    ): "kind IN ('enqueued', 'again', 'resent', 'claimed', 'spawned', 'dispatched', 'succeeded', 'failed', 'cancelled', 'reaped', 'retried', 'attached', 'quiet', 'snoozed', 'noted', 'late_output', 'late_result', 'terminated', 'termination_failed')",
}

CHECK_TRANSITION = """
CREATE OR REPLACE FUNCTION runs_check_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (
        ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
        ('running', 'queued'), ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled')
    ) THEN
        RAISE EXCEPTION 'run % cannot go from % to %', OLD.id, OLD.status, NEW.status USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        add_columns(table, *columns)
    op.execute(CHECK_TRANSITION)
    for (table, name), condition in CHECKS.items():
        replace_check_online(table, name, condition)
