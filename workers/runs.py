"""`runs.execute`: claim a run, have its adapter do the work, record how it ended.

The message is acknowledged early and may come twice or never: the claim starts one attempt, and the row is what a
lost message is found by. Nothing that an adapter raises ends the worker.
"""

import logging
import traceback
from typing import Any
from uuid import UUID

from tenacity import Retrying, retry_if_exception_type, wait_exponential_jitter

from models.errors import UnknownAdapter
from models.status import ErrorCode
from models.work import End, Outcome, Work
from workers.app import app
from workers.bootstrap import Services, services
from workers.closing import send_close
from workers.context import RunContext
from workers.finish import finish
from workers.lifecycle import crew
from workers.logs import TRANSIENT

logger = logging.getLogger(__name__)

#: Seconds that the end of a run waits for its output to be on its way; its last sequence number is recorded anyway.
FLUSH_TIMEOUT = 10.0


@app.task(bind=True, name="runs.execute", acks_late=False)  # type: ignore[untyped-decorator]
def execute_task(self: Any, run_id: str) -> dict[str, Any]:
    wired = services()
    work = wired.runs.claim(UUID(run_id), self.request.hostname)
    if work is None:
        return {"run": run_id, "started": False}
    wired.throttle.forget([work.run_id])
    with crew().supervisor.follow(work) as context:
        outcome, work_ended = perform(wired, work, context)
        crew().shipper.flush(FLUSH_TIMEOUT)
        recorded = record(wired, End.by_result(work.token, outcome, context.last_seq, work_ended=work_ended))
    send_close(work.run_id, work.attempt)
    return {
        "run": run_id,
        "attempt": work.attempt,
        "result": (outcome.error_code or "succeeded") if recorded else "superseded",
        "chunks": context.last_seq,
    }


def perform(services: Services, work: Work, context: RunContext) -> tuple[Outcome, bool]:
    """The outcome of an attempt, and whether its work is known to have ended."""
    try:
        return services.adapters.get(work.adapter).execute(work, context), True
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
