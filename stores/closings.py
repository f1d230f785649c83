"""What is owed to the logs of attempts that have ended, and the removal of their hot segments."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from uuid import UUID

from sqlalchemy import text

from reprieve.models.chunks import LogKey
from reprieve.models.closing import HOLDER_BELIEVED_FOR, Closing, is_awaited, late_of, may_forget, next_step
from reprieve.models.errors import RunNotFound
from reprieve.models.records import LISTED_RANGES, ArchiveRecord, LogRecord, QuarantineRecord
from reprieve.models.sequences import Range, SeqRanges
from reprieve.stores.archive import Archived, LogArchives
from reprieve.stores.arrays import key_arrays
from reprieve.stores.database import Database

FIND = text("""
SELECT clock_timestamp() - a.finished_at AS ended_for, a.last_seq, CAST(l.stored AS text) AS stored,
       CAST((SELECT range_agg(int8range(q.first_seq, q.last_seq, '[]')) FROM log_quarantine q
             WHERE q.run_id = a.run_id AND q.attempt = a.attempt) - coalesce(l.stored, '{}') AS text) AS aside,
       v.run_id IS NOT NULL AS archived, a.log_closed_at IS NOT NULL AS closed, h.from_seq, h.to_seq
FROM run_attempts a
LEFT JOIN attempt_logs l USING (run_id, attempt)
LEFT JOIN log_archives v USING (run_id, attempt)
CROSS JOIN (SELECT min(from_seq) AS from_seq, max(to_seq) AS to_seq FROM spooled
            WHERE run_id = :run_id AND attempt = :attempt AND seen_at > clock_timestamp() - :believed_for) h
WHERE a.run_id = :run_id AND a.attempt = :attempt
""")

# ended: what decides what can be forgotten of each of these attempts.
ENDED = text("""
SELECT a.run_id, a.attempt, clock_timestamp() - a.finished_at AS ended_for, a.last_seq,
       CAST(l.stored AS text) AS stored, a.log_closed_at IS NOT NULL AS closed,
       a.termination IS NOT DISTINCT FROM 'owed' AS termination_owed
FROM run_attempts a
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
LEFT JOIN attempt_logs l USING (run_id, attempt)
""")

# owed: what failed comes after all that never did; what a living worker holds the rest of is not to be closed yet.
OWED = text("""
SELECT a.run_id, a.attempt FROM run_attempts a
LEFT JOIN setbacks s ON s.duty = 'closing' AND s.run_id = a.run_id AND s.attempt = a.attempt
WHERE a.finished_at IS NOT NULL AND a.log_closed_at IS NULL AND a.finished_at < clock_timestamp() - :settled
  AND NOT EXISTS (SELECT FROM spooled h WHERE h.run_id = a.run_id AND h.attempt = a.attempt
                  AND h.seen_at > clock_timestamp() - :believed_for)
ORDER BY s.next_try_at NULLS FIRST, a.finished_at LIMIT :limit
""")

# drop: segments whose every chunk is in the archive. One that came afterwards is not, and stays.
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

# cold: the numbers that are stored and are in no segment. Subtracted there, since it is mostly nothing, or all.
COLD = text("""
SELECT CAST(l.stored - coalesce((SELECT range_agg(int8range(s.first_seq, s.last_seq, '[]')) FROM log_segments s
                                 WHERE s.run_id = l.run_id AND s.attempt = l.attempt), '{}') AS text)
FROM attempt_logs l WHERE l.run_id = :run_id AND l.attempt = :attempt
""")

DROP_ADDED = text("DELETE FROM log_segments WHERE run_id = :run_id AND attempt = :attempt")

DROP_QUARANTINE = text("DELETE FROM log_quarantine WHERE run_id = :run_id AND attempt = :attempt")

MARK_CLOSED = text("""
UPDATE run_attempts SET log_closed_at = clock_timestamp()
WHERE run_id = :run_id AND attempt = :attempt AND log_closed_at IS NULL
""")

#: An end's own message closes a log that is whole; the sweep leaves it so long.
SETTLED = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class EndedLog:
    """What decides how far a log is with closing.

    `aside` is in quarantine: it is not stored, and never will be. `held` is in the spools of living workers: these
    numbers and what follows, None for nothing.
    """

    ended_for: timedelta | None
    last_seq: int | None
    stored: SeqRanges
    aside: SeqRanges
    held: Range | None
    archived: bool
    closed: bool

    @property
    def next_step(self) -> Closing:
        """The step that closing takes next: what is kept aside is not waited for."""
        return next_step(
            ended_for=self.ended_for,
            last_seq=self.last_seq,
            stored=self.stored | self.aside,
            archived=self.archived,
            closed=self.closed,
            is_held=self.held is not None,
        )


@dataclass(frozen=True)
class LogState:
    """Everything there is to say of an attempt's log."""

    attempt: int
    log: EndedLog
    cold: SeqRanges
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
        """Chunks that are known to be on their way: a living worker holds them, or they are still waited for."""
        log, awaited = self.log, self.archive is None and is_awaited(self.log.ended_for)
        known = self._gaps | (SeqRanges.of([log.held]) - self.stored) if log.held else self._gaps
        return late_of(known - log.aside, log.held, awaited=awaited)

    @cached_property
    def missing(self) -> SeqRanges:
        """Chunks that should be there and that nobody has: what is in quarantine is not."""
        return self._gaps - self.late

    @cached_property
    def lost(self) -> SeqRanges:
        """Chunks that were stored and cannot be read any more: no segment has them, and no archive that can be read."""
        if self.archive is None:
            return self.cold
        return self.cold - (self.archive.held - self.archive.lost)

    @cached_property
    def added(self) -> SeqRanges:
        """Chunks that came after the archive was written. They are kept, and read with the others."""
        return self.stored - self.archive.held if self.archive else SeqRanges()

    @cached_property
    def _gaps(self) -> SeqRanges:
        return self.stored.missing(max(self.log.last_seq or 0, self.log.aside.last))

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

    def find(self, run_id: UUID, attempt: int) -> EndedLog:
        """How far an attempt's log is; raises `RunNotFound`."""
        with self._database.begin() as connection:
            place = {"run_id": run_id, "attempt": attempt, "believed_for": HOLDER_BELIEVED_FOR}
            row = connection.execute(FIND, place).one_or_none()
        if row is None:
            raise RunNotFound(f"There is no attempt {attempt} of run {run_id}.")
        stored, aside = SeqRanges.from_multirange(row.stored), SeqRanges.from_multirange(row.aside)
        held = None if row.from_seq is None else (row.from_seq, row.to_seq)
        return EndedLog(row.ended_for, row.last_seq, stored, aside, held, row.archived, row.closed)

    def state(self, run_id: UUID, attempt: int) -> LogState:
        """Everything there is to say of an attempt's log; raises `RunNotFound`."""
        log = self.find(run_id, attempt)
        # The segments before the archive, as they are read: a log that is closed in between is seen in both.
        with self._database.begin() as connection:
            cold = SeqRanges.from_multirange(connection.execute(COLD, {"run_id": run_id, "attempt": attempt}).scalar())
            rows = connection.execute(QUARANTINED, {"run_id": run_id, "attempt": attempt}).all()
        quarantined = [(row.first_seq, row.last_seq, row.reason) for row in rows]
        return LogState(attempt, log, cold, self._archives.find(run_id, attempt), quarantined)

    def owed(self, limit: int) -> list[tuple[UUID, int]]:
        """Run and attempt of the logs that are to be closed, the longest owed first, what failed last."""
        with self._database.begin() as connection:
            values = {"settled": SETTLED, "limit": limit, "believed_for": HOLDER_BELIEVED_FOR}
            rows = connection.execute(OWED, values)
            return [(row.run_id, row.attempt) for row in rows]

    def forgettable(self, attempts: Iterable[LogKey]) -> list[LogKey]:
        """Those of these attempts of which a host need keep nothing any more. One that is not known here is kept."""
        with self._database.begin() as connection:
            rows = connection.execute(ENDED, key_arrays(attempts)).all()
        return [
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
        """Delete up to so many segments that the archive has; returns how many."""
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
