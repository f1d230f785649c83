"""The place of whoever asked for a run in a trace."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run_specs", sa.Column("trace_parent", sa.Text(), nullable=True))
