"""`reaper.sweep`: each minute, decide which of the running runs are dead.

    watch     since when have we been looking without a gap?           models.reaping.next_watch
    listen    does the log pipeline lag?                               (with the reaper's own issue)
    suspect   which runs are silent for longer than the window?        stores.sweeps.SUSPECTS
    judge     what does this one's row say?                            models.reaping.judge
    ask       what does its platform say?                              (with the reaper's own issue)
    brake     are these too many at once?                              (with the reaper's own issue)
    reap      end it, if it is still silent; evidence beside it        models.reaping.conviction, workers.finish
    bury      end its work, on whichever host that is                  workers.supervisor

A sweep is single-flight and repeatable: it decides nothing by itself that the UPDATE does not check again.
"""

import json
import logging
from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy.exc import DBAPIError

from models.liveness import RESEND_DOUBLINGS
from models.reaping import Judgement, Suspect, Watch, conviction, dossier, is_due, judge, next_watch
from models.work import End
from workers.app import app
from workers.bootstrap import Services, services
from workers.closing import send_owed
from workers.enqueue import send_execute
from workers.finish import finish

logger = logging.getLogger(__name__)

#: Suspects judged and reaped together: one UPDATE per page.
PAGE_SIZE = 500


@app.task(name="reaper.sweep")  # type: ignore[untyped-decorator]
def sweep_task() -> dict[str, Any]:
    return sweep(services())


def sweep(services: Services, *, by_hand: bool = False) -> dict[str, Any]:
    """One sweep; returns what it did. Skipped while another is under way, or when one has just been made."""
    with services.sweeps.single_flight() as ours:
        if not ours:
            return {"skipped": "another sweep is under way"}
        now, previous = services.database.now(), services.sweeps.last_watch()
        if not by_hand and not is_due(previous, now, services.timing):
            return {"skipped": "a sweep has just been made"}
        watch = next_watch(previous, now, services.timing)
        services.sweeps.note_watch(watch)
        report = _judge_all(services, watch, now) | {"resent": _resend(services), "closing": send_owed(services)}
        services.sweeps.complete(json.dumps(report))
        return report


def _judge_all(services: Services, watch: Watch, now: datetime) -> dict[str, Any]:
    judgements: Counter[str] = Counter()
    reaped = 0
    for page in services.sweeps.suspects(now - services.timing.window, now, PAGE_SIZE):
        verdicts = [(suspect, judge(suspect, watch, now, services.timing)) for suspect in page]
        judgements.update(judgement.value for _, judgement in verdicts)
        reaped += _reap(services, [end for verdict in verdicts if (end := _end(services, *verdict, watch, now))])
    judged = judgements.total()
    return {"judged": judged, "reaped": reaped, "spared": judged - reaped, "judgements": dict(judgements)}


def _end(services: Services, suspect: Suspect, judgement: Judgement, watch: Watch, now: datetime) -> End | None:
    if judgement.error_code is None:
        return None
    evidence = dossier(suspect, judgement, watch, now, services.timing)
    return conviction(suspect, judgement.error_code, evidence, now, services.timing)


def _reap(services: Services, ends: list[End]) -> int:
    """End these runs in one statement; if one row of them makes it fail, one by one, so that it fails alone."""
    try:
        return len(finish(services, ends))
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        if len(ends) == 1:
            logger.exception("Run %s cannot be reaped; the others are.", ends[0].token.run_id)
            return 0
        return sum(_reap(services, [end]) for end in ends)


def _resend(services: Services) -> int:
    """Send the messages again of runs that stay queued without having been claimed."""
    unclaimed = services.runs.resend_unclaimed(services.timing.resend_after, RESEND_DOUBLINGS)
    for run_id in unclaimed:
        send_execute(run_id)
    return len(unclaimed)
