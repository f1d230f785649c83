"""The shipper: carries the output of all of a worker's runs from the spool to the log store.

`add` writes a chunk to the spool and returns. A thread reads the spool, sends what it finds in batches, and gives a
file of the spool back when the *store* has all of it. That the broker took a message means nothing (Celery #4354: a
worker that dies between taking and recording one loses it); what the store has not acknowledged after a while is sent
again. Only so much is on its way at once: the rest waits on disk, not in the broker's memory.

A spool that a killed worker left on this host is shipped beside our own: at the start, and whenever one is found.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from uuid import UUID

from prometheus_client import Counter as Count
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential,
    wait_fixed,
)

from adapters.spool import DISK_INTERVAL, FILE_BYTES, SPOOL_BYTES, Spool, SpooledLog, read_blocks, take_over
from models.chunks import Block
from models.faults import is_unfit
from models.sequences import SeqRanges

logger = logging.getLogger(__name__)

#: A batch is sent when the spool has this many bytes that were not sent …
BATCH_BYTES = 256 * 1024
#: … or when the first of them have waited for this many seconds.
BATCH_AGE = 0.2
#: Bytes that are read of the spool at once, where so many wait. The output of a run then becomes few and large blocks,
#: and a block costs the same however many chunks it holds. Messages stay below BATCH_BYTES as they are sent, but for
#: one that is a single block.
READ_BYTES = 8 * 1024 * 1024
#: Bytes of messages that may be on their way, unacknowledged, at once.
WINDOW_BYTES = 32 * 1024 * 1024
#: Seconds between two questions to the store.
ASK_INTERVAL = 0.2
#: Seconds after which a batch that the store does not have is sent again, then after twice as long, and so on …
RESEND_AFTER = 15.0
#: … up to this many doublings (4 minutes): a long backlog must not fill the broker with repeated messages, and what a
#: lost message carried must be there again within a window of the reaper's.
RESEND_DOUBLINGS = 4
#: Seconds between two looks for spools that a killed worker left.
TAKE_OVER_INTERVAL = 10.0

RESENT = Count("reprieve_log_batches_resent", "Batches of output that were sent again, unacknowledged by the store.")

#: A writer of a log: run, attempt, epoch.
Source = tuple[UUID, int, int]
Publish = Callable[[Sequence[Block]], None]
Stored = Callable[[Iterable[Source]], Mapping[Source, SeqRanges]]


@dataclass
class _Batch:
    """Blocks that were read of one file, and are not all stored yet."""

    source: "_Source"
    number: int
    blocks: list[Block]
    size: int = 0
    tries: int = 0
    send_again_at: float = 0.0

    def __post_init__(self) -> None:
        self.size = sum(len(block.payload) for block in self.blocks)
        self.count = sum(block.count for block in self.blocks)

    def drop_stored(self, stored: Mapping[Source, SeqRanges]) -> None:
        """Forget the blocks that the store has."""
        nothing = SeqRanges()
        self.blocks = [
            one for one in self.blocks if not stored.get(one.source, nothing).covers(one.first_seq, one.last_seq)
        ]


class _Source:
    """A spool that is being shipped: where reading has come to, and which files have blocks on their way."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.sent = 0
        self._on_their_way: Counter[int] = Counter()
        self._number = 0
        self._place = 0
        self._data: mmap | None = None
        self._read: deque[_Batch] = deque()
        self._more_was_written = False
        self._to_give_back: set[int] = set()

    @property
    def is_behind(self) -> bool:
        """Whether the next batch is there already: more had been written than was read at once."""
        return bool(self._read) or self._more_was_written

    def next_batch(self) -> _Batch | None:
        """The next blocks, of one file; None when everything that is written has been read."""
        while (data := self._data or self._open_next()) is not None:
            if self._read:
                return self._read.popleft()
            # In this order: what is written up to the moment at which a file is filled is then read too.
            filled, end = self.spool.is_filled(self._number), self.spool.end(self._number)
            if self._place < end:
                blocks, self._place = read_blocks(data, self._place, end, max_bytes=READ_BYTES)
                self._more_was_written = filled or self._place < end
                self._read.extend(_Batch(self, self._number, part) for part in _messages(blocks))
                self._on_their_way[self._number] += len(self._read)
            elif filled:
                self._data = None
                self._give_back_if_done(self._number)
            else:
                return None
        return None

    def _open_next(self) -> mmap | None:
        number = next((one for one in self.spool.numbers if one > self._number), None)
        if number is not None:
            self._number, self._place, self._data = number, 0, self.spool.open(number)
        return self._data

    def arrived(self, batch: _Batch) -> None:
        """The store has all of a batch."""
        self._on_their_way[batch.number] -= 1
        self._give_back_if_done(batch.number)

    def _give_back_if_done(self, number: int) -> None:
        being_read = number == self._number and self._data is not None
        if not being_read and not self._on_their_way[number]:
            del self._on_their_way[number]
            self._to_give_back.add(number)
        self.give_back()

    def give_back(self) -> None:
        """Delete the files that the store has all of. One that cannot be deleted just now is tried at the next turn."""
        for number in list(self._to_give_back):
            try:
                self.spool.give_back(number)
            except OSError as error:
                logger.error("A file of the spool %s is not deleted yet: %s", self.spool.folder, error)
                return
            self._to_give_back.discard(number)


def _messages(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """These blocks, so many to a message as BATCH_BYTES allows."""
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


class LogShipper:
    """One per worker process.

    `root` is the folder of this host's spools. `publish` sends one batch, and raises when the broker does not take it;
    `stored` says what the store has of each of these logs. A spool may occupy `limit` bytes.
    """

    def __init__(
        self, root: Path, publish: Publish, stored: Stored, *, limit: int = SPOOL_BYTES, file_bytes: int = FILE_BYTES
    ) -> None:
        self._root = root
        self._publish = publish
        self._stored = stored
        self._limit = limit
        self._file_bytes = file_bytes
        self._lock = threading.Lock()
        self._own: _Source | None = None
        self._left: list[_Source] = []
        self._on_their_way: deque[_Batch] = deque()
        self._bytes_on_their_way = 0
        self._unnoticed = 0
        self._ask_at = 0.0
        self._take_over_at = 0.0
        self._wake = threading.Event()
        self._turned = threading.Condition()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ship what earlier workers left on this host; our own spool is made with its first chunk."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="log-shipper", daemon=True)
                thread.start()
                self._thread = thread

    def add(self, log: SpooledLog, chunks: Sequence[bytes]) -> None:
        """Number encoded chunks and take them over: in the spool when this returns.

        Blocks while that is full, and while the system lets us make none: too few descriptors, a full disk.
        """
        own = self._own or self._begin()
        own.spool.append(log, chunks)
        # Only a hint, so two threads may miscount it: whatever is there is shipped when BATCH_AGE has passed.
        self._unnoticed += len(chunks[0]) * len(chunks)
        if self._unnoticed >= BATCH_BYTES:
            self._unnoticed = 0
            self._wake.set()

    def _begin(self) -> _Source:
        retrying = Retrying(
            retry=retry_if_exception(is_unfit), wait=wait_fixed(DISK_INTERVAL), before_sleep=_log_no_spool
        )
        return retrying(self._try_to_begin)

    def _try_to_begin(self) -> _Source:
        self.start()
        with self._lock:
            if self._own is None:
                self._own = _Source(Spool.create(self._root, limit=self._limit, file_bytes=self._file_bytes))
            return self._own

    def flush(self, timeout: float) -> bool:
        """Send what was added so far, without waiting for its time; False if that took too long (seconds)."""
        own = self._own
        if own is None:
            return True
        wanted = own.spool.appended
        self._wake.set()
        with self._turned:
            return self._turned.wait_for(lambda: own.sent >= wanted, timeout)

    def close(self, timeout: float) -> bool:
        """Ship, and end; False when the store has not got everything in time (seconds): the rest stays on disk."""
        self._wake.set()
        with self._turned:
            stored = self._turned.wait_for(self._is_done, timeout) if self._thread else True
        self._closed.set()
        self._wake.set()
        if self._thread:
            self._thread.join(timeout=30)
        for source in self._sources:
            source.spool.fill_no_more()
            if stored:
                source.next_batch()  # Nothing to read: the last file is given back.
            source.spool.close()
        return stored

    def _is_done(self) -> bool:
        unsent = self._own is not None and self._own.sent < self._own.spool.appended
        return not (unsent or self._on_their_way or self._left)

    # -- the thread

    def _run(self) -> None:
        behind = False
        while not self._closed.is_set():
            if not behind:
                self._wake.wait(BATCH_AGE)
                self._wake.clear()
            try:
                behind = self._turn()
            except Exception:
                if self._closed.is_set():
                    return  # What could not be sent stays on disk; `close` says so.
                logger.exception("The shipper failed; it goes on in a moment.")
                behind = False
                self._closed.wait(1)
            with self._turned:
                self._turned.notify_all()

    def _turn(self) -> bool:
        """Send a batch of each spool, and see to what else is due; returns whether the next ones are there already.

        No more than one: output that never pauses must neither keep lost batches from being sent again, nor be cut
        into ever smaller ones.
        """
        self._take_over()
        behind = False
        for source in self._sources:
            source.give_back()
            if self._bytes_on_their_way < WINDOW_BYTES and (batch := source.next_batch()):
                self._on_their_way.append(batch)
                self._bytes_on_their_way += batch.size
                self._send(batch)
                source.sent += batch.count
                behind = behind or source.is_behind
        self._ask()
        for batch in [one for one in self._on_their_way if time.monotonic() >= one.send_again_at]:
            RESENT.inc()
            self._send(batch)
        return behind

    @property
    def _sources(self) -> list[_Source]:
        return [self._own, *self._left] if self._own else list(self._left)

    def _take_over(self) -> None:
        """Look for spools that nobody holds, and let go of those that are shipped."""
        for source in [one for one in self._left if not one.spool.numbers]:
            source.spool.close()
            self._left.remove(source)
        if time.monotonic() >= self._take_over_at:
            self._take_over_at = time.monotonic() + TAKE_OVER_INTERVAL
            for spool in take_over(self._root):
                logger.warning("Shipping what an earlier worker left in %s.", spool.folder)
                self._left.append(_Source(spool))

    def _send(self, batch: _Batch) -> None:
        """Have the broker take a batch, for as long as that takes; raises when we are closed before it does."""
        retrying = Retrying(
            wait=wait_exponential(multiplier=0.2, max=10),
            stop=stop_when_event_set(self._closed),
            sleep=sleep_using_event(self._closed),
            before_sleep=_log_retry,
            reraise=True,
        )
        retrying(self._publish, batch.blocks)
        batch.send_again_at = time.monotonic() + RESEND_AFTER * 2 ** min(batch.tries, RESEND_DOUBLINGS)
        batch.tries += 1

    def _ask(self) -> None:
        """Ask the store what it has, and forget that."""
        if not self._on_their_way or time.monotonic() < self._ask_at:
            return
        stored = self._stored({block.source for batch in self._on_their_way for block in batch.blocks})
        for batch in self._on_their_way:
            batch.drop_stored(stored)
        arrived = [batch for batch in self._on_their_way if not batch.blocks]
        self._on_their_way = deque(batch for batch in self._on_their_way if batch.blocks)
        for batch in arrived:
            self._bytes_on_their_way -= batch.size
            batch.source.arrived(batch)
        self._ask_at = time.monotonic() + ASK_INTERVAL


def _log_no_spool(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.error("Output waits: there can be no spool just now (try %d): %s", state.attempt_number, error)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.error("The broker did not take a batch of output (try %d): %s", state.attempt_number, error)
