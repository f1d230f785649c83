"""An index by which the fleet's last hour is read from what happened; it costs next to nothing to keep."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("run_events_at", "run_events", ["at"], postgresql_using="brin")
