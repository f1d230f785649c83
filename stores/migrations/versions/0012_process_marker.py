"""What all that descends from an attempt's child has inherited from it."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run_attempts", sa.Column("process_marker", sa.Text(), nullable=True))
