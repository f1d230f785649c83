"""Following an attempt to its end on the test's own thread, as a worker does on an event loop."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from reprieve.adapters.loops import Loops
from reprieve.adapters.protocol import Adapter, AnyAdapter, AsyncAttaching, Attaching, follows_without_a_thread
from reprieve.models.work import Outcome, Work
from reprieve.workers.async_context import AsyncRunContext
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.following import Following
from reprieve.workers.recorder import Recorder

#: As a worker has them: what an adapter keeps there outlives one run.
_loops = Loops()


def follow_to_the_end(services: Services, context: RunContext, act: Callable[[AnyAdapter, Work], Any]) -> str:
    """What comes of it where the adapter does this."""

    async def follow(adapter: AnyAdapter, work: Work) -> Outcome:
        outcome: Outcome = await asyncio.to_thread(act, adapter, work)
        return outcome

    return asyncio.run(Following(services, Recorder(services)).to_the_end(context, follow, "attempt")).result


def start(services: Services, adapter: AnyAdapter, work: Work, context: RunContext) -> Outcome:
    """Have an adapter of either kind start the work, and follow it to its end."""

    async def execute() -> Outcome:
        return await adapter.execute(work, AsyncRunContext(context, Recorder(services)))  # type: ignore[misc,arg-type]

    if follows_without_a_thread(adapter):
        return _loops.of(adapter.type).run(execute()).result()
    return cast(Adapter, adapter).execute(work, context)


def go_on(services: Services, adapter: AnyAdapter, work: Work, handle: dict[str, Any], context: RunContext) -> Outcome:
    """Have an adapter of either kind follow what another worker has started."""

    async def attach() -> Outcome:
        own = AsyncRunContext(context, Recorder(services))
        return await cast(AsyncAttaching, adapter).attach(work, handle, own)

    if follows_without_a_thread(adapter):
        return _loops.of(adapter.type).run(attach()).result()
    return cast(Attaching, adapter).attach(work, handle, context)
