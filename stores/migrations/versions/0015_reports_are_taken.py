"""Since when an HTTP API has been taking the reports of remote work without a gap, and when it last did."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("reports_since", "reports_at"):
        op.add_column("reaper_watch", sa.Column(name, postgresql.TIMESTAMP(timezone=True), nullable=True))
