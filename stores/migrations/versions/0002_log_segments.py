"""The log in segments, its archive, and what could not be stored. Chunks of the old table are carried over."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from reprieve.models.chunks import Block, Chunk, blocks_of
from reprieve.models.sequences import SeqRanges

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

#: Chunks in memory at once while the old table is carried over.
PAGE = 5_000

NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "attempt_logs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stored", postgresql.INT8MULTIRANGE(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("run_id", "attempt"),
    )
    op.execute("ALTER TABLE attempt_logs SET (fillfactor = 70)")
    op.create_table(
        "log_segments",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("stored_at", postgresql.TIMESTAMP(timezone=True), server_default=NOW, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "attempt", "first_seq"),
        postgresql_partition_by="RANGE (run_id)",
    )
    # Already compressed: PostgreSQL need not try again.
    op.execute("ALTER TABLE log_segments ALTER COLUMN payload SET STORAGE EXTERNAL")
    op.execute("CREATE TABLE log_segments_default PARTITION OF log_segments DEFAULT")
    op.create_table(
        "log_archives",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("frames", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("held", postgresql.INT8MULTIRANGE(), nullable=False),
        sa.Column("gaps", postgresql.INT8MULTIRANGE(), nullable=False),
        sa.Column("written_at", postgresql.TIMESTAMP(timezone=True), server_default=NOW, nullable=False),
        sa.Column("removed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "attempt"),
    )
    op.create_table(
        "log_quarantine",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", postgresql.TIMESTAMP(timezone=True), server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "attempt", "first_seq", "last_seq"),
    )
    op.add_column("run_attempts", sa.Column("log_closed_at", postgresql.TIMESTAMP(timezone=True), nullable=True))
    op.create_index(
        "run_attempts_log_open",
        "run_attempts",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL AND log_closed_at IS NULL"),
    )
    _carry_over(op.get_bind())
    op.drop_table("log_chunks")


def _carry_over(connection: sa.Connection) -> None:
    for page in _pages(connection):
        for block in blocks_of(page):
            _store(connection, block)


def _pages(connection: sa.Connection) -> Iterator[list[Chunk]]:
    query = sa.text(
        "SELECT run_id, attempt, seq, stream, data, cursor, extract(epoch FROM stored_at) AS at FROM log_chunks "
        "WHERE (run_id, attempt, seq) > (:run_id, :attempt, :seq) ORDER BY run_id, attempt, seq LIMIT :page"
    )
    place: dict[str, Any] = {"run_id": "00000000-0000-0000-0000-000000000000", "attempt": 0, "seq": 0}
    while rows := connection.execute(query, {**place, "page": PAGE}).all():
        yield [_chunk(row) for row in rows]
        place = {"run_id": rows[-1].run_id, "attempt": rows[-1].attempt, "seq": rows[-1].seq}


def _chunk(row: sa.Row[Any]) -> Chunk:
    at = int(row.at * 1000)
    return Chunk(row.run_id, row.attempt, 0, row.seq, row.stream, bytes(row.data), row.cursor, at)


def _store(connection: sa.Connection, block: Block) -> None:
    values = {
        "run_id": block.run_id,
        "attempt": block.attempt,
        "first_seq": block.first_seq,
        "last_seq": block.last_seq,
        "payload": block.payload,
        "stored": SeqRanges(((block.first_seq, block.last_seq),)).as_multirange(),
    }
    statements: Sequence[str] = (
        "INSERT INTO log_segments (run_id, attempt, first_seq, last_seq, payload) "
        "VALUES (:run_id, :attempt, :first_seq, :last_seq, :payload)",
        "INSERT INTO attempt_logs (run_id, attempt, stored) VALUES (:run_id, :attempt, CAST(:stored AS int8multirange)) "
        "ON CONFLICT (run_id, attempt) DO UPDATE SET stored = attempt_logs.stored + EXCLUDED.stored",
    )
    for statement in statements:
        connection.execute(sa.text(statement), values)
