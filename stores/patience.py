"""Calls that may never come back, each with a deadline: an object store that hangs, a network disk that is gone.

Not every client has a deadline of its own, and a file of a hung network disk has none at all. So the call is made on a
thread of its own, and its caller waits for that long and no longer. A thread that is left behind keeps its place until
it comes back: a store that hangs for ever costs so many threads, and then each caller its deadline.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Patience:
    """So many calls at once, each for so long."""

    def __init__(self, at_once: int) -> None:
        self._free = threading.BoundedSemaphore(at_once)

    def call(self, seconds: float, work: Callable[[], T]) -> T:
        """What `work` returns or raises; raises `TimeoutError` when it has done neither within so many seconds.

        Waiting until another call comes back is part of that time.
        """
        ends_at = time.monotonic() + seconds
        if not self._free.acquire(timeout=seconds):
            raise TimeoutError
        said: Future[T] = Future()
        try:
            threading.Thread(target=self._act, args=(work, said), daemon=True).start()
        except RuntimeError:  # No thread is to be had.
            self._free.release()
            raise
        return said.result(max(0.0, ends_at - time.monotonic()))

    def _act(self, work: Callable[[], T], said: "Future[T]") -> None:
        try:
            result = work()
        except BaseException as error:  # Re-raised to the caller, whatever it is.
            self._free.release()
            said.set_exception(error)
        else:
            self._free.release()
            said.set_result(result)
