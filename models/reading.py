"""One way to follow a log: what a reader is given next, which gap is named, when it waits, and where it ends.

Workers store batches in any order, and the live stream skips what it likes. So a reader stops at a gap: one that passed
over it would never show what fills it. It passes over what is in quarantine, since that never comes; and when nothing
more is awaited of an attempt, it names all gaps that are left, and goes on to the next attempt.

Nothing here does I/O: the command line, the page and the downloads each look up extents and read the store their own
way, and ask a `Reading` what that means.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from reprieve.models.chunks import Block, Chunk
from reprieve.models.extents import Extent, Extents
from reprieve.models.gaps import Gap, Why
from reprieve.models.sequences import MAX_SEQ

#: Chunks that follow each other, or a gap between them.
Item = list[Chunk] | Gap


class Step(StrEnum):
    """What a reader does next."""

    READ = "read"
    """Read the store from its position on, and `take` what is there."""
    WAIT = "wait"
    """Wait for news: live blocks (`take_live`), or a new extent."""
    END = "end"
    """The run has ended, and all of it was read."""


class Reading:
    """One reader's way through the log of a run, from a position on.

    A reader that wants what is there now, and does not wait (`waits=False`), is given each attempt with all its gaps.
    """

    def __init__(self, attempt: int = 1, after_seq: int = 0, *, waits: bool = True) -> None:
        self.attempt = attempt
        self.seq = after_seq
        self._waits = waits
        #: Whether anything in this attempt is still waited for.
        self._is_open = waits
        #: Whether the store has been read since the last wait, and had nothing that follows.
        self._is_stuck = False

    def step(self, known: Extents | None) -> Step:
        """What to do next, by how far the logs are (None: not known yet).

        How far they are must be known before the store is read: what was stored by then and is not found is lost.
        """
        extent = known.of.get(self.attempt) if known else None
        if known is None or extent is None:
            is_over = known is not None and known.status.is_final and self.attempt > known.current
            return Step.END if is_over else Step.WAIT
        if not self._is_open:
            return Step.READ
        if not self._is_stuck and (extent.stored.last > self.seq or extent.passed_over(self.seq)):
            return Step.READ
        if extent.is_read(self.seq):
            self._is_open = False
            return Step.READ
        self._is_stuck = False
        return Step.WAIT

    def take(self, page: Sequence[Chunk], extent: Extent) -> list[Item]:
        """What the reader is given of the chunks that the store has after `seq`.

        The extent is from before they were read. Where nothing more is awaited, an empty page ends the attempt.
        """
        items: list[Item] = []
        for chunks in _without_gaps(page):
            items += self._pass_over(extent, chunks[0].seq - 1)
            if self.seq + 1 < chunks[0].seq:
                break
            items.append(chunks)
            self.seq = chunks[-1].seq
        if self._is_open:
            items += self._pass_over(extent, MAX_SEQ)
            self._is_stuck = not items
        elif not page:
            items += self._pass_over(extent, extent.end)
            self.attempt, self.seq, self._is_open = self.attempt + 1, 0, self._waits
        return items

    def take_live(self, block: Block) -> list[Chunk]:
        """What of a live block follows directly; anything else the reader gets from the store."""
        if block.attempt != self.attempt or not block.first_seq <= self.seq + 1 <= block.last_seq:
            return []
        chunks = block.chunks()[self.seq + 1 - block.first_seq :]
        self.seq = block.last_seq
        return chunks

    def _pass_over(self, extent: Extent, last: int) -> list[Gap]:
        """Name the numbers up to `last` that nobody waits for, and go past them."""
        if last <= self.seq:
            return []
        if not self._is_open:
            gaps = list(extent.gaps(self.attempt, self.seq + 1, last))
        elif passed := extent.passed_over(self.seq):
            gaps = [Gap(self.attempt, self.seq + 1, min(passed, last))]
        else:
            gaps = []
        self.seq = gaps[-1].last if gaps else self.seq
        return gaps


def seem_lost(items: Iterable[Item]) -> bool:
    """Whether any gap is of chunks that were stored. They may have been taken away since: look up the extent again."""
    return any(isinstance(item, Gap) and item.why is Why.LOST for item in items)


def explained_by(extent: Extent, items: Iterable[Item]) -> list[Item]:
    """The same items, with the gaps explained by another extent."""
    explained: list[Item] = []
    for item in items:
        explained += extent.gaps(item.attempt, item.first, item.last) if isinstance(item, Gap) else [item]
    return explained


def _without_gaps(page: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in pieces without a gap."""
    begin = 0
    for end in range(1, len(page) + 1):
        if end == len(page) or page[end].seq != page[end - 1].seq + 1:
            yield list(page[begin:end])
            begin = end
