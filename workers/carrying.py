"""Have an adapter start a run, or go on with it, whichever kind of adapter it is."""

from typing import Any, cast

from reprieve.adapters.loops import Loops
from reprieve.adapters.protocol import (
    Adapter,
    AnyAdapter,
    AsyncAdapter,
    AsyncAttaching,
    Attaching,
    follows_without_a_thread,
)
from reprieve.models.errors import UnknownAdapter
from reprieve.models.work import Outcome, Work
from reprieve.workers.async_context import AsyncRunContext
from reprieve.workers.context import RunContext

_loops = Loops()


def start(adapter: AnyAdapter, work: Work, context: RunContext) -> Outcome:
    """Start the work and follow it to its end."""
    if follows_without_a_thread(adapter):
        return _loops.of(adapter.type).run(_start(adapter, work, context)).result()
    return cast(Adapter, adapter).execute(work, context)


def go_on(adapter: AnyAdapter, work: Work, handle: dict[str, Any], context: RunContext) -> Outcome:
    """Follow what another worker has started. Raises `UnknownAdapter` where the adapter cannot."""
    if not isinstance(adapter, Attaching):
        raise UnknownAdapter(f"The adapter {work.adapter!r} cannot follow what another worker has started.")
    if follows_without_a_thread(adapter):
        return _loops.of(adapter.type).run(_go_on(cast(AsyncAttaching, adapter), work, handle, context)).result()
    return adapter.attach(work, handle, context)


async def _start(adapter: AsyncAdapter, work: Work, context: RunContext) -> Outcome:
    return await adapter.execute(work, AsyncRunContext(context))


async def _go_on(adapter: AsyncAttaching, work: Work, handle: dict[str, Any], context: RunContext) -> Outcome:
    return await adapter.attach(work, handle, AsyncRunContext(context))
