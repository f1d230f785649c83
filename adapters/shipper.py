"""The shipper: carries the output of all of a worker's runs from the spool to the log store.

`add` writes a chunk to the spool and returns. A thread reads the spool, sends what it finds in batches, and gives a
file of the spool back when the *store* has all of it. That the broker took a message means nothing (Celery #4354: a
worker that dies between taking and recording a message loses it); what the store has not acknowledged after a while is
sent again. Only so much is on its way at once: the rest waits on disk, not in the broker's memory.

A spool that a killed worker left on this host is shipped beside our own: at the start, and whenever one is found.

`shipper_source.py` cuts a spool into batches, `shipper_kept.py` keeps what was shipped until the store has confirmed it
again and again, and `shipper_held.py` reports what is held for more than a moment.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential,
    wait_fixed,
)

from reprieve.adapters.metrics import counter
from reprieve.adapters.shipper_held import Hold, Holdings
from reprieve.adapters.shipper_kept import AskStored, Kept
from reprieve.adapters.shipper_source import BATCH_BYTES, Batch, Source
from reprieve.adapters.spool import DISK_INTERVAL, FILE_BYTES, Spool, SpooledLog, take_over
from reprieve.models.capacity import SPOOL_BYTES
from reprieve.models.chunks import Block
from reprieve.models.faults import is_unfit
from reprieve.models.liveness import SHIP_AGAIN_AFTER, SHIP_AGAIN_DOUBLINGS

logger = logging.getLogger(__name__)

#: Seconds from one batch to the next, where it does not fill up before. Output that never pauses is cut into no smaller
#: pieces than that; what is said after a pause of so long is not held back.
BATCH_AGE = 0.2
#: Seconds that the first chunk after such a pause waits for those that follow it: mostly, a line does not come alone.
FIRST_AGE = 0.01
#: Seconds from one batch to the next where somebody is in a hurry. Hundreds of runs that end in a second share batches.
HURRY_AGE = 0.02
#: Bytes of messages that may be on their way, unacknowledged, at once.
WINDOW_BYTES = 32 * 1024 * 1024
#: Seconds between two questions to the store.
ASK_INTERVAL = 0.2
#: Seconds between two looks for spools that a killed worker left.
TAKE_OVER_INTERVAL = 10.0

RESENT = counter("reprieve_log_batches_resent", "Batches of output that were sent again, unacknowledged by the store.")

Publish = Callable[[Sequence[Block]], None]


class LogShipper:
    """One per worker process.

    `root` is the folder of this host's spools. `publish` sends one batch, and raises when the broker does not take it;
    `stored` says what the store has of each of these logs; `hold` reports what is held. A spool may occupy `limit`
    bytes, and a sixteenth of that for what was shipped.
    """

    def __init__(
        self,
        root: Path,
        publish: Publish,
        stored: AskStored,
        hold: Hold | None = None,
        *,
        limit: int = SPOOL_BYTES,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._root = root
        self._publish = publish
        self._stored = stored
        self._kept = Kept(stored, limit)
        self._holdings = Holdings(hold)
        self._limit = limit
        self._file_bytes = file_bytes
        self._lock = threading.Lock()
        self._own: Source | None = None
        self._left: list[Source] = []
        self._on_their_way: deque[Batch] = deque()
        self._bytes_on_their_way = 0
        self._unnoticed = 0
        self._is_quiet = False
        self._in_a_hurry = False
        self._sent_at = 0.0
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

        Blocks while the spool is full, and while the system lets us make none: too few descriptors, a full disk.
        """
        own = self._own or self._begin()
        own.spool.append(log, chunks)
        self._notice(len(chunks[0]) * len(chunks))

    def try_add(self, log: SpooledLog, chunk: bytes) -> bool:
        """The same of one chunk, for who may not be blocked: False where `add` would wait just now."""
        try:
            own = self._own or self._try_to_begin()
        except Exception as error:
            if not is_unfit(error):
                raise
            logger.error("Output waits: no spool can be made just now: %s", error)
            return False
        if not own.spool.try_append(log, chunk):
            return False
        self._notice(len(chunk))
        return True

    def _notice(self, size: int) -> None:
        """Wake the thread where a batch is full, or is the first for a while: it would cost too much for each chunk.

        Only a hint, so two threads may miscount it: whatever is there is shipped when BATCH_AGE has passed.
        """
        self._unnoticed += size
        if self._unnoticed >= BATCH_BYTES:
            self._unnoticed = 0
            self._wake.set()
        elif self._is_quiet:
            self._is_quiet = False
            self._wake.set()

    def _begin(self) -> Source:
        retrying = Retrying(
            retry=retry_if_exception(is_unfit), wait=wait_fixed(DISK_INTERVAL), before_sleep=_log_no_spool
        )
        return retrying(self._try_to_begin)

    def _try_to_begin(self) -> Source:
        self.start()
        with self._lock:
            if self._own is None:
                self._own = Source(Spool.create(self._root, limit=self._limit, file_bytes=self._file_bytes))
            return self._own

    def hurry(self) -> Callable[[], bool]:
        """Have what was added so far be sent soon (`HURRY_AGE`), with what others add meanwhile. Waits for nothing.

        Returns whether it is sent, to be asked again.
        """
        own = self._own
        if own is None:
            return lambda: True
        wanted = own.spool.appended
        self._in_a_hurry = True
        self._wake.set()
        return lambda: own.sent >= wanted

    def flush(self, timeout: float) -> bool:
        """The same, and wait until it is sent; False if that took too long (seconds)."""
        is_sent = self.hurry()
        with self._turned:
            return self._turned.wait_for(is_sent, timeout)

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
            self._report_held()
        for source in self._sources:
            source.spool.fill_no_more()
            if stored:
                source.next_batch()  # Nothing to read: the last file is put aside.
            source.spool.close()
        return stored

    def _is_done(self) -> bool:
        return not (self._has_unsent or self._on_their_way or any(not source.is_shipped for source in self._left))

    # -- the thread

    def _run(self) -> None:
        behind = False
        while not self._closed.is_set():
            if not behind:
                self._wait()
            try:
                behind = self._turn()
            except Exception as error:
                if self._closed.is_set():
                    return  # What could not be sent stays on disk; `close` says so.
                # A store that is down is worth a sentence; a mistake of ours has its traceback.
                failed = "The shipper failed (%s); it goes on in a moment."
                logger.error(failed, type(error).__name__, exc_info=not is_unfit(error))
                behind = False
                self._closed.wait(1)
            with self._turned:
                self._turned.notify_all()

    def _wait(self) -> None:
        """Wait until a batch is due; for BATCH_AGE at most, since there is more to do than to send."""
        if (rest := self._sent_at + BATCH_AGE - time.monotonic()) > 0:
            if self._wake.wait(rest) and self._in_a_hurry:
                self._closed.wait(self._sent_at + HURRY_AGE - time.monotonic())
        else:
            self._is_quiet = True  # Before the look: what is added after it wakes us.
            if self._has_unsent or self._wake.wait(BATCH_AGE):
                self._wake.clear()
                if not self._in_a_hurry:
                    self._wake.wait(FIRST_AGE)
            self._is_quiet = False
        self._in_a_hurry = False
        self._wake.clear()

    @property
    def _has_unsent(self) -> bool:
        return self._own is not None and self._own.sent < self._own.spool.appended

    def _turn(self) -> bool:
        """Send a batch of each spool, and do what else is due; returns whether more batches are there already.

        No more than one batch: output that never pauses must neither keep lost batches from being sent again, nor be
        cut into ever smaller pieces.
        """
        self._take_over()
        behind = False
        for source in self._sources:
            source.put_aside()
            if self._bytes_on_their_way < WINDOW_BYTES and (batch := source.next_batch()):
                self._on_their_way.append(batch)
                self._bytes_on_their_way += batch.size
                if batch.may_be_stored:
                    self._ask_at = 0.0  # In this turn; what the store lacks of it is sent below.
                else:
                    self._send(batch)
                source.sent += batch.count if batch.is_new else 0
                self._sent_at = time.monotonic()
                behind = behind or source.is_behind
        if self._has_unsent:
            self._sent_at = time.monotonic()  # No more may be on its way just now: that is looked at again in a while.
        self._report_held()
        self._ask()
        self._kept.check(lacks_room=any(source.spool.lacks_room for source in self._sources))
        for batch in [one for one in self._on_their_way if time.monotonic() >= one.send_again_at]:
            if batch.tries:
                RESENT.inc()
            self._send(batch)
        return behind

    @property
    def _sources(self) -> list[Source]:
        return [self._own, *self._left] if self._own else list(self._left)

    def _take_over(self) -> None:
        """Adopt spools that nobody holds, and let go of those that are shipped."""
        for source in [one for one in self._left if one.is_shipped and not self._kept.has_any_of(one)]:
            source.spool.close()
            self._left.remove(source)
        if time.monotonic() >= self._take_over_at:
            self._take_over_at = time.monotonic() + TAKE_OVER_INTERVAL
            for spool in take_over(self._root):
                logger.warning("Shipping what an earlier worker left in %s.", spool.folder)
                self._left.append(Source(spool, was_left=True))

    def _send(self, batch: Batch) -> None:
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
        self._report_held()

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
            self._kept.add(batch)
            batch.source.arrived(batch)
        self._ask_at = time.monotonic() + ASK_INTERVAL

    def _report_held(self) -> None:
        self._holdings.report(self._on_their_way, self._sources)


def _log_no_spool(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.error("Output waits: no spool can be made just now (try %d): %s", state.attempt_number, error)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.error("The broker did not take a batch of output (try %d): %s", state.attempt_number, error)
