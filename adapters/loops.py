"""Following without threads: coroutines of all that an adapter follows, on one thread.

Each adapter has a loop of its own, so that one that blocks its loop by mistake takes no other adapter's turn.
"""

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Loop:
    """An event loop on a thread of its own, begun when it is first needed. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, follow: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a coroutine there. Raises where the system gives no thread (`RuntimeError`) or descriptor just now."""
        try:
            loop = self._begun()
        except BaseException:
            follow.close()
            raise
        return asyncio.run_coroutine_threadsafe(follow, loop)

    def _begun(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                try:
                    threading.Thread(target=self._go_on, args=(loop,), name=self._name, daemon=True).start()
                except BaseException:
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """For ever: a task that raises `SystemExit` ends a loop, and with it all that is followed there."""
        while True:
            try:
                loop.run_forever()
            except BaseException:
                logger.exception("Something ended the event loop %s; it goes on.", self._name)


class Loops:
    """One for each adapter, by its type. Thread-safe."""

    def __init__(self) -> None:
        self._loops: dict[str, Loop] = {}

    def of(self, adapter: str) -> Loop:
        return self._loops.get(adapter) or self._loops.setdefault(adapter, Loop(f"follow-{adapter}"))
