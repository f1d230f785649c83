"""Runs are listed, filtered and found by the end of their id by index; the last hour is counted once, by the minute.

The indexes are made while runs come and go: nothing waits for them. They are not made within a transaction, so what is
there already is kept: this can be repeated after it was cut off.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0018"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE run_specs ADD COLUMN IF NOT EXISTS start_within interval;
CREATE TABLE IF NOT EXISTS history_steps (
    at timestamptz NOT NULL, length interval NOT NULL, started bigint NOT NULL, ended bigint NOT NULL,
    reaped bigint NOT NULL, PRIMARY KEY (at, length)
);
CREATE TABLE IF NOT EXISTS bulk_requests (
    key text PRIMARY KEY, asked jsonb NOT NULL, run_ids uuid[] NOT NULL, more boolean NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Its newest part is read as a whole until it is summarised: at once now, and not when a vacuum comes.
ALTER INDEX run_events_at SET (autosummarize = on);
"""
INDEXES = {
    "runs_by_status": "runs (status, id DESC) WHERE status <> 'running'",
    "runs_by_adapter": "runs (adapter, id DESC)",
    "runs_by_lane": "runs (lane, id DESC)",
    "runs_by_error": "runs (error_code, id DESC) WHERE error_code IS NOT NULL",
    "run_specs_labels": "run_specs USING gin (labels jsonb_path_ops) WITH (fastupdate = off)",
    "run_specs_by_end": 'run_specs (reverse("right"(CAST(run_id AS text), 12)) text_pattern_ops)',
}
#: An index that was left unfinished is there, and is not used.
IS_WHOLE = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def upgrade() -> None:
    op.execute(TABLES)
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for name, what in INDEXES.items():
            is_whole = connection.execute(IS_WHOLE, {"name": name}).scalar()
            if is_whole is False:
                op.execute(f"DROP INDEX CONCURRENTLY {name}")
            if not is_whole:
                op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {what}")
