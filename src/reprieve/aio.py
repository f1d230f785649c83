"""What `reprieve` offers, for asyncio: awaited. None of it ever holds up the loop."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from reprieve.client import enqueue
from reprieve.client.link import link
from reprieve.client.within import runner_of
from reprieve.models.records import Run
from reprieve.models.requests import RunRequest
from reprieve.stores.location import our_location
from reprieve.workers import cancel

T = TypeVar("T")


async def enqueue_run(
    adapter: str,
    config: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
    max_runtime: float | timedelta | None = None,
    max_attempts: int = 1,
    idempotency_key: str | None = None,
    within: object = None,
) -> Run:
    """As `reprieve.enqueue_run`; `within` is an `AsyncSession` or an `AsyncConnection`."""
    call = partial(
        enqueue.enqueue_run,
        adapter,
        config,
        labels=labels,
        max_runtime=max_runtime,
        max_attempts=max_attempts,
        idempotency_key=idempotency_key,
    )
    return await _enqueue(call, within)


async def enqueue_runs(requests: Iterable[RunRequest | Mapping[str, Any]], *, within: object = None) -> list[Run]:
    """As `reprieve.enqueue_runs`; `within` is an `AsyncSession` or an `AsyncConnection`."""
    return await _enqueue(partial(enqueue.enqueue_runs, requests), within)


async def cancel_run(run_id: UUID | str) -> Run:
    """As `reprieve.cancel_run`."""
    return await asyncio.to_thread(cancel.cancel_run, run_id)


async def _enqueue(call: Callable[..., T], within: object) -> T:
    """In the caller's transaction its own driver waits, and the loop turns on; else a thread of ours does."""
    if within is None:
        return await asyncio.to_thread(call)
    run: Callable[..., Any] = runner_of(within)
    # Asked beforehand and remembered: there, it would be asked on the loop's own thread.
    await asyncio.to_thread(lambda: our_location(link().connections))
    result: T = await run(lambda sync: call(within=sync))
    return result
