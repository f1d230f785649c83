"""The form of an archive: one object per log, NDJSON with a line per chunk, in zstd frames that follow each other.

Any zstd reads it as one stream (`zstdcat log.ndjson.zst | jq`). A reader that wants a part begins at the frame that
has it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
import zstandard

from reprieve.models.chunks import Chunk, milliseconds

#: Bytes of lines in a frame: what a reader unpacks to show the first of them.
FRAME_BYTES = 1024 * 1024
#: Level of compression: archives are written once, and nobody waits for that.
LEVEL = 6


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
    """The archive of these chunks, which come in order. Holds one frame in memory at a time."""
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
    at, text = chunk.time.isoformat(timespec="milliseconds"), chunk.text
    return _encode(_Line(chunk.seq, at, chunk.stream, text, chunk.data if text is None else None, chunk.cursor)) + b"\n"


def chunks_of(run_id: UUID, attempt: int, frame: bytes) -> list[Chunk]:
    """The chunks of a frame; raises `ValueError` for bytes that are no frame."""
    try:
        lines = _lines.decode_lines(zstandard.ZstdDecompressor().decompress(frame))
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise ValueError(type(error).__name__) from None
    return [_chunk(run_id, attempt, line) for line in lines]


def _chunk(run_id: UUID, attempt: int, line: _Line) -> Chunk:
    data = line.base64 if line.text is None else line.text.encode()
    at = milliseconds(datetime.fromisoformat(line.at))
    return Chunk(run_id, attempt, 0, line.seq, line.stream, data or b"", line.cursor, at)
