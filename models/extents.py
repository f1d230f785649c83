"""How far the log of an attempt is: what is stored, what is still to come, and what never will.

Readers and closing decide by the same extent, so that both wait for the same chunks, and name the same gaps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from reprieve.models.gaps import Gap, Why
from reprieve.models.sequences import MAX_SEQ, Range, SeqRanges
from reprieve.models.status import Status

#: How long the last chunk of an ended attempt is waited for. In real time: no time scale makes a machine faster.
TAIL_WAIT = timedelta(seconds=60)

#: How long a reader waits where the end named no last chunk (a reap): nobody knows whether any is on its way.
UNKNOWN_TAIL_WAIT = timedelta(seconds=5)

#: How long a worker is believed that reported what its spool holds. It reports every 15 seconds while it holds
#: anything; a worker that is restarted on the same folder needs a while until it does.
HOLDER_BELIEVED_FOR = timedelta(seconds=120)

NOTHING = SeqRanges()


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the log of an attempt is.

    `ended_for` is the time since the attempt's end, None while it goes on; `last_seq` the last number that there is to
    be, None while nobody has named it (a reap or a cancel never does). What is `aside` is in quarantine: it will never
    be stored. What the spools of living workers hold (`held`: these numbers, and what follows) is on its way, however
    long that takes. `archived` is what the archive holds, None while there is none.
    """

    ended_for: timedelta | None
    last_seq: int | None = None
    stored: SeqRanges = NOTHING
    aside: SeqRanges = NOTHING
    held: Range | None = None
    archived: SeqRanges | None = None
    is_removed: bool = False
    is_closed: bool = False

    @property
    def is_awaited(self) -> bool:
        """Whether any chunk may still come: the attempt goes on, or has ended only just now."""
        return self.archived is None and (self.ended_for is None or self.ended_for < TAIL_WAIT)

    @property
    def is_whole(self) -> bool:
        """Whether all up to the last number is there. What is in quarantine is not waited for."""
        return self.last_seq is not None and not (self.stored | self.aside).missing(self.last_seq)

    @property
    def gaps_until_now(self) -> SeqRanges:
        """The numbers that are not stored, up to the highest that the end or the store knows."""
        return self.stored.missing(max(self.last_seq or 0, self.aside.last))

    @property
    def end(self) -> int:
        """The highest number ever heard of; 0 for none."""
        held = self.held[1] if self.held and self.ended_for is not None else 0
        archived = self.archived.last if self.archived else 0
        return max(self.last_seq or 0, self.aside.last, held, self.stored.last, archived)

    def late(self, gap: SeqRanges) -> SeqRanges:
        """What of a gap is *late*: known to be on its way. The rest is *missing*: nobody has it.

        The gap is given without what is aside. While any chunk is awaited, all of it is on its way, for all we know.
        """
        if self.is_awaited:
            return gap
        return gap.within(self.held[0], MAX_SEQ) if self.held else NOTHING

    def gaps(self, attempt: int, first: int, last: int) -> Iterator[Gap]:
        """The numbers from `first` to `last`, none of which could be read, as gaps in order."""
        stored, aside = self.stored.within(first, last), self.aside.within(first, last)
        archived = (self.archived or NOTHING).within(first, last)
        gap = SeqRanges.of([(first, last)])
        removed = gap & archived if self.is_removed else NOTHING
        lost = (gap - removed) & (stored | archived)
        late = self.late(gap - removed - lost - aside)
        reasons = {Why.REMOVED: removed, Why.LOST: lost, Why.LATE: late, Why.MISSING: gap - removed - lost - late}
        parts = [Gap(attempt, *part, why) for why, ranges in reasons.items() for part in ranges]
        yield from sorted(parts, key=lambda part: part.first)

    def as_of(self, later: "Extent") -> "Extent":
        """This extent without what was taken away since. What has come since does not count: it was not there to read.

        What seems to be lost may have been removed, or given up to another writer.
        """
        archived = later.archived if later.is_removed else self.archived
        return replace(self, stored=self.stored & later.stored, archived=archived, is_removed=later.is_removed)

    def passed_over(self, seq: int) -> int | None:
        """The last of the numbers right after this one that are in quarantine; None where the next is not."""
        return self.aside.reach(seq + 1)

    def is_read(self, seq: int) -> bool:
        """Whether a reader that has read up to `seq` need wait for nothing more."""
        if self.ended_for is None:
            return False
        if self.last_seq is not None and seq >= self.last_seq:
            return True
        if self.held is not None:
            return False
        if not self.is_awaited:
            return True
        waited = self.ended_for > UNKNOWN_TAIL_WAIT
        return self.last_seq is None and waited and seq >= max(self.stored.last, self.aside.last)


@dataclass(frozen=True, slots=True)
class Extents:
    """How far the logs of a run are, by attempt; `current` is its latest attempt, 0 while it has none."""

    status: Status
    current: int
    of: Mapping[int, Extent]
