"""The log store: every chunk once, in order, byte for byte.

`LogStore` is the protocol; `PostgresLogStore` is the real one, and `MemoryLogStore` (`memory_logs.py`) the fake that
tests may use: one contract suite (`tests/contract/`) runs over both.

The hot tier keeps segments: blocks as they were shipped. Whatever way a log was cut into deliveries, its segments
never overlap: a transaction that writes any holds the log's row, which says what is stored already (`log_writers.py`).
The same row is the acknowledgement that the shippers wait for. A closed log lies in the archive (`archive.py`); a
reader sees one log, wherever it is.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import Connection, text

from reprieve.models.chunks import Block, Chunk, LogKey, LogWriter, coming, parts_of, too_scattered
from reprieve.models.errors import InvalidBlock
from reprieve.models.sequences import MAX_RANGES, MAX_SEQ, SeqRanges
from reprieve.stores.archive import LogArchives
from reprieve.stores.arrays import key_arrays
from reprieve.stores.database import Database
from reprieve.stores.log_writers import epochs, heads, hold, insert_segments, open_heads, ranges, resume

# new: of what arrives for each of these logs, what is not stored yet; and how many ranges the log would have with it.
# PostgreSQL does the arithmetic: a log with many gaps is a large set, and would cost more to read than to add to.
NEW = text("""
SELECT l.run_id, l.attempt, CAST(CAST(k.coming AS int8multirange) - l.stored AS text) AS new,
       (SELECT count(*) FROM unnest(l.stored + CAST(k.coming AS int8multirange))) AS ranges
FROM attempt_logs l
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:coming AS text[])) AS k (run_id, attempt, coming)
    USING (run_id, attempt)
""")

ADVANCE = text("""
UPDATE attempt_logs l SET stored = l.stored + CAST(k.coming AS int8multirange)
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:coming AS text[])) AS k (run_id, attempt, coming)
WHERE l.run_id = k.run_id AND l.attempt = k.attempt
""")

# stored: the acknowledgement. What is in quarantine need not be sent again either, nor anything of a writer that was
# superseded.
STORED = text("""
WITH keys AS (SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt))
SELECT run_id, attempt, epoch, CAST(stored AS text) AS stored FROM attempt_logs JOIN keys USING (run_id, attempt)
UNION ALL
SELECT run_id, attempt, 0, CAST(range_agg(int8range(first_seq, last_seq, '[]')) AS text)
FROM log_quarantine JOIN keys USING (run_id, attempt) GROUP BY run_id, attempt
""")

# quarantine: not of a writer that was superseded, whose numbers are another's by now.
QUARANTINE = text("""
INSERT INTO log_quarantine (run_id, attempt, first_seq, last_seq, reason, payload)
SELECT CAST(:run_id AS uuid), :attempt, :first_seq, :last_seq, :reason, CAST(:payload AS bytea)
WHERE :epoch >= coalesce((SELECT epoch FROM attempt_logs WHERE run_id = :run_id AND attempt = :attempt), 0)
ON CONFLICT DO NOTHING
""")

# read: the segments after a number: no more than hold the chunks that are wanted, nor more than the limit of bytes; at
# least one.
READ = text("""
WITH page AS (
    SELECT first_seq, last_seq, payload FROM log_segments
    WHERE run_id = :run_id AND attempt = :attempt AND last_seq > :after AND first_seq >= coalesce(
        (SELECT first_seq FROM log_segments WHERE run_id = :run_id AND attempt = :attempt AND first_seq <= :after + 1
         ORDER BY first_seq DESC LIMIT 1), 0)
    ORDER BY first_seq LIMIT :segments
), counted AS (
    SELECT *, sum(last_seq - greatest(first_seq, :after + 1) + 1) OVER (
        ORDER BY first_seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS chunks_before,
        sum(octet_length(payload)) OVER (
        ORDER BY first_seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM page
)
SELECT first_seq, last_seq, payload FROM counted
WHERE coalesce(chunks_before, 0) < :chunks AND coalesce(bytes_before, 0) < :bytes ORDER BY first_seq
""")

#: Segments, and bytes of them, that are read at once: a log in many pieces has many small segments.
SEGMENTS_AT_ONCE, BYTES_AT_ONCE = 2_000, 4 * 1024 * 1024


class Resumed(NamedTuple):
    """From where a log goes on: the number of its last chunk, and that chunk's cursor (None: from the beginning)."""

    after_seq: int
    cursor: str | None


EVERYTHING = SeqRanges(((1, MAX_SEQ),))


class TooScattered(InvalidBlock):
    """Raised for blocks that would leave a log with more gaps than it may have; nothing was stored."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__(
            f"its log is in {MAX_RANGES} pieces, which is as many as there may be; output that fills a gap is taken"
        )
        self.blocks = frozenset(blocks)


class LogStore(Protocol):
    """Where chunks are kept, and read by sequence number."""

    def append(self, connection: Connection, blocks: Sequence[Block]) -> list[Block]:
        """Store what is new, as part of the caller's transaction; returns what was new, cut out of the blocks.

        Each `(run, attempt, seq)` is stored once, in whatever blocks and order it comes. Raises `InvalidBlock` where
        a block has to be cut that cannot be decoded, and `TooScattered` for blocks with which a log would have more
        gaps than `MAX_RANGES` allows.
        """
        ...

    def stored(self, writers: Iterable[LogWriter]) -> dict[LogWriter, SeqRanges]:
        """What these writers need not send again: it is stored, in quarantine, or superseded."""
        ...

    def resume(self, connection: Connection, run_id: UUID, attempt: int, epoch: int) -> Resumed:
        """Give a log to a new writer, as part of the caller's transaction; returns from where it goes on.

        The log is cut after its last chunk that has a cursor and no gap before it: the new writer reads on from that
        cursor. Whatever an earlier epoch still sends is refused as superseded.
        """
        ...

    def quarantine(self, connection: Connection, block: Block, reason: str) -> None:
        """Put a block that cannot be stored in quarantine. The same block again, or a superseded one, changes nothing.

        It need not be sent again, and is not part of the log: to readers it is a gap.
        """
        ...

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        """Up to `limit` chunks of an attempt after `after_seq`, in order; empty when there is no log (yet)."""
        ...

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        """The highest sequence number stored, 0 for none."""
        ...


class PostgresLogStore:
    """Segments in PostgreSQL, and behind them the archive."""

    def __init__(self, database: Database, archive: LogArchives | None = None) -> None:
        self._database = database
        self._archive = archive

    def append(self, connection: Connection, blocks: Sequence[Block]) -> list[Block]:
        if not blocks:
            return []
        # Of a log that nobody has written to, all is new. For most runs that is all that they ever print.
        brought = coming(blocks)
        first = {key: numbers if len(numbers) <= MAX_RANGES else SeqRanges() for key, numbers in brought.items()}
        wanted = {key: brought[key] for key in open_heads(connection, first) if first[key]}
        begun = frozenset(wanted)
        current = [block for block in blocks if block.key in begun]
        if known := [block for block in blocks if block.key not in begun]:
            writing = hold(connection, {block.key for block in known})
            known = [block for block in known if block.epoch >= writing[block.key]]
            wanted |= self._new_of(connection, known)
        new = parts_of(current + known, wanted)
        if new:
            insert_segments(connection, new)
        if grown := {block.key for block in new} - begun:
            connection.execute(ADVANCE, _coming(known, grown))
        return new

    def _new_of(self, connection: Connection, blocks: Sequence[Block]) -> dict[LogKey, SeqRanges]:
        """What of these blocks, whose logs are held, is not stored yet. Raises `TooScattered`."""
        found = connection.execute(NEW, _coming(blocks, {block.key for block in blocks})).all()
        if scattered := {(row.run_id, row.attempt) for row in found if row.ranges > MAX_RANGES}:
            self._refuse_scattered(connection, [block for block in blocks if block.key in scattered])
        return ranges(found, "new")

    @staticmethod
    def _refuse_scattered(connection: Connection, blocks: Sequence[Block]) -> None:
        """Raise `TooScattered` for those of these blocks that their logs cannot take."""
        refused = [
            block
            for key, stored in heads(connection, {block.key for block in blocks}).items()
            for block in too_scattered([one for one in blocks if one.key == key], stored)
        ]
        if refused:
            raise TooScattered(refused)

    def stored(self, writers: Iterable[LogWriter]) -> dict[LogWriter, SeqRanges]:
        wanted = set(writers)
        if not wanted:
            return {}
        with self._database.begin() as connection:
            rows = connection.execute(STORED, key_arrays(writer[:2] for writer in wanted)).all()
        return by_writer(wanted, ranges(rows, "stored"), epochs(rows))

    def resume(self, connection: Connection, run_id: UUID, attempt: int, epoch: int) -> Resumed:
        return Resumed(*resume(connection, (run_id, attempt), epoch))

    def quarantine(self, connection: Connection, block: Block, reason: str) -> None:
        connection.execute(QUARANTINE, asdict(block) | {"reason": reason})

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        # Hot before archived: a log that is closed between the two is then seen in both, and never in neither.
        hot = list(islice(self.hot(run_id, attempt, after_seq, limit), limit))
        archived = self._archive.read(run_id, attempt, after_seq) if self._archive else iter(())
        return list(islice(_each_once(merge(archived, hot, key=lambda chunk: chunk.seq)), limit))

    def hot(self, run_id: UUID, attempt: int, after_seq: int = 0, at_once: int = MAX_SEQ) -> Iterator[Chunk]:
        """What the hot tier has of a log, in order, a few segments in memory at a time.

        `at_once` is how many chunks the caller takes: no more segments are fetched than hold them.
        """
        while True:
            after = {"run_id": run_id, "attempt": attempt, "after": after_seq}
            with self._database.begin() as connection:
                limits = {"segments": SEGMENTS_AT_ONCE, "bytes": BYTES_AT_ONCE, "chunks": at_once}
                rows = connection.execute(READ, after | limits).all()
            if not rows:
                return
            for row in rows:
                block = Block(run_id, attempt, 0, row.first_seq, row.last_seq, bytes(row.payload))
                yield from (chunk for chunk in block.chunks() if chunk.seq > after_seq)
            after_seq = rows[-1].last_seq

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        key = (run_id, attempt)
        with self._database.begin() as connection:
            return heads(connection, {key}).get(key, SeqRanges()).last


def by_writer(
    writers: Iterable[LogWriter], stored: Mapping[LogKey, SeqRanges], epochs: Mapping[LogKey, int]
) -> dict[LogWriter, SeqRanges]:
    """What each of these writers need not send again, where anything is known of its log."""
    found = {}
    for run_id, attempt, epoch in writers:
        if (run_id, attempt) in stored:
            superseded = epoch < epochs[run_id, attempt]
            found[run_id, attempt, epoch] = EVERYTHING if superseded else stored[run_id, attempt]
    return found


def _coming(blocks: Sequence[Block], logs: Collection[LogKey]) -> dict[str, Any]:
    """What these blocks bring for these logs, as parameters of a statement."""
    brought, ordered = coming(blocks), sorted(logs)
    return key_arrays(ordered) | {"coming": [brought[key].as_multirange() for key in ordered]}


def _each_once(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks without repeats: for a moment, a chunk may lie in both tiers."""
    last = 0
    for chunk in chunks:
        if chunk.seq > last:
            yield chunk
            last = chunk.seq
