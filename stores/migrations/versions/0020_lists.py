"""Runs are listed, filtered and found by the end of their id by index; the last hour is counted once, by the minute."""

from alembic import op

from reprieve.stores.migrations.online import create_index_online

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# Repeatable: each index below is committed by itself.
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


def upgrade() -> None:
    op.execute(TABLES)
    create_index_online("runs_by_status", "runs", ['status COLLATE "C"', "id DESC"], where="status <> 'running'")
    create_index_online("runs_by_adapter", "runs", ['adapter COLLATE "C"', "id DESC"])
    create_index_online("runs_by_lane", "runs", ['lane COLLATE "C"', "id DESC"])
    create_index_online("runs_by_error", "runs", ["error_code", "id DESC"], where="error_code IS NOT NULL")
    labels = ["labels jsonb_path_ops"]
    create_index_online("run_specs_labels", "run_specs", labels, using="gin", options="fastupdate = off")
    end_of_id = """reverse("right"(CAST(run_id AS text), 12)) text_pattern_ops"""
    create_index_online("run_specs_by_end", "run_specs", [end_of_id])
