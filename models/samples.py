"""What an attempt used over its life, in so few samples that they can be kept and plotted, however long it runs.

Once there are as many as are kept, each two become one, and from then on twice as many are taken for one: they always
span the whole life. One that stands for several has the most memory that any of these saw, so that no peak is lost.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

#: Samples that are kept of an attempt at the most: as many as a small plot has pixels. After a thinning, half as many.
MOST = 240
#: Samples before which those of an attempt that has ended are not kept: it was over within a minute.
FEWEST = 3


class Sample(NamedTuple):
    """What was used up to a moment, which is in seconds by any clock that goes on."""

    at: float
    cpu_seconds: float
    memory_bytes: int
    """The most since the sample before."""


class Series:
    """The samples of one attempt, the oldest first. Not thread-safe. In arrays, since a worker has very many."""

    def __init__(self) -> None:
        self.every = 1
        """How many samples that were taken one of these stands for."""
        self.peak_memory = 0
        self._at, self._cpu, self._memory = array("d"), array("d"), array("q")
        self._taken, self._most = 0, 0

    @classmethod
    def resumed(cls, every: int, samples: Sequence[Sample], peak_memory: int) -> Self:
        """As another worker has left it."""
        series = cls()
        for sample in samples:
            series._append(sample)
        series.every, series.peak_memory = max(every, 1), peak_memory
        return series

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Sample]:
        return map(Sample, self._at, self._cpu, self._memory)

    @property
    def cpu_seconds(self) -> float:
        """The processor time up to the last sample that is kept."""
        return self._cpu[-1] if self._cpu else 0.0

    def add(self, sample: Sample) -> bool:
        """Take a sample; returns whether one more is kept for it.

        Processor time never falls, although what is seen of it may: what nobody waited for has ended uncounted.
        """
        self.peak_memory = max(self.peak_memory, sample.memory_bytes)
        self._most = max(self._most, sample.memory_bytes)
        self._taken += 1
        if self._taken < self.every:
            return False
        self._append(Sample(sample.at, max(sample.cpu_seconds, self.cpu_seconds), self._most))
        self._taken, self._most = 0, 0
        if len(self) >= MOST:
            self._thin_out()
        return True

    def _append(self, sample: Sample) -> None:
        self._at.append(sample.at)
        self._cpu.append(sample.cpu_seconds)
        self._memory.append(sample.memory_bytes)

    def _thin_out(self) -> None:
        last = len(self) - len(self) % 2
        self._memory = array("q", map(max, self._memory[0:last:2], self._memory[1:last:2])) + self._memory[last:]
        self._at, self._cpu = (one[1:last:2] + one[last:] for one in (self._at, self._cpu))
        self.every *= 2
