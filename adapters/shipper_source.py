"""What a shipper sends: a spool that is being shipped, cut into batches, and which of its files may go."""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reprieve.adapters.spool import Spool
from reprieve.adapters.spool_reader import SpoolReader, Stretch
from reprieve.adapters.spool_records import logs_in, read_blocks
from reprieve.models.chunks import Block, LogKey, LogWriter
from reprieve.models.sequences import Range, SeqRanges

logger = logging.getLogger(__name__)

#: A batch is sent when the spool has this many bytes that were not sent.
BATCH_BYTES = 256 * 1024
#: Bytes that are read of the spool at once, where that many wait. A run's output then becomes few large blocks, and a
#: block costs the same however many chunks it holds. Messages stay below BATCH_BYTES all the same, unless one block
#: alone is larger.
READ_BYTES = 8 * 1024 * 1024

#: What the store has of each of these logs.
Stored = Mapping[LogWriter, SeqRanges]
#: What is held of each of these logs: first and last number.
Held = Mapping[LogKey, Range]


def has(stored: Stored, writer: LogWriter, numbers: Range) -> bool:
    """Whether the store has all of these numbers."""
    return writer in stored and stored[writer].covers(*numbers)


@dataclass
class Batch:
    """Blocks that were read of one stretch of a file, and are not all stored yet.

    A batch that may be stored already (it was left, or shipped before) is asked about before it is sent.
    """

    source: "Source"
    number: int
    stretch: Range
    blocks: list[Block]
    may_be_stored: bool = False
    is_new: bool = True
    tries: int = 0
    send_again_at: float = 0.0

    def __post_init__(self) -> None:
        self.size = sum(len(block.payload) for block in self.blocks)
        self.count = sum(block.count for block in self.blocks)
        self.numbers = [(block.writer, (block.first_seq, block.last_seq)) for block in self.blocks]
        self.read_at = time.monotonic()

    def drop_stored(self, stored: Stored) -> None:
        """Forget the blocks that the store has."""
        self.blocks = [one for one in self.blocks if not has(stored, one.writer, (one.first_seq, one.last_seq))]

    @property
    def held(self) -> Iterable[tuple[LogKey, Range]]:
        """What of it the store does not have, as far as is known: log, first and last number."""
        return [(block.key, (block.first_seq, block.last_seq)) for block in self.blocks]


class Source:
    """A spool that is being shipped: what was read of it, and which files have blocks on their way.

    `was_left`: another worker began it, and may have shipped any of it.
    """

    def __init__(self, spool: Spool, *, was_left: bool = False) -> None:
        self.spool = spool
        self.sent = 0
        self._was_left = was_left
        self._reader = SpoolReader(spool, self._keep_if_done)
        self._read: deque[Batch] = deque()
        self._again: deque[tuple[int, Range]] = deque()
        self._on_their_way: Counter[int] = Counter()
        self._pins: Counter[int] = Counter()
        self._to_keep: set[int] = set()
        self._logs_in: dict[int, Held] = {}

    @property
    def is_behind(self) -> bool:
        """Whether the next batch is there already: more had been written than was read at once."""
        return bool(self._read or self._again) or self._reader.is_behind

    @property
    def is_shipped(self) -> bool:
        """Whether the store has all of it. Only of a spool that is no longer written."""
        return not (self.spool.numbers or self._on_their_way.total())

    def next_batch(self) -> Batch | None:
        """The next blocks, of one file; None when everything that is written has been read."""
        if self._again and not self._read:
            self._read_once_more()
        while not self._read and (stretch := self._reader.next(READ_BYTES)) is not None:
            self._take(stretch, may_be_stored=self._was_left)
        return self._read.popleft() if self._read else None

    def _take(self, stretch: Stretch, *, may_be_stored: bool, is_new: bool = True) -> None:
        number, where, blocks = stretch
        batches = [Batch(self, number, where, part, may_be_stored, is_new) for part in _messages(blocks)]
        self._read.extend(batches)
        self._on_their_way[number] += len(batches)

    def arrived(self, batch: Batch) -> None:
        """The store has all of a batch."""
        self._on_their_way[batch.number] -= 1
        self._keep_if_done(batch.number)

    def _keep_if_done(self, number: int) -> None:
        if number != self._reader.reading and not self._on_their_way[number]:
            del self._on_their_way[number]
            self._to_keep.add(number)
        self.put_aside()

    def put_aside(self) -> None:
        """Put aside the files that the store has all of. Where that fails, it is tried again at the next turn."""
        for number in list(self._to_keep):
            try:
                if number in self.spool.numbers:
                    self.spool.keep(number)
                if not self._pins[number]:
                    self.spool.forget(number)
                    del self._pins[number]
            except OSError as error:
                logger.error("A file of the spool %s could not be put aside yet: %s", self.spool.folder, error)
                continue
            self._to_keep.discard(number)
            self._logs_in.pop(number, None)

    # -- what was shipped

    def pin(self, number: int) -> None:
        """Keep a file for as long as it may have to be read again."""
        self._pins[number] += 1

    def unpin(self, number: int) -> None:
        self._pins[number] -= 1
        if not self._on_their_way[number] and number not in self.spool.numbers:
            self._to_keep.add(number)
            self.put_aside()

    def read_again(self, number: int, where: Range) -> None:
        """The store has lost what it had of this stretch."""
        self._again.append((number, where))
        self._on_their_way[number] += 1

    def _read_once_more(self) -> None:
        number, (begin, end) = self._again.popleft()
        try:
            blocks, position = read_blocks(self.spool.open(number), begin, end, max_bytes=READ_BYTES)
        except OSError as error:
            logger.error("A shipped file of the spool %s cannot be read again: %s", self.spool.folder, error)
            blocks, position = [], end
        if position < end:
            self.read_again(number, (position, end))
        self._take(Stretch(number, (begin, position), blocks), may_be_stored=True, is_new=False)
        self._on_their_way[number] -= 1
        self._keep_if_done(number)

    # -- what is held

    @property
    def held(self) -> Iterable[tuple[LogKey, Range]]:
        """What is written and was not sent yet: log, first and last number."""
        for batch in self._read:
            yield from batch.held
        for number, (begin, end) in self._again:
            yield from logs_in(self.spool.open(number), begin, end).items()
        reader = self._reader
        for number in self.spool.numbers:
            if number > reader.number:
                yield from self._logs_of(number).items()
            elif number == reader.number and reader.position < (end := self.spool.end(number)):
                yield from logs_in(self.spool.open(number), reader.position, end).items()

    def _logs_of(self, number: int) -> Held:
        if number in self._logs_in:
            return self._logs_in[number]
        logs = logs_in(self.spool.open(number), 0, self.spool.end(number))
        if self.spool.is_filled(number):
            self._logs_in[number] = logs
        return logs


def _messages(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """These blocks, as many to a message as BATCH_BYTES allows."""
    message: list[Block] = []
    size = 0
    for block in blocks:
        if message and size + len(block.payload) > BATCH_BYTES:
            yield message
            message, size = [], 0
        message.append(block)
        size += len(block.payload)
    if message:
        yield message
