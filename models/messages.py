"""The message that carries output to the store: many blocks, in a form that has a version."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from reprieve.models.chunks import MAX_BLOCK_BYTES, Block, Chunk, blocks_of
from reprieve.models.errors import InvalidMessage
from reprieve.models.sequences import MAX_SEQ

#: The form of the message. Readers accept every version that any supported release sends.
MESSAGE_VERSION = 2

#: Chunks that a block may claim to hold: more do not fit into a block's bytes.
MAX_BLOCK_CHUNKS = MAX_BLOCK_BYTES // 4


def encode_message(blocks: Sequence[Block]) -> dict[str, Any]:
    """The message that carries these blocks."""
    entries = [[one.run_id.bytes, one.attempt, one.epoch, one.first_seq, one.last_seq, one.payload] for one in blocks]
    return {"version": MESSAGE_VERSION, "blocks": entries}


def decode_message(message: Any) -> list[Block]:
    """The blocks of a message; raises `InvalidMessage`, which quotes nothing of it, when its form is unknown."""
    version = message.get("version") if isinstance(message, dict) else None
    try:
        if version == MESSAGE_VERSION:
            return [_block(*entry) for entry in message["blocks"]]
        if version == 1:
            return blocks_of(_chunks_of_version_1(message["runs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidMessage(f"A log message that is not of its version's form ({type(error).__name__}).") from None
    told = version if version is None or isinstance(version, int) else f"({type(version).__name__})"
    raise InvalidMessage(f"A log message of version {told}; this worker reads versions 1 to {MESSAGE_VERSION}.")


def _block(run_id: Any, attempt: Any, epoch: Any, first_seq: Any, last_seq: Any, payload: Any) -> Block:
    """Raises `TypeError` for what this version never sends: `bytes(7)` would be seven zero bytes."""
    numbers = all(type(number) is int for number in (attempt, epoch, first_seq, last_seq))
    if not (numbers and isinstance(run_id, bytes) and isinstance(payload, bytes)):
        raise TypeError
    _check_numbers(attempt, epoch, first_seq, last_seq)
    if last_seq - first_seq >= MAX_BLOCK_CHUNKS:
        raise ValueError
    return Block(UUID(bytes=run_id), attempt, epoch, first_seq, last_seq, payload)


def _check_numbers(attempt: int, epoch: int, first_seq: int, last_seq: int) -> None:
    """Raises `ValueError` for numbers that no row can hold."""
    if not (1 <= attempt < 2**31 and 0 <= epoch < 2**63 and 1 <= first_seq <= last_seq <= MAX_SEQ):
        raise ValueError


def _chunks_of_version_1(runs: Any) -> Iterator[Chunk]:
    """Version 1 named each run once, with a list of `[seq, stream, data, cursor]`."""
    for run_id, attempt, epoch, entries in runs:
        for seq, stream, data, cursor in entries:
            texts = isinstance(stream, str) and isinstance(cursor, str | None)
            numbers = all(type(number) is int for number in (attempt, epoch, seq))
            if not (texts and numbers and isinstance(run_id, bytes) and isinstance(data, bytes)):
                raise TypeError
            _check_numbers(attempt, epoch, seq, seq)
            yield Chunk(UUID(bytes=run_id), attempt, epoch, seq, stream, data, cursor)


def describe(blocks: Sequence[Block]) -> str:
    """What Flower and a log line may show of a message: runs, attempts, sequence ranges and size; never its text."""
    chunks, size = sum(block.count for block in blocks), sum(len(block.payload) for block in blocks)
    first = min(blocks, key=lambda block: (block.key, block.first_seq), default=None)
    if first is None:
        return "(no chunk)"
    shown = f"{first.run_id} attempt {first.attempt} seq {first.first_seq}-{first.last_seq}"
    more = f" and {len(blocks) - 1} more" if len(blocks) > 1 else ""
    return f"({shown}{more}: {chunks} chunks, {size} bytes)"
