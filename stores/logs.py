"""The log store: every chunk once, in order, byte for byte.

`LogStore` is the protocol; `PostgresLogStore` is the hot tier, and `MemoryLogStore` the fake that tests may use: one
contract suite (`tests/contract/`) runs over both. Segments, closing and the archive will stand behind the same
protocol.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from models.chunks import Chunk
from models.rows import LogChunk
from stores.database import Database


class LogStore(Protocol):
    """Where chunks are kept, and read by sequence number."""

    def append(self, connection: Connection, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Store what is new, as part of the caller's transaction; returns the chunks that were new.

        Each `(run, attempt, seq)` is stored once, in whatever batches and order it comes.
        """
        ...

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        """Up to `limit` chunks of an attempt after `after_seq`, in order; empty when there is no log (yet)."""
        ...

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        """The highest sequence number stored, 0 for none."""
        ...


class PostgresLogStore:
    """The hot tier: a row per chunk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, connection: Connection, chunks: Sequence[Chunk]) -> list[Chunk]:
        if not chunks:
            return []
        # In the order of the key: two messages that overlap wait for each other instead of deadlocking.
        unique: dict[tuple[UUID, int, int], Chunk] = {}
        for chunk in chunks:
            unique.setdefault((chunk.run_id, chunk.attempt, chunk.seq), chunk)
        rows = [
            {
                "run_id": chunk.run_id,
                "attempt": chunk.attempt,
                "seq": chunk.seq,
                "stream": chunk.stream,
                "data": chunk.data,
                "cursor": chunk.cursor,
            }
            for _, chunk in sorted(unique.items(), key=lambda item: item[0])
        ]
        statement = insert(LogChunk).on_conflict_do_nothing()
        stored = connection.execute(statement.returning(LogChunk.run_id, LogChunk.attempt, LogChunk.seq), rows)
        return [unique[row.run_id, row.attempt, row.seq] for row in stored]

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        query = (
            select(LogChunk.seq, LogChunk.stream, LogChunk.data, LogChunk.cursor)
            .where(LogChunk.run_id == run_id, LogChunk.attempt == attempt, LogChunk.seq > after_seq)
            .order_by(LogChunk.seq)
            .limit(limit)
        )
        with self._database.begin() as connection:
            return [
                Chunk(run_id, attempt, 0, row.seq, row.stream, bytes(row.data), row.cursor)
                for row in connection.execute(query)
            ]

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        query = select(func.max(LogChunk.seq)).where(LogChunk.run_id == run_id, LogChunk.attempt == attempt)
        with self._database.begin() as connection:
            return connection.execute(query).scalar() or 0


class MemoryLogStore:
    """The fake: the same promises, for as long as the process lives. It takes part in no transaction."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[UUID, int], dict[int, Chunk]] = {}

    def append(self, connection: Connection | None, chunks: Sequence[Chunk]) -> list[Chunk]:  # noqa: ARG002
        new = []
        for chunk in chunks:
            log = self._chunks.setdefault((chunk.run_id, chunk.attempt), {})
            if chunk.seq not in log:
                log[chunk.seq] = chunk
                new.append(chunk)
        return new

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        log = self._chunks.get((run_id, attempt), {})
        return [log[seq] for seq in sorted(log) if seq > after_seq][:limit]

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        return max(self._chunks.get((run_id, attempt), {}), default=0)
