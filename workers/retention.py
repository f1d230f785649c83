"""`retention.runs`: ended runs go, with all that belongs to them, when they are as old as their lane's retention says.

    a page of runs → their logs' objects go → they are deleted, some hundreds at once → the page is recorded as done

A page whose process dies is begun again. One pass over all runs is made an hour, by one process at a time, in turns of
some seconds, and for a fifth of its time at most: the rest is the fleet's. A run that cannot be deleted keeps no
other (`models.owed`); a pass that fails says so to whoever looks at the fleet's health until one does not.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from uuid import UUID

from reprieve.models.chunks import LogKey
from reprieve.models.owed import Duty, reason_of
from reprieve.models.paging import pages
from reprieve.models.retention import RunRetention, due
from reprieve.stores.retention import Page
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.bootstrap import services as wired_services
from reprieve.workers.closing import remove_logs
from reprieve.workers.turns import fulfil

logger = logging.getLogger(__name__)

#: Runs that are looked at together …
PAGE = 2_000
#: … and deleted in one transaction.
REMOVE_AT_ONCE = 100
#: For how many times as long as a deletion took nothing is deleted: what is old has time, and a disk has one queue.
REST = 4.0
#: Seconds of a turn; what is left is done by the next, which others of the queue may precede.
TURN = 20.0
#: Seconds of a turn that the archive may take for a page: what it has not removed by then stays until the next pass.
ARCHIVE_FOR = 60.0
#: For how long a turn that gives no sign keeps others from it: longer than any of its steps takes.
LEASE = timedelta(minutes=5)
#: Seconds of a rest after which the turn says again that it goes on.
REST_AT_ONCE = 60.0
#: What is counted as left for the next turn.
GOES_ON = "goes_on"


@app.task(name="retention.runs")  # type: ignore[untyped-decorator]
def expire_runs_task() -> dict[str, int]:
    report = expire_runs(wired_services())
    if report.get(GOES_ON):
        app.send_task("retention.runs")
    return report


def expire_runs(services: Services) -> dict[str, int]:
    """Remove for a turn what is due; returns how many were, and whether a further turn is to follow.

    Whatever fails is recorded, logged, and raised.
    """
    retention = services.settings.run_retention_days
    if retention is None or retention.shortest is None:
        services.retention.turn_off()
        return {}
    with services.leases.hold("retention of runs", LEASE) as lease:
        if lease is None:
            return {}
        try:
            report = _turn(services, retention, retention.shortest, lease.renew)
        except Exception as error:
            logger.error("Ended runs could not be removed: %s.", reason_of(error))
            services.retention.failed(str(retention), reason_of(error))
            raise
        services.retention.well()
        return report


def _turn(
    services: Services, retention: RunRetention, shortest: timedelta, renew: Callable[[], None]
) -> dict[str, int]:
    removed, ends_at = 0, time.monotonic() + TURN
    after = services.retention.begin(str(retention))
    while True:
        page = _page(services, retention, shortest, after, renew)
        services.retention.record(page)
        removed, after = removed + len(page.removed), page.upto
        if page.is_last:
            services.retention.complete()
            return {"removed": removed}
        if time.monotonic() > ends_at:
            return {"removed": removed, GOES_ON: 1}


def _page(
    services: Services, retention: RunRetention, shortest: timedelta, after: UUID, renew: Callable[[], None]
) -> Page:
    """Remove what is due, and owes nothing, of the next runs. However long that takes, each of its steps renews."""
    look = services.retention.look(after, shortest, PAGE)
    is_due = due(look.runs, retention, look.now)
    _remove_objects(services, is_due.keys())
    renew()
    removed = set[UUID]()
    for some in pages(list(is_due), REMOVE_AT_ONCE):
        began = time.monotonic()
        removed |= _remove(services, some, renew)
        renew()
        _rest(REST * (time.monotonic() - began), renew)
    services.retention.remove_what_is_left(after, look.upto, renew)
    kept = [at for run_id, at in is_due.items() if run_id not in removed]
    first_left = next((run.id for run in look.runs if run.id not in removed), None)
    return Page(look.upto, look.is_last, removed, kept, first_left)


def _rest(seconds: float, renew: Callable[[], None]) -> None:
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > REST_AT_ONCE:
        time.sleep(min(left, REST_AT_ONCE))
        renew()
    time.sleep(max(0.0, left))


def _remove_objects(services: Services, runs: Collection[UUID]) -> None:
    """Remove what these runs have in the log archive. A run whose log's object stays, stays with it."""
    logs: list[LogKey] = services.retention.objects(runs) if runs else []
    if logs:
        remove_logs(services, logs, seconds=ARCHIVE_FOR)


def _remove(services: Services, runs: Sequence[UUID], renew: Callable[[], None]) -> set[UUID]:
    """Delete these runs, together; where that fails, each by itself."""
    try:
        return services.retention.remove(runs)
    except Exception as error:
        logger.warning("Some of %d runs cannot be deleted together (%s): each is tried by itself.", len(runs), error)
    removed = set[UUID]()

    def remove(run_id: UUID) -> str:
        removed.update(services.retention.remove([run_id]))
        return "removed"

    for run_id in runs:
        fulfil(services.setbacks, Duty.RETENTION, (run_id, 0), lambda run_id=run_id: remove(run_id))  # type: ignore[misc]
        renew()
    return removed
