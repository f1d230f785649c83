"""Reading a run's log from the store, from any position: in order, without gap or repeat, up to its end.

The store has everything; the live stream only says early what is new. Whatever the stream skips (it is bounded),
brings out of order or does not bring (Redis is down), is read from the store instead.
"""

import time
from collections.abc import Iterable, Iterator
from uuid import UUID

from redis.exceptions import RedisError

from reprieve.models.chunks import Chunk
from reprieve.models.extents import Extent
from reprieve.models.gaps import Gap
from reprieve.models.reading import Item, Reading, Step, explained_by, seem_lost
from reprieve.stores.cache import LONGEST_BLOCK
from reprieve.stores.database import Database
from reprieve.stores.extents import extent_of, extents_of
from reprieve.stores.hints import LiveEvent, LiveEvents
from reprieve.stores.logs import LogStore

#: Chunks read at once.
PAGE = 1000


class LogReader:
    """Reads one run's log, attempt after attempt."""

    def __init__(self, database: Database, logs: LogStore, live: LiveEvents, run_id: UUID) -> None:
        self._database = database
        self._logs = logs
        self._live = live
        self._run_id = run_id

    def stored(self, attempt: int, after_seq: int = 0, at_once: int = PAGE) -> Iterator[Chunk | Gap]:
        """What the store has of an attempt now, with the gaps in it. An ended attempt may still lack its last chunks.

        `at_once` is how many chunks are read at once. Raises `RunNotFound`.
        """
        reading = Reading(attempt, after_seq, waits=False)
        while reading.attempt == attempt:
            yield from self._next(reading, extent_of(self._database, self._run_id, attempt), at_once)

    def follow(self, first_attempt: int = 1, after_seq: int = 0) -> Iterator[Chunk | Gap]:
        """Everything from a position on, as it comes, until the run has ended. Raises `RunNotFound`."""
        reading = Reading(first_attempt, after_seq)
        # The position in the stream is taken before the store is read: nothing falls between the two.
        position = self._live.position(self._run_id)
        while (step := reading.step(known := extents_of(self._database, self._run_id))) is not Step.END:
            if step is Step.READ:
                yield from self._next(reading, known.of[reading.attempt], PAGE)
                continue
            events, position = self._events(position)
            for event in events:
                if event.block is not None:
                    yield from reading.take_live(event.block)

    def ready(self, reading: Reading) -> list[Chunk | Gap] | None:
        """What can be read now, for one who waits elsewhere: nothing while more is to come, None when all was read.

        Raises `RunNotFound`.
        """
        step = reading.step(known := extents_of(self._database, self._run_id))
        if step is Step.END:
            return None
        return list(self._next(reading, known.of[reading.attempt], PAGE)) if step is Step.READ else []

    def _next(self, reading: Reading, extent: Extent, at_once: int) -> Iterator[Chunk | Gap]:
        attempt = reading.attempt
        items = reading.take(self._logs.read(self._run_id, attempt, reading.seq, at_once), extent)
        if seem_lost(items):
            items = explained_by(extent.as_of(extent_of(self._database, self._run_id, attempt)), items)
        return _flat(items)

    def _events(self, position: str) -> tuple[list[LiveEvent], str]:
        try:
            return self._live.wait(self._run_id, position)
        except RedisError:
            time.sleep(LONGEST_BLOCK)
            return [], position


def _flat(items: Iterable[Item]) -> Iterator[Chunk | Gap]:
    for item in items:
        if isinstance(item, Gap):
            yield item
        else:
            yield from item
