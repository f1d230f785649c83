"""For services and people that end runs: `cancel_run`, and many at once."""

from collections.abc import Sequence
from uuid import UUID

from reprieve.models.asker import this_process
from reprieve.models.records import Run
from reprieve.models.work import End, Fence
from reprieve.workers.bootstrap import Services, services
from reprieve.workers.finish import finish, finish_free


def cancel_run(run: Run | UUID | str, *, by: str | None = None) -> Run:
    """End a run that has not ended: tell its producer to stop and terminate its work. Returns it as it is then.

    `by` says who asks, where that is not whoever runs this process.

    The beginning or the end of its id will do. A run that had already ended stays as it is. Raises `RunNotFound`.
    """
    wired, by = services(), by or this_process()
    run_id = _id_of(wired, run)
    while True:
        found = wired.records.get(run_id)
        if found.status.is_final:
            return found
        # Repeated when a worker claims, or another ends, the run between the reading and the writing.
        finish(wired, [End.by_cancel(Fence(run_id, found.epoch), from_status=found.status, by=by)])


def cancel_each(
    services: Services, run_ids: Sequence[UUID], later: list[UUID] | None = None, *, by: str | None = None
) -> set[UUID]:
    """End those of these runs that have not ended, by as few statements as can be; returns those that this ended.

    One that another transaction holds is waited for, once all others have ended; or is added to `later`, where there
    are others to be ended before.
    """
    ended, left, by = set[UUID](), list(run_ids), by or this_process()
    while left:
        found = [run for run in services.records.of(left) if not run.status.is_final]
        ends = {run.id: End.by_cancel(Fence(run.id, run.epoch), from_status=run.status, by=by) for run in found}
        done, held = finish_free(services, list(ends.values()))
        over = {one.run_id for one in done}
        if later is None:
            over |= {one.run_id for fence in held for one in finish(services, [ends[fence.run_id]])}
        else:
            later += [fence.run_id for fence in held]
        ended |= over
        # A worker has claimed these, or something else has ended them, since they were read.
        left = [run_id for run_id in ends if run_id not in over and run_id not in (later or ())]
    return ended


def _id_of(wired: Services, run: Run | UUID | str) -> UUID:
    if isinstance(run, Run | UUID):
        return run.id if isinstance(run, Run) else run
    return wired.records.resolve(str(run))
