"""Lanes: how many runs of a name may be running at once; and a queue that is read lane by lane, the most urgent first."""

from alembic import op

from reprieve.stores.migrations.online import create_index_online, drop_index_online

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


LANES = """
CREATE TABLE IF NOT EXISTS lanes (
    pattern TEXT NOT NULL PRIMARY KEY,
    at_once INTEGER,
    paused_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT lanes_at_once_positive CHECK (at_once > 0)
)
"""


def upgrade() -> None:
    op.execute(LANES)
    queue = ["not_before", "lane", "adapter", "priority DESC", "id"]
    create_index_online("runs_queue", "runs", queue, where="status = 'queued'")
    create_index_online("runs_in_lane", "runs", ["lane"], where="status = 'running'")
    create_index_online("runs_start_by", "runs", ["start_by"], where="status = 'queued' AND start_by IS NOT NULL")
    drop_index_online("runs_waiting")
