"""`runs.execute`: claim a run, have its adapter do the work, record how it ended.

The message is acknowledged early and may come twice or never: the claim starts one attempt, and the row is what a
lost message is found by.
"""

from typing import Any
from uuid import UUID

from workers.app import app
from workers.bootstrap import services
from workers.enqueue import send_execute
from workers.following import follow_to_the_end
from workers.journal import about
from workers.lifecycle import crew


@app.task(bind=True, name="runs.execute", acks_late=False)  # type: ignore[untyped-decorator]
def execute_task(self: Any, run_id: str) -> dict[str, Any]:
    wired, ours = services(), crew(self.request.hostname)
    if ours.supervisor.is_draining:
        send_execute(UUID(run_id))
        return {"run": run_id, "started": False}
    work = wired.runs.claim(UUID(run_id), self.request.hostname, ours.supervisor.worker_id)
    if work is None:
        return {"run": run_id, "started": False}
    wired.throttle.forget([work.run_id])
    with about(work.run_id, work.attempt), ours.supervisor.follow(work) as context:
        result = follow_to_the_end(
            wired, ours.shipper, context, lambda adapter, work: adapter.execute(work, context), "attempt"
        )
    return {"run": run_id, "attempt": work.attempt, "result": result, "chunks": context.last_seq}
