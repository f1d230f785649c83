"""Following a run's log: from any place, in order, without gap or repeat, up to its end.

The store has everything; the live stream only says early what is new. Whatever the stream skips (it is bounded),
brings out of order or does not bring (Redis away), is read from the store instead.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import text

from models.chunks import Chunk, contiguous
from models.closing import TAIL_WAIT
from models.errors import RunNotFound
from models.sequences import SeqRanges
from models.status import Status
from stores.cache import LONGEST_BLOCK
from stores.database import Database
from stores.hints import LiveEvent, LiveEvents
from stores.logs import LogStore

#: Seconds to wait for more where the end named no last chunk (a reap): nobody knows whether any is on its way.
UNKNOWN_TAIL_WAIT = 5.0
#: Chunks read at once.
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Gap:
    """Output that was handed over but is not in the store, or is in quarantine: its first and last sequence number."""

    attempt: int
    first: int
    last: int


class LogFollower:
    """Reads one run's log, attempt after attempt."""

    def __init__(self, database: Database, logs: LogStore, live: LiveEvents, run_id: UUID) -> None:
        self._database = database
        self._logs = logs
        self._live = live
        self._run_id = run_id

    def stored(self, attempt: int, after_seq: int = 0) -> Iterator[Chunk | Gap]:
        """What the store has of an attempt now, with the gaps in it; one that has ended may lack its last chunks."""
        last_seq = after_seq
        while page := self._logs.read(self._run_id, attempt, last_seq, PAGE):
            for chunk in page:
                if chunk.seq > last_seq + 1:
                    yield Gap(attempt, last_seq + 1, chunk.seq - 1)
                yield chunk
                last_seq = chunk.seq
        named = self._place(attempt).end
        if named > last_seq:
            yield Gap(attempt, last_seq + 1, named)

    def follow(self, first_attempt: int = 1, after_seq: int = 0) -> Iterator[Chunk | Gap]:
        """Everything from a place on, as it comes, until the run has ended."""
        attempt = first_attempt
        while self._wait_for_attempt(attempt):
            yield from self._follow_attempt(attempt, after_seq)
            attempt, after_seq = attempt + 1, 0

    def _wait_for_attempt(self, attempt: int) -> bool:
        """True when the attempt has begun; False when it never will."""
        while True:
            known = self._places()
            if known.current >= attempt:
                return True
            if known.status.is_final:
                return False
            time.sleep(LONGEST_BLOCK / 2)

    def _follow_attempt(self, attempt: int, seq: int) -> Iterator[Chunk | Gap]:
        # The place in the stream is taken before the store is read: nothing falls between the two.
        place = self._live.position(self._run_id)
        while True:
            # How far the log is, is asked before the store is read: what was stored before the end is read.
            known = self._places().of.get(attempt)
            if known is None:  # It began nothing and was taken back: its number comes again.
                if not self._wait_for_attempt(attempt):
                    return
                continue
            for chunk in self._without_gap(attempt, seq):
                yield chunk
                seq = chunk.seq
            if passed := known.passed_over(seq):
                yield Gap(attempt, seq + 1, passed)
                seq = passed
                continue
            if known.is_read(seq):
                yield from self.stored(attempt, seq)
                return
            events, place = self._events(place)
            for chunk in _chunks_after(events, attempt, seq):
                yield chunk
                seq = chunk.seq

    def _without_gap(self, attempt: int, seq: int) -> Iterator[Chunk]:
        while page := contiguous(seq, self._logs.read(self._run_id, attempt, seq, PAGE)):
            yield from page
            seq = page[-1].seq

    def _events(self, place: str) -> tuple[list[LiveEvent], str]:
        try:
            return self._live.wait(self._run_id, place)
        except RedisError:
            time.sleep(LONGEST_BLOCK)
            return [], place

    def _places(self) -> "Places":
        known = places(self._database, [self._run_id]).get(self._run_id)
        if known is None:
            raise RunNotFound(f"There is no run {self._run_id}.")
        return known

    def _place(self, attempt: int) -> "Place":
        place = self._places().of.get(attempt)
        if place is None:
            raise RunNotFound(f"Run {self._run_id} has no attempt {attempt}.")
        return place


def _chunks_after(events: Sequence[LiveEvent], attempt: int, seq: int) -> Iterator[Chunk]:
    """The chunks that these events bring, as long as they follow each other."""
    for event in events:
        if event.attempt == attempt and event.block is not None and event.block.first_seq <= seq + 1:
            for chunk in event.block.chunks()[seq + 1 - event.block.first_seq :]:
                yield chunk
                seq = chunk.seq


# places: how far the logs of these runs are, attempt by attempt, and whether more is to come.
PLACES = text("""
SELECT r.id, r.status, r.attempt AS current, a.attempt, a.last_seq, coalesce(upper(l.stored) - 1, 0) AS head,
       CAST((SELECT range_agg(int8range(q.first_seq, q.last_seq, '[]')) FROM log_quarantine q
             WHERE q.run_id = r.id AND q.attempt = a.attempt) - coalesce(l.stored, '{}') AS text) AS aside,
       extract(epoch FROM clock_timestamp() - a.finished_at)::float AS ended_for
FROM runs r
LEFT JOIN run_attempts a ON a.run_id = r.id
LEFT JOIN attempt_logs l ON l.run_id = r.id AND l.attempt = a.attempt
WHERE r.id = ANY(CAST(:ids AS uuid[]))
""")


@dataclass(frozen=True, slots=True)
class Place:
    """How far the log of an attempt is: the highest number stored, the last there is to be, seconds since its end.

    What is `aside` is in quarantine. It will never be stored, so no reader waits for it; each is told.
    """

    head: int
    last_seq: int | None
    ended_for: float | None
    aside: SeqRanges

    @property
    def end(self) -> int:
        """The highest number that was ever heard of, beyond what is stored; 0 for none."""
        return max(self.last_seq or 0, self.aside.last)

    def passed_over(self, seq: int) -> int | None:
        """The last of the numbers right after this one that are in quarantine; None where the next is not."""
        return next((last for first, last in self.aside if first <= seq + 1 <= last), None)

    def is_read(self, seq: int) -> bool:
        """Whether one who has read up to `seq` need wait for nothing more."""
        if self.ended_for is None:
            return False
        if self.ended_for > TAIL_WAIT.total_seconds():
            return True
        if self.last_seq is None:
            return self.ended_for > UNKNOWN_TAIL_WAIT and seq >= max(self.head, self.aside.last)
        return seq >= self.last_seq


@dataclass(frozen=True, slots=True)
class Places:
    """How far a run's logs are."""

    status: Status
    current: int
    of: dict[int, Place]


def places(database: Database, run_ids: Iterable[UUID]) -> dict[UUID, Places]:
    """How far the logs of these runs are, in one statement for all of them."""
    found: dict[UUID, Places] = {}
    with database.begin() as connection:
        for row in connection.execute(PLACES, {"ids": [str(run_id) for run_id in run_ids]}):
            of_run = found.setdefault(row.id, Places(Status(row.status), row.current, {}))
            if row.attempt is not None:
                of_run.of[row.attempt] = Place(
                    row.head, row.last_seq, row.ended_for, SeqRanges.from_multirange(row.aside)
                )
    return found
