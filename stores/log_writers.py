"""Writing a log: its row says what is stored, and whose epoch may write. Every writer of segments holds that row.

A new writer is given the log cut where it can go on, and the writer before it is superseded.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from reprieve.models.chunks import Block, LogKey
from reprieve.models.sequences import SeqRanges
from reprieve.stores.arrays import key_arrays

# open heads: a row for each of these logs that has none, with what this transaction stores of it; in the same order.
OPEN_HEADS = text("""
INSERT INTO attempt_logs (run_id, attempt, stored)
SELECT k.run_id, k.attempt, CAST(k.stored AS int8multirange)
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:stored AS text[])) AS k (run_id, attempt, stored)
ORDER BY k.run_id, k.attempt ON CONFLICT DO NOTHING RETURNING run_id, attempt
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

# backwards: the segments that begin at a number or before it, the last first.
BACKWARDS = text("""
SELECT first_seq, last_seq, payload FROM log_segments
WHERE run_id = :run_id AND attempt = :attempt AND first_seq <= :upto
ORDER BY first_seq DESC LIMIT :segments
""")

# cut: drop the segments after a number.
CUT = text("DELETE FROM log_segments WHERE run_id = :run_id AND attempt = :attempt AND last_seq > :after")

# cut aside: what is in quarantine after it is read again too, under numbers that may then stand for other output.
CUT_ASIDE = text("DELETE FROM log_quarantine WHERE run_id = :run_id AND attempt = :attempt AND last_seq > :after")

# supersede: from now on only this epoch writes, after what is kept.
SUPERSEDE = text("""
UPDATE attempt_logs SET epoch = :epoch, stored = CAST(:stored AS int8multirange)
WHERE run_id = :run_id AND attempt = :attempt
""")

#: Segments that are read at once backwards; a block bounds how much memory each takes.
SEGMENTS_PER_READ = 16


def open_heads(connection: Connection, logs: Mapping[LogKey, SeqRanges]) -> set[LogKey]:
    """Make the row of each of these logs that has none, with this as stored; returns those logs.

    Nobody else writes them until this transaction ends. All rows are made before any is held: a holder never waits for
    a row that another transaction has just made.
    """
    ordered = sorted(logs)
    values = key_arrays(ordered) | {"stored": [logs[key].as_multirange() for key in ordered]}
    return {(row.run_id, row.attempt) for row in connection.execute(OPEN_HEADS, values)}


def hold(connection: Connection, keys: Collection[LogKey]) -> dict[LogKey, int]:
    """Whose epoch may write each of these logs, which have a row; nobody else does until this transaction ends."""
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
    """A column of multiranges by log; the rows of a log are united."""
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


def resume(connection: Connection, key: LogKey, epoch: int) -> tuple[int, str | None]:
    """Cut a log after its last chunk that has a cursor and no gap before it; from now on only `epoch` writes.

    Returns that chunk's number and cursor; 0 and None where the log begins again from nothing.
    """
    open_heads(connection, {key: SeqRanges()})
    hold(connection, {key})
    whole_to = heads(connection, {key})[key].whole_to
    after_seq, cursor = _last_cursor(connection, key, whole_to)
    log = {"run_id": key[0], "attempt": key[1]}
    cut = next(_backwards(connection, key, after_seq), None)
    for statement in (CUT, CUT_ASIDE):
        connection.execute(statement, log | {"after": after_seq})
    kept = SeqRanges.of([(1, after_seq)])
    if cut is not None and cut.last_seq > after_seq:
        insert_segments(connection, cut.cut(kept))
    connection.execute(SUPERSEDE, log | {"epoch": epoch, "stored": kept.as_multirange()})
    return after_seq, cursor


def _last_cursor(connection: Connection, key: LogKey, whole_to: int) -> tuple[int, str | None]:
    """Number and cursor of the last chunk up to `whole_to` that has one."""
    for block in _backwards(connection, key, whole_to):
        for chunk in reversed(block.chunks()):
            if chunk.cursor is not None and chunk.seq <= whole_to:
                return chunk.seq, chunk.cursor
    return 0, None


def _backwards(connection: Connection, key: LogKey, upto: int) -> Iterator[Block]:
    """The segments that begin at a number or before it, the last first."""
    while upto > 0:
        values = {"run_id": key[0], "attempt": key[1], "upto": upto, "segments": SEGMENTS_PER_READ}
        rows = connection.execute(BACKWARDS, values).all()
        if not rows:
            return
        for row in rows:
            yield Block(*key, 0, row.first_seq, row.last_seq, bytes(row.payload))
        upto = rows[-1].first_seq - 1
