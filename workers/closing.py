"""`logs.close`, `logs.close_owed` and `logs.expire`: what becomes of the log of an attempt that has ended.

    wait for its last chunk (bounded) → write the archive, read it back → record it → drop the hot segments → closed

Each step is a fact before the next begins, so a crash anywhere leaves a log that is whole: before the record, the hot
segments are the log; after it, the archive is. That closing is owed is a fact too (`run_attempts.log_closed_at` is
NULL): the message after an end makes it happen soon, the sweep sends it again while it is owed.
"""

import logging
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from reprieve.models.chunks import LogKey
from reprieve.models.closing import Closing, next_step
from reprieve.models.extents import Extent
from reprieve.models.owed import Duty
from reprieve.stores.leases import Lease
from reprieve.stores.partitions import keep_partitions
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services, services
from reprieve.workers.hints import send_hint
from reprieve.workers.journal import about
from reprieve.workers.turns import Tally, fulfil, set_back, take_turns

logger = logging.getLogger(__name__)

#: Segments deleted in one transaction.
DROP_AT_ONCE = 5_000
#: Logs removed by one task of retention; the next task removes the rest.
EXPIRE_AT_ONCE = 500
#: Seconds after an end at which its log is first looked at: its last batch is mostly stored by then. By the clock of
#: the worker that takes the message; whatever that clock shows, the sweep sends again.
CLOSE_AFTER = 2
#: Owed logs that one turn looks at, the longest owed first …
CLOSE_AT_ONCE = 5_000
#: … and the seconds that it takes at the most: the next sweep sends for another.
CLOSE_FOR = 50.0
#: Logs that are closed, or removed, at once: what waits for an object store costs no processor.
AT_ONCE = 4
#: Seconds after which a closing that goes on keeps no other waiting. It may still succeed: a log of gigabytes takes as
#: long.
DEADLINE = 20.0
#: What a removal is counted as.
REMOVED = "removed"
#: How long a closing that gives no sign keeps its log to itself. It renews its lease as it goes; the longest step is to
#: read an object back, some gigabytes of it. Two at once do no harm: the first that records its object has closed it.
CLOSE_LEASE = timedelta(minutes=5)


@app.task(name="logs.close", acks_late=True, acks_on_failure_or_timeout=True)  # type: ignore[untyped-decorator]
def close_task(run_id: str, attempt: int) -> dict[str, str]:
    log = (UUID(run_id), attempt)
    try:
        return {"run": run_id, "log": close_log(services(), *log).value}
    except Exception as error:
        return {"run": run_id, "log": set_back(services().setbacks, Duty.CLOSING, log, error)}


@app.task(name="logs.close_owed")  # type: ignore[untyped-decorator]
def close_owed_task() -> dict[str, int]:
    return close_owed(services())


@app.task(name="logs.expire")  # type: ignore[untyped-decorator]
def expire_task() -> dict[str, int]:
    wired = services()
    for tidy in (wired.leases.tidy, wired.spooled.forget, wired.setbacks.tidy):
        tidy()
    report = keep_partitions(wired.database) | {"removed": expire_logs(wired)}
    if report["removed"] == EXPIRE_AT_ONCE:
        app.send_task("logs.expire")
    return report


def close_log(services: Services, run_id: UUID, attempt: int) -> Closing:
    """Take the steps that can be taken now, one closing at a time per log; returns the step that is left, or DONE."""
    with about(run_id, attempt):
        step = next_step(services.closings.find(run_id, attempt))
        if step not in (Closing.ARCHIVE, Closing.DROP):
            return step
        with services.leases.hold(f"close {run_id} {attempt}", CLOSE_LEASE) as lease:
            return Closing.WAIT if lease is None else _close(services, lease, run_id, attempt)


def _close(services: Services, lease: Lease, run_id: UUID, attempt: int) -> Closing:
    for _ in Closing:
        log = services.closings.find(run_id, attempt)
        step = next_step(log)
        if step is Closing.ARCHIVE:
            _archive(services, lease, run_id, attempt, log)
        elif step is Closing.DROP:
            while services.closings.drop_segments(run_id, attempt, DROP_AT_ONCE):
                lease.renew()
            services.closings.mark_closed(run_id, attempt)
            return Closing.DONE
        else:
            break
    return step


def _archive(services: Services, lease: Lease, run_id: UUID, attempt: int, log: Extent) -> None:
    """Write the archive and record it, with the numbers that it lacks: what never came, and what is in quarantine."""
    chunks = lease.while_going_through(services.logs.hot(run_id, attempt))
    written = services.archives.write(run_id, attempt, chunks)
    gaps = replace(log, stored=written.held).gaps_until_now
    if services.archives.record(run_id, attempt, written, gaps):
        logger.info("Run %s attempt %d: log archived, missing: %s", run_id, attempt, gaps)


def send_close(run_id: UUID, attempt: int) -> None:
    """Have a log closed soon."""
    shown = f"({run_id} attempt {attempt})"
    otherwise = f"the log of run {run_id} is closed later"
    send_hint("logs.close", [str(run_id), attempt], otherwise=otherwise, argsrepr=shown, countdown=CLOSE_AFTER)


def send_owed(services: Services) -> int:
    """Send one message to close all logs that are owed it; returns how many there are, up to a limit."""
    owed = len(services.closings.owed(CLOSE_AT_ONCE))
    if owed:
        send_hint("logs.close_owed", otherwise=f"{owed} logs are closed later")
    return owed


def close_owed(services: Services) -> dict[str, int]:
    """Go through the logs that are owed their closing, for less than a sweep's interval; returns what came of them.

    A log that fails, or hangs, does not stop the others.
    """
    tally = Tally()
    take_turns(
        services.closings.owed(CLOSE_AT_ONCE),
        lambda log: tally.add(_close_owed(services, log)),
        at_once=AT_ONCE,
        deadline=DEADLINE,
        seconds=CLOSE_FOR,
        name="close",
    )
    return tally.counts


def _close_owed(services: Services, log: LogKey) -> str:
    """Close a log that is owed it. A log that only waits for its tail was not tried, and has not failed."""
    try:
        step = next_step(services.closings.find(*log))
    except Exception:
        step = Closing.ARCHIVE  # The try will say what is wrong with it.
    if step is Closing.WAIT:
        return step.value
    return fulfil(services.setbacks, Duty.CLOSING, log, lambda: close_log(services, *log).value)


def expire_logs(services: Services) -> int:
    """Remove the logs that are older than the retention; returns how many, at most `EXPIRE_AT_ONCE`."""
    days = services.settings.log_retention_days
    if days is None:
        return 0
    tally = Tally()
    take_turns(
        services.archives.expired(timedelta(days=days), EXPIRE_AT_ONCE),
        lambda log: tally.add(fulfil(services.setbacks, Duty.REMOVAL, log, lambda: _remove(services, log))),
        at_once=AT_ONCE,
        deadline=DEADLINE,
        name="remove",
    )
    return tally.counts.get(REMOVED, 0)


def _remove(services: Services, log: LogKey) -> str:
    services.archives.remove(*log)
    services.closings.drop_added(*log)
    return REMOVED
