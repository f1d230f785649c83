"""Who asked for a run."""

import sqlalchemy as sa

from reprieve.stores.migrations.online import add_columns

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_columns("run_specs", sa.Column("asked_by", sa.Text(), nullable=True))
