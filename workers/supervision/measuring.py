"""What the runs that this worker follows use while they live: looked at for all of them at once, and kept for a plot.

It is evidence for people and nothing depends on it: what cannot be written is tried again a minute later, together with
what has come meanwhile. What is written of an attempt is all of it, so that is done the less often the longer it runs:
each time that it has grown by a twentieth, which is what can be seen of a plot.
"""

import logging
import time
from collections.abc import Iterable

from reprieve.adapters import kills, sampling
from reprieve.models.samples import FEWEST, Sample, Series
from reprieve.models.used import Used
from reprieve.models.work import Fence
from reprieve.workers.bootstrap import Services
from reprieve.workers.supervision.followed import Contexts, Followed

logger = logging.getLogger(__name__)

#: Seconds between two writes.
WRITE_INTERVAL = 60.0
#: What is seen of a plot: one part in so many of it.
SEEN_PART = 20
#: Attempts that are written by one statement: some megabytes.
AT_ONCE = 500


class Measuring:
    """A turn of it is due at each keepalive."""

    def __init__(self, services: Services, followed: Followed) -> None:
        self._samples, self._followed = services.samples, followed
        self._interval = WRITE_INTERVAL / services.settings.time_scale
        self._series: dict[Fence, Series] = {}
        #: Of which there is more than was written, and when those were written that were at all.
        self._changed: set[Fence] = set()
        self._written: dict[Fence, float] = {}
        self._written_at = time.monotonic()

    def turn(self) -> None:
        kills.look()
        contexts = self._followed.contexts()
        self._begin(contexts)
        self._look(contexts)
        if time.monotonic() >= self._written_at + self._interval:
            self._written_at = time.monotonic()
            self._write(contexts)

    def _begin(self, contexts: Contexts) -> None:
        new = {fence for fence, context in contexts.items() if fence not in self._series and context.process}
        resumed = {fence for fence in new if contexts[fence].is_resumed}
        before = self._samples.resume(resumed) if resumed else {}
        self._written |= dict.fromkeys(before, float("-inf"))
        self._series |= {fence: before.get(fence) or Series() for fence in new}

    def _look(self, contexts: Contexts) -> None:
        processes = {fence: one for fence in self._series if fence in contexts and (one := contexts[fence].process)}
        now = time.monotonic()
        for fence, seen in sampling.look(processes).items():
            series = self._series[fence]
            if series.add(Sample(now, seen.cpu_seconds, seen.memory_bytes)):
                self._changed.add(fence)
            contexts[fence].seen_using(Used(max(seen.cpu_seconds, series.cpu_seconds), series.peak_memory))

    def _write(self, contexts: Contexts) -> None:
        """Keep what is new; forget what is not followed any more, once the last of it is kept."""
        over, now = self._series.keys() - contexts.keys(), time.monotonic()
        brief = {fence for fence in over - self._written.keys() if len(self._series[fence]) < FEWEST}
        due = {fence for fence in self._changed - brief if fence in over or self._has_grown(fence, now)}
        try:
            for part in _parts(sorted(due)):
                self._samples.write({fence: self._series[fence] for fence in part})
                self._changed.difference_update(part)
                self._written |= dict.fromkeys(part, now)
        finally:  # What could not be written of the others is tried again; these would be ever more.
            for fence in over:
                del self._series[fence]
                self._written.pop(fence, None)
            self._changed -= over

    def _has_grown(self, fence: Fence, now: float) -> bool:
        """By so much, since it was written, that this can be seen."""
        began = next(iter(self._series[fence])).at
        return now - self._written.get(fence, float("-inf")) >= (now - began) / SEEN_PART


def _parts(fences: list[Fence]) -> Iterable[list[Fence]]:
    for first in range(0, len(fences), AT_ONCE):
        yield fences[first : first + AT_ONCE]
