"""Follow one attempt to its end, whoever started it, and record how it ended.

Nothing that an adapter raises ends the worker. A follower that is to leave (`Released`) records no end: the work goes
on, and another worker follows it.
"""

import logging
import traceback
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError
from tenacity import Retrying, retry_if_exception_type, wait_exponential_jitter

from adapters.protocol import Adapter
from adapters.shipper import LogShipper
from models.errors import Released, UnknownAdapter
from models.status import ErrorCode
from models.work import End, Outcome, Work
from stores.database import TRANSIENT
from workers import metrics, tracing
from workers.bootstrap import Services
from workers.closing import send_close
from workers.context import RunContext
from workers.finish import finish

logger = logging.getLogger(__name__)

#: Seconds that the end of a run waits for its output to be on its way; its last sequence number is recorded anyway.
FLUSH_TIMEOUT = 10.0
#: The same for a follower that leaves: what is not stored by then, the next one reads again.
LEAVE_TIMEOUT = 2.0

#: What the adapter is to do with the work: `execute` or `attach`, with their arguments.
Follow = Callable[[Adapter, Work], Outcome]


def follow_to_the_end(services: Services, shipper: LogShipper, context: RunContext, follow: Follow, name: str) -> str:
    """Have the adapter follow the context's work, and record the end; returns what came of it, in a word.

    `name` is what this is called in a trace.
    """
    with tracing.following(context.work, name) as (work, span):
        result = _follow(services, shipper, work, context, follow)
        tracing.came_to(span, result)
    return result


def _follow(services: Services, shipper: LogShipper, work: Work, context: RunContext, follow: Follow) -> str:
    try:
        outcome, work_ended = perform(services, work, follow)
    except Released:
        return _leave(services, shipper, work)
    given_up = context.given_up
    shipper.flush(FLUSH_TIMEOUT)
    end = given_up or End.by_result(work.token, outcome, context.last_seq, work_ended=work_ended)
    if record(services, end):
        send_close(work.run_id, work.attempt)
        return outcome.error_code or "succeeded"
    if not context.stopping:
        note_late_result(services, end)
    return "superseded"


def perform(services: Services, work: Work, follow: Follow) -> tuple[Outcome, bool]:
    """The outcome of an attempt, and whether its work is known to have ended. Raises `Released`."""
    try:
        return follow(services.adapters.get(work.adapter), work), True
    except Released:
        raise
    except UnknownAdapter as unknown:
        return Outcome.failed(str(unknown), ErrorCode.UNKNOWN_ADAPTER), True
    except (Exception, SystemExit) as error:
        logger.exception("Run %s attempt %d: the adapter %r raised.", work.run_id, work.attempt, work.adapter)
        last_line = traceback.format_exception_only(error)[-1].strip()
        return Outcome.failed(last_line), False


def record(services: Services, end: End) -> bool:
    """Record an end, for as long as it takes a database that is away to come back; False when another end was first."""
    retrying = Retrying(
        retry=retry_if_exception_type(TRANSIENT),
        wait=wait_exponential_jitter(multiplier=0.2, max=15),
        before_sleep=lambda _: logger.error("The end of run %s is not recorded yet.", end.token.run_id),
    )
    return bool(retrying(finish, services, [end]))


def _leave(services: Services, shipper: LogShipper, work: Work) -> str:
    """Leave the work to another worker, if none has it yet. The sweep finds what could not be left."""
    shipper.flush(LEAVE_TIMEOUT)
    try:
        if services.followers.hand_over([work.token]):
            metrics.HANDED_OVER.labels(work.adapter).inc()
            logger.info("Run %s attempt %d: left to another worker.", work.run_id, work.attempt)
    except DBAPIError as error:
        logger.error("Run %s could not be handed over (%s); the sweep will.", work.run_id, type(error.orig).__name__)
    return "released"


def note_late_result(services: Services, end: End) -> None:
    """A result of an attempt that was reaped: kept as an event, and counted as a reap that may have been wrong.

    Work that a signal has ended says nothing of that: it was ours, for the run was reaped.
    """
    if "signal" in end.detail:
        return
    adapter = services.runs.note_late_result(end)
    if adapter is not None:
        metrics.SUSPECTED_FALSE_REAPS.labels(adapter).inc()
        logger.error("Run %s was reaped, and its follower reports a result all the same.", end.token.run_id)
