"""The reaper's decisions, as pure functions: watch, listen, judge, brake, retry, and the dossier that says why.

A sweep asks them in the order of `workers/sweep.py`; `simulation/` asks the very same ones. All times are the
database's; `now` is always given.

What time alone cannot know is admitted here. An out-of-process run of a platform that cannot be asked is reaped when
it gives no proof of life for a whole window, through a log pipeline that was seen to work; if nothing but its output
speaks for it, it must not pause for longer than `Timing.longest_pause`. An in-process run whose worker is cut off from
the database and from Redis for longer than `Timing.longest_cut_off` may be taken for lost with it.

A *vouch* is what a worker leaves in Redis for its work while it cannot reach the database. It spares, and refreshes
nothing. Redis forgets it a tolerated lag after it was given, by its own clock; a sweep that saw one believes it for the
rest of a window (`Timing.vouch_belief`), since Redis may be flushed, or lost to that worker too. So work that dies
after it was vouched for is found within a window and a sweep of its death, as any other.

*Doubt* is counted from the first question that went unanswered while we were looking without a gap. Any answer but
*dead*, and any vouch, begins it anew: a platform that flaps between *ended* and silence is never convicted, for its
work has ended, and one that flaps between *dead* and silence does not put off the end of doubt.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from heapq import nsmallest
from typing import Any
from uuid import UUID

from reprieve.models.liveness import Timing
from reprieve.models.status import ErrorCode, EventKind, Probe, Status
from reprieve.models.work import End, Fence, Work

#: One sweep convicts at most this share of the running fleet …
BRAKE_SHARE = 0.2
#: … or so many, whichever is more: what looks like the death of many is mostly a fault of the one who looks.
BRAKE_LEAST = 10


@dataclass(frozen=True, slots=True)
class Watch:
    """Since when the reaper has been looking, and hearing, without a gap, and when it looked last.

    `heard_at` is when the newest canary was sent that came back through the log queue. `hearing_since` is None while
    none did for longer than is tolerated.

    Work that reports over the HTTP API is heard by another ear: since `reports_since` an API has been taking reports
    without a gap, and it said so last at `reports_at`. Both are None where none ever ran.
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


def next_watch(previous: Watch | None, now: datetime, timing: Timing) -> Watch:
    """The watch that a sweep at `now` belongs to: a new one if we were blind since the last sweep.

    While nobody looked, the system that carries proofs of life may have been away as well: silence from that time
    is no evidence (kubernetes/kubernetes #24597: all nodes evicted after the controller's own outage). Nor was there
    a watch for this window if the last sweep had another one: somebody swept with another time scale. Nor is a watch
    worth anything whose last sweep is still to come: the database's clock was set back, as by a standby that took over.
    """
    if previous is None or previous.window != timing.window:
        return Watch(since=now, last_sweep_at=now, window=timing.window)
    if not timedelta(0) <= now - previous.last_sweep_at <= timing.blind_after:
        return Watch(since=now, last_sweep_at=now, window=timing.window)
    return replace(previous, last_sweep_at=now)


def listen(watch: Watch, heard_at: datetime | None, now: datetime, timing: Timing) -> Watch:
    """The watch of a sweep that has looked for the echo of its canaries: the newest one back was sent at `heard_at`.

    Older than what is tolerated, the pipeline lags: output that was printed long ago is still on its way. It then has
    to work for a whole window again before silence counts, as our own looking has (mars-project/mars #470: a backlog
    older than the window had everything reaped). One that would have been sent later than now says nothing: it is of a
    time before the database's clock was set back.
    """
    if heard_at is None or not timedelta(0) <= now - heard_at <= timing.tolerated_lag:
        return replace(watch, heard_at=heard_at, hearing_since=None)
    return replace(watch, heard_at=heard_at, hearing_since=watch.hearing_since or heard_at)


def hears_reports(watch: Watch, now: datetime, timing: Timing) -> bool:
    """Whether silence of work that reports over the HTTP API counts: one has been taking reports for a whole window.

    An API that was stuck, or down, is a gap in our hearing as a lagging log pipeline is. Where none ever ran there is
    nothing to be deaf with: whoever reports does so by another way.
    """
    if watch.reports_at is None or watch.reports_since is None:
        return True
    return abs(now - watch.reports_at) <= timing.tolerated_lag and now - watch.reports_since >= timing.window


def may_orphan(watch: Watch, now: datetime, timing: Timing) -> bool:
    """Whether a worker that was not seen lately is gone: only one that we would have seen, for we were looking.

    Nobody could be seen while the database was away; a watch that began afterwards has to be as old.
    """
    return watch.age(now) >= timing.worker_gone_after


def is_due(previous: Watch | None, now: datetime, timing: Timing) -> bool:
    """Whether a sweep message is worth a sweep, or is one of a backlog whose work another has just done.

    This stands in for the message's expiry, which Celery judges by the worker's clock. A tenth of the interval tells a
    backlog, worked off at once, from a sweep by hand, after which the next regular one must not be left out. A last
    sweep that is still to come was made before the database's clock was set back: long ago, for all we know.
    """
    return previous is None or not timedelta(0) <= now - previous.last_sweep_at < timing.sweep_interval / 10


@dataclass(frozen=True, slots=True)
class Suspect:
    """A running run that is silent or overdue: what the sweep reads of it, and nothing wide.

    `last_chunk` is the number of the last chunk that is stored of its output, 0 for none. Of this silence: since when
    no question about it was answered (None: the last one was, or none was asked), and when a sweep saw it vouched for.
    `reports`: its work has a token to report with, over the HTTP API.
    """

    run_id: UUID
    epoch: int
    attempt: int
    max_attempts: int
    adapter: str
    out_of_process_liveness: bool
    started_at: datetime
    max_runtime: timedelta | None
    updated_at: datetime
    last_proof: str | None
    last_chunk: int
    worker_node: str | None
    unanswered_since: datetime | None = None
    vouched_at: datetime | None = None
    reports: bool = False

    @property
    def fence(self) -> Fence:
        return Fence(self.run_id, self.epoch)

    def silence(self, now: datetime) -> timedelta:
        return now - self.updated_at

    def is_silent(self, now: datetime, timing: Timing) -> bool:
        return self.silence(now) > timing.window

    def is_overdue(self, now: datetime) -> bool:
        return self.max_runtime is not None and now - self.started_at > self.max_runtime

    def is_vouched_for(self, now: datetime, timing: Timing) -> bool:
        return self.vouched_at is not None and now - self.vouched_at <= timing.vouch_belief

    def doubted_since(self, watch: Watch) -> datetime | None:
        """Since when we have been asking in vain: nobody could be asked before this watch began."""
        return None if self.unanswered_since is None else max(self.unanswered_since, watch.since)


class Judgement(StrEnum):
    """What a sweep decides about one suspect."""

    REAP_SILENT = "reap_silent"
    """No platform can be asked, and nothing was heard for a window through a pipeline that works."""
    REAP_GONE = "reap_gone"
    """Silent, and the platform says that it is not there."""
    REAP_UNANSWERED = "reap_unanswered"
    """Silent, and the platform has not said anything for as long as doubt is allowed to last."""
    REAP_PROCESS_LOST = "reap_process_lost"
    """Work inside a worker that has not vouched for it for longer than the window."""
    REAP_TIMED_OUT = "reap_timed_out"
    """Running for longer than its `max_runtime`, however alive."""
    SPARE_PROVEN = "spare_proven"
    """Neither silent nor overdue: a proof of life came between listing and judging."""
    SPARE_ALIVE = "spare_alive"
    """Silent, but the platform sees it alive: somebody should follow it."""
    SPARE_ENDED = "spare_ended"
    """Silent, since it has ended: somebody should read how, however long ago that was."""
    SPARE_VOUCHED = "spare_vouched"
    """Silent, but its worker, which cannot reach the database, vouches for it through Redis."""
    SPARE_UNKNOWN = "spare_unknown"
    """Silent, and the platform cannot say: doubt spares, for a while."""
    SPARE_WARMING_UP = "spare_warming_up"
    """Silent, but we have not been watching for a whole window ourselves."""
    SPARE_LAGGING = "spare_lagging"
    """Silent, but the log pipeline lags, or has not worked for a whole window again."""
    SPARE_DEAF = "spare_deaf"
    """Silent, but it reports over the HTTP API, which was stuck or away, or has not been back for a whole window."""
    SPARE_BRAKED = "spare_braked"
    """Convicted, but too many are at once: the longer silent go first."""

    @property
    def error_code(self) -> ErrorCode | None:
        return _CODES.get(self)

    @property
    def wants_follower(self) -> bool:
        """Whether the work is there and nobody speaks for it."""
        return self in (Judgement.SPARE_ALIVE, Judgement.SPARE_ENDED)


_CODES = {
    Judgement.REAP_SILENT: ErrorCode.ADAPTER_LIVENESS_LOST,
    Judgement.REAP_GONE: ErrorCode.ADAPTER_LIVENESS_LOST,
    Judgement.REAP_UNANSWERED: ErrorCode.ADAPTER_LIVENESS_LOST,
    Judgement.REAP_PROCESS_LOST: ErrorCode.PROCESS_LOST,
    Judgement.REAP_TIMED_OUT: ErrorCode.TIMED_OUT,
}


def should_ask(suspect: Suspect, now: datetime, timing: Timing) -> bool:
    """Whether the platform's word would matter: for silent work outside the worker. The row decides, never a name.

    Of overdue work too: it may have ended in time, while nobody could read how.
    """
    return suspect.out_of_process_liveness and suspect.is_silent(now, timing)


def judge(suspect: Suspect, watch: Watch, answer: Probe | None, now: datetime, timing: Timing) -> Judgement:
    """What the sweep at `now` does with `suspect`; `answer` is the platform's, None where none can be asked."""
    silent = suspect.is_silent(now, timing)
    if suspect.is_overdue(now) and not (silent and answer is Probe.ENDED):
        return Judgement.REAP_TIMED_OUT
    if not silent:
        return Judgement.SPARE_PROVEN
    return _believe(suspect, watch, answer, now, timing) or _judge_silence(suspect, watch, answer, now, timing)


def _believe(suspect: Suspect, watch: Watch, answer: Probe | None, now: datetime, timing: Timing) -> Judgement | None:
    """What is said of a silent run, or not said, that spares it, whatever we could see or hear ourselves."""
    if answer is Probe.ALIVE:
        return Judgement.SPARE_ALIVE
    if answer is Probe.ENDED:
        return Judgement.SPARE_ENDED
    if answer is not Probe.DEAD and suspect.is_vouched_for(now, timing):
        return Judgement.SPARE_VOUCHED
    if answer is Probe.UNKNOWN and not _doubt_is_over(suspect, watch, now, timing):
        return Judgement.SPARE_UNKNOWN
    return None


def _judge_silence(suspect: Suspect, watch: Watch, answer: Probe | None, now: datetime, timing: Timing) -> Judgement:
    """What silence is worth of a run for which nothing else speaks."""
    if watch.age(now) < timing.window:
        return Judgement.SPARE_WARMING_UP
    if not suspect.out_of_process_liveness:
        return Judgement.REAP_PROCESS_LOST
    if answer is Probe.DEAD:
        return Judgement.REAP_GONE
    if watch.heard_for(now) < timing.window:
        return Judgement.SPARE_LAGGING
    if suspect.reports and not hears_reports(watch, now, timing):
        return Judgement.SPARE_DEAF
    return Judgement.REAP_SILENT if answer is None else Judgement.REAP_UNANSWERED


def _doubt_is_over(suspect: Suspect, watch: Watch, now: datetime, timing: Timing) -> bool:
    """Whether questions have gone unanswered for longer than doubt may last: never at the first of them."""
    since = suspect.doubted_since(watch)
    return since is not None and now - since > timing.doubt_limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about one suspect, and what the platform had said."""

    suspect: Suspect
    judgement: Judgement
    answer: Probe | None = None

    @property
    def for_silence(self) -> bool:
        """Convicted by what was not heard or not found, of which a fault of our own might be the cause."""
        return self.judgement.error_code is not None and self.judgement is not Judgement.REAP_TIMED_OUT


@dataclass(frozen=True, slots=True)
class Brake:
    """How many of a sweep's convictions for silence are carried out."""

    fleet: int
    convicted: int

    @property
    def allowed(self) -> int:
        return max(int(self.fleet * BRAKE_SHARE), BRAKE_LEAST)

    @property
    def is_on(self) -> bool:
        return self.convicted > self.allowed


def brake(verdicts: Iterable[Verdict], limit: Brake) -> list[Verdict]:
    """The verdicts with the convictions beyond the limit turned into sparings: the longest silent are reaped first."""
    verdicts = list(verdicts)
    if not limit.is_on:
        return verdicts
    convicted = (verdict for verdict in verdicts if verdict.for_silence)
    first = nsmallest(limit.allowed, convicted, key=lambda one: (one.suspect.updated_at, one.suspect.run_id))
    reaped = {one.suspect.run_id for one in first}
    return [
        replace(verdict, judgement=Judgement.SPARE_BRAKED)
        if verdict.for_silence and verdict.suspect.run_id not in reaped
        else verdict
        for verdict in verdicts
    ]


def may_retry(code: ErrorCode, tried: Suspect | Work) -> bool:
    """Whether a run is queued again: only work that a lost worker owned, and only while attempts are left.

    Work that lives elsewhere may still be running when its proof of life is lost; starting it again is a decision
    for a person.
    """
    return code is ErrorCode.PROCESS_LOST and tried.attempt < tried.max_attempts


def dossier(verdict: Verdict, watch: Watch, limit: Brake, now: datetime, timing: Timing) -> dict[str, Any]:
    """The evidence of a verdict, stored with it. `None` says that there is nothing to say: nobody was asked, say."""
    suspect, lag = verdict.suspect, watch.lag(now)
    doubted_since = suspect.doubted_since(watch)
    return {
        "judgement": verdict.judgement.value,
        "judged_at": now.isoformat(),
        "adapter": suspect.adapter,
        "last_proof": suspect.last_proof,
        "last_proof_at": suspect.updated_at.isoformat(),
        "last_chunk": suspect.last_chunk,
        "silent_seconds": _seconds(suspect.silence(now)),
        "cutoff": (now - timing.window).isoformat(),
        "window_seconds": timing.window.total_seconds(),
        "running_seconds": _seconds(now - suspect.started_at),
        "watching_since": watch.since.isoformat(),
        "hearing_since": watch.hearing_since.isoformat() if watch.hearing_since else None,
        "reports_taken_since": watch.reports_since.isoformat() if suspect.reports and watch.reports_since else None,
        "pipeline_lag_seconds": None if lag is None else _seconds(lag),
        "probe": verdict.answer.value if verdict.answer else None,
        "unanswered_since": doubted_since.isoformat() if doubted_since else None,
        "vouched_at": suspect.vouched_at.isoformat() if suspect.vouched_at else None,
        "brake": {"fleet": limit.fleet, "convicted": limit.convicted, "allowed": limit.allowed, "on": limit.is_on},
        "worker_node": suspect.worker_node,
        "attempt": suspect.attempt,
    }


def _seconds(duration: timedelta) -> float:
    return round(duration.total_seconds(), 3)


def conviction(verdict: Verdict, evidence: dict[str, Any], now: datetime, timing: Timing) -> End | None:
    """The end of a reaped run: failed, or queued for its next attempt; either way its old work is owed an end.

    A run convicted for silence is ended only if it is still silent when the UPDATE runs. None for one that is spared.
    """
    suspect, code = verdict.suspect, verdict.judgement.error_code
    if code is None:
        return None
    retry = may_retry(code, suspect)
    return End(
        fence=suspect.fence,
        status=Status.QUEUED if retry else Status.FAILED,
        kind=EventKind.REAPED,
        error_code=None if retry else code,
        error_message=None if retry else _sentence(verdict, evidence, now, timing),
        outcome={"error_code": code.value},
        detail=evidence | {"error_code": code.value, "retry": retry},
        silent_before=None if code is ErrorCode.TIMED_OUT else now - timing.window,
        retry_after=retry_delay(suspect.fence, suspect.attempt, timing) if retry else timedelta(0),
    )


def retry_delay(fence: Fence, attempt: int, timing: Timing) -> timedelta:
    """How long a retry waits: somewhere within a sweep's interval for each attempt that was lost, up to five.

    By the run's id, so that the many which one fault ended together do not start together (thundering herd).
    """
    share = (fence.run_id.int ^ fence.epoch) % 1000 / 1000
    return timing.sweep_interval * min(attempt, 5) * share


def _sentence(verdict: Verdict, evidence: dict[str, Any], now: datetime, timing: Timing) -> str:
    suspect = verdict.suspect
    if verdict.judgement is Judgement.REAP_TIMED_OUT:
        limit = suspect.max_runtime.total_seconds() if suspect.max_runtime else 0
        return f"Ran for longer than its max_runtime of {limit:g} s."
    platform = {
        Judgement.REAP_GONE: " Its platform says that it is gone.",
        Judgement.REAP_UNANSWERED: _in_vain(evidence.get("unanswered_since"), now),
    }.get(verdict.judgement, "")
    return (
        f"No proof of life for {suspect.silence(now).total_seconds():.0f} s "
        f"(window {timing.window.total_seconds():g} s); the last was {suspect.last_proof or 'none'}, "
        f"followed by {suspect.worker_node or 'nobody'}.{platform}"
    )


def _in_vain(since: str | None, now: datetime) -> str:
    asked_at = now if since is None else datetime.fromisoformat(since)
    asked = f"It was asked about since {asked_at:%Y-%m-%d %H:%M:%S} UTC"
    return f" {asked}, and for {(now - asked_at).total_seconds():.0f} s nobody could say whether it lives."
