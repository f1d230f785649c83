"""`runs.execute`: claim a run, have its adapter do the work, record how it ended.

The message is acknowledged early and may come twice or never: the claim starts one attempt, and the row is what a
lost message is found by. A worker that cannot use a message (it lacks the adapter, or the database) passes it on.
"""

import logging
import random
from typing import Any
from uuid import UUID

from reprieve.models.faults import is_unfit
from reprieve.models.queueing import passed_on_in
from reprieve.models.results import last_line
from reprieve.models.work import Work
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services, services
from reprieve.workers.carrying import start
from reprieve.workers.following import follow_to_the_end
from reprieve.workers.hints import PASSED_ON, send_execute
from reprieve.workers.journal import about
from reprieve.workers.lifecycle import Crew, crew
from reprieve.workers.waiting import until_fit

logger = logging.getLogger(__name__)

#: Seconds to retry a claim while the database is down; other messages wait in the broker meanwhile. After that, perhaps
#: only this worker cannot reach it.
CLAIM_FOR = 30.0


@app.task(bind=True, name="runs.execute", acks_late=False)  # type: ignore[untyped-decorator]
def execute_task(self: Any, run_id: str) -> dict[str, Any]:
    wired, ours = services(), crew(self.request.hostname)
    if ours.supervisor.is_draining:
        send_execute(UUID(run_id))
        return {"run": run_id, "started": False}
    work = _claim(wired, ours, UUID(run_id), self.request)
    if work is None:
        return {"run": run_id, "started": False}
    wired.throttle.forget([work.run_id])
    with about(work.run_id, work.attempt), ours.supervisor.follow(work) as context:
        result = follow_to_the_end(wired, context, lambda adapter, work: start(adapter, work, context), "attempt")
    return {"run": run_id, "attempt": work.attempt, "result": result, "chunks": context.last_seq}


def _claim(wired: Services, ours: Crew, run_id: UUID, request: Any) -> Work | None:
    """Claim a run for this worker; None when it cannot. A message that another worker may use is passed on."""

    def attempt() -> tuple[Work | None, str | None]:
        adapters = wired.adapters.usable()
        ours.supervisor.be_seen()
        work = wired.claims.claim(run_id, request.hostname, ours.supervisor.worker_id, adapters)
        return work, None if work else wired.claims.lacks_adapter(run_id, request.hostname, adapters)

    try:
        work, lacking = until_fit(attempt, stop=lambda tried: ours.supervisor.is_draining or tried > CLAIM_FOR)
    except Exception as error:
        if not is_unfit(error):
            raise
        _pass_on(run_id, request, last_line(error))
        return None
    if lacking is not None:
        _pass_on(run_id, request, f"there is no adapter {lacking!r} here")
    return work


def _pass_on(run_id: UUID, request: Any, why: str) -> None:
    """Send a message again that this worker cannot use; after some minutes, leave it to the sweep."""
    times = int((request.headers or {}).get(PASSED_ON, 0))
    gap = passed_on_in(times)
    if gap is None:
        logger.warning("Run %s stays in the queue, and is left to the sweep: %s.", run_id, why)
        return
    logger.info("Run %s stays in the queue for another worker: %s.", run_id, why)
    send_execute(run_id, after=gap * random.uniform(0.5, 1), passed_on=times + 1)  # noqa: S311 - to spread them
