"""The archive of closed logs: one object per log in an object store, and the row that says where and what it is.

An object is written under a name of its own, read back, and only then recorded: until the row is there, it counts for
nothing, and the hot segments are the log. An object that nobody recorded (its writer died) is removed together with
its run's log.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import UUID, uuid4

import obstore
from cachetools import LRUCache
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url
from sqlalchemy import text

from models.chunks import Chunk
from models.closing import chunks_of, frames
from models.errors import LogUnavailable
from models.sequences import SeqRanges
from stores.database import Database

#: Frames that stay unpacked for the next page of a reader: about a megabyte of lines each.
FRAMES_KEPT = 8
#: Bytes that are read back at once to verify an object.
READ_BACK = 4 * 1024 * 1024

FIND = text("""
SELECT object_key, size, sha256, frames, CAST(held AS text) AS held, CAST(gaps AS text) AS gaps, written_at, removed_at
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

# expired: archives of runs that have ended, older than so long.
EXPIRED = text("""
SELECT a.run_id, a.attempt FROM log_archives a JOIN runs r ON r.id = a.run_id
WHERE a.removed_at IS NULL AND r.finished_at IS NOT NULL
  AND greatest(a.written_at, r.finished_at) < clock_timestamp() - :age
ORDER BY a.written_at LIMIT :limit
""")

MARK_REMOVED = text("""
UPDATE log_archives SET removed_at = clock_timestamp(), object_key = NULL, frames = '[]'
WHERE run_id = :run_id AND attempt = :attempt
""")


@dataclass(frozen=True, slots=True)
class Archived:
    """A closed log's archive as its row has it. `key` is None for a log without a chunk, or one that was removed."""

    key: str | None
    size: int
    sha256: str | None
    frames: list[list[int]]
    held: SeqRanges
    gaps: SeqRanges
    written_at: datetime
    removed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Written:
    """An object that was written and read back."""

    key: str | None
    size: int
    sha256: str | None
    frames: list[list[int]]
    held: SeqRanges


class LogArchives:
    """Closed logs. `url` names the object store: `file:///folder`, `s3://bucket/prefix`, or another that obstore knows.

    Credentials come from where the store's own tools take them (for S3 the variables `AWS_…`). Opens nothing until it
    is used.
    """

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self.url = url
        self._unpacked: LRUCache[tuple[str, int], list[Chunk]] = LRUCache(FRAMES_KEPT)
        self._lock = Lock()

    @cached_property
    def _objects(self) -> ObjectStore:
        try:
            if self.url.startswith("file:///"):
                # For nobody else's eyes; obstore would make it readable by everyone.
                Path(url2pathname(urlsplit(self.url).path)).mkdir(mode=0o700, parents=True, exist_ok=True)
            return from_url(self.url)
        except (BaseError, ValueError, OSError) as error:
            raise LogUnavailable(f"The log archive {self.url} cannot be opened: {_first_line(error)}") from None

    def find(self, run_id: UUID, attempt: int) -> Archived | None:
        """The archive of a closed log; None while the log is open."""
        with self._database.begin() as connection:
            row = connection.execute(FIND, {"run_id": run_id, "attempt": attempt}).one_or_none()
        if row is None:
            return None
        held, gaps = SeqRanges.from_multirange(row.held), SeqRanges.from_multirange(row.gaps)
        return Archived(row.object_key, row.size, row.sha256, row.frames, held, gaps, row.written_at, row.removed_at)

    # -- written

    def write(self, run_id: UUID, attempt: int, chunks: Iterable[Chunk]) -> Written:
        """Write the object of a log and read it back; raises `LogUnavailable` when it is not what was written."""
        key = f"{_folder(run_id)}/{attempt}-{uuid4().hex}.ndjson.zst"
        index: list[list[int]] = []
        held: list[tuple[int, int]] = []
        digest, size = hashlib.sha256(), 0
        try:
            with obstore.open_writer(self._objects, key) as writer:
                for frame in frames(_noting(chunks, held)):
                    writer.write(frame.data)
                    index.append([frame.first_seq, size, len(frame.data)])
                    digest.update(frame.data)
                    size += len(frame.data)
            if not index:
                self._delete(key)
                return Written(None, 0, None, [], SeqRanges())
            self._verify(key, size, digest.hexdigest())
            self._make_durable(key)
        except (BaseError, OSError) as error:
            raise LogUnavailable(f"The log archive {self.url} did not take {key}: {_first_line(error)}") from None
        return Written(key, size, digest.hexdigest(), index, SeqRanges.of(held))

    def _verify(self, key: str, size: int, sha256: str) -> None:
        digest, found = hashlib.sha256(), 0
        for part in obstore.get(self._objects, key).stream(min_chunk_size=READ_BACK):
            digest.update(part)
            found += len(part)
        if (found, digest.hexdigest()) != (size, sha256):
            raise LogUnavailable(f"{key} was written with {size} bytes and read back with {found}, or others.")

    def _make_durable(self, key: str) -> None:
        """See that an object outlives a power cut before anything is dropped for its sake.

        Object stores answer once it does. A folder does not: obstore leaves the file in the page cache (object_store
        #661), and what led to it (the entries of new folders) as well.
        """
        if not isinstance(self._objects, LocalStore):
            return
        root = Path(str(self._objects.prefix))
        path = root / key
        for entry in (path, *path.parents[: len(Path(key).parts)]):
            descriptor = os.open(entry, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

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
            self._delete(written.key)
        return recorded

    # -- read

    def read(self, run_id: UUID, attempt: int, after_seq: int) -> Iterator[Chunk]:
        """The chunks of a closed log after `after_seq`, in order, a frame at a time; none for a log that is open.

        Raises `LogUnavailable`.
        """
        archived = self.find(run_id, attempt)
        if archived is None or archived.key is None or archived.held.last <= after_seq:
            return
        firsts = [first for first, _, _ in archived.frames]
        for index in range(max(0, bisect_right(firsts, after_seq + 1) - 1), len(firsts)):
            for chunk in self._frame(run_id, attempt, archived.key, *archived.frames[index][1:]):
                if chunk.seq > after_seq:
                    yield chunk

    def _frame(self, run_id: UUID, attempt: int, key: str, offset: int, size: int) -> list[Chunk]:
        with self._lock:
            if (key, offset) in self._unpacked:
                return self._unpacked[key, offset]
        try:
            data = bytes(obstore.get_range(self._objects, key, start=offset, length=size))
            chunks = chunks_of(run_id, attempt, data)
        except (BaseError, OSError, ValueError) as error:
            raise LogUnavailable(f"{key} in {self.url} cannot be read: {_first_line(error)}") from None
        with self._lock:
            self._unpacked[key, offset] = chunks
        return chunks

    # -- removed

    def expired(self, age: timedelta, limit: int) -> list[tuple[UUID, int]]:
        """Run and attempt of archives that are older than `age`, of runs that have ended that long ago."""
        with self._database.begin() as connection:
            return [(row.run_id, row.attempt) for row in connection.execute(EXPIRED, {"age": age, "limit": limit})]

    def remove(self, run_id: UUID, attempt: int) -> None:
        """Remove a log's objects, recorded or not, and say so in its row. Idempotent."""
        try:
            for page in obstore.list(self._objects, f"{_folder(run_id)}/"):
                for found in page:
                    if found["path"].rsplit("/", 1)[-1].startswith(f"{attempt}-"):
                        self._delete(found["path"])
        except (BaseError, OSError) as error:
            raise LogUnavailable(f"The log archive {self.url} does not answer: {_first_line(error)}") from None
        with self._database.begin() as connection:
            connection.execute(MARK_REMOVED, {"run_id": run_id, "attempt": attempt})

    def _delete(self, key: str) -> None:
        try:
            obstore.delete(self._objects, key)
        except FileNotFoundError:
            return


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


def _first_line(error: Exception) -> Any:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
