"""Sets of sequence numbers: what of a log is stored, and what is missing.

A log is one range most of the time, so a set is kept as its ranges: `{1-4107}`, or `{1-500, 502-4107}` with a gap.
PostgreSQL keeps the same as an `int8multirange`.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Self, TypeVar

#: The largest sequence number; a range that ends with the largest `bigint` has no canonical form in PostgreSQL.
MAX_SEQ = 2**62

#: Ranges that the stored numbers of one log may have. With more, each batch of its output would cost what a whole log
#: costs. No order of delivery makes that many, since a shipper has only so much on its way at once.
MAX_RANGES = 20_000

#: Ranges that a sentence, a header or a page names; of the others it gives the number.
SHOWN_RANGES = 20

#: First and last number, both included.
Range = tuple[int, int]

K = TypeVar("K")

_BOUNDS = re.compile(r"\[(-?\d+),(-?\d+)\)")


@dataclass(frozen=True, slots=True)
class SeqRanges:
    """A set of sequence numbers as ranges: in order, apart from each other by at least one number."""

    ranges: tuple[Range, ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> Self:
        """The set of the numbers in any of these ranges; an empty range (last before first) adds none."""
        merged: list[Range] = []
        for first, last in sorted(one for one in ranges if one[0] <= one[1]):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], last))
            else:
                merged.append((first, last))
        return cls(tuple(merged))

    @classmethod
    def from_multirange(cls, text: str | None) -> Self:
        """From PostgreSQL's canonical form, `{[1,5),[7,9)}`; NULL is the empty set."""
        return cls(tuple([(int(first), int(end) - 1) for first, end in _BOUNDS.findall(text or "")]))

    def as_multirange(self) -> str:
        return "{" + ",".join(f"[{first},{last}]" for first, last in self.ranges) + "}"

    def __or__(self, other: "SeqRanges") -> "SeqRanges":
        if not (self and other):
            return self or other
        return SeqRanges.of((*self.ranges, *other.ranges))

    def __sub__(self, other: "SeqRanges") -> "SeqRanges":
        if not (self and other):
            return self
        left: list[Range] = []
        holes = iter(other.ranges)
        hole = next(holes, None)
        for first, last in self.ranges:
            while hole is not None and hole[1] < first:
                hole = next(holes, None)
            while hole is not None and hole[0] <= last:
                if first < hole[0]:
                    left.append((first, hole[0] - 1))
                first = hole[1] + 1
                if first > last:
                    break  # It may reach into the next range as well.
                hole = next(holes, None)
            if first <= last:
                left.append((first, last))
        return SeqRanges(tuple(left))

    def __and__(self, other: "SeqRanges") -> "SeqRanges":
        return self - (self - other)

    def __contains__(self, seq: int) -> bool:
        return self.covers(seq, seq)

    def __iter__(self) -> Iterator[Range]:
        return iter(self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self.ranges)

    def __str__(self) -> str:
        return self.shown(" and {} more") or "none"

    def shown(self, more: str) -> str:
        """The first `SHOWN_RANGES` of them, as `5, 8-9`; `more` says how many others there are."""
        named = [str(first) if first == last else f"{first}-{last}" for first, last in self.ranges[:SHOWN_RANGES]]
        left = len(self.ranges) - len(named)
        return ", ".join(named) + (more.format(left) if left else "")

    def covers(self, first: int, last: int) -> bool:
        """Whether every number from `first` to `last` is in the set."""
        reach = self.reach(first)
        return reach is not None and last <= reach

    def reach(self, seq: int) -> int | None:
        """The last number of the range that holds `seq`; None where no range does."""
        index = bisect_right(self.ranges, seq, key=itemgetter(0)) - 1
        return self.ranges[index][1] if index >= 0 and seq <= self.ranges[index][1] else None

    def within(self, first: int, last: int) -> "SeqRanges":
        """Its numbers from `first` to `last`; costs only what it returns."""
        begin = bisect_left(self.ranges, first, key=itemgetter(1))
        end = bisect_right(self.ranges, last, key=itemgetter(0))
        parts = self.ranges[begin:end]
        return SeqRanges(tuple((max(start, first), min(stop, last)) for start, stop in parts))

    @property
    def count(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    @property
    def last(self) -> int:
        """The highest number; 0 for none."""
        return self.ranges[-1][1] if self.ranges else 0

    @property
    def whole_to(self) -> int:
        """The highest number up to which nothing is missing; 0 where number 1 is."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 1 else 0

    def missing(self, last_seq: int | None) -> "SeqRanges":
        """The gaps from number 1 up to `last_seq`, or up to the highest number where nobody named the last."""
        return SeqRanges.of([(1, max(last_seq or 0, self.last))]) - self


def spans(parts: Iterable[tuple[K, Range]]) -> dict[K, Range]:
    """From the first number of each key in any of these parts to its last."""
    found: dict[K, Range] = {}
    for key, (first, last) in parts:
        before = found.get(key, (first, last))
        found[key] = (min(first, before[0]), max(last, before[1]))
    return found
