"""The shipper: carries the output of all of a worker's runs to the log store, many chunks in one message.

It holds chunks in memory, bounded: when full, `add` blocks, so that a pipe pushes back on whoever prints. A message
that the broker did not take is tried again until it does. What the memory of a killed worker held is lost; a spool
on disk takes its place behind the same interface.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from tenacity import RetryCallState, Retrying, stop_when_event_set, wait_exponential

from models.chunks import Chunk

logger = logging.getLogger(__name__)

#: A batch is sent when it holds this many bytes of output …
BATCH_BYTES = 256 * 1024
#: … or this many chunks (each costs more than its bytes) …
BATCH_CHUNKS = 2_000
#: … or when its first chunk has waited for this many seconds.
BATCH_AGE = 0.2
#: Bytes of output in memory at which `add` blocks.
BUFFER_BYTES = 64 * 1024 * 1024


class LogShipper:
    """One per worker process. `publish` sends one batch and raises when the broker does not take it."""

    def __init__(self, publish: Callable[[Sequence[Chunk]], None], *, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._publish = publish
        self._buffer_bytes = buffer_bytes
        self._waiting: deque[Chunk] = deque()
        self._bytes = 0
        self._added = 0
        self._sent = 0
        self._flushing = 0
        self._oldest = 0.0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, chunk: Chunk) -> None:
        """Take a chunk over; blocks while the buffer is full."""
        with self._changed:
            if self._bytes >= self._buffer_bytes:
                logger.warning("The log buffer is full (%d bytes): output waits for the broker.", self._bytes)
            self._changed.wait_for(lambda: self._bytes < self._buffer_bytes)
            if not self._waiting:
                self._oldest = time.monotonic()
            self._waiting.append(chunk)
            self._added += 1
            self._bytes += len(chunk.data)
            self._start()
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Send what was added so far, without waiting for a batch to fill; False if that took too long (seconds)."""
        with self._changed:
            wanted = self._added
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._sent >= wanted, timeout)
            finally:
                self._flushing -= 1

    def close(self, timeout: float) -> bool:
        """Flush and end the thread; False when something could not be sent in time (seconds)."""
        sent = self.flush(timeout)
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        return sent

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-shipper", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._send(batch)
            with self._changed:
                self._sent += len(batch)
                self._bytes -= sum(len(chunk.data) for chunk in batch)
                self._changed.notify_all()

    def _next_batch(self) -> list[Chunk]:
        """Waits until a batch is due and takes it; empty when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed.is_set())
            while not self._is_due():
                self._changed.wait(max(0.0, self._oldest + BATCH_AGE - time.monotonic()))
            batch: list[Chunk] = []
            size = 0
            while self._waiting and len(batch) < BATCH_CHUNKS and (not batch or size < BATCH_BYTES):
                batch.append(self._waiting.popleft())
                size += len(batch[-1].data)
            self._oldest = time.monotonic()
            return batch

    def _is_due(self) -> bool:
        full = self._bytes >= BATCH_BYTES or len(self._waiting) >= BATCH_CHUNKS
        return full or self._flushing > 0 or self._closed.is_set() or time.monotonic() >= self._oldest + BATCH_AGE

    def _send(self, batch: Sequence[Chunk]) -> None:
        retrying = Retrying(
            wait=wait_exponential(multiplier=0.2, max=10),
            stop=stop_when_event_set(self._closed),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            retrying(self._publish, batch)
        except Exception:
            logger.exception("The worker ends with %d chunks that no broker took.", len(batch))


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.error("The broker did not take a batch of output (try %d): %s", state.attempt_number, error)
