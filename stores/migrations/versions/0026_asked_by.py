"""Who asked for a run."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run_specs", sa.Column("asked_by", sa.Text(), nullable=True))
