"""`logs.close`, `logs.close_owed` and `logs.expire`: what becomes of the log of an attempt that has ended.

    small   wait for its last chunk (bounded) → closed, where it is: hundreds of logs in a few statements
    large   wait for its last chunk (bounded) → write the archive, read it back → record it → drop the segments → closed

Each step is a fact before the next begins, so a crash anywhere leaves a log that is whole: before the record, the hot
segments are the log; after it, the archive is. That closing is owed is a fact too (`run_attempts.log_closed_at` is
NULL): a message for all ends of some seconds makes it happen soon, the sweep sends it again while it is owed.
`logs.close`, for one log, is what earlier releases send.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from reprieve.models.chunks import LogKey
from reprieve.models.closing import CLOSED_AFTER, CLOSED_EVERY, Closing
from reprieve.models.errors import RunNotFound
from reprieve.models.faults import is_unfit
from reprieve.models.owed import Duty
from reprieve.models.paging import pages
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
#: Small logs that are closed in one transaction …
SMALL_AT_ONCE = 500
#: … or removed.
EXPIRE_SMALL_AT_ONCE = 5_000
#: Owed logs that a turn looks at together, the longest owed first …
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
    for tidy in (wired.leases.tidy, wired.spooled.forget, wired.setbacks.tidy, wired.notices.tidy):
        tidy()
    report = keep_partitions(wired.database) | {"removed": expire_logs(wired)}
    if report["removed"] >= EXPIRE_AT_ONCE:
        app.send_task("logs.expire")
    return report


def close_log(services: Services, run_id: UUID, attempt: int) -> Closing:
    """Take the steps that can be taken now; returns the step that is left, or DONE. Raises `RunNotFound`.

    A large log is closed by one at a time.
    """
    log = (run_id, attempt)
    with about(*log):
        step = _next(services, log)
        if step is Closing.STAY:
            services.closings.small.close([log])
            return _next(services, log)
        if step not in (Closing.ARCHIVE, Closing.DROP):
            return step
        with services.leases.hold(f"close {run_id} {attempt}", CLOSE_LEASE) as lease:
            return Closing.WAIT if lease is None else _close(services, lease, *log)


def _next(services: Services, log: LogKey) -> Closing:
    step = services.closings.steps([log]).get(log)
    if step is None:
        raise RunNotFound(f"There is no attempt {log[1]} of run {log[0]}.")
    return step


def _close(services: Services, lease: Lease, run_id: UUID, attempt: int) -> Closing:
    for _ in Closing:
        step = _next(services, (run_id, attempt))
        if step is Closing.ARCHIVE:
            _archive(services, lease, run_id, attempt)
        elif step is Closing.DROP:
            while services.closings.drop_segments(run_id, attempt, DROP_AT_ONCE):
                lease.renew()
            services.closings.mark_closed(run_id, attempt)
            return Closing.DONE
        else:
            break
    return step


def _archive(services: Services, lease: Lease, run_id: UUID, attempt: int) -> None:
    """Write the archive and record it, with the numbers that it lacks: what never came, and what is in quarantine."""
    log = services.closings.find(run_id, attempt)
    chunks = lease.while_going_through(services.logs.hot(run_id, attempt))
    written = services.archives.write(run_id, attempt, chunks)
    gaps = replace(log, stored=written.held).gaps_until_now
    if services.archives.record(run_id, attempt, written, gaps):
        level = logging.WARNING if gaps else logging.DEBUG
        logger.log(level, "Run %s attempt %d: log archived, missing: %s", run_id, attempt, gaps)


def send_close(services: Services) -> None:
    """Have the logs of ends that were recorded just now be closed soon; one message for all of some seconds.

    An end that finds it sent already is looked at by that message, which comes later than it by `CLOSED_AFTER`.
    """
    if services.closing.is_first():
        otherwise = "the logs of runs that have just ended are closed later"
        send_hint("logs.close_owed", otherwise=otherwise, countdown=CLOSED_EVERY + CLOSED_AFTER)


def send_owed(services: Services) -> int:
    """Send one message to close all logs that are owed it; returns how many there are, up to a limit."""
    owed = len(services.closings.owed(CLOSE_AT_ONCE))
    if owed:
        send_hint("logs.close_owed", otherwise=f"{owed} logs are closed later")
    return owed


def close_owed(services: Services) -> dict[str, int]:
    """Go through the logs that are owed their closing, for less than a sweep's interval; returns what came of them.

    The small ones first, many at once; then the others one by one: one that fails, or hangs, does not stop the others.
    """
    tally, ends_at = Tally(), time.monotonic() + CLOSE_FOR
    while time.monotonic() < ends_at:
        owed = services.closings.owed(CLOSE_AT_ONCE)
        closed, others = _close_small(services, owed, tally)
        if len(owed) < CLOSE_AT_ONCE or not closed:
            take_turns(
                others,
                lambda log: tally.add(_close_large(services, log)),
                at_once=AT_ONCE,
                deadline=DEADLINE,
                seconds=ends_at - time.monotonic(),
                name="close",
            )
            break
    return tally.counts


def _close_small(services: Services, owed: Sequence[LogKey], tally: Tally) -> tuple[int, list[LogKey]]:
    """Close those of these logs that stay where they are; returns how many, and those that want a try of their own."""
    closed, others = 0, list[LogKey]()
    for page in pages(owed, SMALL_AT_ONCE):
        try:
            steps = services.closings.steps(page)
            done = services.closings.small.close([log for log, step in steps.items() if step is Closing.STAY])
        except Exception as error:
            if is_unfit(error):
                raise
            logger.exception("Some of %d logs cannot be closed together: each is tried by itself.", len(page))
            others += page
            continue
        closed += len(done)
        tally.add(Closing.WAIT.value, sum(step is Closing.WAIT for step in steps.values()))
        others += [log for log in page if steps.get(log) in (Closing.ARCHIVE, Closing.DROP)]
    tally.add(Closing.DONE.value, closed)
    return closed, others


def _close_large(services: Services, log: LogKey) -> str:
    return fulfil(services.setbacks, Duty.CLOSING, log, lambda: close_log(services, *log).value)


def expire_logs(services: Services) -> int:
    """Remove logs that are older than the retention; returns how many. Fewer than `EXPIRE_AT_ONCE` were all of them."""
    days = services.settings.log_retention_days
    if days is None:
        return 0
    age = timedelta(days=days)
    small = services.closings.small.expire(age, EXPIRE_SMALL_AT_ONCE)
    return small + remove_logs(services, services.archives.expired(age, EXPIRE_AT_ONCE))


def remove_logs(services: Services, logs: Sequence[LogKey], *, seconds: float = float("inf")) -> int:
    """Remove these logs from the archive, as far as that goes in so many seconds; returns how many."""
    tally = Tally()
    take_turns(
        logs,
        lambda log: tally.add(fulfil(services.setbacks, Duty.REMOVAL, log, lambda: _remove(services, log))),
        at_once=AT_ONCE,
        deadline=DEADLINE,
        seconds=seconds,
        name="remove",
    )
    return tally.counts.get(REMOVED, 0)


def _remove(services: Services, log: LogKey) -> str:
    services.archives.remove(*log)
    services.closings.drop_added(*log)
    return REMOVED
