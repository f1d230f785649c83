"""`enqueue.announce`: of runs that were asked for together, the message of each."""

from uuid import UUID

from reprieve.workers.app import app
from reprieve.workers.hints import send_execute


@app.task(name="enqueue.announce")  # type: ignore[untyped-decorator]
def announce_task(run_ids: list[str]) -> dict[str, int]:
    for run_id in run_ids:
        send_execute(UUID(run_id))
    return {"announced": len(run_ids)}
