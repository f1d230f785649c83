"""What the log archive refuses at present; and what of an archive could not be read when it was last tried."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

NOW = sa.text("clock_timestamp()")
TIME = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.create_table(
        "archive_refusals",
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("since", TIME, server_default=NOW, nullable=False),
        sa.Column("at", TIME, server_default=NOW, nullable=False),
        sa.Column("times", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("refusal", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("operation"),
    )
    op.add_column("log_archives", sa.Column("lost", postgresql.INT8MULTIRANGE(), nullable=True))
