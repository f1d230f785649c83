"""The form of a spool's file: records, one after the other, and how they are read back as blocks.

Each chunk is one record, a MessagePack array: a marker, a CRC-32, run with attempt and epoch, number, encoded chunk.
What a power cut damaged is passed over up to the next marker, so that it costs the damaged record and no other.
"""

import logging
import mmap
import re
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID
from zlib import crc32

import msgpack
import msgspec

from reprieve.adapters.metrics import counter
from reprieve.models.chunks import MAX_CHUNK_BYTES, Block, LogKey, pack
from reprieve.models.sequences import Range, spans

logger = logging.getLogger(__name__)

#: Bytes of chunks at which a block is complete.
BLOCK_BYTES = 256 * 1024
#: The largest record: a whole chunk, its cursor and its framing.
LARGEST = MAX_CHUNK_BYTES + 4096
#: No record is larger than its encoded chunk and this.
FRAMING = 64

#: What a record begins with: after damage, a reader finds the next record by it.
_MARKER = b"\xf5\x9dR\xa7"
_RECORD_BEGINS = b"\x95\xc4\x04" + _MARKER
_KEY = struct.Struct("<16sIQ")

_encode = msgspec.msgpack.Encoder().encode

DAMAGED = counter("reprieve_spool_damaged_records", "Records of a spool that were damaged and passed over.")


def pack_key(run_id: UUID, attempt: int, epoch: int) -> bytes:
    """Whose a record is, as records have it."""
    return _KEY.pack(run_id.bytes, attempt, epoch)


def encode_record(key: bytes, seed: int, seq: int, chunk: bytes) -> bytes:
    """The record of a chunk; `seed` is the CRC-32 of the key."""
    return _encode((_MARKER, crc32(chunk, seed + seq), key, seq, chunk))


@dataclass(slots=True)
class _Pending:
    """The chunks of one attempt that follow each other, on their way to becoming a block."""

    key: bytes
    seed: int
    first_seq: int
    next_seq: int
    size: int = 0
    chunks: list[bytes] = field(default_factory=list)

    def block(self) -> Block:
        run_id, attempt, epoch = _KEY.unpack(self.key)
        return Block(UUID(bytes=run_id), attempt, epoch, self.first_seq, self.next_seq - 1, pack(self.chunks))


#: A number as MessagePack writes it, and a record up to its number.
_NUMBER = rb"[\x00-\x7f]|\xcc.|\xcd..|\xce.{4}|\xcf.{8}"
_HEAD = re.compile(
    rb"%b(?:%b)\xc4%c(.{%d})(%b)" % (re.escape(_RECORD_BEGINS), _NUMBER, _KEY.size, _KEY.size, _NUMBER), re.DOTALL
)


def logs_in(data: mmap.mmap, position: int, end: int) -> dict[LogKey, Range]:
    """First and last number of the logs that have records between these positions, without reading the chunks."""
    found: dict[bytes, tuple[bytes, bytes]] = {}
    for key, number in _HEAD.findall(memoryview(data)[position:end]):
        found[key] = (found[key][0] if key in found else number, number)
    return spans((_log_of(key), (_number(first), _number(last))) for key, (first, last) in found.items())


def _log_of(key: bytes) -> LogKey:
    run_id, attempt, _ = _KEY.unpack(key)
    return UUID(bytes=run_id), attempt


def _number(encoded: bytes) -> int:
    return int.from_bytes(encoded[1:] or encoded, "big")


def read_blocks(data: mmap.mmap, position: int, end: int, *, max_bytes: int) -> tuple[list[Block], int]:
    """Read on in a file from `position`, at most `max_bytes` (at least one record), or to `end`.

    Returns blocks of up to `max_bytes` and the position after them.
    """
    done: list[_Pending] = []
    pending: dict[bytes, _Pending] = {}
    stretch = min(end, position + max(max_bytes, LARGEST))
    position = _collect(data, position, stretch, pending, done)
    if position < stretch and not (stretch < end and (done or pending)):
        position = _pass_over(data, position, end)
    return [one.block() for one in (*done, *pending.values())], position


def _collect(data: mmap.mmap, position: int, end: int, pending: dict[bytes, _Pending], done: list[_Pending]) -> int:
    """Take the whole records from `position` on; returns where they end."""
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=0)
    unpacker.feed(data[position:end])
    taken = 0
    with suppress(TypeError, ValueError, msgpack.UnpackException):
        for marker, checksum, key, seq, chunk in unpacker:
            waiting = pending.get(key)
            seed = waiting.seed if waiting else crc32(key)
            if marker != _MARKER or crc32(chunk, seed + seq) != checksum:
                break
            if waiting is None or waiting.next_seq != seq or waiting.size > BLOCK_BYTES:
                if waiting is not None:
                    done.append(waiting)
                waiting = pending[key] = _Pending(key, seed, seq, seq)
            waiting.chunks.append(chunk)
            waiting.size += len(chunk)
            waiting.next_seq = seq + 1
            taken = unpacker.tell()
    return position + taken


def _pass_over(data: mmap.mmap, position: int, end: int) -> int:
    """The position of the next whole record after something that is not a record, or the end. Damage is logged."""
    following = position + 1
    while (following := data.find(_RECORD_BEGINS, following, end)) >= 0:
        if _collect(data, following, min(end, following + LARGEST), {}, []) > following:
            break
        following += 1
    if following < 0 and not any(data[position : min(end, position + LARGEST)]):
        return end  # The rest of the file was never written.
    DAMAGED.inc()
    logger.error("A spool file is damaged: what stood at %d is lost.", position)
    return following if following >= 0 else end
