"""Descriptors of one run that are read on an event loop, each in its turn."""

import asyncio
from collections.abc import Iterable
from typing import Protocol


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Readers:
    """Says which of a run's descriptors can be read. To be used on the loop that it was made on, and closed.

    One that can be read is not watched again before it was asked for again: a run that floods, or one whose output is
    not taken just now, costs the loop nothing meanwhile.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched: set[int] = set()
        self._ready: list[int] = []
        self._woken = asyncio.Event()

    def watch(self, fds: Iterable[int]) -> None:
        for fd in fds:
            self._loop.add_reader(fd, self._can_be_read, fd)
            self._watched.add(fd)

    def _can_be_read(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._watched.discard(fd)
        self._ready.append(fd)
        self._woken.set()

    def wake(self, *_: object) -> None:
        """Have `next` return, for another reason than that something can be read."""
        self._woken.set()

    async def next(self, seconds: float | None) -> list[int]:
        """Those that can be read, once any can, or when woken, or after so many seconds."""
        timer = None if seconds is None else self._loop.call_later(seconds, self.wake)
        try:
            await self._woken.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._woken.clear()
        ready, self._ready = self._ready, []
        return ready

    def close(self) -> None:
        for fd in self._watched:
            self._loop.remove_reader(fd)
        self._watched.clear()
