"""Sets of sequence numbers: what of a log is stored, and what is missing.

A log is one range most of the time, so a set is kept as its ranges: `{1-4107}`, or `{1-500, 502-4107}` with a gap.
PostgreSQL keeps the same as an `int8multirange`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

#: The largest sequence number; a range that ends with the largest `bigint` has no canonical form in PostgreSQL.
MAX_SEQ = 2**62

#: First and last number, both included.
Range = tuple[int, int]

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
        return cls(tuple((int(first), int(end) - 1) for first, end in _BOUNDS.findall(text or "")))

    def as_multirange(self) -> str:
        return "{" + ",".join(f"[{first},{last}]" for first, last in self.ranges) + "}"

    def __or__(self, other: "SeqRanges") -> "SeqRanges":
        return SeqRanges.of((*self.ranges, *other.ranges))

    def __sub__(self, other: "SeqRanges") -> "SeqRanges":
        left = list(self.ranges)
        for first, last in other.ranges:
            left = [
                part for one in left for part in ((one[0], min(one[1], first - 1)), (max(one[0], last + 1), one[1]))
            ]
        return SeqRanges.of(left)

    def __contains__(self, seq: int) -> bool:
        return self.covers(seq, seq)

    def __iter__(self) -> Iterator[Range]:
        return iter(self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __str__(self) -> str:
        return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges) or "none"

    def covers(self, first: int, last: int) -> bool:
        """Whether every number from `first` to `last` is in the set."""
        return any(start <= first and last <= end for start, end in self.ranges)

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
