"""For services and people that end runs: `cancel_run`."""

from uuid import UUID

from reprieve.models.records import Run
from reprieve.models.work import End, Fence
from reprieve.workers.bootstrap import Services, services
from reprieve.workers.finish import finish


def cancel_run(run: Run | UUID | str) -> Run:
    """End a run that has not ended: tell its producer to stop and terminate its work. Returns it as it is then.

    The beginning or the end of its id will do. A run that had already ended stays as it is. Raises `RunNotFound`.
    """
    wired = services()
    run_id = _id_of(wired, run)
    while True:
        found = wired.records.get(run_id)
        if found.status.is_final:
            return found
        # Repeated when a worker claims, or another ends, the run between the reading and the writing.
        finish(wired, [End.by_cancel(Fence(run_id, found.epoch), from_status=found.status)])


def _id_of(wired: Services, run: Run | UUID | str) -> UUID:
    if isinstance(run, Run | UUID):
        return run.id if isinstance(run, Run) else run
    return wired.records.resolve(str(run))
