"""The four ways to ask for runs, for tests that wait: what is awaited elsewhere is waited for here."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import reprieve
from reprieve import aio
from reprieve.client import AsyncClient, Client

WAYS = ("direct", "direct, asyncio", "HTTP", "HTTP, asyncio")


class Awaited:
    """The functions of something for asyncio, on an event loop that turns while one of them is waited for."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._target, name)

        def call(*given: Any, **named: Any) -> Any:
            result = function(*given, **named)
            return self._wait(result) if inspect.isawaitable(result) else self._items(result)

        return call

    def _items(self, items: Any) -> Iterator[Any]:
        try:
            while (item := self._wait(anext(items, self))) is not self:
                yield item
        finally:
            self._wait(items.aclose())

    def _wait(self, awaitable: Any) -> Any:
        async def awaited() -> Any:
            return await awaitable

        return self._runner.run(awaited())


@contextmanager
def asking(way: str, url: str, token: str) -> Iterator[Any]:
    """What has `enqueue_run`, `get_run` and the others, of this kind."""
    with asyncio.Runner() as runner:
        if way == "direct":
            yield reprieve
        elif way == "direct, asyncio":
            yield Awaited(aio, runner)
        elif way == "HTTP":
            with Client(url, token) as client:
                yield client
        else:
            client = AsyncClient(url, token)
            yield Awaited(client, runner)
            runner.run(client.aclose())
