"""Small closed logs: they stay in their segments, and are closed, and removed when they are old, many in a statement.

That such a log is closed is `run_attempts.log_closed_at` alone. There is no row in `log_archives`, so that every
reader, of an earlier release as well, finds it where it was. What lies in many segments is put together before, in one
transaction that holds the log's row in `attempt_logs` as any writer of segments does: a reader sees the log as it was
before or as it is after.
"""

import logging
from collections.abc import Collection, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from reprieve.models.chunks import Block, LogKey, put_together
from reprieve.models.closing import FEW_PIECES, JOINED_BYTES, MANY_PIECES, Hot
from reprieve.models.errors import InvalidBlock
from reprieve.stores.arrays import key_arrays
from reprieve.stores.database import Database
from reprieve.stores.log_writers import insert_segments
from reprieve.stores.partitions import least_id

logger = logging.getLogger(__name__)

# In each of these, the bounds are there for the planner: logs that are closed together are of the same days, and the
# partitions of other days are not looked at.

# hot: what the database holds of each of these logs; of a large one, only that it is large.
HOT = text("""
SELECT k.run_id, k.attempt, h.pieces, h.chunks, h.bytes
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) CROSS JOIN LATERAL (
    SELECT count(*) AS pieces, coalesce(sum(s.last_seq - s.first_seq + 1), 0) AS chunks,
           coalesce(sum(octet_length(s.payload)), 0) AS bytes
    FROM (SELECT first_seq, last_seq, payload FROM log_segments
          WHERE run_id = k.run_id AND attempt = k.attempt
            AND run_id BETWEEN CAST(:least AS uuid) AND CAST(:most AS uuid)
          LIMIT :many) s) h
""")

# close: what another is closing just now is left to it.
CLOSE = text("""
WITH mine AS (
    SELECT a.run_id, a.attempt FROM run_attempts a
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
    WHERE a.finished_at IS NOT NULL AND a.log_closed_at IS NULL
    ORDER BY a.run_id, a.attempt FOR NO KEY UPDATE OF a SKIP LOCKED
)
UPDATE run_attempts a SET log_closed_at = clock_timestamp() FROM mine m
WHERE a.run_id = m.run_id AND a.attempt = m.attempt AND a.log_closed_at IS NULL
RETURNING a.run_id, a.attempt
""")

# hold: those of these logs that nobody writes to just now; nobody does until the transaction ends.
HOLD_FREE = text("""
SELECT l.run_id, l.attempt FROM attempt_logs l
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
ORDER BY l.run_id, l.attempt FOR NO KEY UPDATE OF l SKIP LOCKED
""")

PIECES = text("""
SELECT s.run_id, s.attempt, s.first_seq, s.last_seq, s.payload FROM log_segments s
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
WHERE s.run_id BETWEEN CAST(:least AS uuid) AND CAST(:most AS uuid) ORDER BY s.run_id, s.attempt, s.first_seq
""")

DROP_PIECES = text("""
DELETE FROM log_segments s
USING unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt)
WHERE s.run_id = k.run_id AND s.attempt = k.attempt
  AND s.run_id BETWEEN CAST(:least AS uuid) AND CAST(:most AS uuid)
""")

# old: a page of the logs in a table that are of runs from before a time, in the order of their keys. A run is enqueued
# before it ends, so that of what is to be removed no other need be looked at.
OLD = """
SELECT DISTINCT run_id, attempt FROM (
    SELECT run_id, attempt FROM {table}
    WHERE run_id < CAST(:before AS uuid) AND run_id >= CAST(:after AS uuid)
      AND (run_id, attempt) > (CAST(:after AS uuid), :after_attempt)
    ORDER BY run_id, attempt LIMIT :page) s
ORDER BY run_id, attempt
"""
OLD_TABLES = [text(OLD.format(table=table)) for table in ("log_segments", "log_quarantine")]

# expire: those of these logs that were closed where they are so long ago, of runs that ended so long ago. That one was
# removed is a row in `log_archives`, as of a large log.
EXPIRE = text("""
WITH old AS (
    SELECT a.run_id, a.attempt, coalesce(l.stored, '{}') AS stored,
           greatest(a.last_seq, upper(l.stored) - 1, 0) AS last_seq
    FROM run_attempts a
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
    JOIN runs r ON r.id = a.run_id
    LEFT JOIN attempt_logs l ON l.run_id = a.run_id AND l.attempt = a.attempt
    WHERE a.log_closed_at < clock_timestamp() - :age AND r.finished_at < clock_timestamp() - :age
      AND NOT EXISTS (SELECT FROM log_archives v WHERE v.run_id = a.run_id AND v.attempt = a.attempt)
    ORDER BY a.run_id, a.attempt
), removed AS (
    INSERT INTO log_archives (run_id, attempt, size, frames, held, gaps, removed_at)
    SELECT run_id, attempt, 0, '[]', stored, int8multirange(int8range(1, last_seq + 1)) - stored, clock_timestamp()
    FROM old ON CONFLICT DO NOTHING RETURNING run_id, attempt
), dropped AS (
    DELETE FROM log_segments s USING removed m
    WHERE s.run_id = m.run_id AND s.attempt = m.attempt
      AND s.run_id BETWEEN CAST(:least AS uuid) AND CAST(:most AS uuid)
), aside AS (
    DELETE FROM log_quarantine q USING removed m WHERE q.run_id = m.run_id AND q.attempt = m.attempt
)
SELECT count(*) FROM removed
""")

#: Segments, or blocks in quarantine, whose logs retention looks at in one statement.
OLD_AT_ONCE = 5_000


class SmallLogs:
    """The logs that are closed where they lie."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hot(self, logs: Collection[LogKey]) -> dict[LogKey, Hot]:
        """What the database holds of each of these logs."""
        if not logs:
            return {}
        rows = self._database.run(HOT, _bounded(logs) | {"many": MANY_PIECES})
        return {(row.run_id, row.attempt): Hot(row.pieces, int(row.chunks), int(row.bytes)) for row in rows}

    def close(self, logs: Collection[LogKey]) -> set[LogKey]:
        """Close these logs where they are, at once; returns those that are closed now and were not before.

        That one is to stay where it is was decided by its extent; what has come since is kept, and read with the rest.
        """
        if not logs:
            return set()
        scattered = [log for log, hot in self.hot(logs).items() if hot.pieces > FEW_PIECES]
        with self._database.begin() as connection:
            if scattered:
                _put_together(connection, scattered)
            return {(row.run_id, row.attempt) for row in connection.execute(CLOSE, key_arrays(logs))}

    def expire(self, age: timedelta, limit: int) -> int:
        """Remove about `limit` of these logs that were closed so long ago, and say so in a row; returns how many.

        All are looked at, page by page: what goes on, or is too young, hides none.
        """
        removed = 0
        before = least_id(self._database.now() - age)
        for old in OLD_TABLES:
            after: LogKey = (UUID(int=0), 0)
            while removed < limit:
                values = {"before": before, "after": after[0], "after_attempt": after[1], "page": OLD_AT_ONCE}
                found = [(row.run_id, row.attempt) for row in self._database.run(old, values)]
                if not found:
                    break
                [(count,)] = self._database.run(EXPIRE, _bounded(found) | {"age": age})
                removed, after = removed + int(count), found[-1]
        return removed


def _put_together(connection: Connection, logs: Collection[LogKey]) -> None:
    """Put the segments of these logs together, as far as nobody writes to them. Their chunks stay what they are."""
    held = {(row.run_id, row.attempt) for row in connection.execute(HOLD_FREE, key_arrays(logs))}
    if not held:
        return
    rows = connection.execute(PIECES, _bounded(held)).all()
    dropped: list[LogKey] = []
    made: list[Block] = []
    for key, pieces in groupby(rows, key=lambda row: (row.run_id, row.attempt)):
        blocks = [Block(*key, 0, row.first_seq, row.last_seq, bytes(row.payload)) for row in pieces]
        fewer = _fewer(blocks)
        if len(fewer) < len(blocks):
            dropped.append(key)
            made += fewer
    if dropped:
        connection.execute(DROP_PIECES, _bounded(dropped))
        insert_segments(connection, made)


def _fewer(blocks: Sequence[Block]) -> list[Block]:
    """The same chunks in fewer blocks. What cannot be unpacked (nobody has looked at it until now) stays as it is."""
    try:
        return put_together(blocks, JOINED_BYTES)
    except InvalidBlock as problem:
        run_id, attempt = blocks[0].key
        logger.error("Run %s attempt %d: a segment of its log cannot be read: %s.", run_id, attempt, problem)
        return list(blocks)


def _bounded(logs: Collection[LogKey]) -> dict[str, Any]:
    """These logs as arrays, with the least and the greatest of their runs."""
    runs: list[UUID] = [run_id for run_id, _ in logs]
    return key_arrays(logs) | {"least": min(runs), "most": max(runs)}
