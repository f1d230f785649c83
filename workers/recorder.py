"""What followers write to the database: those that wait at the same time share a statement and a commit.

While one statement is under way, whatever else is to be written waits, and goes together with the next one. A row that
another transaction holds is passed over, so that it keeps back nobody else's, and is then written alone.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from reprieve.models.faults import is_database_away
from reprieve.models.work import End, Fence
from reprieve.stores.runs.attempts import Start
from reprieve.stores.runs.reports import News
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import send_close
from reprieve.workers.finish import finish, finish_free
from reprieve.workers.sayings import Sayings, write_all

logger = logging.getLogger(__name__)

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")
T = TypeVar("T")

#: Items that are written by one statement.
AT_ONCE = 200
#: Threads for what can only be done one by one, and may wait.
THREADS = 8


class Together(Generic[I, R]):
    """Writes items, as many at once as have come meanwhile. Thread-safe.

    `write` gives a result for each item, in their order. What it raises is raised for each of them.
    """

    def __init__(self, write: Callable[[Sequence[I]], Sequence[R]], name: str) -> None:
        self._write, self._name = write, name
        self._waiting: list[tuple[I, Future[R]]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, item: I) -> Future[R]:
        """Raises `RuntimeError` where the system gives no thread just now."""
        future: Future[R] = Future()
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            self._waiting.append((item, future))
            self._changed.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                taken, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            # Whoever waits may give that up, until here: a future that was cancelled takes no result.
            wanted = [(item, future) for item, future in taken if future.set_running_or_notify_cancel()]
            if wanted:
                self._write_all([item for item, _ in wanted], [future for _, future in wanted])

    def _write_all(self, items: Sequence[I], futures: Sequence[Future[R]]) -> None:
        """Raises nothing, or nobody would write what comes after it."""
        try:
            results = list(zip(futures, self._write(items), strict=True))
        except BaseException as error:
            for future in futures:
                future.set_exception(error)
        else:
            for future, result in results:
                future.set_result(result)


class Recorder:
    """One for each process that follows runs."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._starts: Together[Start, bool] = Together(self._record_starts, "record-starts")
        self._ends: Together[End, bool | None] = Together(self._record_ends, "record-ends")
        self._sayings: Together[News, bool] = Together(partial(write_all, services.reports), "record-reports")
        self._alone = ThreadPoolExecutor(THREADS, "record-alone")

    async def start(self, start: Start) -> None:
        """Record what an attempt has started; raises `Superseded` when the attempt is not running."""
        if not await self._together(self._starts, start):
            await self.alone(lambda: self._services.attempts.persist(start))

    async def end(self, end: End) -> bool:
        """Record how an attempt has ended, and have its log closed; False if the run had already ended."""
        applied = await self._together(self._ends, end)
        return applied if applied is not None else await self.alone(lambda: self._end_alone(end))

    async def say(self, sayings: Sayings) -> None:
        """Record all that an attempt has said of itself, before its end is; raises where that is to be tried again."""
        if (news := sayings.news()) is not None:
            if not await asyncio.wrap_future(self._sayings.write(news)):
                await self.alone(lambda: self._services.reports.write([news]))
            sayings.written(news)

    @staticmethod
    async def _together(writing: Together[I, R], item: I) -> R | None:
        """The result for this item; None where it is to be written alone, since one of the others may be at fault."""
        try:
            return await asyncio.wrap_future(writing.write(item))
        except Exception as error:
            if is_database_away(error):
                raise
            return None

    async def alone(self, act: Callable[[], T]) -> T:
        """Do what may wait, for the database or anything else, on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._alone, act)

    def close(self) -> None:
        """What still waits for a thread is not done any more; the sweep finds it."""
        self._alone.shutdown(wait=False, cancel_futures=True)

    def _record_starts(self, starts: Sequence[Start]) -> list[bool]:
        recorded = self._services.attempts.persist_free(starts)
        return [start.fence in recorded for start in starts]

    def _record_ends(self, ends: Sequence[End]) -> list[bool | None]:
        """For each, whether it applied; None where another transaction holds the run."""
        ended, held = finish_free(self._services, ends, by_follower=True)
        applied = {Fence(one.run_id, one.epoch) for one in ended}
        if ended:
            send_close(self._services)
        return [None if end.fence in held else end.fence in applied for end in ends]

    def _end_alone(self, end: End) -> bool:
        ended = finish(self._services, [end], by_follower=True)
        if ended:
            send_close(self._services)
        return bool(ended)
