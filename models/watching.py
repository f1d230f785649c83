"""The reaper's watch: since when it has been looking and hearing without a gap. Silence counts only as far as that.

All times are the database's; `now` is always given.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reprieve.models.liveness import Timing


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when the reaper has been looking, and hearing, without a gap, and when it looked last.

    `heard_at` is when the newest canary was sent that came back through the log queue. `hearing_since` is None while
    no canary came back within the tolerated lag.

    Work that reports over the HTTP API is heard by another ear: since `reports_since` an API process has been taking
    reports without a gap, and it last said so at `reports_at`. Both are None if no API ever ran.
    """

    since: datetime
    last_sweep_at: datetime
    window: timedelta
    hearing_since: datetime | None = None
    heard_at: datetime | None = None
    reports_since: datetime | None = None
    reports_at: datetime | None = None

    def age(self, now: datetime) -> timedelta:
        return now - self.since

    def lag(self, now: datetime) -> timedelta | None:
        """How far the log pipeline may be behind: the age of the newest canary that came back. None: none ever did."""
        return None if self.heard_at is None else now - self.heard_at

    def heard_for(self, now: datetime) -> timedelta:
        """For how long output has been coming through without a gap."""
        return timedelta(0) if self.hearing_since is None else now - self.hearing_since


def is_due(previous: Watch | None, now: datetime, timing: Timing) -> bool:
    """Whether a sweep message is worth a sweep, or belongs to a backlog whose work another sweep has just done.

    This stands in for the message's expiry, which Celery judges by the worker's clock. A tenth of the interval tells a
    backlog, worked off at once, from a sweep by hand, after which the next regular one must still happen. A last sweep
    in the future was made before the database's clock was set back: long ago, for all we know.
    """
    return previous is None or not timedelta(0) <= now - previous.last_sweep_at < timing.sweep_interval / 10


def next_watch(previous: Watch | None, now: datetime, timing: Timing) -> Watch:
    """The watch that a sweep at `now` belongs to: a new one if we were blind since the last sweep.

    While no sweep looked, the system that carries proofs of life may have been down as well: silence from that time is
    no evidence (kubernetes/kubernetes #24597: all nodes evicted after the controller's own outage). A watch is new as
    well if the last sweep had another window (another time scale), or lies in the future (the database's clock was set
    back, as by a standby that took over).
    """
    if previous is None or previous.window != timing.window:
        return Watch(since=now, last_sweep_at=now, window=timing.window)
    if not timedelta(0) <= now - previous.last_sweep_at <= timing.blind_after:
        return Watch(since=now, last_sweep_at=now, window=timing.window)
    return replace(previous, last_sweep_at=now)


def listen(watch: Watch, heard_at: datetime | None, now: datetime, timing: Timing) -> Watch:
    """The watch of a sweep whose newest canary to come back was sent at `heard_at`; None if none ever did.

    A canary older than the tolerated lag means that the pipeline lags: output printed long ago is still on its way. The
    pipeline then has to work for a whole window before silence counts again, as our own looking has to
    (mars-project/mars #470: a backlog older than the window had everything reaped). A canary from the future proves
    nothing: it was sent before the database's clock was set back.
    """
    if heard_at is None or not timedelta(0) <= now - heard_at <= timing.tolerated_lag:
        return replace(watch, heard_at=heard_at, hearing_since=None)
    return replace(watch, heard_at=heard_at, hearing_since=watch.hearing_since or heard_at)


def hears_reports(watch: Watch, now: datetime, timing: Timing) -> bool:
    """Whether silence counts for work that reports over the HTTP API: an API has taken reports for a whole window.

    An API that was stuck or down is a gap in our hearing, as a lagging log pipeline is. Where no API ever ran there is
    no gap: the work reports by another way.
    """
    if watch.reports_at is None or watch.reports_since is None:
        return True
    return abs(now - watch.reports_at) <= timing.tolerated_lag and now - watch.reports_since >= timing.window


def may_orphan(watch: Watch, now: datetime, timing: Timing) -> bool:
    """Whether a worker that was not seen lately is gone: only if we have been looking for as long.

    No worker could be seen while the database was down; a watch that began afterwards has to be as old.
    """
    return watch.age(now) >= timing.worker_gone_after
