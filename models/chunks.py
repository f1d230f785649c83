"""Chunks of output, and the one message that carries many of them.

A chunk is checked where it is made: a bad one fails in `on_log`, not in a worker far away. The message is versioned
and made of plain lists, numbers and bytes (MessagePack), so that any byte is legal and no character can be torn.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from models.errors import InvalidChunk, InvalidMessage
from models.work import Token

#: A larger chunk is split, not dropped: it bounds a row, a message and a reader's memory.
MAX_CHUNK_BYTES = 64 * 1024

#: Characters of a cursor; it is stored with every chunk.
MAX_CURSOR_LENGTH = 256

#: The form of the message. Readers accept every version that any supported release sends.
MESSAGE_VERSION = 1

_STREAM_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one stream of one attempt.

    `cursor` is the adapter's own place in its source after this chunk, in its own words: a byte offset, a timestamp.
    """

    run_id: UUID
    attempt: int
    epoch: int
    seq: int
    stream: str
    data: bytes
    cursor: str | None = None

    @property
    def token(self) -> Token:
        return Token(self.run_id, self.epoch)


def split_output(stream: str, output: bytes | str) -> Iterator[bytes]:
    """The pieces, none larger than `MAX_CHUNK_BYTES`, that `output` is stored as; none for empty output.

    Raises `InvalidChunk` naming the argument that cannot be stored.
    """
    if not isinstance(stream, str) or not _STREAM_NAME.fullmatch(stream):
        raise InvalidChunk(f"on_log: stream {stream!r} is no name; use lower-case letters, digits, '-' and '_'.")
    if isinstance(output, str):
        output = _encoded(output)
    if not isinstance(output, bytes | bytearray | memoryview):
        raise InvalidChunk(f"on_log: chunk is of type {type(output).__name__}; give bytes or str.")
    view = memoryview(output).cast("B")
    return (bytes(view[start : start + MAX_CHUNK_BYTES]) for start in range(0, len(view), MAX_CHUNK_BYTES))


def _encoded(text: str) -> bytes:
    """Text that Python made of undecodable bytes becomes those bytes again."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidChunk("on_log: chunk holds half a surrogate pair, which is no text; give the bytes.") from None


def check_cursor(cursor: object) -> None:
    """Raises `InvalidChunk` for a cursor that a message or the store could not hold."""
    if cursor is None:
        return
    if not isinstance(cursor, str) or len(cursor) > MAX_CURSOR_LENGTH or not cursor.isprintable():
        raise InvalidChunk(f"on_log: cursor must be printable text of at most {MAX_CURSOR_LENGTH} characters, or None.")


def encode_batch(chunks: Sequence[Chunk]) -> dict[str, Any]:
    """The message for these chunks: each run named once, its chunks in the order given."""
    by_run: dict[tuple[UUID, int, int], list[list[Any]]] = {}
    for chunk in chunks:
        entries = by_run.setdefault((chunk.run_id, chunk.attempt, chunk.epoch), [])
        entries.append([chunk.seq, chunk.stream, chunk.data, chunk.cursor])
    runs = [[run_id.bytes, attempt, epoch, entries] for (run_id, attempt, epoch), entries in by_run.items()]
    return {"version": MESSAGE_VERSION, "runs": runs}


def decode_batch(message: Any) -> list[Chunk]:
    """The chunks of a message; raises `InvalidMessage`, which quotes nothing of it, when its form is unknown."""
    version = message.get("version") if isinstance(message, dict) else None
    if version != MESSAGE_VERSION:
        told = version if version is None or isinstance(version, int) else f"({type(version).__name__})"
        raise InvalidMessage(f"A log message of version {told}; this worker reads version {MESSAGE_VERSION}.")
    try:
        return [
            _chunk(run_id, attempt, epoch, *entry)
            for run_id, attempt, epoch, entries in message["runs"]
            for entry in entries
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidMessage(f"A log message that is not of its version's form ({type(error).__name__}).") from None


def _chunk(run_id: Any, attempt: Any, epoch: Any, seq: Any, stream: Any, data: Any, cursor: Any) -> Chunk:
    """Raises `TypeError` for what this version never sends; Python would turn a number into so many zero bytes."""
    numbers = all(type(number) is int for number in (attempt, epoch, seq))
    if not (numbers and isinstance(run_id, bytes) and isinstance(stream, str) and isinstance(data, bytes)):
        raise TypeError
    if not isinstance(cursor, str | None):
        raise TypeError
    return Chunk(UUID(bytes=run_id), attempt, epoch, seq, stream, data, cursor)


def describe_batch(chunks: Sequence[Chunk]) -> str:
    """What Flower and a log line may show of a message: runs, attempts, sequence ranges and size; never its text."""
    ordered = sorted(chunks, key=lambda chunk: (chunk.run_id, chunk.attempt, chunk.seq))
    runs = [list(group) for _, group in groupby(ordered, key=lambda chunk: (chunk.run_id, chunk.attempt))]
    size = sum(len(chunk.data) for chunk in chunks)
    first = runs[0] if runs else []
    shown = f"{first[0].run_id} attempt {first[0].attempt} seq {first[0].seq}-{first[-1].seq}" if first else "no chunk"
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return f"({shown}{more}: {len(chunks)} chunks, {size} bytes)"


def contiguous(after_seq: int, chunks: Iterable[Chunk]) -> list[Chunk]:
    """The chunks that follow `after_seq` without a gap; `chunks` are of one attempt, in order of sequence number.

    Workers commit batches in any order, so a reader that skipped a gap would never show what fills it.
    """
    result = []
    for chunk in chunks:
        if chunk.seq != after_seq + 1:
            break
        result.append(chunk)
        after_seq = chunk.seq
    return result
