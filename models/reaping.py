"""The reaper's decisions, as pure functions: watch, judge, retry, and the dossier that says why.

A sweep asks them in the order of `workers/reaper.py`. All times are the database's; `now` is always given.
What time alone cannot know is admitted here: an out-of-process run that is alive but gives no proof of life for a
whole window is reaped. Its follower's heartbeats are what keeps a quiet one from that.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from models.liveness import Timing
from models.status import ErrorCode, EventKind, Status
from models.work import End, Token


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when the reaper has been looking without a gap, and when it looked last."""

    since: datetime
    last_sweep_at: datetime
    window: timedelta

    def age(self, now: datetime) -> timedelta:
        return now - self.since


def next_watch(previous: Watch | None, now: datetime, timing: Timing) -> Watch:
    """The watch that a sweep at `now` belongs to: a new one if we were blind since the last sweep.

    While nobody looked, the system that carries proofs of life may have been away as well: silence from that time
    is no evidence (kubernetes/kubernetes #24597: all nodes evicted after the controller's own outage). Nor was there
    a watch for this window if the last sweep had another one: somebody swept with another time scale.
    """
    blind = previous is None or now - previous.last_sweep_at > timing.blind_after or previous.window != timing.window
    since = now if previous is None or blind else previous.since
    return Watch(since=since, last_sweep_at=now, window=timing.window)


def is_due(previous: Watch | None, now: datetime, timing: Timing) -> bool:
    """Whether a sweep message is worth a sweep, or is one of a backlog whose work another has just done.

    This stands in for the message's expiry, which Celery judges by the worker's clock. A tenth of the interval tells a
    backlog, worked off at once, from a sweep by hand, after which the next regular one must not be left out.
    """
    return previous is None or now - previous.last_sweep_at >= timing.sweep_interval / 10


@dataclass(frozen=True, slots=True)
class Suspect:
    """A running run that is silent or overdue: what the sweep reads of it, and nothing wide."""

    run_id: UUID
    epoch: int
    attempt: int
    max_attempts: int
    out_of_process_liveness: bool
    started_at: datetime
    max_runtime: timedelta | None
    updated_at: datetime
    last_proof: str | None
    worker_node: str | None

    @property
    def token(self) -> Token:
        return Token(self.run_id, self.epoch)


class Judgement(StrEnum):
    """What a sweep decides about one suspect."""

    REAP_ADAPTER_LIVENESS_LOST = "reap_adapter_liveness_lost"
    """Work outside the worker that gave no proof of life for longer than the window."""
    REAP_PROCESS_LOST = "reap_process_lost"
    """Work inside a worker that has not vouched for it for longer than the window."""
    REAP_TIMED_OUT = "reap_timed_out"
    """Running for longer than its `max_runtime`, however alive."""
    SPARE_WARMING_UP = "spare_warming_up"
    """Silent, but we have not been watching for a whole window ourselves."""
    SPARE_ALIVE = "spare_alive"
    """Neither silent nor overdue: a proof of life came between listing and judging."""

    @property
    def error_code(self) -> ErrorCode | None:
        return _CODES.get(self)


_CODES = {
    Judgement.REAP_ADAPTER_LIVENESS_LOST: ErrorCode.ADAPTER_LIVENESS_LOST,
    Judgement.REAP_PROCESS_LOST: ErrorCode.PROCESS_LOST,
    Judgement.REAP_TIMED_OUT: ErrorCode.TIMED_OUT,
}


def judge(suspect: Suspect, watch: Watch, now: datetime, timing: Timing) -> Judgement:
    """What the sweep at `now` does with `suspect`. The capability on the row decides, never an adapter's name."""
    if suspect.max_runtime is not None and now - suspect.started_at > suspect.max_runtime:
        return Judgement.REAP_TIMED_OUT
    if now - suspect.updated_at <= timing.window:
        return Judgement.SPARE_ALIVE
    if watch.age(now) < timing.window:
        return Judgement.SPARE_WARMING_UP
    if suspect.out_of_process_liveness:
        return Judgement.REAP_ADAPTER_LIVENESS_LOST
    return Judgement.REAP_PROCESS_LOST


def may_retry(code: ErrorCode, suspect: Suspect) -> bool:
    """Whether a reaped run is queued again: only work that a lost worker owned, and only while attempts are left.

    Work that lives elsewhere may still be running when its proof of life is lost; starting it again is a decision
    for a person.
    """
    return code is ErrorCode.PROCESS_LOST and suspect.attempt < suspect.max_attempts


def dossier(suspect: Suspect, judgement: Judgement, watch: Watch, now: datetime, timing: Timing) -> dict[str, Any]:
    """The evidence of a reap, stored with its event. `None` says that this step was not asked."""
    return {
        "judgement": judgement.value,
        "judged_at": now.isoformat(),
        "last_proof": suspect.last_proof,
        "last_proof_at": suspect.updated_at.isoformat(),
        "silent_seconds": round((now - suspect.updated_at).total_seconds(), 3),
        "cutoff": (now - timing.window).isoformat(),
        "window_seconds": timing.window.total_seconds(),
        "running_seconds": round((now - suspect.started_at).total_seconds(), 3),
        "watching_since": watch.since.isoformat(),
        "worker_node": suspect.worker_node,
        "attempt": suspect.attempt,
        "pipeline_lag_seconds": None,
        "probe": None,
        "brake": None,
    }


def conviction(suspect: Suspect, code: ErrorCode, evidence: dict[str, Any], now: datetime, timing: Timing) -> End:
    """The end of a reaped run: failed, or queued for its next attempt; either way its old work is owed an end.

    A run convicted for silence is ended only if it is still silent when the UPDATE runs.
    """
    retry = may_retry(code, suspect)
    return End(
        token=suspect.token,
        status=Status.QUEUED if retry else Status.FAILED,
        kind=EventKind.REAPED,
        error_code=None if retry else code,
        error_message=None if retry else _sentence(code, suspect, now, timing),
        outcome={"error_code": code.value},
        detail=evidence | {"error_code": code.value, "retry": retry},
        silent_before=None if code is ErrorCode.TIMED_OUT else now - timing.window,
    )


def _sentence(code: ErrorCode, suspect: Suspect, now: datetime, timing: Timing) -> str:
    silent = (now - suspect.updated_at).total_seconds()
    if code is ErrorCode.TIMED_OUT:
        limit = suspect.max_runtime.total_seconds() if suspect.max_runtime else 0
        return f"Ran for longer than its max_runtime of {limit:g} s."
    return (
        f"No proof of life for {silent:.0f} s (window {timing.window.total_seconds():g} s); "
        f"the last was {suspect.last_proof or 'none'}, followed by {suspect.worker_node or 'nobody'}."
    )
