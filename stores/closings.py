"""What is owed to the logs of attempts that have ended, and the removal of their hot segments."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from uuid import UUID

from sqlalchemy import text

from reprieve.models.chunks import LogKey
from reprieve.models.closing import Closing, may_forget, next_step
from reprieve.models.extents import HOLDER_BELIEVED_FOR, TAIL_WAIT, Extent
from reprieve.models.records import LISTED_RANGES, ArchiveRecord, LogRecord, QuarantineRecord
from reprieve.models.sequences import SeqRanges
from reprieve.stores.archive import Archived, LogArchives
from reprieve.stores.arrays import key_arrays
from reprieve.stores.database import Database
from reprieve.stores.extents import extent_of, extents
from reprieve.stores.retention import GONE
from reprieve.stores.small_logs import SmallLogs

# ended: what decides what can be forgotten of each of these attempts.
ENDED = text("""
SELECT a.run_id, a.attempt, clock_timestamp() - a.finished_at AS ended_for, a.last_seq,
       CAST(l.stored AS text) AS stored, a.log_closed_at IS NOT NULL AS closed,
       a.termination IS NOT DISTINCT FROM 'owed' AS termination_owed
FROM run_attempts a
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
LEFT JOIN attempt_logs l USING (run_id, attempt)
""")

# owed: logs whose closing failed come after the others. A log whose rest a living worker holds is not closed yet; nor
# is one whose last number nobody has named, for as long as its tail is waited for.
OWED = text("""
SELECT a.run_id, a.attempt FROM run_attempts a
LEFT JOIN setbacks s ON s.duty = 'closing' AND s.run_id = a.run_id AND s.attempt = a.attempt
WHERE a.finished_at IS NOT NULL AND a.log_closed_at IS NULL AND a.finished_at < clock_timestamp() - :settled
  AND (a.last_seq IS NOT NULL OR a.finished_at < clock_timestamp() - :tail_wait)
  AND NOT EXISTS (SELECT FROM spooled h WHERE h.run_id = a.run_id AND h.attempt = a.attempt
                  AND h.seen_at > clock_timestamp() - :believed_for)
ORDER BY s.next_try_at NULLS FIRST, a.finished_at LIMIT :limit
""")

# drop: segments that are in the archive with every chunk. What came afterwards is not there, and stays.
DROP = text("""
DELETE FROM log_segments s
WHERE s.run_id = :run_id AND s.attempt = :attempt AND s.first_seq = ANY (ARRAY(
    SELECT h.first_seq FROM log_segments h
    WHERE h.run_id = :run_id AND h.attempt = :attempt AND int8range(h.first_seq, h.last_seq, '[]') <@ (
        -- With nothing added: unpacked once, and not for each segment.
        SELECT v.held + '{}' FROM log_archives v WHERE v.run_id = :run_id AND v.attempt = :attempt)
    LIMIT :limit))
""")

QUARANTINED = text("""
SELECT first_seq, last_seq, reason FROM log_quarantine
WHERE run_id = :run_id AND attempt = :attempt ORDER BY first_seq LIMIT 100
""")

# where: the numbers that are stored and are in no segment (subtracted there, since it is mostly nothing, or all), and
# those that came after the log was closed.
WHERE_IT_IS = text("""
SELECT CAST(l.stored - coalesce(h.hot, '{}') AS text) AS cold, CAST(h.since_closed AS text) AS since_closed
FROM attempt_logs l CROSS JOIN (
    SELECT range_agg(s.numbers) AS hot, range_agg(s.numbers) FILTER (WHERE s.stored_at > s.closed_at) AS since_closed
    FROM (SELECT int8range(first_seq, last_seq, '[]') AS numbers, stored_at,
                 (SELECT log_closed_at FROM run_attempts WHERE run_id = :run_id AND attempt = :attempt) AS closed_at
          FROM log_segments WHERE run_id = :run_id AND attempt = :attempt) s) h
WHERE l.run_id = :run_id AND l.attempt = :attempt
""")

DROP_ADDED = text("DELETE FROM log_segments WHERE run_id = :run_id AND attempt = :attempt")

DROP_QUARANTINE = text("DELETE FROM log_quarantine WHERE run_id = :run_id AND attempt = :attempt")

MARK_CLOSED = text("""
UPDATE run_attempts SET log_closed_at = clock_timestamp()
WHERE run_id = :run_id AND attempt = :attempt AND log_closed_at IS NULL
""")

#: How long a log is left alone after its attempt's end: its last batch is mostly stored by then.
SETTLED = timedelta(seconds=1)


@dataclass(frozen=True)
class LogState:
    """Everything that is known of an attempt's log."""

    attempt: int
    log: Extent
    cold: SeqRanges
    since_closed: SeqRanges
    archive: Archived | None
    quarantined: list[tuple[int, int, str]]

    @property
    def stored(self) -> SeqRanges:
        return self.log.stored

    @property
    def ended(self) -> bool:
        return self.log.ended_for is not None

    @cached_property
    def late(self) -> SeqRanges:
        """Chunks that are known to be on their way: a living worker holds them, or the tail is still waited for."""
        log = self.log
        held = SeqRanges.of([log.held] if log.held else []) - log.stored
        return log.late((log.gaps_until_now | held) - log.aside)

    @cached_property
    def missing(self) -> SeqRanges:
        """Chunks that should be there, and nobody has; what is in quarantine counts among them."""
        return self.log.gaps_until_now - self.late

    @cached_property
    def lost(self) -> SeqRanges:
        """Chunks that were stored and cannot be read any more: no segment has them, and no archive that can be read."""
        if self.archive is None:
            return self.cold
        return self.cold - (self.archive.held - self.archive.lost)

    @cached_property
    def added(self) -> SeqRanges:
        """Chunks that came after the log was closed. They are kept, and read with the others."""
        return self.stored - self.archive.held if self.archive else self.since_closed

    @property
    def record(self) -> LogRecord:
        """The same as data."""
        archive, missing, late, lost, added = self.archive, self.missing, self.late, self.lost, self.added
        return LogRecord(
            attempt=self.attempt,
            chunks=self.stored.count,
            missing=list(missing)[:LISTED_RANGES],
            late=list(late)[:LISTED_RANGES],
            lost=list(lost)[:LISTED_RANGES],
            added=list(added)[:LISTED_RANGES],
            unlisted=sum(max(0, len(ranges) - LISTED_RANGES) for ranges in (missing, late, lost, added)),
            closed=self.log.is_closed,
            quarantined=[QuarantineRecord(first=first, last=last, reason=why) for first, last, why in self.quarantined],
            archive=None
            if archive is None
            else ArchiveRecord(
                object=archive.key,
                bytes=archive.size,
                sha256=archive.sha256,
                written_at=archive.written_at,
                removed_at=archive.removed_at,
            ),
        )


class Closings:
    """The logs that are to be closed, as rows say."""

    def __init__(self, database: Database, archives: LogArchives) -> None:
        self._database = database
        self._archives = archives
        self.small = SmallLogs(database)

    def find(self, run_id: UUID, attempt: int) -> Extent:
        """How far an attempt's log is; raises `RunNotFound`."""
        return extent_of(self._database, run_id, attempt)

    def steps(self, logs: Collection[LogKey]) -> dict[LogKey, Closing]:
        """What is to be done next with each of these logs. One that is not known is left out."""
        known, hot = extents(self._database, {run_id for run_id, _ in logs}), self.small.hot(logs)
        found = {(run_id, attempt): log for run_id, of_run in known.items() for attempt, log in of_run.of.items()}
        return {log: next_step(found[log], hot[log]) for log in logs if log in found}

    def state(self, run_id: UUID, attempt: int) -> LogState:
        """Everything that is known of an attempt's log; raises `RunNotFound`."""
        log = self.find(run_id, attempt)
        # The segments before the archive, as they are read: a log that is closed in between is seen in both.
        with self._database.begin() as connection:
            where = connection.execute(WHERE_IT_IS, {"run_id": run_id, "attempt": attempt}).one_or_none()
            rows = connection.execute(QUARANTINED, {"run_id": run_id, "attempt": attempt}).all()
        quarantined = [(row.first_seq, row.last_seq, row.reason) for row in rows]
        cold, since = (SeqRanges.from_multirange(ranges) for ranges in where or (None, None))
        return LogState(attempt, log, cold, since, self._archives.find(run_id, attempt), quarantined)

    def owed(self, limit: int) -> list[LogKey]:
        """Run and attempt of the logs that are to be closed, the longest owed first, what failed last."""
        with self._database.begin() as connection:
            values = {"settled": SETTLED, "tail_wait": TAIL_WAIT, "believed_for": HOLDER_BELIEVED_FOR, "limit": limit}
            rows = connection.execute(OWED, values)
            return [(row.run_id, row.attempt) for row in rows]

    def forgettable(self, attempts: Iterable[LogKey]) -> list[LogKey]:
        """The attempts of which a host need keep nothing any more: also those whose run was removed.

        An attempt that was never known here is kept.
        """
        keys = key_arrays(attempts)
        with self._database.begin() as connection:
            rows = connection.execute(ENDED, keys).all()
            gone = connection.execute(GONE, keys).all()
        return [(row.run_id, row.attempt) for row in gone] + [
            (row.run_id, row.attempt)
            for row in rows
            if may_forget(
                ended_for=row.ended_for,
                last_seq=row.last_seq,
                stored=SeqRanges.from_multirange(row.stored),
                closed=row.closed,
                termination_owed=row.termination_owed,
            )
        ]

    def drop_segments(self, run_id: UUID, attempt: int, limit: int) -> int:
        """Delete up to `limit` segments that the archive has; returns how many."""
        with self._database.begin() as connection:
            return connection.execute(DROP, {"run_id": run_id, "attempt": attempt, "limit": limit}).rowcount

    def drop_added(self, run_id: UUID, attempt: int) -> None:
        """Delete what came after the archive was written, and what could not be stored: the log has expired."""
        with self._database.begin() as connection:
            for statement in (DROP_ADDED, DROP_QUARANTINE):
                connection.execute(statement, {"run_id": run_id, "attempt": attempt})

    def mark_closed(self, run_id: UUID, attempt: int) -> None:
        with self._database.begin() as connection:
            connection.execute(MARK_CLOSED, {"run_id": run_id, "attempt": attempt})
