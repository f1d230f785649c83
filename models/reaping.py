"""What a sweep decides about all its suspects at once: listen, believe, judge, brake; and the evidence it leaves.

`workers/sweep.py` loads what `decide` needs and carries out what it returns; `simulation/reaper.py` does the same in
virtual time. The rules for one suspect are in `models.judging`, those for our own looking and hearing in
`models.watching`.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from heapq import nsmallest
from typing import Any
from uuid import UUID

from reprieve.models.judging import Judgement, Suspect, judge
from reprieve.models.liveness import Timing
from reprieve.models.retrying import end_of_lost
from reprieve.models.status import ErrorCode, EventKind, Probe, Status
from reprieve.models.watching import Watch, listen
from reprieve.models.work import NO_RETRIES, End, Fence, Retries

#: One sweep convicts at most this share of the running fleet …
BRAKE_SHARE = 0.2
#: … or this many, whichever is more: what looks like the death of many is mostly a fault of our own.
BRAKE_LEAST = 10


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

    @property
    def is_spared(self) -> bool:
        """Suspect still, and not convicted: why is worth keeping."""
        return self.judgement.error_code is None and self.judgement is not Judgement.SPARE_PROVEN


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


@dataclass(frozen=True, slots=True)
class Findings:
    """What a sweep knows when it decides.

    `fleet`: how many runs are running. `answers`: what platforms said, by run; none for a run whose platform cannot be
    asked. `vouched`: the work that workers vouch for in Redis by now. `heard_at`: when the newest canary was sent that
    has come back.
    """

    suspects: Sequence[Suspect]
    fleet: int
    answers: Mapping[UUID, Probe]
    vouched: Container[Fence]
    heard_at: datetime | None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the sweep at `now` decides about all its suspects, and by what: the watch that heard, and the brake."""

    watch: Watch
    verdicts: list[Verdict]
    limit: Brake
    now: datetime
    timing: Timing

    def end_of(self, verdict: Verdict, retries: Retries = NO_RETRIES) -> End | None:
        """The end of a reaped run: failed, or queued for its next attempt; either way its old work is owed an end.

        `retries` is what the run has asked for. One that was convicted for silence is ended only if it is still silent
        when the UPDATE runs. None for one that is spared.
        """
        code = verdict.judgement.error_code
        if code is None:
            return None
        lost = replace(verdict.suspect, retries=retries)
        end = end_of_lost(lost, code, self._sentence(verdict), self.timing)
        return replace(
            end,
            kind=EventKind.REAPED,
            detail=self.dossier(verdict) | {"error_code": code.value, "retry": end.status is Status.QUEUED},
            silent_before=self._silent_before(verdict),
        )

    def _silent_before(self, verdict: Verdict) -> datetime | None:
        if verdict.judgement is Judgement.REAP_NOT_STARTED:
            return verdict.suspect.start_by
        return self.now - self.timing.window if verdict.for_silence else None

    def dossier(self, verdict: Verdict) -> dict[str, Any]:
        """The evidence of a verdict, stored with it. None stands where there is no evidence, as where nobody was asked.

        Times are in ISO 8601, durations in seconds.
        """
        suspect, watch, now, limit = verdict.suspect, self.watch, self.now, self.limit
        return {
            "judgement": verdict.judgement.value,
            "judged_at": now.isoformat(),
            "adapter": suspect.adapter,
            "last_proof": suspect.last_proof,
            "last_proof_at": suspect.updated_at.isoformat(),
            "last_chunk": suspect.last_chunk,
            "silent_seconds": _seconds(suspect.silence(now)),
            "cutoff": (now - self.timing.window).isoformat(),
            "window_seconds": self.timing.window.total_seconds(),
            "running_seconds": _seconds(now - suspect.started_at),
            "watching_since": watch.since.isoformat(),
            "hearing_since": _time(watch.hearing_since),
            "reports_taken_since": _time(watch.reports_since) if suspect.reports else None,
            "pipeline_lag_seconds": _seconds(watch.lag(now)),
            "probe": verdict.answer.value if verdict.answer else None,
            "unanswered_since": _time(suspect.doubted_since(watch)),
            "vouched_at": _time(suspect.vouched_at),
            "brake": {"fleet": limit.fleet, "convicted": limit.convicted, "allowed": limit.allowed, "on": limit.is_on},
            "worker_node": suspect.worker_node,
            "attempt": suspect.attempt,
        }

    def _sentence(self, verdict: Verdict) -> str:
        suspect = verdict.suspect
        if verdict.judgement is Judgement.REAP_TIMED_OUT:
            limit = suspect.max_runtime.total_seconds() if suspect.max_runtime else 0
            return f"Ran for longer than its max_runtime of {limit:g} s."
        if verdict.judgement is Judgement.REAP_NOT_STARTED:
            return _not_started(suspect.start_by, "Nothing was reported of it")
        platform = {
            Judgement.REAP_GONE: " Its platform says that it is gone.",
            Judgement.REAP_UNANSWERED: self._in_vain(suspect),
        }.get(verdict.judgement, "")
        return (
            f"No proof of life for {suspect.silence(self.now).total_seconds():.0f} s "
            f"(window {self.timing.window.total_seconds():g} s); the last was {suspect.last_proof or 'none'}, "
            f"followed by {suspect.worker_node or 'nobody'}.{platform}"
        )

    def _in_vain(self, suspect: Suspect) -> str:
        asked_at = suspect.doubted_since(self.watch) or self.now
        asked = f"It was asked about since {asked_at:%Y-%m-%d %H:%M:%S} UTC"
        return f" {asked}, and for {(self.now - asked_at).total_seconds():.0f} s nobody could say whether it lives."


def end_of_late_to_start(fence: Fence, start_by: datetime) -> End:
    """The end of a run that waits still, and was to have begun by a time that has passed."""
    sentence = _not_started(start_by, "No worker had begun it")
    code = ErrorCode.NOT_STARTED
    return End(
        fence=fence,
        status=Status.FAILED,
        kind=EventKind.FAILED,
        error_code=code,
        error_message=sentence,
        detail={"error_code": code.value, "error_message": sentence},
        from_status=Status.QUEUED,
    )


def _not_started(start_by: datetime | None, what: str) -> str:
    return f"{what} by {start_by:%Y-%m-%d %H:%M:%S} UTC, the time by which it was to have begun."


def decide(watch: Watch, found: Findings, now: datetime, timing: Timing) -> Ruling:
    """What the sweep at `now` makes of all that it found: listen, believe, judge, brake, in this order."""
    watch = listen(watch, found.heard_at, now, timing)
    verdicts = []
    for listed in found.suspects:
        suspect = replace(listed, vouched_at=now) if listed.fence in found.vouched else listed
        answer = found.answers.get(suspect.run_id)
        verdicts.append(Verdict(suspect, judge(suspect, watch, answer, now, timing), answer))
    limit = Brake(fleet=found.fleet, convicted=sum(one.for_silence for one in verdicts))
    return Ruling(watch, brake(verdicts, limit), limit, now, timing)


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else round(duration.total_seconds(), 3)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
