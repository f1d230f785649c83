"""Follow one attempt to its end, whichever worker started it, and record how it ended.

Nothing that an adapter raises ends the worker. A follower that is to leave (`Released`) records no end: the work goes
on, and another worker follows it.

Nor does this worker's own trouble end the work: too few descriptors, a full disk or a lost connection (`models.faults`)
say nothing about it. Work that was recorded as started elsewhere is left to its next follower, which may be this worker
after a pause. An attempt that has begun nothing goes back to the queue, and does not count.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from uuid import UUID

from cachetools import TTLCache

from reprieve.adapters.protocol import AnyAdapter
from reprieve.adapters.registry import can_attach
from reprieve.models.draining import end_of_given_up
from reprieve.models.errors import Released, UnknownAdapter
from reprieve.models.faults import Fault, fault_of, is_unfit
from reprieve.models.queueing import TAKEN_BACK_DOUBLINGS, TAKEN_BACK_FOR
from reprieve.models.results import last_line, raised, understood
from reprieve.models.retrying import with_retry
from reprieve.models.used import Used
from reprieve.models.work import End, Fence, Outcome, Work, storable
from reprieve.stores.runs import late
from reprieve.workers import metrics, tracing
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.finish import finish
from reprieve.workers.recorder import Recorder
from reprieve.workers.sayings import write_all
from reprieve.workers.waiting import until_fit_without_a_thread

logger = logging.getLogger(__name__)

#: Seconds that a follower which leaves waits for its output to be on its way: what is not stored by then, the next one
#: reads again …
LEAVE_TIMEOUT = 2.0
#: … looking so often whether it is …
FLUSH_INTERVAL = 0.01
#: … and, where it waits for a while, whether it is told something.
LOOK_INTERVAL = 0.2
#: Seconds before work is left to the next follower because of trouble here, doubled each time it comes again …
TROUBLE_PAUSE = 1.0
#: … up to this many. Each costs an event; the work's own silence must not last for a window meanwhile.
LONGEST_TROUBLE_PAUSE = 60.0

#: What the adapter is to do with the work: `execute` or `attach`, with their arguments.
Follow = Callable[[AnyAdapter, Work], Awaitable[Outcome]]

#: How often this worker had trouble lately with the work of a run.
_troubles: TTLCache[UUID, int] = TTLCache(10_000, ttl=600)
_lock = threading.Lock()


class _Unable(Exception):
    """Raised when this worker cannot go on with an attempt, for the reason in its cause. Not an end."""


class CameTo(NamedTuple):
    """What has come of following an attempt."""

    result: str
    """In a word."""
    end: End | None = None
    """The end that was recorded here; None where somebody else has ended the run, or it goes on."""


class Following:
    """Follows attempts, each as a coroutine. One for each process that does."""

    def __init__(self, services: Services, recorder: Recorder) -> None:
        self._services, self._recorder = services, recorder

    async def to_the_end(self, context: RunContext, follow: Follow, name: str) -> "CameTo":
        """Have the adapter follow the context's work, and record the end. `name` is the name of the span in a trace."""
        with tracing.following(context.work, name) as (work, span):
            came_to = await self._follow(work, context, follow)
            tracing.came_to(span, came_to.result)
        return came_to

    async def _follow(self, work: Work, context: RunContext, follow: Follow) -> "CameTo":
        try:
            outcome, work_ended = await self._perform(work, follow)
        except Released:
            return CameTo(await self._leave(context))
        except _Unable as unable:
            return CameTo(await self._give_up(context, last_line(unable.__cause__ or unable)))
        context.has_result()
        outcome, given_up = context.with_what_was_seen(outcome), context.given_up
        # Not waited for: the end says how many chunks there are, the spool keeps them, and readers wait for the last.
        context.flush()
        await self._say(context)
        came_to = End.by_result(work.fence, outcome, context.last_seq, work_ended=work_ended)
        end = replace(given_up or with_retry(came_to, work, self._services.timing), used=outcome.used)
        if await self._record(end):
            return CameTo(outcome.error_code or "succeeded", end)
        if outcome.used is not None:
            await self._recorder.alone(partial(_note_used, self._services, work.fence, outcome.used))
        if not context.stopping:
            await self._recorder.alone(lambda: note_late_result(self._services, end))
        return CameTo("superseded")

    async def _perform(self, work: Work, follow: Follow) -> tuple[Outcome, bool]:
        """The outcome of an attempt, and whether its work is known to have ended. Raises `Released` and `_Unable`."""
        try:
            answer = await follow(self._services.adapters.get(work.adapter), work)
        except Released:
            raise
        except BaseException as error:
            if isinstance(error, UnknownAdapter) or is_unfit(error):
                raise _Unable from error
            logger.exception("Run %s attempt %d: the adapter %r raised.", work.run_id, work.attempt, work.adapter)
            return raised(work.adapter, error), False
        # What is no outcome does not say that the work has ended, either.
        return understood(work.adapter, answer), isinstance(answer, Outcome) and answer.work_ended is True

    # -- an end

    async def _say(self, context: RunContext) -> None:
        """Record what the work has said of itself, before its end or before another worker follows it.

        Only for the environment it is waited: whatever else goes wrong with that must not keep back how it ended.
        """

        def say(_: int, why: str) -> None:
            logger.error("What run %s said of itself is not recorded yet: %s", context.run_id, why)

        try:
            await until_fit_without_a_thread(lambda: self._recorder.say(context.sayings), say, longest=15)
        except Exception:
            logger.exception("Run %s: what it said of itself last cannot be recorded.", context.run_id)

    async def _record(self, end: End) -> bool:
        """Record how the attempt ended, retrying while the database is down. False if the run had already ended.

        An end whose content the database will never take is recorded without it.
        """
        run_id = end.fence.run_id
        try:
            return await self._persist(end, f"The end of run {run_id} is not recorded yet", _is_no_content)
        except Exception:  # Content: nothing else is raised.
            logger.exception("How run %s ended cannot be stored as it is: %r", run_id, end.detail)
        return await self._persist(end.bare(), f"That run {run_id} ended is not recorded yet", lambda _: True)

    async def _persist(self, end: End, otherwise: str, again: Callable[[BaseException], bool]) -> bool:
        """Write what must not be lost, retrying until it succeeds; raises what no retry would change."""

        def say(_: int, why: str) -> None:
            logger.error("%s: %s", otherwise, why)

        return await until_fit_without_a_thread(lambda: self._recorder.end(end), say, longest=15, again=again)

    # -- no end

    async def _leave(self, context: RunContext) -> str:
        """Hand the work over, if no other worker has it yet. The sweep finds what could not be handed over."""
        await _flush(context, LEAVE_TIMEOUT)
        return await self._recorder.alone(lambda: _leave(self._services, context))

    async def _give_up(self, context: RunContext, why: str) -> str:
        """This worker is in trouble: leave what goes on without it, take back what began nothing; the rest is lost.

        The rows say which of these it is: a record may have been committed without this worker hearing so.
        """
        work = context.work
        logger.error("Run %s attempt %d: trouble of this worker, not of the work: %s", work.run_id, work.attempt, why)
        if context.is_underway and context.lives_elsewhere:
            try:
                await _wait(context, _pause(work.run_id))
            except Released:
                return await self._leave(context)
        await _flush(context, LEAVE_TIMEOUT)
        otherwise = f"Run {work.run_id} is neither left to another worker nor back in the queue yet"
        try:
            return await until_fit_without_a_thread(
                lambda: self._recorder.alone(lambda: _let_go(self._services, context, why)),
                lambda _, reason: logger.error("%s: %s", otherwise, reason),
                longest=15,
                stop=lambda _: context.is_told,
                again=_is_no_content,
            )
        except Exception as error:
            logger.error("Run %s is left to the sweep (%s).", work.run_id, type(error).__name__)
            return "released"
        finally:
            context.release()  # Its number may be used again: whatever the adapter still says is not for that log.


def _is_no_content(error: BaseException) -> bool:
    return fault_of(error) is not Fault.CONTENT


async def _flush(context: RunContext, timeout: float) -> None:
    """Have what output there is be sent, within so many seconds; what is not sent by then is sent later."""
    until = time.monotonic() + timeout
    is_sent = context.flush()
    while not is_sent() and time.monotonic() < until:
        await asyncio.sleep(FLUSH_INTERVAL)


async def _wait(context: RunContext, seconds: float) -> None:
    """Raises `Released`."""
    until = time.monotonic() + seconds
    while not context.wait(0) and (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left, LOOK_INTERVAL))


def _note_used(services: Services, fence: Fence, used: Used) -> None:
    """Keep what an attempt used that another has ended. Best effort: it is evidence for people."""
    try:
        services.attempts.note_used(fence, used)
    except Exception as error:
        logger.warning("What run %s used was not kept (%s).", fence.run_id, type(error).__name__)


def note_late_result(services: Services, end: End) -> None:
    """Keep the result of an attempt that was reaped as an event, and count the reap as one that may have been wrong.

    Work that a signal has ended says nothing about that: the signal was ours, because the run was reaped.
    """
    if "signal" in end.detail:
        return
    with services.database.begin() as connection:
        adapter = late.note_late_result(connection, end)
    if adapter is not None:
        metrics.SUSPECTED_FALSE_REAPS.labels(adapter).inc()
        logger.error("Run %s was reaped, and its follower reports a result all the same.", end.fence.run_id)


def _leave(services: Services, context: RunContext) -> str:
    work = context.work
    _write_news(services, context)
    try:
        if not _hand_over(services, work) and not context.last_seq:
            take_back(services, work.fence, f"its worker was to leave it before it had begun ({services.host})")
    except Exception as error:
        logger.error("Run %s could not be handed over (%s); the sweep will.", work.run_id, type(error).__name__)
    return "released"


def _let_go(services: Services, context: RunContext, why: str) -> str:
    work = context.work
    _write_news(services, context)
    if can_attach(work.adapter) and _hand_over(services, work):
        return "released"
    if not context.last_seq and take_back(services, work.fence, f"{services.host} could not begin it ({why})"):
        return "returned"
    if context.is_underway and context.lives_elsewhere:
        # Nobody else could follow it; it may be alive, and its silence is the reaper's to judge.
        return "released"
    sentence = f"Its worker could not go on with it: {why}"
    end = end_of_given_up(work, storable(sentence), services.timing, context.last_seq)
    return "lost" if finish(services, [end]) else "superseded"


def _write_news(services: Services, context: RunContext) -> None:
    """What the work has said of itself, for the next follower to go on from. What fails, a file still has."""
    try:
        if (news := context.sayings.news()) is not None:
            write_all(services.reports, [news])
    except Exception as error:
        logger.warning("Run %s: what it said last was not written (%s).", context.run_id, type(error).__name__)


def _hand_over(services: Services, work: Work) -> bool:
    if not services.adoptions.hand_over([work.fence]):
        return False
    metrics.HANDED_OVER.labels(work.adapter).inc()
    logger.info("Run %s attempt %d: left to another worker.", work.run_id, work.attempt)
    return True


def take_back(services: Services, fence: Fence, why: str) -> bool:
    """Put an attempt that began nothing back into the queue; False where it may have begun something."""
    note = storable(f"Back in the queue: {why}. The attempt does not count.")
    wait = TAKEN_BACK_FOR * random.uniform(1, 2)  # noqa: S311 - so that many do not come back at once
    seconds = services.claims.take_back(fence, note, wait, TAKEN_BACK_DOUBLINGS)
    if seconds is None:
        return False
    services.throttle.forget([fence.run_id])
    logger.warning("Run %s: %s", fence.run_id, note)
    return True


def _pause(run_id: UUID) -> float:
    """Seconds to leave work alone that this worker could not follow; longer each time."""
    with _lock:
        times = _troubles[run_id] = _troubles.get(run_id, 0) + 1
    pause: float = min(TROUBLE_PAUSE * 2 ** (times - 1), LONGEST_TROUBLE_PAUSE)
    return pause * random.uniform(0.5, 1)  # noqa: S311 - so that many do not come back at once
