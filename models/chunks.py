"""Output on its way to the store: chunks, and the blocks in which they travel and are kept.

A chunk is checked and encoded once, where it is made (`on_log`): a bad one fails there, not in a worker far away.
From then on its bytes are only copied. The chunks of one attempt that follow each other are a *block*: a MessagePack
array of `[time, stream, data, cursor]`, compressed with zstd where that pays. Spool, message and store all hold
blocks or parts of them, so that what a chunk costs is what `on_log` costs.

MessagePack, so that any byte is legal and no character can be torn.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Annotated
from uuid import UUID

import msgspec
import zstandard

from reprieve.models.errors import InvalidBlock, InvalidChunk
from reprieve.models.sequences import Range, SeqRanges
from reprieve.models.work import Fence

#: One attempt's log.
LogKey = tuple[UUID, int]
#: One writer of it: run, attempt, epoch.
LogWriter = tuple[UUID, int, int]

#: A larger chunk is split, not dropped: it bounds a block, a message and a reader's memory.
MAX_CHUNK_BYTES = 64 * 1024

#: Characters of a cursor; it is stored with its chunk.
MAX_CURSOR_LENGTH = 256

#: A block that claims to be larger than this when unpacked is refused: no message may fill a worker's memory.
MAX_BLOCK_BYTES = 16 * 1024 * 1024

#: The times that a chunk may have, in milliseconds since 1970: the years 1 to 9999, which all readers can show.
MIN_TIME, MAX_TIME = -62_135_596_800_000, 253_402_300_799_999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Level of compression: the fastest, which loses little on the small blocks that logs come in.
ZSTD_LEVEL = 1
#: Bytes below which compression does not pay.
COMPRESS_FROM = 256

#: A stream's name, as a pattern for all of it.
STREAM_NAME = r"^[a-z][a-z0-9_-]{0,31}$"
_STREAM_NAME = re.compile(STREAM_NAME.strip("^$"))

#: The first byte of a MessagePack array with a 32-bit length; a zstd frame never begins with it.
_ARRAY = b"\xdd"

#: Time in milliseconds since 1970 by the worker's clock (to be shown, never to decide), stream, data, cursor.
Record = tuple[int, str, bytes, str | None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one stream of one attempt.

    `cursor` is where the adapter is in its source after this chunk, in its own words: a byte offset, a timestamp.
    """

    run_id: UUID
    attempt: int
    epoch: int
    seq: int
    stream: str
    data: bytes
    cursor: str | None = None
    at: int = 0

    @property
    def text(self) -> str | None:
        """Its data as text; None where it is not UTF-8."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return None

    @property
    def time(self) -> datetime:
        """Its time, to be shown; of a time that no calendar has (an earlier release took it), the nearest one."""
        return _EPOCH + timedelta(milliseconds=min(max(self.at, MIN_TIME), MAX_TIME))


def milliseconds(time: datetime) -> int:
    """What a time is as a chunk has it."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Block:
    """The chunks `first_seq` to `last_seq` of one attempt, encoded."""

    run_id: UUID
    attempt: int
    epoch: int
    first_seq: int
    last_seq: int
    payload: bytes

    @property
    def fence(self) -> Fence:
        return Fence(self.run_id, self.epoch)

    @property
    def key(self) -> LogKey:
        """The log that it is part of: run and attempt."""
        return self.run_id, self.attempt

    @property
    def writer(self) -> LogWriter:
        """Who wrote it: run, attempt and epoch."""
        return self.run_id, self.attempt, self.epoch

    @property
    def count(self) -> int:
        return self.last_seq - self.first_seq + 1

    def chunks(self) -> list[Chunk]:
        """Its chunks, in order; raises `InvalidBlock`, which quotes nothing of it."""
        records = _unpacked(self)
        return [
            Chunk(self.run_id, self.attempt, self.epoch, seq, stream, data, cursor, at)
            for seq, (at, stream, data, cursor) in enumerate(records, start=self.first_seq)
        ]

    def check(self) -> None:
        """Raises `InvalidBlock` for a block with anything that a reader could not decode, or not show."""
        records = _unpacked(self, _strictly)
        for stream in {record[1] for record in records}:
            if not _STREAM_NAME.fullmatch(stream):
                raise InvalidBlock("a chunk of it has a stream that is no name of one")
        for cursor in {record[3] for record in records}:
            if cursor is not None and not cursor.isprintable():
                raise InvalidBlock("a chunk of it has a cursor that is no printable text")

    def cut(self, wanted: SeqRanges) -> "list[Block]":
        """The parts of it that are in `wanted`: itself, if that is all of it."""
        if wanted.covers(self.first_seq, self.last_seq):
            return [self]
        parts = wanted.within(self.first_seq, self.last_seq)
        if not parts:
            return []
        chunks = self.chunks()
        return [self._part(chunks, part) for part in parts]

    def _part(self, chunks: Sequence[Chunk], part: Range) -> "Block":
        first, last = part
        records = [encode_record(one) for one in chunks[first - self.first_seq : last - self.first_seq + 1]]
        return replace(self, first_seq=first, last_seq=last, payload=pack(records))


class _Codecs(threading.local):
    """zstd's contexts serve one thread at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor()


_codecs = _Codecs()
#: What is stored is read as it is: an earlier release may have taken what this release refuses.
_leniently = msgspec.msgpack.Decoder(list[Record])
#: What `on_log` gives, and nothing else: the door for what other senders send.
_strictly = msgspec.msgpack.Decoder(
    list[
        tuple[
            Annotated[int, msgspec.Meta(ge=MIN_TIME, le=MAX_TIME)],
            Annotated[str, msgspec.Meta(max_length=32)],
            Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNK_BYTES)],
            Annotated[str, msgspec.Meta(max_length=MAX_CURSOR_LENGTH)] | None,
        ]
    ]
)
_encoder = msgspec.msgpack.Encoder()

#: A chunk's record, encoded; what `pack` makes blocks of.
encode = _encoder.encode


def encode_record(chunk: Chunk) -> bytes:
    return encode((chunk.at, chunk.stream, chunk.data, chunk.cursor))


def pack(records: Sequence[bytes]) -> bytes:
    """The payload of a block with these records."""
    packed = b"".join((_ARRAY, len(records).to_bytes(4, "big"), *records))
    if len(packed) < COMPRESS_FROM:
        return packed
    compressed = _codecs.compressor.compress(packed)
    return compressed if len(compressed) < len(packed) else packed


def _unpacked(block: Block, decoder: "msgspec.msgpack.Decoder[list[Record]]" = _leniently) -> list[Record]:
    try:
        records = decoder.decode(_decompressed(block.payload))
    except msgspec.ValidationError as error:
        # It names the field and the bound, and quotes no value.
        raise InvalidBlock(f"a part of it is not what a chunk may have ({error})") from None
    except (msgspec.MsgspecError, zstandard.ZstdError) as error:
        raise InvalidBlock(f"it cannot be unpacked ({type(error).__name__})") from None
    if len(records) != block.count:
        raise InvalidBlock(f"it holds {len(records)} chunks, not {block.count}")
    return records


def _decompressed(payload: bytes) -> bytes:
    if payload.startswith(_ARRAY):
        return payload
    size = zstandard.frame_content_size(payload)
    if not 0 <= size <= MAX_BLOCK_BYTES:
        raise InvalidBlock("it is no MessagePack array, or one that is too large")
    return _codecs.decompressor.decompress(payload)


def blocks_of(chunks: Iterable[Chunk]) -> list[Block]:
    """These chunks as blocks; of a number that comes twice, the first counts."""
    unique: dict[tuple[UUID, int, int, int], Chunk] = {}
    for chunk in chunks:
        unique.setdefault((chunk.run_id, chunk.attempt, chunk.epoch, chunk.seq), chunk)
    ordered = sorted(unique.items(), key=lambda item: item[0])
    blocks = []
    for _, group in groupby(enumerate(ordered), key=lambda item: (*item[1][0][:3], item[1][0][3] - item[0])):
        run = [chunk for _, (_, chunk) in group]
        first = run[0]
        payload = pack([encode_record(chunk) for chunk in run])
        blocks.append(Block(first.run_id, first.attempt, first.epoch, first.seq, run[-1].seq, payload))
    return blocks


def put_together(blocks: Sequence[Block], max_bytes: int) -> list[Block]:
    """The chunks of these blocks, which do not overlap, in as few blocks as their numbers allow.

    The blocks themselves where their chunks are more than `max_bytes`. What is returned has been unpacked again, and
    compared. Raises `InvalidBlock`.
    """
    chunks = [chunk for block in blocks for chunk in block.chunks()]
    if sum(len(chunk.data) for chunk in chunks) > max_bytes:
        return list(blocks)
    made = blocks_of(chunks)
    if [chunk for block in made for chunk in block.chunks()] != sorted(chunks, key=lambda chunk: chunk.seq):
        raise InvalidBlock("it is unpacked as something else than was packed")
    return made


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
    """The blocks of a log that would each leave another gap in it."""
    return [one for one in blocks if not stored.within(one.first_seq - 1, one.last_seq + 1)]


def check_stream(stream: object) -> None:
    """Raises `InvalidChunk` for what is no name of a stream."""
    if not isinstance(stream, str) or not _STREAM_NAME.fullmatch(stream):
        raise InvalidChunk(f"on_log: stream {stream!r} is no name; use lower-case letters, digits, '-' and '_'.")


def split_output(output: bytes | str) -> Sequence[bytes]:
    """The pieces, none larger than `MAX_CHUNK_BYTES`, that `output` is stored as; none for empty output.

    Raises `InvalidChunk` for what is neither bytes nor text.
    """
    if isinstance(output, str):
        output = _encoded(output)
    if not isinstance(output, bytes | bytearray | memoryview):
        raise InvalidChunk(f"on_log: chunk is of type {type(output).__name__}; give bytes or str.")
    view = memoryview(output).cast("B")
    return [bytes(view[start : start + MAX_CHUNK_BYTES]) for start in range(0, len(view), MAX_CHUNK_BYTES)]


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
