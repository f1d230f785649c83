"""Runs are listed, filtered and found by the end of their id by index; the last hour is counted once, by the minute.

The indexes are made while runs come and go: nothing waits for them. Each is kept if it is there already, so that this
can be repeated after it was cut off.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0018"
branch_labels = None
depends_on = None

TIME, LENGTH = postgresql.TIMESTAMP(timezone=True), postgresql.INTERVAL()
INDEXES = {
    "runs_by_status": "runs (status, id) WHERE status IN ('succeeded', 'failed', 'cancelled')",
    "runs_by_adapter": "runs (adapter, id)",
    "runs_by_lane": "runs (lane, id)",
    "runs_by_error": "runs (error_code, id) WHERE error_code IS NOT NULL",
    "run_specs_labels": "run_specs USING gin (labels jsonb_path_ops) WITH (fastupdate = off)",
    "run_specs_by_end": 'run_specs (reverse("right"(CAST(run_id AS text), 12)) text_pattern_ops)',
}
#: An index that was left unfinished is there, and is not used.
IS_WHOLE = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def upgrade() -> None:
    op.add_column("run_specs", sa.Column("start_within", LENGTH, nullable=True))
    op.create_table(
        "history_steps",
        sa.Column("at", TIME, primary_key=True),
        sa.Column("length", LENGTH, primary_key=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("started", "ended", "reaped")),
    )
    op.create_table(
        "bulk_requests",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("asked", postgresql.JSONB(), nullable=False),
        sa.Column("run_ids", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("more", sa.Boolean(), nullable=False),
        sa.Column("asked_at", TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
    )
    # Its newest part is read as a whole until it is summarised: at once now, and not when a vacuum comes.
    op.execute("ALTER INDEX run_events_at SET (autosummarize = on)")
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for name, what in INDEXES.items():
            is_whole = connection.execute(IS_WHOLE, {"name": name}).scalar()
            if is_whole is False:
                op.execute(f"DROP INDEX CONCURRENTLY {name}")
            if not is_whole:
                op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {what}")
