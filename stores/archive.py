"""The archive of closed logs: one object per log in an object store, and the row that says where and what it is.

An object is written under a name of its own, read back, and only then recorded: until the row is there, it counts for
nothing, and the hot segments are the log. An object that was never recorded (its writer died) is removed together
with its run's log.
"""

import hashlib
import json
import logging
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from threading import Lock
from uuid import UUID, uuid4

from cachetools import LRUCache
from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError

from reprieve.models.archive import chunks_of, frames
from reprieve.models.chunks import Chunk, LogKey
from reprieve.models.errors import LogUnavailable, ObjectLost
from reprieve.models.health import Refusal
from reprieve.models.sequences import MAX_SEQ, SeqRanges
from reprieve.stores.database import Database
from reprieve.stores.objects import Objects
from reprieve.stores.refusals import REMOVE, WRITE, ArchiveRefusals

logger = logging.getLogger(__name__)

#: Frames that stay unpacked for the next page of a reader: about a megabyte of lines each.
FRAMES_KEPT = 8
#: Bytes that are read back at once to verify an object.
READ_BACK = 4 * 1024 * 1024

FIND = text("""
SELECT object_key, size, sha256, frames, CAST(held AS text) AS held, CAST(gaps AS text) AS gaps,
       CAST(lost AS text) AS lost, written_at, removed_at
FROM log_archives WHERE run_id = :run_id AND attempt = :attempt
""")

# record: only if the log is still what was archived; a chunk that came meanwhile makes it another log.
RECORD = text("""
INSERT INTO log_archives (run_id, attempt, object_key, size, sha256, frames, held, gaps)
SELECT :run_id, :attempt, :object_key, :size, :sha256, CAST(:frames AS jsonb),
       CAST(:held AS int8multirange), CAST(:gaps AS int8multirange)
WHERE CAST(:held AS int8multirange) = coalesce(
    (SELECT stored FROM attempt_logs WHERE run_id = :run_id AND attempt = :attempt), '{}')
ON CONFLICT DO NOTHING RETURNING run_id
""")

# expired: archives older than `age`, of runs that have ended; what could not be removed comes last.
EXPIRED = text("""
SELECT a.run_id, a.attempt FROM log_archives a JOIN runs r ON r.id = a.run_id
LEFT JOIN setbacks s ON s.duty = 'removal' AND s.run_id = a.run_id AND s.attempt = a.attempt
WHERE a.removed_at IS NULL AND r.finished_at IS NOT NULL
  AND greatest(a.written_at, r.finished_at) < clock_timestamp() - :age
ORDER BY s.next_try_at NULLS FIRST, a.written_at LIMIT :limit
""")

MARK_REMOVED = text("""
UPDATE log_archives SET removed_at = clock_timestamp(), object_key = NULL, frames = '[]', lost = NULL
WHERE run_id = :run_id AND attempt = :attempt
""")

# lose: what could not be read of an archive when it was last tried, so that every reader names the same gap.
LOSE = text("""
UPDATE log_archives SET lost = coalesce(lost, '{}') + CAST(:numbers AS int8multirange)
WHERE run_id = :run_id AND attempt = :attempt AND NOT coalesce(lost, '{}') @> CAST(:numbers AS int8multirange)
""")

# find again: what was lost and can be read after all: somebody has put the object back.
FIND_AGAIN = text("""
UPDATE log_archives SET lost = nullif(lost - CAST(:numbers AS int8multirange), '{}')
WHERE run_id = :run_id AND attempt = :attempt AND lost && CAST(:numbers AS int8multirange)
""")


@dataclass(frozen=True, slots=True)
class Written:
    """An object that was written and read back. `key` is None for a log without a chunk."""

    key: str | None
    size: int
    sha256: str | None
    frames: list[list[int]]
    held: SeqRanges


@dataclass(frozen=True, slots=True)
class Archived(Written):
    """A closed log's archive as its row has it. `key` is None for a removed log, too.

    Of what it holds, `lost` could not be read when it was last tried: it is not there any more, or damaged.
    """

    gaps: SeqRanges
    lost: SeqRanges
    written_at: datetime
    removed_at: datetime | None


class LogArchives:
    """Closed logs. `url` names the object store: `file:///folder`, `s3://bucket/prefix`, or another that obstore knows.

    Credentials come from where the store's own tools take them (for S3 the variables `AWS_…`). Opens nothing until it
    is used.
    """

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self.objects = Objects(url)
        self._refusals = ArchiveRefusals(database)
        self._unpacked: LRUCache[tuple[str, int], list[Chunk]] = LRUCache(FRAMES_KEPT)
        self._lock = Lock()

    def find(self, run_id: UUID, attempt: int) -> Archived | None:
        """The archive of a closed log; None while the log is open."""
        with self._database.begin() as connection:
            row = connection.execute(FIND, {"run_id": run_id, "attempt": attempt}).one_or_none()
        if row is None:
            return None
        held, gaps, lost = (SeqRanges.from_multirange(ranges) for ranges in (row.held, row.gaps, row.lost))
        return Archived(
            row.object_key, row.size, row.sha256, row.frames, held, gaps, lost, row.written_at, row.removed_at
        )

    def any_object(self) -> bool:
        """Whether a log lies in the store, as far as the rows say."""
        query = text("SELECT EXISTS (SELECT FROM log_archives WHERE object_key IS NOT NULL)")
        with self._database.begin() as connection:
            return bool(connection.execute(query).scalar_one())

    # -- written

    def write(self, run_id: UUID, attempt: int, chunks: Iterable[Chunk]) -> Written:
        """Write the object of a log and read it back; raises `LogUnavailable` when it is not what was written."""
        key = f"{_folder(run_id)}/{attempt}-{uuid4().hex}.ndjson.zst"
        index: list[list[int]] = []
        held: list[tuple[int, int]] = []
        digest, size = hashlib.sha256(), 0
        packed = frames(_noting(chunks, held))
        first = next(packed, None)
        if first is None:
            return Written(None, 0, None, [], SeqRanges())
        with self._refusals.noting(WRITE):
            with self.objects.writing(key) as write:
                for frame in chain((first,), packed):
                    write(frame.data)
                    index.append([frame.first_seq, size, len(frame.data)])
                    digest.update(frame.data)
                    size += len(frame.data)
            self._verify(key, size, digest.hexdigest())
        return Written(key, size, digest.hexdigest(), index, SeqRanges.of(held))

    def _verify(self, key: str, size: int, sha256: str) -> None:
        digest = hashlib.sha256()
        for offset in range(0, size, READ_BACK):
            digest.update(self.objects.part(key, offset, min(READ_BACK, size - offset)))
        if (self.objects.size(key), digest.hexdigest()) != (size, sha256):
            raise LogUnavailable(f"{key} was read back from the log archive as something else than was written.")

    def record(self, run_id: UUID, attempt: int, written: Written, gaps: SeqRanges) -> bool:
        """Make an object the log's archive; False, and the object is gone, when the log has changed since."""
        values = {
            "run_id": run_id,
            "attempt": attempt,
            "object_key": written.key,
            "size": written.size,
            "sha256": written.sha256,
            "frames": json.dumps(written.frames),
            "held": written.held.as_multirange(),
            "gaps": gaps.as_multirange(),
        }
        with self._database.begin() as connection:
            recorded = connection.execute(RECORD, values).one_or_none() is not None
        if not recorded and written.key:
            self.objects.delete(written.key)
        return recorded

    # -- read

    def read(self, run_id: UUID, attempt: int, after_seq: int) -> Iterator[Chunk]:
        """The chunks of a closed log after `after_seq`, in order, a frame at a time; none for a log that is open.

        What is lost for good is left out, and remembered. Raises `LogUnavailable` where trying again may help.
        """
        archived = self.find(run_id, attempt)
        if archived is None or archived.key is None or archived.held.last <= after_seq:
            return
        firsts = [first for first, _, _ in archived.frames]
        for index in range(max(0, bisect_right(firsts, after_seq + 1) - 1), len(firsts)):
            numbers = archived.held.within(firsts[index], (*firsts[1:], MAX_SEQ + 1)[index] - 1)
            try:
                chunks, was_read = self._frame(run_id, attempt, archived.key, *archived.frames[index])
            except ObjectLost as error:
                if not self._is_there(archived.key):
                    self._lose(run_id, attempt, archived.held, error)
                    return
                self._lose(run_id, attempt, numbers, error)
                continue
            if was_read and archived.lost & numbers:
                self._note(FIND_AGAIN, run_id, attempt, numbers)
            for chunk in chunks:
                if chunk.seq > after_seq:
                    yield chunk

    def _frame(
        self, run_id: UUID, attempt: int, key: str, first_seq: int, offset: int, size: int
    ) -> tuple[list[Chunk], bool]:
        """The chunks of a frame, and whether they were read just now: memory says nothing about the object."""
        with self._lock:
            if (key, offset) in self._unpacked:
                return self._unpacked[key, offset], False
        data = self.objects.part(key, offset, size)
        try:
            chunks = chunks_of(run_id, attempt, data)
        except ValueError as error:
            raise ObjectLost(f"{key} in the log archive is damaged ({error}).") from None
        if not chunks or chunks[0].seq != first_seq:
            raise ObjectLost(f"{key} in the log archive holds something else than was written.")
        with self._lock:
            self._unpacked[key, offset] = chunks
        return chunks, True

    def _is_there(self, key: str) -> bool:
        try:
            self.objects.size(key)
        except ObjectLost:
            return False
        return True

    def _lose(self, run_id: UUID, attempt: int, numbers: SeqRanges, error: ObjectLost) -> None:
        if self._note(LOSE, run_id, attempt, numbers):
            logger.error("Run %s attempt %d: the chunks %s of its log are lost. %s", run_id, attempt, numbers, error)

    def _note(self, statement: TextClause, run_id: UUID, attempt: int, numbers: SeqRanges) -> bool:
        """Remember what a reader has found. A database that takes no writes does not stop the reader."""
        values = {"run_id": run_id, "attempt": attempt, "numbers": numbers.as_multirange()}
        try:
            with self._database.begin() as connection:
                return bool(connection.execute(statement, values).rowcount)
        except DBAPIError as error:
            logger.warning("What was found of a log cannot be remembered: %s.", type(error).__name__)
            return False

    # -- removed

    def expired(self, age: timedelta, limit: int) -> list[LogKey]:
        """Run and attempt of archives that are older than `age`, of runs that have ended that long ago."""
        with self._database.begin() as connection:
            return [(row.run_id, row.attempt) for row in connection.execute(EXPIRED, {"age": age, "limit": limit})]

    def remove(self, run_id: UUID, attempt: int) -> None:
        """Remove a log's objects, recorded or not, and say so in its row. Idempotent. Raises `LogUnavailable`."""
        with self._refusals.noting(REMOVE):
            for found in self.objects.below(_folder(run_id)):
                if found.rsplit("/", 1)[-1].startswith(f"{attempt}-"):
                    self.objects.delete(found)
        with self._database.begin() as connection:
            connection.execute(MARK_REMOVED, {"run_id": run_id, "attempt": attempt})

    def refusals(self) -> list[Refusal]:
        """What the object store refuses at present, as the writers that it refused have noted."""
        return self._refusals.current()


def _folder(run_id: UUID) -> str:
    return f"runs/{run_id}"


def _noting(chunks: Iterable[Chunk], held: list[tuple[int, int]]) -> Iterator[Chunk]:
    """Pass chunks on, and note their numbers."""
    for chunk in chunks:
        if held and held[-1][1] == chunk.seq - 1:
            held[-1] = (held[-1][0], chunk.seq)
        else:
            held.append((chunk.seq, chunk.seq))
        yield chunk
