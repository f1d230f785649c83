"""Workers take waiting runs from their rows, each adapter's in the order in which they were asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("runs_waiting", "runs", ["adapter", "id"], postgresql_where=sa.text("status = 'queued'"))
    op.drop_index("runs_queued", "runs")
