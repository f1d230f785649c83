"""For services and people that end runs: `cancel_run`."""

from uuid import UUID

from reprieve.models.records import Run
from reprieve.models.work import End, Fence
from reprieve.workers.bootstrap import Services, services
from reprieve.workers.finish import finish


def cancel_run(run_id: UUID | str) -> Run:
    """End a run that has not ended: tell its producer to stop and terminate its work. Returns it as it is then.

    A run that had already ended stays as it is. Raises `RunNotFound`.
    """
    wired = services()
    while True:
        run = wired.records.get(_as_uuid(wired, run_id))
        if run.status.is_final:
            return run
        # Repeated when a worker claims, or another ends, the run between the reading and the writing.
        finish(wired, [End.by_cancel(Fence(run.id, run.epoch), from_status=run.status)])


def _as_uuid(wired: Services, run_id: UUID | str) -> UUID:
    return run_id if isinstance(run_id, UUID) else wired.records.resolve(run_id)
