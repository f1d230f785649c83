"""The shipper: carries the output of all of a worker's runs from the spool to the log store.

`add` writes a chunk to the spool and returns. A thread reads the spool, sends what it finds in batches, and gives a
file of the spool back when the *store* has all of it. That the broker took a message means nothing (Celery #4354: a
worker that dies between taking and recording one loses it); what the store has not acknowledged after a while is sent
again. Only so much is on its way at once: the rest waits on disk, not in the broker's memory.

A spool that a killed worker left on this host is shipped beside our own: at the start, and whenever one is found.

What the store has may be gone again: a replica takes over that lacks the last commits, or an older copy is restored. So
files are kept for a while after they were shipped, and the store is asked again and again what it has of them. What it
has no longer is sent again.

What is held for more than a moment, the rest of the system is told of (`Hold`): it is late, and not missing.
"""

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from uuid import UUID, uuid4

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

from reprieve.adapters.spool import (
    DISK_INTERVAL,
    FILE_BYTES,
    SPOOL_BYTES,
    Spool,
    SpooledLog,
    logs_in,
    read_blocks,
    take_over,
)
from reprieve.models.chunks import Block, LogWriter
from reprieve.models.faults import is_unfit
from reprieve.models.liveness import SHIP_AGAIN_AFTER, SHIP_AGAIN_DOUBLINGS
from reprieve.models.sequences import Range, SeqRanges

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
#: Seconds between two looks for spools that a killed worker left.
TAKE_OVER_INTERVAL = 10.0
#: Seconds between two questions whether the store still has what was shipped …
CHECK_INTERVAL = 10.0
#: … and how often it has to say so before that is forgotten: 5 minutes of a database that answers, longer than a
#: fail-over takes. While it does not answer, nothing is forgotten.
CHECKS = 30
#: The share of a spool's limit that shipped files may take up beside it: 64 MiB of 1 GiB.
KEPT_SHARE = 1 / 16
#: Seconds for which the oldest output may be held before others are told: it is stored within a second otherwise.
HOLD_AFTER = 2.0
#: Seconds between two tellings, where what is held has changed …
HOLD_INTERVAL = 5.0
#: … and where it has not.
HOLD_RENEWAL = 15.0

RESENT = Count("reprieve_log_batches_resent", "Batches of output that were sent again, unacknowledged by the store.")
LOST = Count("reprieve_log_losses", "Times that the store had lost output again that it had had, as in a fail-over.")

Publish = Callable[[Sequence[Block]], None]
Stored = Callable[[Iterable[LogWriter]], Mapping[LogWriter, SeqRanges]]
#: A log: run, attempt. What a holder holds of each: first and last number.
Held = Mapping[tuple[UUID, int], Range]
Hold = Callable[[UUID, Held], None]


@dataclass
class _Batch:
    """Blocks that were read of one stretch of a file, and are not all stored yet.

    One that may be stored already (it was left, or shipped before) is asked about before it is sent.
    """

    source: "_Source"
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

    def drop_stored(self, stored: Mapping[LogWriter, SeqRanges]) -> None:
        """Forget the blocks that the store has."""
        nothing = SeqRanges()
        self.blocks = [
            one for one in self.blocks if not stored.get(one.writer, nothing).covers(one.first_seq, one.last_seq)
        ]


class _Shipped:
    """What the store had all of within one interval between two checks, and where it lies."""

    def __init__(self) -> None:
        self.places: dict[tuple[_Source, int], list[Range]] = {}
        self._numbers = defaultdict[LogWriter, list[Range]](list)
        self.size = 0
        self.checks = 0

    def add(self, batch: _Batch) -> None:
        stretches = self.places.get((batch.source, batch.number))
        if stretches is None:
            stretches = self.places[batch.source, batch.number] = []
            batch.source.pin(batch.number)
        if batch.stretch not in stretches[-8:]:  # Batches of one stretch arrive together.
            stretches.append(batch.stretch)
            self.size += batch.stretch[1] - batch.stretch[0]
        for source, numbers in batch.numbers:
            self._numbers[source].append(numbers)

    def seal(self) -> None:
        self._numbers = defaultdict(
            list, {source: list(SeqRanges.of(numbers)) for source, numbers in self._numbers.items()}
        )

    @property
    def sources(self) -> Iterable[LogWriter]:
        return self._numbers.keys()

    def is_in(self, stored: Mapping[LogWriter, SeqRanges]) -> bool:
        nothing = SeqRanges()
        return all(
            stored.get(source, nothing).covers(*numbers)
            for source, all_numbers in self._numbers.items()
            for numbers in all_numbers
        )

    def send_again(self) -> None:
        for (source, number), stretches in self.places.items():
            for stretch in stretches:
                source.read_again(number, stretch)

    def forget(self) -> None:
        for source, number in self.places:
            source.unpin(number)


class _Source:
    """A spool that is being shipped: where reading has come to, and which files have blocks on their way.

    `was_left`: another worker began it, and may have shipped any of it.
    """

    def __init__(self, spool: Spool, *, was_left: bool = False) -> None:
        self.spool = spool
        self.sent = 0
        self._was_left = was_left
        self._on_their_way: Counter[int] = Counter()
        self._pins: Counter[int] = Counter()
        self._number = 0
        self._place = 0
        self._data: mmap | None = None
        self._read: deque[_Batch] = deque()
        self._more_was_written = False
        self._again: deque[tuple[int, Range]] = deque()
        self._to_keep: set[int] = set()
        self._logs_in: dict[int, Held] = {}

    @property
    def is_behind(self) -> bool:
        """Whether the next batch is there already: more had been written than was read at once."""
        return bool(self._read or self._again) or self._more_was_written

    @property
    def is_shipped(self) -> bool:
        """Whether there is nothing in it that the store does not have, of one that is written no more."""
        return not (self.spool.numbers or self._on_their_way.total())

    def next_batch(self) -> _Batch | None:
        """The next blocks, of one file; None when everything that is written has been read."""
        if self._again and not self._read:
            self._read_once_more()
        while not self._read and (data := self._data or self._open_next()) is not None:
            # In this order: what is written up to the moment at which a file is filled is then read too.
            filled, end = self.spool.is_filled(self._number), self.spool.end(self._number)
            if self._place < end:
                begin = self._place
                blocks, self._place = read_blocks(data, begin, end, max_bytes=READ_BYTES)
                self._more_was_written = filled or self._place < end
                self._take(self._number, (begin, self._place), blocks, may_be_stored=self._was_left)
            elif filled:
                self._data = None
                self._keep_if_done(self._number)
            else:
                return None
        return self._read.popleft() if self._read else None

    def _take(
        self, number: int, stretch: Range, blocks: list[Block], *, may_be_stored: bool, is_new: bool = True
    ) -> None:
        batches = [_Batch(self, number, stretch, part, may_be_stored, is_new) for part in _messages(blocks)]
        self._read.extend(batches)
        self._on_their_way[number] += len(batches)

    def _open_next(self) -> mmap | None:
        number = next((one for one in self.spool.numbers if one > self._number), None)
        if number is not None:
            self._number, self._place, self._data = number, 0, self.spool.open(number)
        return self._data

    def arrived(self, batch: _Batch) -> None:
        """The store has all of a batch."""
        self._on_their_way[batch.number] -= 1
        self._keep_if_done(batch.number)

    def _keep_if_done(self, number: int) -> None:
        being_read = number == self._number and self._data is not None
        if not being_read and not self._on_their_way[number]:
            del self._on_their_way[number]
            self._to_keep.add(number)
        self.put_by()

    def put_by(self) -> None:
        """Put the files by that the store has all of. One with which that fails is tried again at the next turn."""
        for number in list(self._to_keep):
            try:
                if number in self.spool.numbers:
                    self.spool.keep(number)
                if not self._pins[number]:
                    self.spool.forget(number)
                    del self._pins[number]
            except OSError as error:
                logger.error("A file of the spool %s is not put by yet: %s", self.spool.folder, error)
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
            self.put_by()

    def read_again(self, number: int, stretch: Range) -> None:
        """The store has lost what it had of this stretch."""
        self._again.append((number, stretch))
        self._on_their_way[number] += 1

    def _read_once_more(self) -> None:
        number, (begin, end) = self._again.popleft()
        try:
            blocks, place = read_blocks(self.spool.open(number), begin, end, max_bytes=READ_BYTES)
        except OSError as error:
            logger.error("A shipped file of the spool %s cannot be read again: %s", self.spool.folder, error)
            blocks, place = [], end
        if place < end:
            self.read_again(number, (place, end))
        self._take(number, (begin, place), blocks, may_be_stored=True, is_new=False)
        self._on_their_way[number] -= 1
        self._keep_if_done(number)

    # -- what is held

    def unread(self) -> Iterator[Held]:
        """What is written and was not read yet."""
        for batch in list(self._read):
            yield _held_by(batch)
        for number, (begin, end) in list(self._again):
            yield logs_in(self.spool.open(number), begin, end)
        for number in self.spool.numbers:
            if number > self._number:
                yield self._logs_of(number)
            elif number == self._number and self._place < (end := self.spool.end(number)):
                yield logs_in(self.spool.open(number), self._place, end)

    def _logs_of(self, number: int) -> Held:
        if number in self._logs_in:
            return self._logs_in[number]
        logs = logs_in(self.spool.open(number), 0, self.spool.end(number))
        if self.spool.is_filled(number):
            self._logs_in[number] = logs
        return logs


def _held_by(batch: _Batch) -> Held:
    held: dict[tuple[UUID, int], Range] = {}
    for block in batch.blocks:
        first, last = held.get(block.key, (block.first_seq, block.last_seq))
        held[block.key] = (min(first, block.first_seq), max(last, block.last_seq))
    return held


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
    `stored` says what the store has of each of these logs; `hold` tells others what is held. A spool may occupy `limit`
    bytes, and a sixteenth of that for what was shipped.
    """

    def __init__(
        self,
        root: Path,
        publish: Publish,
        stored: Stored,
        hold: Hold | None = None,
        *,
        limit: int = SPOOL_BYTES,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._root = root
        self._publish = publish
        self._stored = stored
        self._hold = hold
        self._id = uuid4()
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
        self._shipping = _Shipped()
        self._shipped: deque[_Shipped] = deque()
        self._check_at = 0.0
        self._told: Held = {}
        self._hold_at = 0.0
        self._renew_at = 0.0
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
        if stored:
            self._say_held()
        for source in self._sources:
            source.spool.fill_no_more()
            if stored:
                source.next_batch()  # Nothing to read: the last file is put by.
            source.spool.close()
        return stored

    def _is_done(self) -> bool:
        unsent = self._own is not None and self._own.sent < self._own.spool.appended
        return not (unsent or self._on_their_way or any(not source.is_shipped for source in self._left))

    # -- the thread

    def _run(self) -> None:
        behind = False
        while not self._closed.is_set():
            if not behind:
                self._wake.wait(BATCH_AGE)
                self._wake.clear()
            try:
                behind = self._turn()
            except Exception as error:
                if self._closed.is_set():
                    return  # What could not be sent stays on disk; `close` says so.
                # A store that is away is a sentence; a mistake of ours has its traceback.
                told = "The shipper failed (%s); it goes on in a moment."
                logger.error(told, type(error).__name__, exc_info=not is_unfit(error))
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
            source.put_by()
            if self._bytes_on_their_way < WINDOW_BYTES and (batch := source.next_batch()):
                self._on_their_way.append(batch)
                self._bytes_on_their_way += batch.size
                if batch.may_be_stored:
                    self._ask_at = 0.0  # In this turn; what the store lacks of it is sent below.
                else:
                    self._send(batch)
                source.sent += batch.count if batch.is_new else 0
                behind = behind or source.is_behind
        self._say_held()
        self._ask()
        self._check_shipped()
        for batch in [one for one in self._on_their_way if time.monotonic() >= one.send_again_at]:
            if batch.tries:
                RESENT.inc()
            self._send(batch)
        return behind

    @property
    def _sources(self) -> list[_Source]:
        return [self._own, *self._left] if self._own else list(self._left)

    def _take_over(self) -> None:
        """Look for spools that nobody holds, and let go of those that are shipped."""
        for source in [one for one in self._left if one.is_shipped and not self._is_kept(one)]:
            source.spool.close()
            self._left.remove(source)
        if time.monotonic() >= self._take_over_at:
            self._take_over_at = time.monotonic() + TAKE_OVER_INTERVAL
            for spool in take_over(self._root):
                logger.warning("Shipping what an earlier worker left in %s.", spool.folder)
                self._left.append(_Source(spool, was_left=True))

    def _is_kept(self, source: _Source) -> bool:
        return any(source is one for shipped in (self._shipping, *self._shipped) for one, _ in shipped.places)

    def _send(self, batch: _Batch) -> None:
        """Have the broker take a batch, for as long as that takes; raises when we are closed before it does."""
        retrying = Retrying(
            wait=wait_exponential(multiplier=0.2, max=10),
            stop=stop_when_event_set(self._closed),
            sleep=sleep_using_event(self._closed),
            before_sleep=self._before_next_try,
            reraise=True,
        )
        retrying(self._publish, batch.blocks)
        batch.send_again_at = time.monotonic() + SHIP_AGAIN_AFTER * 2 ** min(batch.tries, SHIP_AGAIN_DOUBLINGS)
        batch.tries += 1

    def _before_next_try(self, state: RetryCallState) -> None:
        _log_retry(state)
        self._say_held()

    def _ask(self) -> None:
        """Ask the store what it has, and forget that."""
        if not self._on_their_way or time.monotonic() < self._ask_at:
            return
        stored = self._stored({block.writer for batch in self._on_their_way for block in batch.blocks})
        for batch in self._on_their_way:
            batch.drop_stored(stored)
        arrived = [batch for batch in self._on_their_way if not batch.blocks]
        self._on_their_way = deque(batch for batch in self._on_their_way if batch.blocks)
        for batch in arrived:
            self._bytes_on_their_way -= batch.size
            self._shipping.add(batch)
            batch.source.arrived(batch)
        self._ask_at = time.monotonic() + ASK_INTERVAL

    # -- what was shipped

    def _check_shipped(self) -> None:
        """Ask the store whether it still has what it had, send again what it has no more, and forget what is old."""
        if any(source.spool.lacks_room for source in self._sources):
            self._seal()
            self._forget_beyond(0)
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + CHECK_INTERVAL
        self._seal()
        self._forget_beyond(int(self._limit * KEPT_SHARE))
        if not self._shipped:
            return
        stored = self._stored({source for shipped in self._shipped for source in shipped.sources})
        lost = [shipped for shipped in self._shipped if not shipped.is_in(stored)]
        if lost:
            LOST.inc()
            logger.error(
                "The store has lost output again that it had had: what this worker still has of it is sent again."
            )
        for shipped in lost:
            shipped.send_again()
        for shipped in list(self._shipped):
            shipped.checks += 1
            if shipped in lost or shipped.checks >= CHECKS:
                self._shipped.remove(shipped)
                shipped.forget()

    def _seal(self) -> None:
        if self._shipping.places:
            self._shipping.seal()
            self._shipped.append(self._shipping)
            self._shipping = _Shipped()

    def _forget_beyond(self, limit: int) -> None:
        """Forget the oldest of what was shipped, until the rest takes up no more than so many bytes."""
        size = sum(shipped.size for shipped in self._shipped)
        while self._shipped and size > limit:
            oldest = self._shipped.popleft()
            size -= oldest.size
            oldest.forget()

    # -- what is held

    def _say_held(self) -> None:
        """Tell others what is held for more than a moment, if that has changed, or was told long ago."""
        now = time.monotonic()
        if self._hold is None or now < self._hold_at:
            return
        oldest = min((batch.read_at for batch in self._on_their_way), default=now)
        held = self._held() if now - oldest >= HOLD_AFTER else {}
        if held.keys() == self._told.keys() and not (held and now >= self._renew_at):
            return
        self._hold_at = now + HOLD_INTERVAL if held else now
        try:
            self._hold(self._id, held)
            self._told, self._renew_at = held, now + HOLD_RENEWAL
        except Exception as error:
            self._hold_at = now + HOLD_INTERVAL
            logger.warning("What this worker holds could not be told (%s).", type(error).__name__)

    def _held(self) -> Held:
        held: dict[tuple[UUID, int], Range] = {}
        parts = [_held_by(batch) for batch in list(self._on_their_way)]
        parts += [logs for source in self._sources for logs in source.unread()]
        for part in parts:
            for log, (first, last) in part.items():
                before = held.get(log, (first, last))
                held[log] = (min(first, before[0]), max(last, before[1]))
        return held


def _log_no_spool(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.error("Output waits: there can be no spool just now (try %d): %s", state.attempt_number, error)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.error("The broker did not take a batch of output (try %d): %s", state.attempt_number, error)
