"""Sets of times, as spans that do not touch: from when to when something was down."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Spans:
    """Half-open spans of seconds, `start <= t < end`, merged where they overlap and in order."""

    def __init__(self, spans: Iterable[tuple[float, float]] = ()) -> None:
        merged: list[list[float]] = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            elif start < end:
                merged.append([start, end])
        self.starts: Floats = np.array([start for start, _ in merged], dtype=np.float64)
        self.ends: Floats = np.array([end for _, end in merged], dtype=np.float64)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return zip(self.starts.tolist(), self.ends.tolist(), strict=True)

    def union(self, *others: "Spans") -> "Spans":
        return Spans([span for spans in (self, *others) for span in spans])

    def hold(self, times: Floats) -> Bools:
        """Which of these times lie in a span."""
        return np.asarray(self.release(times) != times, dtype=np.bool_)

    def holds(self, time: float) -> bool:
        return self.end_of(time) is not None

    def end_of(self, time: float) -> float | None:
        """When the span ends that holds this time; None when none does."""
        at = int(np.searchsorted(self.starts, time, side="right")) - 1
        return float(self.ends[at]) if at >= 0 and time < self.ends[at] else None

    def release(self, times: Floats) -> Floats:
        """These times, and for one within a span the end of that."""
        if not len(self.starts):
            return times
        at = np.searchsorted(self.starts, times, side="right") - 1
        ends = np.where(at >= 0, self.ends[np.maximum(at, 0)], -np.inf)
        return np.maximum(times, ends)

    def longest_before(self, start: float, end: float) -> float:
        """The length of the longest piece of a span between these times."""
        pieces = np.minimum(self.ends, end) - np.maximum(self.starts, start)
        return float(pieces.max(initial=0.0))
