"""The log store: every chunk once, in order, byte for byte.

`LogStore` is the protocol; `PostgresLogStore` is the real one, and `MemoryLogStore` the fake that tests may use: one
contract suite (`tests/contract/`) runs over both.

The hot tier keeps segments: blocks as they were shipped. Whatever way a log was cut into deliveries, its segments
never overlap: whoever writes any holds the row of the log (`attempt_logs`), which says what is stored already. The
same row is the acknowledgement that the shippers wait for. A closed log lies in the archive (`stores.archive`); a
reader sees one log, wherever it is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import Connection, text

from reprieve.models.chunks import Block, Chunk, LogKey, LogWriter
from reprieve.models.errors import InvalidBlock
from reprieve.models.sequences import MAX_RANGES, MAX_SEQ, Range, SeqRanges
from reprieve.stores.arrays import key_arrays
from reprieve.stores.database import Database

# hold: these logs, each until the transaction ends; in the order of their keys, so that two messages with the same logs
# wait for each other instead of deadlocking.
HOLD = text("""
SELECT l.run_id, l.attempt, l.epoch FROM attempt_logs l
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
ORDER BY l.run_id, l.attempt FOR NO KEY UPDATE OF l
""")

# new: of what comes of each of these logs, what is not stored; and of how many ranges the set of that is. PostgreSQL
# does the arithmetic: a log with many gaps is a large set, and would cost more to read than to add to.
NEW = text("""
SELECT l.run_id, l.attempt, CAST(CAST(k.coming AS int8multirange) - l.stored AS text) AS new,
       (SELECT count(*) FROM unnest(l.stored + CAST(k.coming AS int8multirange))) AS ranges
FROM attempt_logs l
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:coming AS text[])) AS k (run_id, attempt, coming)
    USING (run_id, attempt)
""")

# heads: what is stored of these logs.
HEADS = text("""
SELECT l.run_id, l.attempt, CAST(l.stored AS text) AS stored FROM attempt_logs l
JOIN unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt) USING (run_id, attempt)
""")

# open heads: a row for each of these logs that has none; in the same order.
OPEN_HEADS = text("""
INSERT INTO attempt_logs (run_id, attempt)
SELECT k.run_id, k.attempt FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt)
ORDER BY k.run_id, k.attempt ON CONFLICT DO NOTHING
""")

ADVANCE = text("""
UPDATE attempt_logs l SET stored = l.stored + CAST(k.coming AS int8multirange)
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:coming AS text[])) AS k (run_id, attempt, coming)
WHERE l.run_id = k.run_id AND l.attempt = k.attempt
""")

# segments: one multi-row write.
INSERT_SEGMENTS = text("""
INSERT INTO log_segments (run_id, attempt, first_seq, last_seq, payload)
SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:first AS bigint[]), CAST(:last AS bigint[]),
                     CAST(:payloads AS bytea[]))
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

# read: the segments after a place: no more than have the chunks that are wanted, nor than have so many bytes; one at
# least.
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

# backwards: the segments that begin up to a place, the last first.
BACKWARDS = text("""
SELECT first_seq, last_seq, payload FROM log_segments
WHERE run_id = :run_id AND attempt = :attempt AND first_seq <= :upto
ORDER BY first_seq DESC LIMIT :segments
""")

# cut: drop the segments from a place on.
CUT = text("DELETE FROM log_segments WHERE run_id = :run_id AND attempt = :attempt AND last_seq > :after")

# cut aside: what is in quarantine from there on is read again too, under numbers that may then stand for other output.
CUT_ASIDE = text("DELETE FROM log_quarantine WHERE run_id = :run_id AND attempt = :attempt AND last_seq > :after")

# supersede: from now on only this epoch writes, after this place.
SUPERSEDE = text("""
UPDATE attempt_logs SET epoch = :epoch, stored = CAST(:stored AS int8multirange)
WHERE run_id = :run_id AND attempt = :attempt
""")

#: Segments that are read at once backwards; a block bounds how much memory each takes.
SEGMENTS_PER_READ = 16
#: Segments, and bytes of them, that are read at once forwards: a log in many pieces has many and small ones.
SEGMENTS_AT_ONCE, BYTES_AT_ONCE = 2_000, 4 * 1024 * 1024


class Resumed(NamedTuple):
    """From where a log goes on: the number of its last chunk, and that chunk's cursor (None: from the beginning)."""

    after_seq: int
    cursor: str | None


EVERYTHING = SeqRanges(((1, MAX_SEQ),))


class TooScattered(InvalidBlock):
    """Raised for blocks with which a log would have more gaps than there may be; nothing was stored."""

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
        """What need not be sent again of what these wrote: it is stored, kept aside, or superseded."""
        ...

    def resume(self, connection: Connection, run_id: UUID, attempt: int, epoch: int) -> Resumed:
        """Give a log to a new writer, as part of the caller's transaction; returns from where it goes on.

        The log is cut after its last chunk that has a cursor and no gap before it: the new writer reads on from that
        place of the writer. Whatever an earlier epoch still sends is refused as superseded.
        """
        ...

    def quarantine(self, connection: Connection, block: Block, reason: str) -> None:
        """Keep a block aside that cannot be stored; the same one again, or a superseded one, changes nothing.

        It need not be sent again, and is no part of the log: readers are told of it as of a gap.
        """
        ...

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        """Up to `limit` chunks of an attempt after `after_seq`, in order; empty when there is no log (yet)."""
        ...

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        """The highest sequence number stored, 0 for none."""
        ...


class Archive(Protocol):
    """Where closed logs are read (`stores.archive.LogArchives`)."""

    def read(self, run_id: UUID, attempt: int, after_seq: int) -> Iterator[Chunk]:
        """The chunks of a closed log after `after_seq`, in order, a frame at a time; none for a log that is open."""
        ...


def coming(blocks: Iterable[Block]) -> dict[LogKey, SeqRanges]:
    """The numbers that these blocks bring, by log."""
    brought = defaultdict[LogKey, list[Range]](list)
    for block in blocks:
        brought[block.key].append((block.first_seq, block.last_seq))
    return {key: SeqRanges.of(ranges) for key, ranges in brought.items()}


def parts_of(blocks: Iterable[Block], wanted: Mapping[LogKey, SeqRanges]) -> list[Block]:
    """The parts of these blocks that are wanted of each log, each number once, in the order of their numbers.

    Raises `InvalidBlock` where a block has to be cut that cannot be decoded.
    """
    parts: list[Block] = []
    key, reached = None, 0
    for block in sorted(blocks, key=lambda one: (one.key, one.first_seq)):
        if block.key != key:
            key, reached = block.key, 0
        parts += block.cut(wanted.get(block.key, SeqRanges()).within(max(block.first_seq, reached + 1), block.last_seq))
        reached = max(reached, block.last_seq)
    return parts


def too_scattered(blocks: Iterable[Block], stored: SeqRanges) -> list[Block]:
    """Those of a log's blocks that would each leave another gap in it."""
    return [one for one in blocks if not stored.within(one.first_seq - 1, one.last_seq + 1)]


class PostgresLogStore:
    """Segments in PostgreSQL, and behind them the archive."""

    def __init__(self, database: Database, archive: Archive | None = None) -> None:
        self._database = database
        self._archive = archive

    def append(self, connection: Connection, blocks: Sequence[Block]) -> list[Block]:
        if not blocks:
            return []
        brought = coming(blocks)  # Before anything is held: nearly always, no writer was superseded.
        epochs = self._hold(connection, {block.key for block in blocks})
        current = [block for block in blocks if block.epoch >= epochs[block.key]]
        if len(current) < len(blocks):
            brought = coming(current)
        keys = sorted(brought)
        values = key_arrays(keys) | {"coming": [brought[key].as_multirange() for key in keys]}
        found = connection.execute(NEW, values).all()
        if scattered := {(row.run_id, row.attempt) for row in found if row.ranges > MAX_RANGES}:
            self._refuse_scattered(connection, [block for block in current if block.key in scattered])
        new = parts_of(current, _ranges(found, "new"))
        if new:
            connection.execute(INSERT_SEGMENTS, _columns(new))
            connection.execute(ADVANCE, values)
        return new

    @staticmethod
    def _refuse_scattered(connection: Connection, blocks: Sequence[Block]) -> None:
        """Raise `TooScattered` for those of these blocks that their logs cannot take."""
        rows = connection.execute(HEADS, key_arrays({block.key for block in blocks})).all()
        stored = _ranges(rows, "stored")
        refused = [
            block
            for key, held in stored.items()
            for block in too_scattered([one for one in blocks if one.key == key], held)
        ]
        if refused:
            raise TooScattered(refused)

    @staticmethod
    def _hold(connection: Connection, keys: set[LogKey]) -> dict[LogKey, int]:
        """Whose epoch may write each of these logs; nobody else does until this transaction ends."""
        # First all rows are there, then they are held: who holds one never waits for one that another has just made.
        connection.execute(OPEN_HEADS, key_arrays(keys))
        return _epochs(connection.execute(HOLD, key_arrays(keys)).all())

    def stored(self, writers: Iterable[LogWriter]) -> dict[LogWriter, SeqRanges]:
        wanted = set(writers)
        if not wanted:
            return {}
        with self._database.begin() as connection:
            rows = connection.execute(STORED, key_arrays(writer[:2] for writer in wanted)).all()
        return _by_writer(wanted, _ranges(rows, "stored"), _epochs(rows))

    def resume(self, connection: Connection, run_id: UUID, attempt: int, epoch: int) -> Resumed:
        key = (run_id, attempt)
        self._hold(connection, {key})
        stored = _ranges(connection.execute(HEADS, key_arrays([key])).all(), "stored")
        place = self._last_place(connection, key, stored[key].whole_to)
        log = {"run_id": run_id, "attempt": attempt}
        cut = next(self._backwards(connection, key, place.after_seq), None)
        for statement in (CUT, CUT_ASIDE):
            connection.execute(statement, log | {"after": place.after_seq})
        kept = SeqRanges.of([(1, place.after_seq)])
        if cut is not None and cut.last_seq > place.after_seq:
            connection.execute(INSERT_SEGMENTS, _columns(cut.cut(kept)))
        connection.execute(SUPERSEDE, log | {"epoch": epoch, "stored": kept.as_multirange()})
        return place

    def _last_place(self, connection: Connection, key: LogKey, whole_to: int) -> Resumed:
        """The last chunk up to `whole_to` that has a cursor."""
        for block in self._backwards(connection, key, whole_to):
            for chunk in reversed(block.chunks()):
                if chunk.cursor is not None and chunk.seq <= whole_to:
                    return Resumed(chunk.seq, chunk.cursor)
        return Resumed(0, None)

    @staticmethod
    def _backwards(connection: Connection, key: LogKey, upto: int) -> Iterator[Block]:
        """The segments that begin at a place or before it, the last first."""
        while upto > 0:
            place = {"run_id": key[0], "attempt": key[1], "upto": upto, "segments": SEGMENTS_PER_READ}
            rows = connection.execute(BACKWARDS, place).all()
            if not rows:
                return
            for row in rows:
                yield Block(*key, 0, row.first_seq, row.last_seq, bytes(row.payload))
            upto = rows[-1].first_seq - 1

    def quarantine(self, connection: Connection, block: Block, reason: str) -> None:
        connection.execute(QUARANTINE, _row(block) | {"reason": reason, "epoch": block.epoch})

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        # Hot before archived: a log that is closed between the two is then seen in both, and never in neither.
        hot = list(islice(self.hot(run_id, attempt, after_seq, limit), limit))
        archived = self._archive.read(run_id, attempt, after_seq) if self._archive else iter(())
        return list(islice(_each_once(merge(archived, hot, key=lambda chunk: chunk.seq)), limit))

    def hot(self, run_id: UUID, attempt: int, after_seq: int = 0, at_once: int = MAX_SEQ) -> Iterator[Chunk]:
        """What the hot tier has of a log, in order, a few segments in memory at a time.

        Who takes only so many chunks says so by `at_once`: no more segments are fetched than have them.
        """
        while True:
            place = {"run_id": run_id, "attempt": attempt, "after": after_seq}
            with self._database.begin() as connection:
                limits = {"segments": SEGMENTS_AT_ONCE, "bytes": BYTES_AT_ONCE, "chunks": at_once}
                rows = connection.execute(READ, place | limits).all()
            if not rows:
                return
            for row in rows:
                block = Block(run_id, attempt, 0, row.first_seq, row.last_seq, bytes(row.payload))
                yield from (chunk for chunk in block.chunks() if chunk.seq > after_seq)
            after_seq = rows[-1].last_seq

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        query = text(
            "SELECT CAST(stored AS text) AS stored FROM attempt_logs WHERE run_id = :id AND attempt = :attempt"
        )
        with self._database.begin() as connection:
            stored = connection.execute(query, {"id": run_id, "attempt": attempt}).scalar()
        return SeqRanges.from_multirange(stored).last


def _row(block: Block) -> dict[str, Any]:
    return {
        "run_id": block.run_id,
        "attempt": block.attempt,
        "first_seq": block.first_seq,
        "last_seq": block.last_seq,
        "payload": block.payload,
    }


def _columns(blocks: Sequence[Block]) -> dict[str, Any]:
    return {
        "ids": [str(block.run_id) for block in blocks],
        "attempts": [block.attempt for block in blocks],
        "first": [block.first_seq for block in blocks],
        "last": [block.last_seq for block in blocks],
        "payloads": [block.payload for block in blocks],
    }


def _ranges(rows: Iterable[Any], column: str) -> dict[LogKey, SeqRanges]:
    """What a column of multiranges says of each log, together where there is more than one row."""
    found: dict[LogKey, SeqRanges] = {}
    for row in rows:
        key, ranges = (row.run_id, row.attempt), SeqRanges.from_multirange(getattr(row, column))
        found[key] = found[key] | ranges if key in found else ranges
    return found


def _epochs(rows: Iterable[Any]) -> dict[LogKey, int]:
    """Whose epoch may write these logs."""
    epochs: dict[LogKey, int] = {}
    for row in rows:
        key = (row.run_id, row.attempt)
        epochs[key] = max(row.epoch, epochs.get(key, 0))
    return epochs


def _by_writer(
    writers: Iterable[LogWriter], stored: Mapping[LogKey, SeqRanges], epochs: Mapping[LogKey, int]
) -> dict[LogWriter, SeqRanges]:
    """What need not be sent again by each of these writers, where anything is known of its log."""
    found = {}
    for run_id, attempt, epoch in writers:
        if (run_id, attempt) in stored:
            superseded = epoch < epochs[run_id, attempt]
            found[run_id, attempt, epoch] = EVERYTHING if superseded else stored[run_id, attempt]
    return found


def _each_once(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Of a chunk that lies in both tiers for a moment, the first."""
    last = 0
    for chunk in chunks:
        if chunk.seq > last:
            yield chunk
            last = chunk.seq


class MemoryLogStore:
    """The fake: the same promises, for as long as the process lives. It takes part in no transaction."""

    def __init__(self) -> None:
        self._chunks: dict[LogKey, dict[int, Chunk]] = {}
        self._stored: dict[LogKey, SeqRanges] = {}
        self._aside: dict[LogKey, SeqRanges] = {}
        self._epochs: dict[LogKey, int] = {}

    def append(self, connection: Connection | None, blocks: Sequence[Block]) -> list[Block]:  # noqa: ARG002
        current = [block for block in blocks if block.epoch >= self._epochs.get(block.key, 0)]
        nothing = SeqRanges()
        wanted = {key: numbers - self._stored.get(key, nothing) for key, numbers in coming(current).items()}
        new = parts_of(current, wanted)
        for key, numbers in wanted.items():
            self._stored[key] = self._stored.get(key, nothing) | numbers
        for block in new:
            self._chunks.setdefault(block.key, {}).update((chunk.seq, chunk) for chunk in block.chunks())
        return new

    def stored(self, writers: Iterable[LogWriter]) -> dict[LogWriter, SeqRanges]:
        nothing = SeqRanges()
        logs = self._stored.keys() | self._aside.keys()
        known = {key: self._stored.get(key, nothing) | self._aside.get(key, nothing) for key in logs}
        return _by_writer(writers, known, {key: self._epochs.get(key, 0) for key in logs})

    def resume(self, connection: Connection | None, run_id: UUID, attempt: int, epoch: int) -> Resumed:  # noqa: ARG002
        key = (run_id, attempt)
        chunks = self._chunks.setdefault(key, {})
        whole_to = self._stored.get(key, SeqRanges()).whole_to
        places = [Resumed(seq, chunk.cursor) for seq, chunk in chunks.items() if chunk.cursor and seq <= whole_to]
        place = max(places, default=Resumed(0, None))
        self._chunks[key] = {seq: chunk for seq, chunk in chunks.items() if seq <= place.after_seq}
        self._stored[key] = SeqRanges.of([(1, place.after_seq)])
        self._aside[key] = self._aside.get(key, SeqRanges()) - SeqRanges(((place.after_seq + 1, MAX_SEQ),))
        self._epochs[key] = epoch
        return place

    def quarantine(self, connection: Connection | None, block: Block, reason: str) -> None:  # noqa: ARG002
        if block.epoch < self._epochs.get(block.key, 0):
            return
        whole = SeqRanges(((block.first_seq, block.last_seq),))
        self._aside[block.key] = self._aside.get(block.key, SeqRanges()) | whole

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        log = self._chunks.get((run_id, attempt), {})
        return [log[seq] for seq in sorted(log) if seq > after_seq][:limit]

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        return max(self._chunks.get((run_id, attempt), {}), default=0)
