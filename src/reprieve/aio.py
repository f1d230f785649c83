"""What `reprieve` offers, for asyncio: awaited, or iterated over with `async for`. None of it ever holds up the loop.

    from reprieve import aio

    run = await aio.enqueue_run("process", {"command": ["make", "report"]})
    async for item in aio.follow_log(run):
        ...
    ended = await aio.wait_for(run, timeout=600)

The functions take, give and raise what those of the same name in `reprieve` do. Their calls to the database and the
broker are made by a few threads of their own, none of which waits for a run or for its output. When the task that
awaits is cancelled, a call that is under way comes to its own end, of which nobody hears: whether a run was asked for
is then not known, and an idempotency key is the way to ask again.
"""

import asyncio
import contextvars
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from itertools import islice
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, Unpack
from uuid import UUID

from reprieve.client import enqueue, runs
from reprieve.client.arguments import SomeRun, check_place, id_of
from reprieve.client.backoff import Backoff, Waiting
from reprieve.client.link import link
from reprieve.client.within import runner_of
from reprieve.models.errors import LogUnavailable, Unavailable
from reprieve.models.filters import RunChoice, RunFilter
from reprieve.models.output import LogItem
from reprieve.models.records import Run, RunPage
from reprieve.models.requests import RunOptions, RunRequest
from reprieve.stores.location import our_location

P = ParamSpec("P")
T = TypeVar("T")

#: Threads for all calls of a process: fewer than the database has connections for it.
THREADS = 8
#: Items of a log that are read at once.
AT_ONCE = 200
#: Seconds between two looks of a follower that waits for more.
LOOK_INTERVAL = 0.5

__all__ = [
    "cancel_run",
    "enqueue_run",
    "enqueue_runs",
    "follow_log",
    "get_result",
    "get_run",
    "list_runs",
    "read_log",
    "run_again",
    "wait_for",
]


async def enqueue_run(
    adapter: str,
    config: Mapping[str, Any],
    *,
    within: object = None,
    **options: Unpack[RunOptions],
) -> Run:
    """As `reprieve.enqueue_run`; `within` is an `AsyncSession` or an `AsyncConnection` of SQLAlchemy."""
    call = partial(
        enqueue.enqueue_run,
        adapter,
        config,
        **options,
    )
    return await _enqueue(call, within)


async def enqueue_runs(requests: Iterable[RunRequest | Mapping[str, Any]], *, within: object = None) -> list[Run]:
    """As `reprieve.enqueue_runs`; `within` is an `AsyncSession` or an `AsyncConnection` of SQLAlchemy."""
    return await _enqueue(partial(enqueue.enqueue_runs, list(requests)), within)


async def _enqueue(call: Callable[..., T], within: object) -> T:
    """In the caller's transaction its own driver waits, and the loop turns on; else a thread of ours does."""
    if within is None:
        return await _call(call)
    run = runner_of(within)
    # Asked beforehand and remembered: there, it would be asked on the loop's own thread.
    await _call(lambda: our_location(link().connections))
    result: T = await run(lambda sync: call(within=sync))
    return result


async def run_again(run: SomeRun, *, idempotency_key: str | None = None) -> Run:
    """As `reprieve.run_again`."""
    return await _call(enqueue.run_again, run, idempotency_key=idempotency_key)


async def cancel_run(run: SomeRun) -> Run:
    """As `reprieve.cancel_run`."""
    return await _call(runs.cancel_run, run)


async def get_result(run: SomeRun) -> Any:
    """As `reprieve.get_result`."""
    return await _call(runs.get_result, run)


async def get_run(run: SomeRun) -> Run:
    """As `reprieve.get_run`."""
    return await _call(runs.get_run, run)


def list_runs(**choice: Unpack[RunChoice]) -> AsyncGenerator[Run]:
    """As `reprieve.list_runs`."""
    return _listed(RunFilter.of(**choice))


async def _listed(wanted: RunFilter) -> AsyncGenerator[Run]:
    page: RunPage | None = None
    while page is None or page.next is not None:
        page = await _page(wanted, page.next if page else None)
        for run in page.runs:
            yield run


async def _page(wanted: RunFilter, before: UUID | None) -> RunPage:
    return await _call(runs.page_of_runs, wanted, before)


async def wait_for(run: SomeRun, *, timeout: float | None = None) -> Run:
    """As `reprieve.wait_for`."""
    run_id, waiting = id_of(run), Waiting(timeout)
    backoff = Backoff(min(runs.TRIES_FOR, waiting.seconds))
    while not (found := await _patiently(partial(runs.get_run, run_id), backoff)).status.is_final:
        await asyncio.sleep(waiting.pause(found))
    return found


def read_log(run: SomeRun, *, attempt: int | None = None, after: int = 0) -> AsyncGenerator[LogItem]:
    """As `reprieve.read_log`."""
    check_place(attempt, after)
    return _read(id_of(run), attempt, after)


async def _read(run_id: UUID, attempt: int | None, after: int) -> AsyncGenerator[LogItem]:
    stored = await _call(lambda: _logs().read_log(run_id, attempt=attempt, after=after))
    while items := await _call(lambda: list(islice(stored, AT_ONCE))):
        for item in items:
            yield item


def follow_log(run: SomeRun, *, attempt: int = 1, after: int = 0) -> AsyncGenerator[LogItem]:
    """As `reprieve.follow_log`. Output is given half a second after it was stored at the latest."""
    check_place(attempt, after)
    return _followed(id_of(run), attempt, after)


async def _followed(run_id: UUID, attempt: int, after: int) -> AsyncGenerator[LogItem]:
    follower, backoff = await _call(lambda: _logs().Follower(run_id, attempt, after)), Backoff(runs.TRIES_FOR)
    while (items := await _patiently(follower.ready, backoff)) is not None:
        for item in items:
            yield item
        if not items:
            await asyncio.sleep(LOOK_INTERVAL)


def _logs() -> ModuleType:
    """Imported by the thread that needs it: with it comes SQLAlchemy, half a second that the loop does not wait."""
    return import_module("reprieve.client.logs")


async def _patiently(call: Callable[[], T], backoff: Backoff) -> T:
    """What a call returns that is made again while the database does not answer."""
    while True:
        try:
            made = await _call(call)
        except (Unavailable, LogUnavailable) as error:
            await asyncio.sleep(runs.pause_after(error, backoff))
        else:
            backoff.reset()
            return made


_pools: dict[int, ThreadPoolExecutor] = {}


async def _call(call: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """What a call returns that is made by one of our threads, in the caller's context."""
    process = os.getpid()
    if process not in _pools:  # The threads of a parent are not there after a fork.
        _pools.setdefault(process, ThreadPoolExecutor(THREADS, "reprieve-aio"))
    made = partial(contextvars.copy_context().run, call, *given, **named)
    return await asyncio.get_running_loop().run_in_executor(_pools[process], made)
