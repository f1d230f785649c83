"""Why a run is in its state: everything known about it, in sentences for the person who was woken up."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from reprieve.models.causes import cause, look_next
from reprieve.models.health import Refusal
from reprieve.models.judging import Judgement
from reprieve.models.lanes import MOST_COUNTED, LaneState
from reprieve.models.liveness import HOST_LOST_AFTER
from reprieve.models.nodes import in_words
from reprieve.models.notices import Told
from reprieve.models.owed import Failing
from reprieve.models.records import EventRecord, ExplanationRecord, NoticeRecord, Run, SampleRecord, SparingRecord
from reprieve.models.rows import RunAttempt, RunEvent, RunRow, Sparing
from reprieve.models.saying import sentences_of
from reprieve.models.status import EventKind, Status
from reprieve.models.text import in_memory, shown, span
from reprieve.stores.closings import LogState
from reprieve.workers.bootstrap import Services

PROOFS = {
    "claim": "a worker taking it",
    "output": "output",
    "keepalive": "its worker's keepalive",
    "heartbeat": "its adapter's heartbeat",
    "probe": "its platform's word",
    None: "nothing",
}


#: Why a suspect was spared, in words.
SPARED: dict[str, str] = {
    Judgement.SPARE_ALIVE: "its platform saw it alive",
    Judgement.SPARE_ENDED: "it had ended, and how was still to be read",
    Judgement.SPARE_VOUCHED: "its worker, which could not reach the database, vouched for it",
    Judgement.SPARE_UNKNOWN: "its platform could not say whether it lives",
    Judgement.SPARE_WARMING_UP: "the reaper had not been watching for a whole window",
    Judgement.SPARE_LAGGING: "the log pipeline lagged, or had not worked for a whole window again",
    Judgement.SPARE_DEAF: "the HTTP API that it reports to was stuck or away, or not back for a whole window",
    Judgement.SPARE_BRAKED: "too many were convicted at once, and others had been silent for longer",
}

#: What the platform said, in words.
SAID = {
    None: "There was no platform to ask.",
    "alive": "Its platform saw it alive.",
    "ended": "Its platform said that it had ended.",
    "dead": "Its platform said that it was gone.",
    "unknown": "Its platform could not say whether it lives.",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that is known of a run, as of `now`, the database's time."""

    run: RunRow
    events: Sequence[RunEvent]
    sparings: Sequence[Sparing]
    logs: Sequence[LogState]
    refusals: Sequence[Refusal]
    failing: Sequence[Failing]
    notices: Sequence[Told]
    now: datetime
    lane: LaneState | None = None
    """That of a run which waits; before it, `ahead` others go."""
    ahead: int = 0
    idle: Sequence[str] = ()
    """The workers that are there, where all of them take nothing new."""
    sample: SampleRecord | None = None
    """What the attempt that is running had used when that was last kept."""

    @property
    def sentences(self) -> list[str]:
        """Why it is as it is first of all, then what is known of it, and where to look next."""
        run = self.run
        why = self._why
        lines = [f"Run {run.id}", *why, self._status]
        lines += self._asked_sentences()
        lines += sentences_of(run.report, self.now)
        lines += _quiet_sentences(run, self.now)
        lines += _again_sentences(run, self.events)
        lines += _sparing_sentences(self.sparings)
        evidence = [sentence for event in self.events if (sentence := _dossier_sentence(event))]
        lines += evidence
        if run.error_message and not evidence and not any(run.error_message.strip() in sentence for sentence in why):
            lines.append(run.error_message)
        lines += [sentence for attempt in run.attempts for sentence in _late_sentences(attempt)]
        lines += [sentence for attempt in run.attempts for sentence in _used_sentences(attempt, self.sample, self.now)]
        lines += self._waiting
        lines += _adoption_sentences(run, self.now)
        lines += [sentence for log in self.logs for sentence in _log_sentences(log)]
        lines += [failing.sentence(self.now) for failing in self.failing]
        lines += [notice.sentence(self.now) for notice in self.notices]
        lines += _refusal_sentences(self.logs, self.refusals)
        lines += [self.next] if self.next else []
        return list(dict.fromkeys(lines))

    @property
    def why(self) -> str:
        """The sentence that is read first."""
        return (self._why or [self._status])[0]

    @property
    def _status(self) -> str:
        return f"{self.run.adapter}: {_status_sentence(self.run, self.now)}"

    @property
    def _why(self) -> list[str]:
        """The sentence that is read first, of a run that has ended or waits; one that is running says how it is."""
        run = self.run
        if Status(run.status).is_final:
            return [cause(run, self.events)]
        if run.status == Status.QUEUED:
            return self._waiting[:1]
        return []

    @property
    def _waiting(self) -> list[str]:
        """Why it waits, what must come first before what it waits for then."""
        run = self.run
        lines = _owed_sentences(run) + _waiting_sentences(run, self.events)
        if run.status == Status.QUEUED and self.idle:
            lines.append(f"No worker takes runs: drained, or asked to stop, are all, {', '.join(self.idle)}.")
        return lines + _queue_sentences(run, self.lane, self.ahead, self.now)

    @property
    def next(self) -> str | None:
        """Where to look next; None where there is nothing to be found out."""
        last = self.run.attempts[-1] if self.run.attempts else None
        return look_next(self.run, last.worker_node if last else None, last.host if last else None)

    def _asked_sentences(self) -> list[str]:
        """Who asked for it, when, and how it is labelled."""
        run = self.run
        lines = [f"Asked for at {_moment(run.created_at)}{f' by {run.asked_by}' if run.asked_by else ''}."]
        if run.labels:
            lines.append("Labels: " + " ".join(f"{name}={value}" for name, value in run.labels.items()))
        return lines

    @property
    def lines(self) -> list[str]:
        """The sentences, and below them what happened, a line each; they hold text of others as it is."""
        return [*self.sentences, "", *(_event_line(event) for event in self.events)]

    @property
    def text(self) -> str:
        """The same to be shown."""
        return "\n".join(map(shown, self.lines))

    @property
    def record(self) -> ExplanationRecord:
        """The same for a program."""
        return ExplanationRecord(
            run=Run.of(self.run),
            why=self.why,
            next=self.next,
            logs=[log.record for log in self.logs],
            events=[EventRecord.of(event) for event in self.events],
            sparings=[SparingRecord.of(sparing) for sparing in self.sparings],
            notices=[NoticeRecord.of(notice) for notice in self.notices],
        )


def explain(services: Services, run_id: UUID) -> Explanation:
    """Gather what is known of a run; raises `RunNotFound`."""
    run = services.runs.get(run_id, with_reports=True)
    events, sparings = services.runs.events(run_id), services.sweeps.sparings(run_id)
    logs = [services.closings.state(run_id, number) for number in range(1, run.attempt + 1)]
    refusals, failing = services.archives.refusals(), services.setbacks.of_run(run_id)
    notices = services.notices.of_run(run_id)
    told = Explanation(run, events, sparings, logs, refusals, failing, notices, services.database.now())
    if run.status == Status.RUNNING:
        return replace(told, sample=next(reversed(services.samples.of(run_id, run.attempt).samples), None))
    if run.status != Status.QUEUED:
        return told
    gone_after = services.timing.worker_gone_after
    (lane,) = services.lanes.states(gone_after, run.lane)
    ahead, idle = services.lanes.ahead(run_id, MOST_COUNTED), services.workers.idle(gone_after)
    return replace(told, lane=lane, ahead=ahead, idle=idle)


def _again_sentences(run: RunRow, events: Sequence[RunEvent]) -> list[str]:
    """Of which run it is the repetition, and which run is one of it."""
    lines = [f"It does run {run.again_of} again."] if run.again_of else []
    if again := [event for event in events if event.kind == EventKind.AGAIN]:
        times = f", the last of {len(again)} that do" if len(again) > 1 else ""
        lines.append(f"Run {again[-1].detail.get('run')} does it again{times}.")
    return lines


def _used_sentences(attempt: RunAttempt, sample: SampleRecord | None, now: datetime) -> list[str]:
    """What an attempt used, or has used so far."""
    of_attempt = f"Attempt {attempt.attempt}"
    if attempt.finished_at is None:
        if sample is None:
            return []
        return [
            f"{of_attempt} had used {span(sample.cpu_seconds)} of processor time {span(now - sample.at)} ago, "
            f"and had {in_memory(sample.memory_bytes)} in memory."
        ]
    used = attempt.used
    if used is None:
        return []
    took = f"took {span(attempt.finished_at - attempt.started_at)}"
    limit = used["memory_limit_bytes"]
    said = [
        *([f"used {span(used['cpu_seconds'])} of processor time"] if used["cpu_seconds"] is not None else []),
        *([f"had {in_memory(used['peak_memory_bytes'])} in memory at the most"] if used["peak_memory_bytes"] else []),
    ]
    limited = f" (limit {in_memory(limit)})" if limit else ""
    return [f"{of_attempt} {', '.join([took, *said])}{limited}."]


def _log_sentences(log: LogState) -> list[str]:
    """Where an attempt's log is, and everything about it that is not as it should be."""
    archive, of_attempt = log.archive, f"The log of attempt {log.attempt}"
    where = "is closed" if archive is not None or log.log.is_closed else "is open"
    if archive is not None and archive.removed_at:
        where = f"was removed at {archive.removed_at:%Y-%m-%d %H:%M:%S} UTC (retention)"
    elif archive is not None and archive.key:
        where = f"is closed: {archive.size} bytes in {archive.key}"
    lines = [f"{of_attempt} {where}; {log.stored.count} chunks."]
    if log.missing and (archive is not None or log.ended):
        lines.append(f"{of_attempt} lacks the chunks {log.missing}: nobody has them.")
    if log.late and (archive is not None or log.ended):
        lines.append(f"{of_attempt} lacks the chunks {log.late} as yet: they are late, and on their way.")
    if log.lost:
        lines.append(f"{of_attempt}: the chunks {log.lost} are lost: they were stored, and cannot be read any more.")
    if log.added:
        lines.append(f"{of_attempt}: the chunks {log.added} came after it was closed.")
    lines += [
        f"{of_attempt}: the chunks {first}-{last} could not be stored and are in quarantine: {reason}."
        for first, last, reason in log.quarantined
    ]
    return lines


def _refusal_sentences(logs: Sequence[LogState], refusals: Sequence[Refusal]) -> list[str]:
    """Why a log that is owed its closing is still open, as far as that is the archive's fault."""
    owed = [str(log.attempt) for log in logs if log.ended and log.archive is None and not log.log.is_closed]
    waiting = f"The log of attempt {' and '.join(owed)} waits for the archive."
    return [f"{waiting} {one.sentence}" for one in refusals if one.operation == "write" and owed]


def _status_sentence(run: RunRow, now: datetime) -> str:
    status = Status(run.status)
    attempt = f"attempt {run.attempt} of {run.max_attempts}"
    if status is Status.QUEUED:
        return f"queued for {span(now - run.updated_at)}, {run.attempt} of {run.max_attempts} attempts used."
    if status is Status.RUNNING:
        running = span(now - run.started_at) if run.started_at else "?"
        proof = f"last proof of life {span(now - run.updated_at)} ago, by {PROOFS[run.last_proof]}"
        return f"running for {running}, {attempt}, on {run.attempts[-1].worker_node}; {proof}."
    ended = f"{span(now - run.finished_at)} ago" if run.finished_at else ""
    code = f" ({run.error_code})" if run.error_code else ""
    return f"{status.value}{code} {ended}, {attempt}."


def _quiet_sentences(run: RunRow, now: datetime) -> list[str]:
    """When it last gave output, where that matters, and until when nobody is told."""
    lines = []
    if run.status == Status.RUNNING and (run.quiet_after or run.max_silence):
        since = max(filter(None, (run.output_at, run.started_at)), default=now)
        last = f"its last output was at {_moment(since)}" if run.output_at else "it has given no output yet"
        limits = [f"it is called quiet after {span(run.quiet_after)}"] if run.quiet_after else []
        limits += [f"it ends as stalled after {span(run.max_silence)}"] if run.max_silence else []
        quiet = "Quiet" if run.quiet_at else "Without output"
        lines.append(f"{quiet} for {span(now - since)}: {last}; {', '.join(limits)}.")
    if not Status(run.status).is_final and run.snoozed_until and run.snoozed_until > now:
        lines.append(
            f"Snoozed until {_moment(run.snoozed_until)}: before that nobody is told that it is quiet, and it does not "
            "end as stalled."
        )
    return lines


def _dossier_sentence(event: RunEvent) -> str | None:
    """The evidence of a reap, in words."""
    if event.kind != EventKind.REAPED:
        return None
    detail = event.detail
    after = "queued again" if detail["retry"] else "failed"
    if detail["error_code"] == "timed_out":
        return f"Attempt {event.attempt} had run for {span(detail['running_seconds'])}, over its max_runtime; {after}."
    return (
        f"Attempt {event.attempt} was silent for {_evidence(detail)} "
        f"So it was reaped at {event.at:%H:%M:%S} UTC as {detail['error_code']}, and {after}."
    )


def _sparing_sentences(sparings: Sequence[Sparing]) -> list[str]:
    """Why a suspect was left alone, in words: the last time with the evidence, the times before in one sentence."""
    if not sparings:
        return []
    *before, last = sorted(sparings, key=lambda one: one.last_at)
    lines = [
        f"Attempt {last.attempt} was suspect and spared {_times(last.times)} at {_moment(last.last_at)}, since "
        f"{_spared(last)}: it was then silent for {_evidence(last.detail)}"
    ]
    if before:
        counted = Counter[str]()
        for one in before:
            counted[_spared(one)] += one.times
        whys = "; ".join(f"{_times(times, '')} since {why}" for why, times in counted.most_common())
        lines.append(f"Before that it was spared, in {len(before)} silences: {whys}.")
    return lines


def _times(count: int, which: str = ", last") -> str:
    return "once" if count == 1 else f"{count} times{which}"


def _spared(sparing: Sparing) -> str:
    return SPARED.get(sparing.judgement, f"of {sparing.judgement}, which a newer release knows")


def _evidence(detail: dict[str, Any]) -> str:
    """A dossier in words. What an older version did not note is left out."""
    chunk, brake = detail.get("last_chunk"), detail.get("brake") or {}
    parts = [
        f"{span(detail['silent_seconds'])} (window {span(detail['window_seconds'])}).",
        f"Its last proof of life was {PROOFS[detail['last_proof']]}, at {_clock(detail['last_proof_at'])};",
        f"its last stored output was chunk {chunk:,};" if chunk else "no output of it is stored;",
        f"{detail['worker_node'] or 'nobody'} followed it.",
        f"The reaper had been watching since {_clock(detail['watching_since'])}; {_lag(detail)}.",
        SAID[detail.get("probe")],
    ]
    if detail.get("unanswered_since"):
        parts.append(f"It had been asked in vain since {_clock(detail['unanswered_since'])}.")
    if brake.get("on"):
        parts.append(
            f"With it, {brake['convicted']} of {brake['fleet']} runs looked dead; {brake['allowed']} are reaped."
        )
    return " ".join(parts)


def _lag(detail: dict[str, Any]) -> str:
    lag = detail.get("pipeline_lag_seconds")
    return "nothing had come through the log pipeline" if lag is None else f"the log pipeline was {span(lag)} behind"


def _late_sentences(attempt: RunAttempt) -> list[str]:
    """What came of an attempt after it was reaped."""
    came = (("Output", attempt.late_output_at), ("A result", attempt.late_result_at))
    return [
        f"{what} of attempt {attempt.attempt} came at {at:%H:%M:%S} UTC, after it was reaped: it may have been alive."
        for what, at in came
        if at is not None
    ]


def _owed_sentences(run: RunRow) -> list[str]:
    return [
        f"The work of attempt {attempt.attempt} is still to be confirmed gone by host {attempt.host or '(any)'}"
        + (
            f"; the next attempt waits for that, or until the host was not seen for {in_words(HOST_LOST_AFTER)}."
            if run.status == Status.QUEUED
            else "."
        )
        for attempt in run.attempts
        if attempt.termination == "owed"
    ] + [
        f"The end of the work of attempt {attempt.attempt} was not confirmed by host {attempt.host}, which is lost: "
        "nobody waits for that any more."
        for attempt in run.attempts
        if attempt.termination == "waived"
    ]


def _waiting_sentences(run: RunRow, events: Sequence[RunEvent]) -> list[str]:
    """Why a run is still in the queue, as the workers that could not begin it have said, the last of them first."""
    if run.status != Status.QUEUED:
        return []
    noted = [one for one in events if one.kind == EventKind.NOTED and one.detail.keys() & {"lacking", "taken_back"}]
    newest = {next(iter(one.detail.keys() & {"lacking", "taken_back"})): one for one in noted}
    return [f"At {one.at:%H:%M:%S} UTC: {one.detail['note']}" for one in newest.values()]


def _queue_sentences(run: RunRow, lane: LaneState | None, ahead: int, now: datetime) -> list[str]:
    """Where it stands in the queue, and by when it must have begun."""
    sentences = []
    if lane is not None:
        later = run.not_before
        owed = any(attempt.termination == "owed" for attempt in run.attempts)
        if later is not None and later > now:
            sentences.append(f"It may begin at {later:%Y-%m-%d %H:%M:%S} UTC, in {span(later - now)}.")
        elif not owed:
            sentences.append(lane.why_this_waits(ahead))
    if run.start_by is not None and not Status(run.status).is_final:
        sentences.append(f"It fails as not_started if it has not begun by {run.start_by:%Y-%m-%d %H:%M:%S} UTC.")
    return sentences


def _adoption_sentences(run: RunRow, now: datetime) -> list[str]:
    """What waits for another worker to follow it, and for whom."""
    return [
        f"Another worker is to follow attempt {attempt.attempt}"
        + (f", for {span(now - attempt.adoption_owed_at)} now" if attempt.adoption_owed_at else "")
        + f": none{f' of host {attempt.host}' if attempt.host else ''} that has the adapter {run.adapter!r} has come."
        for attempt in run.attempts
        if attempt.adoption == "owed" and run.status == Status.RUNNING
    ]


def _event_line(event: RunEvent) -> str:
    shown = {
        name: value for name, value in event.detail.items() if event.kind != EventKind.REAPED or name == "error_code"
    }
    detail = " ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
    return f"  {event.at:%H:%M:%S}  attempt {event.attempt}  {event.kind:<12} {detail}".rstrip()


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _clock(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%H:%M:%S} UTC"
