"""Following a run's log: from any place, in order, without gap or repeat, up to its end.

The store has everything; the live stream only says early what is new. Whatever the stream skips (it is bounded),
brings out of order or does not bring (Redis away), is read from the store instead.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from redis.exceptions import RedisError
from sqlalchemy import text

from reprieve.models.chunks import Chunk
from reprieve.models.closing import HOLDER_BELIEVED_FOR, is_awaited, late_of
from reprieve.models.errors import RunNotFound
from reprieve.models.gaps import Why, sort_out
from reprieve.models.sequences import Range, SeqRanges
from reprieve.models.status import Status
from reprieve.stores.cache import LONGEST_BLOCK
from reprieve.stores.database import Database
from reprieve.stores.hints import LiveEvent, LiveEvents
from reprieve.stores.logs import LogStore

#: Seconds to wait for more where the end named no last chunk (a reap): nobody knows whether any is on its way.
UNKNOWN_TAIL_WAIT = 5.0
#: Chunks read at once.
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Gap:
    """Output that was handed over and cannot be read: its first and last sequence number, and why."""

    attempt: int
    first: int
    last: int
    #: As of when it was read: the same gap may be late now, and missing later.
    why: Why = field(default=Why.MISSING, compare=False)

    @property
    def late(self) -> bool:
        return self.why is Why.LATE


class LogFollower:
    """Reads one run's log, attempt after attempt."""

    def __init__(self, database: Database, logs: LogStore, live: LiveEvents, run_id: UUID) -> None:
        self._database = database
        self._logs = logs
        self._live = live
        self._run_id = run_id

    def stored(self, attempt: int, after_seq: int = 0, at_once: int = PAGE) -> Iterator[Chunk | Gap]:
        """What the store has of an attempt now, with the gaps in it; one that has ended may lack its last chunks.

        Who takes only so many chunks says so by `at_once`.
        """
        # How far the log is, is asked before it is read: what was stored by then and is not found is lost.
        place, last_seq = self._place(attempt), after_seq
        while page := self._logs.read(self._run_id, attempt, last_seq, at_once):
            explain = _Explaining(self, place, attempt)
            for chunk in page:
                yield from explain.gaps(last_seq + 1, chunk.seq - 1)
                yield chunk
                last_seq = chunk.seq
            place = self._place(attempt)
        yield from _Explaining(self, place, attempt).gaps(last_seq + 1, place.end)

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
            for item in self._readable(known, attempt, seq):
                yield item
                seq = item.last if isinstance(item, Gap) else item.seq
            if known.is_read(seq):
                yield from self.stored(attempt, seq)
                return
            events, place = self._events(place)
            for chunk in _chunks_after(events, attempt, seq):
                yield chunk
                seq = chunk.seq

    def _readable(self, known: "Place", attempt: int, seq: int) -> Iterator[Chunk | Gap]:
        """What follows this number without a gap that may yet be filled: what is in quarantine never is."""
        while page := self._logs.read(self._run_id, attempt, seq, PAGE):
            for chunk in page:
                if chunk.seq > seq + 1:
                    passed = known.passed_over(seq)
                    if passed is None or passed + 1 < chunk.seq:
                        break
                    yield Gap(attempt, seq + 1, chunk.seq - 1)
                yield chunk
                seq = chunk.seq
            if seq < page[-1].seq:
                break
        if passed := known.passed_over(seq):
            yield Gap(attempt, seq + 1, passed)

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


class _Explaining:
    """Says why numbers are not found on one page, by how far the log was before it was read.

    What seems to be lost may have been removed since, or given up to another writer: that is looked up, once.
    """

    def __init__(self, follower: LogFollower, place: "Place", attempt: int) -> None:
        self._follower = follower
        self._place = place
        self._attempt = attempt
        self._is_checked = False

    def gaps(self, first: int, last: int) -> list[Gap]:
        gaps = list(self._place.gaps(self._attempt, first, last))
        if self._is_checked or not any(gap.why is Why.LOST for gap in gaps):
            return gaps
        self._is_checked = True
        self._place = self._place.as_of(self._follower._place(self._attempt))
        return list(self._place.gaps(self._attempt, first, last))


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
       clock_timestamp() - a.finished_at AS ended_for,
       (SELECT CAST(int8range(min(h.from_seq), max(h.to_seq), '[]') AS text) FROM spooled h
        WHERE h.run_id = r.id AND h.attempt = a.attempt AND h.seen_at > clock_timestamp() - :believed_for
        HAVING count(*) > 0) AS held,
       CAST(l.stored AS text) AS stored, CAST(v.held AS text) AS archived, v.removed_at IS NOT NULL AS is_removed
FROM runs r
LEFT JOIN run_attempts a ON a.run_id = r.id
LEFT JOIN attempt_logs l ON l.run_id = r.id AND l.attempt = a.attempt
LEFT JOIN log_archives v ON v.run_id = r.id AND v.attempt = a.attempt
WHERE r.id = ANY(CAST(:ids AS uuid[]))
""")


NOTHING = SeqRanges()


@dataclass(frozen=True, slots=True)
class Place:
    """How far the log of an attempt is: the highest number stored, the last there is to be, the time since its end.

    What is `aside` is in quarantine. It will never be stored, so no reader waits for it; each is told. What the spools
    of living workers hold (`held`: these numbers, and what follows) is on its way, and is waited for.
    `archived` is None while the log is open.
    """

    head: int
    last_seq: int | None
    ended_for: timedelta | None
    aside: SeqRanges
    held: Range | None = None
    stored: SeqRanges = NOTHING
    archived: SeqRanges | None = None
    is_removed: bool = False

    @property
    def is_closed(self) -> bool:
        return self.archived is not None

    @property
    def end(self) -> int:
        """The highest number that was ever heard of; 0 for none."""
        held = self.held[1] if self.held and self.ended_for is not None else 0
        archived = self.archived.last if self.archived else 0
        return max(self.last_seq or 0, self.aside.last, held, self.head, archived)

    def as_of(self, later: "Place") -> "Place":
        """The same with what was taken away since, and without what has come."""
        archived = later.archived if later.is_removed else self.archived
        return replace(self, stored=self.stored & later.stored, archived=archived, is_removed=later.is_removed)

    def gaps(self, attempt: int, first: int, last: int) -> Iterator[Gap]:
        """The numbers from `first` to `last`, none of which could be read, as gaps, in order."""
        gap = SeqRanges.of([(first, last)])
        if not gap:
            return
        awaited = not self.is_closed and is_awaited(self.ended_for)
        reasons = sort_out(
            gap,
            stored=self.stored.within(first, last),
            archived=(self.archived or NOTHING).within(first, last),
            is_removed=self.is_removed,
            late=late_of(gap - self.aside.within(first, last), self.held, awaited=awaited),
        )
        parts = [Gap(attempt, *part, why) for why, ranges in reasons.items() for part in ranges]
        yield from sorted(parts, key=lambda part: part.first)

    def passed_over(self, seq: int) -> int | None:
        """The last of the numbers right after this one that are in quarantine; None where the next is not."""
        return self.aside.reach(seq + 1)

    def is_read(self, seq: int) -> bool:
        """Whether one who has read up to `seq` need wait for nothing more."""
        if self.ended_for is None:
            return False
        if self.last_seq is not None and seq >= self.last_seq:
            return True
        if self.held is not None:
            return False
        if self.is_closed or not is_awaited(self.ended_for):
            return True
        waited = self.ended_for.total_seconds() > UNKNOWN_TAIL_WAIT
        return self.last_seq is None and waited and seq >= max(self.head, self.aside.last)


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
        wanted = {"ids": [str(run_id) for run_id in run_ids], "believed_for": HOLDER_BELIEVED_FOR}
        for row in connection.execute(PLACES, wanted):
            of_run = found.setdefault(row.id, Places(Status(row.status), row.current, {}))
            if row.attempt is not None:
                of_run.of[row.attempt] = Place(
                    row.head,
                    row.last_seq,
                    row.ended_for,
                    SeqRanges.from_multirange(row.aside),
                    next(iter(SeqRanges.from_multirange(row.held)), None),
                    SeqRanges.from_multirange(row.stored),
                    None if row.archived is None else SeqRanges.from_multirange(row.archived),
                    row.is_removed,
                )
    return found
