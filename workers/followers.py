"""Followers: whoever follows an attempt that was claimed or adopted here, from its beginning to its end.

None holds a thread but for those of adapters that block (`adapters.protocol`): these have so many as there are places,
so that they cannot take what others need.
"""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from reprieve.adapters.loops import Loops
from reprieve.adapters.protocol import Adapter, AnyAdapter, AsyncAttaching, Attaching, follows_without_a_thread
from reprieve.adapters.registry import find_adapter
from reprieve.models.errors import UnknownAdapter
from reprieve.models.records import Run
from reprieve.models.status import Status
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.adoptions import Adoption
from reprieve.workers.async_context import AsyncRunContext
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.following import CameTo, Follow, Following
from reprieve.workers.journal import about
from reprieve.workers.recorder import Recorder
from reprieve.workers.supervision.followed import Followed
from reprieve.workers.telling import LiveRun, teller

logger = logging.getLogger(__name__)

#: The loop of the followers whose adapters block. No adapter can have this name.
BLOCKING = ""


def needs_thread(adapter: str) -> bool:
    """Whether each of an adapter's runs is followed on a thread of its own. An adapter that is not there needs none."""
    try:
        return not follows_without_a_thread(find_adapter(adapter))
    except UnknownAdapter:
        return False


class Followers:
    """One for each worker process. `places` is how many runs may use this host, and `name` what Celery calls it."""

    def __init__(self, services: Services, followed: Followed, name: str, places: int) -> None:
        self._services, self._followed, self._name = services, followed, name
        self._recorder = Recorder(services)
        self._following = Following(services, self._recorder)
        self._loops = Loops()
        self._places = places
        self._when_over: Callable[[], None] = lambda: None

    def when_over(self, call: Callable[[], None]) -> None:
        """Call this whenever something is not followed any more, on the thread of its loop."""
        self._when_over = call

    def begin(self, work: Work) -> None:
        """Start a claimed run, and follow it.

        Raises `WorkerEnds`, and where the system gives no thread or no descriptor just now: nothing has begun then.
        """
        context = self._followed.begin(work)

        async def start(adapter: AnyAdapter, work: Work) -> Outcome:
            if follows_without_a_thread(adapter):
                return await _in_a_task(adapter.execute(work, AsyncRunContext(context, self._recorder)))
            return await self._blocking(cast(Adapter, adapter).execute, work, context)

        self._begin(context, start, "attempt")

    def go_on(self, adoption: Adoption) -> None:
        """Follow what another worker has started. Raises as `begin` does."""
        context = self._followed.begin(adoption.work, adoption.resumed, adoption.said)
        context.found_at(adoption.handle, adoption.host)

        async def attach(adapter: AnyAdapter, work: Work) -> Outcome:
            if not isinstance(adapter, Attaching):
                raise UnknownAdapter(f"The adapter {work.adapter!r} cannot follow what another worker has started.")
            if follows_without_a_thread(adapter):
                own = AsyncRunContext(context, self._recorder)
                return await _in_a_task(cast(AsyncAttaching, adapter).attach(work, adoption.handle, own))
            return await self._blocking(adapter.attach, work, adoption.handle, context)

        self._begin(context, attach, "adoption")

    async def _blocking(self, act: Callable[..., Outcome], *arguments: Any) -> Outcome:
        """On a thread, with what its log and its trace say of the run that it is for. It ends with the process."""
        loop, inside = asyncio.get_running_loop(), contextvars.copy_context()
        done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

        def acted() -> None:
            came_to: tuple[Any, BaseException | None]
            try:
                came_to = inside.run(act, *arguments), None
            except BaseException as error:  # Some mean something of their own to an event loop (GeneratorExit …).
                came_to = None, error
            loop.call_soon_threadsafe(done.set_result, came_to)

        threading.Thread(target=acted, name="follow", daemon=True).start()
        return _outcome(*await done)

    @property
    def has_thread(self) -> bool:
        """Whether another run could be followed on a thread."""
        return (
            sum(count for name, count in self._followed.counts().items() if count and needs_thread(name)) < self._places
        )

    def _begin(self, context: RunContext, follow: Follow, name: str) -> None:
        adapter = context.work.adapter
        try:
            self._loops.of(BLOCKING if needs_thread(adapter) else adapter).run(self._to_the_end(context, follow, name))
        except BaseException:
            self._followed.end(context, has_begun=False)
            raise

    async def _to_the_end(self, context: RunContext, follow: Follow, name: str) -> None:
        work = context.work
        shown = LiveRun(work.run_id, self._name)
        teller().began(work.run_id)
        try:
            with about(work.run_id, work.attempt):
                logger.info("Run %s attempt %d is followed here: %s.", work.run_id, work.attempt, work.adapter)
                came_to = await self._following.to_the_end(context, follow, name)
                result = str(came_to.result)
                if came_to.end is None:
                    logger.info("Run %s attempt %d: not followed here any more: %s.", work.run_id, work.attempt, result)
                if result != "released":
                    await self._tell_end(context, came_to, time.monotonic() - shown.began)
        except BaseException:
            logger.exception("Run %s attempt %d: its follower has failed.", work.run_id, work.attempt)
        finally:
            shown.ended()
            self._over(context)

    async def _tell_end(self, context: RunContext, came_to: CameTo, seconds: float) -> None:
        """Tell what has become of the run, whoever has ended it."""
        ended: End | Run | None = came_to.end
        if ended is None:
            try:
                ended = await self._recorder.alone(lambda: self._services.records.get(context.run_id))
            except Exception as error:  # It is a hint.
                logger.info("What became of run %s is not told (%s).", context.run_id, type(error).__name__)
                return
            if ended.attempt != context.attempt and ended.status is not Status.QUEUED:
                return  # Whoever follows its later attempt tells.
        said = f"{ended.error_code}: {ended.error_message}"
        if ended.status is Status.SUCCEEDED:
            known = {"run": str(context.run_id), "attempt": context.attempt, "result": str(came_to.result)}
            said = repr(known | {"chunks": context.last_seq})
        teller().ended(context.run_id, ended.status, said, seconds)

    def close(self) -> None:
        """Begin nothing more: what is left ends with the process."""
        self._recorder.close()

    def _over(self, context: RunContext) -> None:
        self._followed.end(context)
        self._when_over()


async def _in_a_task(follow: Awaitable[Outcome]) -> Outcome:
    """In a task of its own: an adapter that cancels its task, or has it cancelled later, does not cancel ours."""
    done: asyncio.Future[tuple[Any, BaseException | None]] = asyncio.get_running_loop().create_future()

    async def acted() -> None:
        try:
            done.set_result((await follow, None))
        except BaseException as error:  # `SystemExit` would end the loop.
            done.set_result((None, error))

    await asyncio.wait([asyncio.create_task(acted())])
    return _outcome(*done.result())


def _outcome(outcome: Any, error: BaseException | None) -> Outcome:
    if error is not None:
        raise error
    return cast(Outcome, outcome)
