"""The runs that this worker follows: a context for each, by its fence."""

import threading
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

from cachetools import LRUCache

from reprieve.adapters.registry import find_adapter
from reprieve.adapters.shipper import LogShipper
from reprieve.models.errors import UnknownAdapter, WorkerEnds
from reprieve.models.saying import NOTHING_SAID, Said
from reprieve.models.work import Fence, Work
from reprieve.stores.logs import Resumed
from reprieve.stores.runs.attempts import Standing
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext

#: Attempts that are remembered as having been followed here.
FOLLOWED_LATELY = 100_000

Contexts = Mapping[Fence, RunContext]


class Followed:
    """Which runs are followed in this process. Thread-safe."""

    def __init__(self, services: Services, shipper: LogShipper) -> None:
        self._services = services
        self._shipper = shipper
        self._contexts: dict[Fence, RunContext] = {}
        self._counts: Counter[str] = Counter()
        self._lately: LRUCache[Fence, bool] = LRUCache(FOLLOWED_LATELY)
        self._is_closed = False
        self._lock = threading.Lock()

    def begin(self, work: Work, resumed: Resumed | None = None, said: Said = NOTHING_SAID) -> RunContext:
        """The context of an attempt, which is followed from now on, until `end`. Raises `WorkerEnds`."""
        context = RunContext(self._services, self._shipper, work, resumed, said)
        with self._lock:
            if self._is_closed:
                raise WorkerEnds("its worker was asked to stop")
            self._contexts[work.fence] = context
            self._counts[work.adapter] += 1
        return context

    def end(self, context: RunContext, *, has_begun: bool = True) -> None:
        """It is not followed any more, or never was: nobody `has_begun` to."""
        with self._lock:
            del self._contexts[context.fence]
            self._counts[context.work.adapter] -= 1
            if has_begun:
                self._lately[context.fence] = True

    def close(self) -> None:
        """Begin nothing from now on, whoever has claimed or adopted it just now."""
        with self._lock:
            self._is_closed = True

    @contextmanager
    def follow(self, work: Work, resumed: Resumed | None = None) -> Iterator[RunContext]:
        """The context of an attempt, which is followed for as long as the block lasts."""
        context = self.begin(work, resumed)
        try:
            yield context
        finally:
            self.end(context)

    def contexts(self) -> dict[Fence, RunContext]:
        with self._lock:
            return dict(self._contexts)

    def counts(self) -> dict[str, int]:
        """How many are followed of each adapter."""
        with self._lock:
            return dict(self._counts)

    def begun(self) -> set[Fence]:
        """What is followed now, or was lately."""
        with self._lock:
            return self._contexts.keys() | set(self._lately)

    def heed(self, contexts: Contexts, leave: Container[Standing]) -> None:
        """Stop the followers of runs that have ended, and release those whose standing is to `leave`."""
        for fence, standing in self._services.attempts.standings(contexts).items():
            if standing is Standing.ENDED:
                contexts[fence].stop()
            elif standing in leave:
                contexts[fence].release()


def goes_on_without_us(work: Work) -> bool:
    """Whether the work is no child of this worker: it runs out of process."""
    try:
        return find_adapter(work.adapter).has_out_of_process_liveness
    except UnknownAdapter:
        return False
