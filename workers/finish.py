"""`finish`: the one way in which any run ends, and any attempt that is to be retried.

One statement in one transaction makes the end a fact (`stores.runs.ends.FINISH`): status, the attempt's outcome, the
event with its evidence, and the termination owed. What follows the commit only makes it felt soon, and may be lost
without harm: the throttle key expires, a follower learns from the database that it must stop, and workers look for owed
terminations every few seconds.
"""

import logging
from collections.abc import Sequence

from reprieve.models.work import End, Fence
from reprieve.stores.runs.ends import Ended, free_runs, write_ends
from reprieve.workers.bootstrap import Services
from reprieve.workers.journal import about

logger = logging.getLogger(__name__)


def finish(services: Services, ends: Sequence[End], *, by_follower: bool = False) -> list[Ended]:
    """End runs; returns those to which their end applied. The first final state wins: a late result changes nothing.

    `by_follower`: each end comes from the run's own follower, so that nobody need be told to stop.
    """
    if not ends:
        return []
    with services.database.begin() as connection:
        ended = write_ends(connection, ends)
    _announce(services, ends, ended, by_follower)
    return ended


def finish_free(
    services: Services, ends: Sequence[End], *, by_follower: bool = False
) -> tuple[list[Ended], set[Fence]]:
    """The same for many at once that can be ended later as well; also returns those that were passed over.

    These are runs that another transaction is writing, or that a stalled transaction holds, so that the others end now.
    """
    if not ends:
        return [], set()
    with services.database.begin() as connection:
        free = free_runs(connection, [end.fence.run_id for end in ends])
        ended = write_ends(connection, [end for end in ends if end.fence.run_id in free])
    _announce(services, ends, ended, by_follower)
    held = {end.fence for end in ends if end.fence.run_id not in free}
    for fence in held:
        logger.warning("Run %s is not ended yet: another transaction holds it.", fence.run_id)
    return ended, held


def _announce(services: Services, ends: Sequence[End], ended: Sequence[Ended], by_follower: bool) -> None:
    """After the commit: release the throttle, signal the followers of these runs to stop, and say how each ended."""
    if not ended:
        return
    services.throttle.forget([run.run_id for run in ended])
    if not by_follower:
        services.stops.send([Fence(run.run_id, run.epoch) for run in ended])
    how = {end.fence: end for end in reversed(ends)}
    for run in ended:
        end = how[Fence(run.run_id, run.epoch)]
        with about(run.run_id, run.attempt):
            logger.info("Run %s attempt %d %s", run.run_id, run.attempt, end.in_words, extra=_code_of(end))


def _code_of(end: End) -> dict[str, str]:
    return {} if end.error_code is None else {"error_code": end.error_code.value}
