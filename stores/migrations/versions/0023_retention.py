"""Ended runs are removed when they are old: how far that is, in one row."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from reprieve.stores.migrations.online import replace_check_online

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

TIME, ZERO = postgresql.TIMESTAMP(timezone=True), sa.text("'00000000-0000-0000-0000-000000000000'")
DUTIES = "duty IN ('closing', 'removal', 'termination', 'adoption', 'retention')"


def upgrade() -> None:
    replace_check_online("setbacks", "setbacks_duty_known", DUTIES)
    op.create_table(
        "retention",
        sa.Column("id", sa.Integer(), server_default="1", autoincrement=False, nullable=False),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("done_until", TIME, nullable=False),
        sa.Column("kept_since", TIME, nullable=True),
        sa.Column("pass_began_at", TIME, nullable=True),
        sa.Column("begin_at", sa.Uuid(), server_default=ZERO, nullable=False),
        sa.Column("after", sa.Uuid(), server_default=ZERO, nullable=False),
        sa.Column("first_left", sa.Uuid(), nullable=True),
        sa.Column("oldest_kept", TIME, nullable=True),
        *(
            sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
            for name in ("removed", "kept", "last_removed", "last_kept")
        ),
        sa.Column("removed_up_to", sa.Uuid(), nullable=True),
        sa.Column("failing_since", TIME, nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.CheckConstraint("id = 1", name="retention_single_row"),
        sa.PrimaryKeyConstraint("id"),
    )
