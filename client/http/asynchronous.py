"""The client for asyncio: it carries out plans, and the loop turns on while it waits.

An answer of thousands of runs is read on the loop's own thread, where it takes some tenths of a second.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, closing
from typing import Any, Self, TypeVar, Unpack

import anyio
import httpx2
from anyio import to_thread
from anyio.lowlevel import current_token

from reprieve.client.arguments import SomeRun, check_place, id_of
from reprieve.client.backoff import Backoff, Waiting
from reprieve.client.http import calls, plans
from reprieve.client.http.address import Address, Body, answer_of, why
from reprieve.client.http.steps import Answer, Give, Lost, Open, Pause, Plan, Receive, Send, Step, advance
from reprieve.models.filters import RunChoice, RunFilter
from reprieve.models.output import LogItem
from reprieve.models.records import Run
from reprieve.models.requests import RunOptions, RunRequest, asked_for

T = TypeVar("T")


class AsyncClient:
    """The `Client` for asyncio: the same methods, awaited, or iterated over with `async for`.

        async with AsyncClient("https://reprieve.example.com", token) as client:
            run = await client.enqueue_run("process", {"command": ["make", "report"]})
            async for item in client.follow_log(run):
                ...

    Cancelling the task that awaits ends what it holds. A loop that breaks off early is closed at once where it is in an
    `aclosing` block, as with every asynchronous generator. In another event loop the client connects anew.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        """Connects when it is first used. Raises `InvalidRequest`."""
        self._address = Address(url, token, timeout)
        #: And the process and the event loop that they belong to.
        self._connections: httpx2.AsyncClient | None = None
        self._place: object = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. The client cannot be used any more."""
        self._is_closed = True
        held, self._connections = self._connections, None
        if held is not None and self._place == _place():
            await held.aclose()

    async def enqueue_run(
        self,
        adapter: str,
        config: Mapping[str, Any],
        **options: Unpack[RunOptions],
    ) -> Run:
        """Ask for a run, which is queued (or, for a known idempotency key, whatever it is by now)."""
        wanted = RunRequest.of({"adapter": adapter, "config": config, **options})
        return await self._first(plans.run(calls.enqueue_run(wanted), self._backoff))

    async def enqueue_runs(self, requests: Iterable[RunRequest | Mapping[str, Any]]) -> list[Run]:
        """Ask for many runs: all of them, or none. At most 10,000, and 2 MiB of JSON, at once."""
        return await self._first(plans.enqueue_runs(calls.enqueue_runs(asked_for(requests)), self._backoff))

    async def run_again(self, run: SomeRun, *, idempotency_key: str | None = None) -> Run:
        """Ask for a new run that does again what this one, by its whole id, was asked for."""
        return await self._first(plans.run(calls.run_again(id_of(run), idempotency_key), self._backoff))

    async def cancel_run(self, run: SomeRun) -> Run:
        """End a run and its work, by its whole id; one that has ended stays as it is."""
        return await self._first(plans.run(calls.cancel_run(id_of(run)), self._backoff))

    async def get_result(self, run: SomeRun) -> Any:
        """The newest result that a run has given, as JSON has it; None for none."""
        return await self._first(plans.get_result(id_of(run), self._backoff))

    async def get_run(self, run: SomeRun) -> Run:
        """A run and its attempts."""
        return await self._first(plans.run(calls.get_run(id_of(run)), self._backoff))

    def list_runs(self, **choice: Unpack[RunChoice]) -> AsyncGenerator[Run]:
        """All runs, the newest first, or those that fit (`RunChoice`); read a page at a time."""
        return self._given(plans.list_runs(RunFilter.of(**choice), self._backoff))

    async def wait_for(self, run: SomeRun, *, timeout: float | None = None) -> Run:
        """The run, once it has ended. Raises `StillRunning` after so many seconds."""
        return await self._first(plans.wait_for(id_of(run), Waiting(timeout), self._backoff))

    def read_log(self, run: SomeRun, *, attempt: int | None = None, after: int = 0) -> AsyncGenerator[LogItem]:
        """What is stored of an attempt's log, the last one's by default, behind the item of this number."""
        check_place(attempt, after)
        return self._given(plans.read_log(id_of(run), attempt, after, self._backoff))

    def follow_log(self, run: SomeRun, *, attempt: int = 1, after: int = 0) -> AsyncGenerator[LogItem]:
        """The log from this place on as it comes, of all attempts, until the run has ended."""
        check_place(attempt, after)
        return self._given(plans.follow_log(id_of(run), attempt, after, self._backoff))

    @property
    def _backoff(self) -> Backoff:
        return Backoff(self._address.seconds)

    async def _first(self, plan: Plan[T]) -> T:
        async with aclosing(self._given(plan)) as given:
            return await anext(given)

    async def _given(self, plan: Plan[T]) -> AsyncGenerator[T]:
        """Carry out a plan, and give what it gives."""
        with closing(plan):
            async with aclosing(_Carrier(self._address, self._connected)) as carrier:
                step = advance(plan, None)
                while step is not None:
                    if isinstance(step, Give):
                        yield step.item
                        step = advance(plan, None)
                    else:
                        step = advance(plan, await carrier.carry_out(step))

    async def _connected(self) -> httpx2.AsyncClient:
        self._refuse_if_closed()
        place = _place()
        if self._connections is None or self._place != place:
            # On a thread: the certificates that are trusted take tens of milliseconds to read.
            made = await to_thread.run_sync(self._address.connected, httpx2.AsyncClient)
            self._refuse_if_closed()
            if self._connections is None or self._place != place:
                self._connections, self._place = made, place
        return self._connections

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("This client is closed.")


def _place() -> object:
    return os.getpid(), current_token()


class _Carrier:
    """Carries out steps, and holds the stream that is open."""

    def __init__(self, address: Address, connected: Callable[[], Awaitable[httpx2.AsyncClient]]) -> None:
        self._address = address
        self._connected = connected
        self._opened: httpx2.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def carry_out(self, step: Step) -> Any:
        """What comes of a step."""
        try:
            match step:
                case Pause():
                    await anyio.sleep(step.seconds)
                    return None
                case Receive():
                    return await anext(self._pieces, b"") if self._pieces else b""
                case Open():
                    return await self._open(step)
                case Send():
                    return await _whole(await self._answered(step), step)
        except httpx2.HTTPError as error:
            return Lost(why(error))

    async def aclose(self) -> None:
        """End the open stream."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    async def _open(self, step: Open) -> Answer:
        await self.aclose()
        response = await self._answered(step)
        if response.status_code != httpx2.codes.OK:
            return await _whole(response, step)
        self._opened, self._pieces = response, response.aiter_bytes()
        return answer_of(response)

    async def _answered(self, step: Send | Open) -> httpx2.Response:
        http = await self._connected()
        return await http.send(http.build_request(**self._address.of(step)), stream=True)


async def _whole(response: httpx2.Response, step: Send | Open) -> Answer:
    async with aclosing(response):
        body = Body(step.whole)
        async for piece in response.aiter_bytes():
            body.take(piece)
        return answer_of(response, body.whole)
