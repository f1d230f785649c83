"""What is followed here and must stop: by a signal, by a revocation, or because its time is over."""

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from uuid import UUID

from celery.worker import state as worker_state

from reprieve.models.errors import RunNotFound
from reprieve.models.liveness import Timing
from reprieve.models.retrying import with_retry
from reprieve.models.status import ErrorCode, Probe
from reprieve.models.work import End, Fence, Outcome
from reprieve.workers.asking import ask_here
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_run
from reprieve.workers.context import RunContext
from reprieve.workers.finish import finish
from reprieve.workers.supervision.followed import Contexts

logger = logging.getLogger(__name__)

#: Seconds that a platform has to say whether overdue work has ended by itself.
OVERDUE_ASK_LIMIT = 2.0

#: Who ends a run whose task was revoked: Celery does not say who did that.
REVOKED = "a revocation of its task"


class Stopping:
    """Stops runs."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._heeded: set[str] = set()

    def heed_revocations(self) -> None:
        """Cancel the runs whose tasks were revoked or terminated, in Flower for example: a task's id is its run's.

        Celery tells every worker. It drops the message of a run that waits, and could not end one that runs on a
        thread; the row would stay as it is.
        """
        revoked = set(worker_state.revoked)
        for task_id in revoked - self._heeded:
            with suppress(ValueError, RunNotFound):
                logger.info(
                    "Task %s was revoked: its run is %s.", task_id, cancel_run(UUID(task_id), by=REVOKED).status
                )
        self._heeded = revoked

    def heed_signals(self, contexts: Contexts) -> None:
        for fence in self._services.stops.received(contexts.keys()):
            contexts[fence].stop()

    def end_overdue(self, contexts: Contexts) -> None:
        overdue = {fence: one for fence, one in contexts.items() if one.is_overdue and not one.stopping}
        ended = self._ended_by_themselves(overdue) if overdue else set()
        for context in overdue.values():
            if context.run_id not in ended:
                self._end_one_overdue(context)

    def _end_one_overdue(self, context: RunContext) -> None:
        try:
            finish(self._services, [_timed_out(context, self._services.timing)])
        except Exception:
            logger.exception("Run %s is overdue, and could not be ended; it is tried again.", context.run_id)
            return
        context.stop()

    def _ended_by_themselves(self, fences: Iterable[Fence]) -> set[UUID]:
        """The runs among these whose work has ended, perhaps long ago and in time, and is being read only now."""
        handles = self._services.questions.handles(fences)
        said = ask_here(self._services, handles, time.monotonic() + OVERDUE_ASK_LIMIT)
        return {run_id for run_id, answer in said.items() if answer is Probe.ENDED}


def _timed_out(context: RunContext, timing: Timing) -> End:
    outcome = Outcome.failed("Ran for longer than its max_runtime.", ErrorCode.TIMED_OUT)
    return with_retry(End.by_result(context.fence, outcome, context.last_seq, work_ended=False), context.work, timing)
