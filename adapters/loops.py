"""Following without threads: coroutines of all that an adapter follows, on one thread.

Each adapter has a loop of its own, so that one that blocks its loop by mistake takes no other adapter's turn.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """An event loop on a thread of its own, begun when it is first needed. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, follow: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine there. Raises `RuntimeError` where the system gives no thread just now."""
        return asyncio.run_coroutine_threadsafe(follow, self._begun(follow))

    def _begun(self, follow: Coroutine[Any, Any, T]) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                try:
                    threading.Thread(target=loop.run_forever, name=self._name, daemon=True).start()
                except RuntimeError:
                    follow.close()
                    loop.close()
                    raise
                self._loop = loop
            return self._loop


class Loops:
    """One for each adapter, by its type. Thread-safe."""

    def __init__(self) -> None:
        self._loops: dict[str, Loop] = {}

    def of(self, adapter: str) -> Loop:
        return self._loops.setdefault(adapter, Loop(f"follow-{adapter}"))
