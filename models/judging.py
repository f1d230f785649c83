"""What a sweep decides about one suspect, as a pure function of its row, our watch and its platform's answer.

All times are the database's; `now` is always given.

What time alone cannot know is admitted here. An out-of-process run whose platform cannot be asked is reaped when it
gives no proof of life for a whole window, through a log pipeline that was seen to work; if nothing but its output
speaks for it, it must not pause for longer than `Timing.longest_pause`. An in-process run whose worker is cut off from
the database and from Redis for longer than `Timing.longest_cut_off` may be taken for lost with it.

A *vouch* is what a worker leaves in Redis for its work while it cannot reach the database. It spares, and refreshes
nothing. Redis forgets it a tolerated lag after it was given, by its own clock; a sweep that saw one believes it for the
rest of a window (`Timing.vouch_belief`), since Redis may be flushed, or become unreachable for that worker too. So work
that dies after it was vouched for is found within a window and a sweep of its death, as any other.

*Doubt* is counted from the first question that went unanswered while we were looking without a gap. Any answer but
*dead*, and any vouch, begins it anew: a platform that flaps between *ended* and silence is never convicted, for its
work has ended, and one that flaps between *dead* and silence does not put off the end of doubt.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from reprieve.models.liveness import Timing
from reprieve.models.status import ErrorCode, Probe, Proof
from reprieve.models.watching import Watch, hears_reports
from reprieve.models.work import NO_RETRIES, Fence, Retries


@dataclass(frozen=True, slots=True)
class Suspect:
    """A running run that is silent or overdue: what the sweep reads of it, and nothing wide.

    `last_chunk` is the number of the last stored chunk of its output, 0 for none. `reports`: its work has a token to
    report with, over the HTTP API.

    From the sparings of this silence come `unknown_at` (when its platform first could not say), `answered_at` (when a
    sparing last ended doubt, `Judgement.ends_doubt`), and `vouched_at` (when a sweep last saw a vouch).
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
    unknown_at: datetime | None = None
    answered_at: datetime | None = None
    vouched_at: datetime | None = None
    reports: bool = False
    start_by: datetime | None = None
    retries: Retries = NO_RETRIES

    @property
    def fence(self) -> Fence:
        return Fence(self.run_id, self.epoch)

    def silence(self, now: datetime) -> timedelta:
        return now - self.updated_at

    def is_silent(self, now: datetime, timing: Timing) -> bool:
        return self.silence(now) > timing.window

    def is_late_to_start(self, now: datetime) -> bool:
        """Whether its work, which is to begin elsewhere, was to have reported by now for the first time."""
        return self.has_not_begun and self.start_by is not None and now > self.start_by

    @property
    def has_not_begun(self) -> bool:
        """Whether its work begins elsewhere, and its worker alone has spoken for it so far."""
        return self.reports and self.last_proof in (Proof.CLAIM, Proof.KEEPALIVE)

    def is_overdue(self, now: datetime) -> bool:
        return self.max_runtime is not None and now - self.started_at > self.max_runtime

    def is_vouched_for(self, now: datetime, timing: Timing) -> bool:
        return self.vouched_at is not None and now - self.vouched_at <= timing.vouch_belief

    def doubted_since(self, watch: Watch) -> datetime | None:
        """Since when our questions have gone unanswered: since the last answer, and not before this watch began."""
        if self.unknown_at is None:
            return None
        return max(self.unknown_at, self.answered_at or self.unknown_at, watch.since)


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
    REAP_NOT_STARTED = "reap_not_started"
    """It was to begin elsewhere, and has not reported by the time by which it was to have begun."""
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
    """Silent, but we have not been watching for a whole window."""
    SPARE_LAGGING = "spare_lagging"
    """Silent, but the log pipeline lags, or has not worked for a whole window again."""
    SPARE_DEAF = "spare_deaf"
    """Silent, but it reports over the HTTP API, which was stuck or down, or has not been back for a whole window."""
    SPARE_BRAKED = "spare_braked"
    """Convicted, but with too many others at once: the longer silent are reaped first."""

    @property
    def error_code(self) -> ErrorCode | None:
        return _CODES.get(self)

    @property
    def wants_follower(self) -> bool:
        """Whether the work is there and nobody speaks for it."""
        return self in (Judgement.SPARE_ALIVE, Judgement.SPARE_ENDED)

    @property
    def ends_doubt(self) -> bool:
        """Whether something was said of the work, though its row was not refreshed: doubt is counted anew."""
        return self in (Judgement.SPARE_ENDED, Judgement.SPARE_VOUCHED)


_CODES = {
    Judgement.REAP_SILENT: ErrorCode.ADAPTER_LIVENESS_LOST,
    Judgement.REAP_GONE: ErrorCode.ADAPTER_LIVENESS_LOST,
    Judgement.REAP_UNANSWERED: ErrorCode.ADAPTER_LIVENESS_LOST,
    Judgement.REAP_PROCESS_LOST: ErrorCode.PROCESS_LOST,
    Judgement.REAP_NOT_STARTED: ErrorCode.NOT_STARTED,
    Judgement.REAP_TIMED_OUT: ErrorCode.TIMED_OUT,
}


def should_ask(suspect: Suspect, now: datetime, timing: Timing) -> bool:
    """Whether the platform's word would matter: for silent work outside the worker. The row decides, never a name.

    For overdue work too: it may have ended in time, while nobody could read how.
    """
    return suspect.out_of_process_liveness and suspect.is_silent(now, timing)


def judge(suspect: Suspect, watch: Watch, answer: Probe | None, now: datetime, timing: Timing) -> Judgement:
    """What the sweep at `now` does with `suspect`. `answer` is the platform's; None where no platform can be asked."""
    silent = suspect.is_silent(now, timing)
    if suspect.is_overdue(now) and not (silent and answer is Probe.ENDED):
        return Judgement.REAP_TIMED_OUT
    if not silent and not suspect.is_late_to_start(now):
        return Judgement.SPARE_PROVEN
    return _believe(suspect, watch, answer, now, timing) or _judge_silence(suspect, watch, answer, now, timing)


def _believe(suspect: Suspect, watch: Watch, answer: Probe | None, now: datetime, timing: Timing) -> Judgement | None:
    """Spare a silent run for what others say of it, or cannot say, whatever we could see or hear; else None."""
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
    """What the silence of a run is worth for which nothing else speaks."""
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
    if suspect.is_late_to_start(now):
        return Judgement.REAP_NOT_STARTED
    return Judgement.REAP_SILENT if answer is None else Judgement.REAP_UNANSWERED


def _doubt_is_over(suspect: Suspect, watch: Watch, now: datetime, timing: Timing) -> bool:
    """Whether questions have gone unanswered for longer than doubt may last: never at the first of them."""
    since = suspect.doubted_since(watch)
    return since is not None and now - since > timing.doubt_limit
