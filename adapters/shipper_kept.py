"""What was shipped and is kept for a while, since the store may lose what it had.

A replica takes over that lacks the last commits, or an older copy is restored. So the store is asked again and again
whether it still has what was shipped. What it has no longer is sent again; what it has confirmed often enough goes.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from reprieve.adapters.metrics import counter
from reprieve.adapters.shipper_source import Batch, Source, Stored, has
from reprieve.models.chunks import LogWriter
from reprieve.models.sequences import Range, SeqRanges

logger = logging.getLogger(__name__)

#: Seconds between two questions whether the store still has what was shipped …
CHECK_INTERVAL = 10.0
#: … and how often it has to say so before that is forgotten: 5 minutes of a database that answers, longer than a
#: fail-over takes. While it does not answer, nothing is forgotten.
CHECKS = 30
#: The share of a spool's limit that shipped files may take up beside it: 64 MiB of 1 GiB.
KEPT_SHARE = 1 / 16

LOST = counter("reprieve_log_losses", "Times that the store had lost output again that it had had, as in a fail-over.")

AskStored = Callable[[Iterable[LogWriter]], Stored]


class _Shipped:
    """What the store came to have between two checks, and where it lies."""

    def __init__(self) -> None:
        self.stretches: dict[tuple[Source, int], list[Range]] = {}
        self._numbers = defaultdict[LogWriter, list[Range]](list)
        self.size = 0
        self.checks = 0

    def add(self, batch: Batch) -> None:
        stretches = self.stretches.get((batch.source, batch.number))
        if stretches is None:
            stretches = self.stretches[batch.source, batch.number] = []
            batch.source.pin(batch.number)
        if batch.stretch not in stretches[-8:]:  # Batches of one stretch arrive together.
            stretches.append(batch.stretch)
            self.size += batch.stretch[1] - batch.stretch[0]
        for writer, numbers in batch.numbers:
            self._numbers[writer].append(numbers)

    def seal(self) -> None:
        self._numbers = defaultdict(
            list, {writer: list(SeqRanges.of(numbers)) for writer, numbers in self._numbers.items()}
        )

    @property
    def writers(self) -> Iterable[LogWriter]:
        return self._numbers.keys()

    def is_in(self, stored: Stored) -> bool:
        return all(has(stored, writer, numbers) for writer, parts in self._numbers.items() for numbers in parts)

    def send_again(self) -> None:
        for (source, number), stretches in self.stretches.items():
            for stretch in stretches:
                source.read_again(number, stretch)

    def forget(self) -> None:
        for source, number in self.stretches:
            source.unpin(number)


class Kept:
    """All that was shipped and may have to be sent again; `limit` is that of a spool, in bytes."""

    def __init__(self, ask_stored: AskStored, limit: int) -> None:
        self._ask_stored = ask_stored
        self._limit = limit
        self._newest = _Shipped()
        self._sealed: deque[_Shipped] = deque()
        self._check_at = 0.0

    def add(self, batch: Batch) -> None:
        """The store has just said that it has all of a batch."""
        self._newest.add(batch)

    def has_any_of(self, source: Source) -> bool:
        return any(source is one for shipped in (self._newest, *self._sealed) for one, _ in shipped.stretches)

    def check(self, *, lacks_room: bool) -> None:
        """Ask the store whether it still has what it had, send again what it has lost, and forget what is old.

        Nothing is kept while output waits for room.
        """
        if lacks_room:
            self._seal()
            self._forget_beyond(0)
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + CHECK_INTERVAL
        self._seal()
        self._forget_beyond(int(self._limit * KEPT_SHARE))
        if self._sealed:
            self._compare(self._ask_stored({writer for shipped in self._sealed for writer in shipped.writers}))

    def _compare(self, stored: Stored) -> None:
        lost = [shipped for shipped in self._sealed if not shipped.is_in(stored)]
        if lost:
            LOST.inc()
            logger.error("The store has lost output that it had: what this worker still has of it is sent again.")
        for shipped in lost:
            shipped.send_again()
        for shipped in list(self._sealed):
            shipped.checks += 1
            if shipped in lost or shipped.checks >= CHECKS:
                self._sealed.remove(shipped)
                shipped.forget()

    def _seal(self) -> None:
        if self._newest.stretches:
            self._newest.seal()
            self._sealed.append(self._newest)
            self._newest = _Shipped()

    def _forget_beyond(self, limit: int) -> None:
        """Forget the oldest of what was shipped, until the rest takes up no more than `limit` bytes."""
        size = sum(shipped.size for shipped in self._sealed)
        while self._sealed and size > limit:
            oldest = self._sealed.popleft()
            size -= oldest.size
            oldest.forget()
