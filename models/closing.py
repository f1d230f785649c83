"""Closing a log: what is to be done next with the log of an attempt that has ended, and the form of its archive.

The archive of a log is one object: NDJSON, a line per chunk, in frames of zstd that follow each other. Any zstd reads
it as one stream (`zstdcat log.ndjson.zst | jq`); a reader that wants a part begins at the frame that has it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import msgspec
import zstandard

from reprieve.models.chunks import Chunk, milliseconds
from reprieve.models.sequences import MAX_SEQ, Range, SeqRanges

#: How long the last chunk of an ended attempt is waited for. In real time: no time scale makes a machine faster.
TAIL_WAIT = timedelta(seconds=60)

#: How long a worker is believed that said what its spool holds. It says so every 15 seconds while that is so; a worker
#: that is started anew on the same folder needs a while until it does.
HOLDER_BELIEVED_FOR = timedelta(seconds=120)

#: How long what an adapter kept of an attempt on its host stays, where it was not read to its end.
KEPT_FOR = timedelta(days=7)

#: Bytes of lines in a frame of the archive: what a reader unpacks to show the first of them.
FRAME_BYTES = 1024 * 1024
#: Level of compression: archives are written once, by nobody who waits.
LEVEL = 6


class Closing(StrEnum):
    """What is to be done next."""

    WAIT = "wait"
    """The attempt has not ended, or its tail may still be on its way."""
    ARCHIVE = "archive"
    """Write the archive: everything is there, or has been waited for."""
    DROP = "drop"
    """The archive is written and verified: the hot segments can go."""
    DONE = "done"


def next_step(
    *,
    ended_for: timedelta | None,
    last_seq: int | None,
    stored: SeqRanges,
    archived: bool,
    closed: bool,
    is_held: bool = False,
) -> Closing:
    """The next step for a log whose attempt ended so long ago (None: it has not), naming `last_seq` (None: nobody did).

    An end that names no last number is a reap or a cancel: only time tells that nothing more comes. What the spool of a
    living worker holds (`is_held`) will come, and is waited for however long that takes.
    """
    if closed:
        return Closing.DONE
    if ended_for is None:
        return Closing.WAIT
    if archived:
        return Closing.DROP
    if last_seq is not None and not stored.missing(last_seq):
        return Closing.ARCHIVE
    return Closing.WAIT if is_held or is_awaited(ended_for) else Closing.ARCHIVE


def is_awaited(ended_for: timedelta | None) -> bool:
    """Whether more is waited for in any case of an attempt that ended so long ago (None: it has not)."""
    return ended_for is None or ended_for < TAIL_WAIT


def late_of(gaps: SeqRanges, held: Range | None, *, awaited: bool) -> SeqRanges:
    """What of the gaps in a log is *late*: known to be on its way. The rest is *missing*: nobody has it.

    `held` is what the spools of living workers say that they hold: these numbers, and whatever follows. While more is
    `awaited` in any case, all of it is on its way, for all we know.
    """
    if awaited:
        return gaps
    return gaps.within(held[0], MAX_SEQ) if held else SeqRanges()


def may_forget(
    *, ended_for: timedelta | None, last_seq: int | None, stored: SeqRanges, closed: bool, termination_owed: bool
) -> bool:
    """Whether what an adapter kept on a host for an attempt, beside the log store, can go.

    At once when its follower read it to the end (the end names `last_seq`) and all of that is stored. What nobody read
    to its end, of work that was reaped or cancelled, stays for `KEPT_FOR`, so that a person can look at it.
    """
    if ended_for is None or not closed or termination_owed:
        return False
    whole = last_seq is not None and not stored.missing(last_seq)
    return whole or ended_for >= KEPT_FOR


class _Line(msgspec.Struct, omit_defaults=True):
    """A chunk as a line: `text` where it is UTF-8, `base64` where it is not."""

    seq: int
    at: str
    stream: str
    text: str | None = None
    base64: bytes | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of an archive: its first number, its last, and its bytes."""

    first_seq: int
    last_seq: int
    data: bytes


_encode = msgspec.json.Encoder().encode
_lines = msgspec.json.Decoder(_Line)


def frames(chunks: Iterable[Chunk]) -> Iterator[Frame]:
    """The archive of these chunks, which are in order; holds one frame in memory at a time."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    lines: list[bytes] = []
    first = last = size = 0
    for chunk in chunks:
        if not lines:
            first = chunk.seq
        lines.append(_line(chunk))
        last = chunk.seq
        size += len(lines[-1])
        if size >= FRAME_BYTES:
            yield Frame(first, last, compressor.compress(b"".join(lines)))
            lines, size = [], 0
    if lines:
        yield Frame(first, last, compressor.compress(b"".join(lines)))


def _line(chunk: Chunk) -> bytes:
    at = chunk.time.isoformat(timespec="milliseconds")
    try:
        line = _Line(chunk.seq, at, chunk.stream, text=chunk.data.decode(), cursor=chunk.cursor)
    except UnicodeDecodeError:
        line = _Line(chunk.seq, at, chunk.stream, base64=chunk.data, cursor=chunk.cursor)
    return _encode(line) + b"\n"


def chunks_of(run_id: UUID, attempt: int, frame: bytes) -> list[Chunk]:
    """The chunks of a frame; raises `ValueError` for bytes that are none."""
    try:
        lines = _lines.decode_lines(zstandard.ZstdDecompressor().decompress(frame))
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise ValueError(type(error).__name__) from None
    return [_chunk(run_id, attempt, line) for line in lines]


def _chunk(run_id: UUID, attempt: int, line: _Line) -> Chunk:
    data = line.base64 if line.text is None else line.text.encode()
    at = milliseconds(datetime.fromisoformat(line.at))
    return Chunk(run_id, attempt, 0, line.seq, line.stream, data or b"", line.cursor, at)
