"""Failures are counted by the minute, for a day: every open page asks for them."""

import sqlalchemy as sa

from reprieve.stores.migrations.online import add_columns

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_columns("history_steps", sa.Column("failed", sa.BigInteger(), nullable=True))
