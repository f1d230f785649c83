"""The row of a log: what is stored of it, and who may write it. Who writes segments of a log holds its row."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, text

from reprieve.models.chunks import Block, LogKey
from reprieve.models.sequences import SeqRanges
from reprieve.stores.arrays import key_arrays

# open heads: a row for each of these logs that has none; in the same order.
OPEN_HEADS = text("""
INSERT INTO attempt_logs (run_id, attempt)
SELECT k.run_id, k.attempt FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt)
ORDER BY k.run_id, k.attempt ON CONFLICT DO NOTHING
""")

# hold: these logs, each until the transaction ends; in the order of their keys, so that two messages with the same logs
# wait for each other instead of deadlocking.
HOLD = text("""
SELECT l.run_id, l.attempt, l.epoch FROM attempt_logs l
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
ORDER BY l.run_id, l.attempt FOR NO KEY UPDATE OF l
""")

# heads: what is stored of these logs.
HEADS = text("""
SELECT l.run_id, l.attempt, CAST(l.stored AS text) AS stored FROM attempt_logs l
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
""")

# segments: one multi-row write.
INSERT_SEGMENTS = text("""
INSERT INTO log_segments (run_id, attempt, first_seq, last_seq, payload)
SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:first AS bigint[]), CAST(:last AS bigint[]),
                     CAST(:payloads AS bytea[]))
""")


def hold(connection: Connection, keys: Collection[LogKey]) -> dict[LogKey, int]:
    """Whose epoch may write each of these logs; nobody else does until this transaction ends."""
    # First all rows are there, then they are held: who holds one never waits for one that another has just made.
    connection.execute(OPEN_HEADS, key_arrays(keys))
    return epochs(connection.execute(HOLD, key_arrays(keys)).all())


def heads(connection: Connection, keys: Collection[LogKey]) -> dict[LogKey, SeqRanges]:
    """What is stored of these logs."""
    return ranges(connection.execute(HEADS, key_arrays(keys)).all(), "stored")


def insert_segments(connection: Connection, blocks: Sequence[Block]) -> None:
    columns = {
        "ids": [str(block.run_id) for block in blocks],
        "attempts": [block.attempt for block in blocks],
        "first": [block.first_seq for block in blocks],
        "last": [block.last_seq for block in blocks],
        "payloads": [block.payload for block in blocks],
    }
    connection.execute(INSERT_SEGMENTS, columns)


def ranges(rows: Iterable[Any], column: str) -> dict[LogKey, SeqRanges]:
    """What a column of multiranges says of each log, together where there is more than one row."""
    found: dict[LogKey, SeqRanges] = {}
    for row in rows:
        key, part = (row.run_id, row.attempt), SeqRanges.from_multirange(getattr(row, column))
        found[key] = found[key] | part if key in found else part
    return found


def epochs(rows: Iterable[Any]) -> dict[LogKey, int]:
    """Whose epoch may write these logs."""
    found: dict[LogKey, int] = {}
    for row in rows:
        key = (row.run_id, row.attempt)
        found[key] = max(row.epoch, found.get(key, 0))
    return found
