"""Giving a log to a new writer: it is cut where the writer can go on, and the one before is superseded."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from reprieve.models.chunks import Block, LogKey
from reprieve.models.sequences import SeqRanges
from reprieve.stores.log_rows import heads, hold, insert_segments

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


def resume(connection: Connection, key: LogKey, epoch: int) -> tuple[int, str | None]:
    """Cut a log after its last chunk that has a cursor and no gap before it; from now on only `epoch` writes.

    Returns that chunk's number and cursor; 0 and None for a log that begins anew.
    """
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
