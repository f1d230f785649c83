"""Quiet runs: a step of the sweep, and the snooze. What is decided of them is in `models/quiet.py`."""

import logging
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from reprieve.models.quiet import Hush, brake_stalled, checked_snooze, end_of_stalled, listen_to
from reprieve.models.records import Run
from reprieve.models.watching import Watch, listen
from reprieve.models.work import NO_RETRIES
from reprieve.stores.leases import Lease
from reprieve.stores.quiet import Mark
from reprieve.workers import metrics
from reprieve.workers.bootstrap import Services
from reprieve.workers.bulk import PAGE_SIZE, end_in_bulk, in_bulk
from reprieve.workers.telling import teller

logger = logging.getLogger(__name__)


def find_quiet(services: Services, lease: Lease, watch: Watch, now: datetime) -> dict[str, int]:
    """Tell of runs that have become quiet, and end those that stalled; returns how many of each."""
    timing = services.timing
    watch = listen(watch, services.sweeps.heard_at(), now, timing)
    told, stalled = 0, []
    for page in lease.while_going_through(services.quiet.listened(now, PAGE_SIZE)):
        found = [(one, listen_to(one, watch, now, timing)) for one in page]
        stalled += [one for one, hush in found if hush is Hush.STALLED]
        marks = [Mark(one, hush is Hush.QUIET) for one, hush in found if hush in (Hush.QUIET, Hush.HEARD)]
        told += len(in_bulk(lambda some: services.quiet.mark(some, now), {one.of.run_id: one for one in marks}))
    if not stalled:
        return {"quiet": told, "stalled": 0}
    asked = services.runs.retries(one.run_id for one in stalled)
    ends = {
        one.run_id: end_of_stalled(replace(one, retries=asked.get(one.run_id, NO_RETRIES)), now, timing)
        for one in brake_stalled(stalled, services.sweeps.fleet())
    }
    if len(ends) < len(stalled):
        logger.error("%d runs have stalled at once: %d of them are ended now.", len(stalled), len(ends))
    ended = end_in_bulk(services, ends)
    for one in stalled:
        if one.run_id in ended:
            metrics.STALLED.labels(one.adapter).inc()
            teller().ended(one.run_id, ends[one.run_id].status, f"stalled: {ends[one.run_id].detail['error_message']}")
    return {"quiet": told, "stalled": len(ended)}


def snooze_run(services: Services, run_id: UUID, seconds: float) -> Run:
    """Have nobody told that a run is quiet, and not end it as stalled, for so long from now; 0 ends a snooze.

    A run that has ended stays as it is. Raises `RunNotFound`, `InvalidRequest`.
    """
    services.quiet.snooze(run_id, checked_snooze(seconds))
    return services.records.get(run_id)
