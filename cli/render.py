"""Runs as a person reads them on a terminal, and as a program reads them (`--json`)."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

from models.health import Pulse
from models.reaping import Judgement
from models.rows import Run, RunAttempt, RunEvent, Sparing
from models.status import EventKind, Status
from stores.closings import LogState
from stores.sweeps import Account

COLOURS = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "magenta",
}

PROOFS = {
    "claim": "a worker taking it",
    "output": "output",
    "keepalive": "its worker's keepalive",
    "heartbeat": "its adapter's heartbeat",
    "probe": "its platform's word",
    None: "nothing",
}


#: Why a suspect was spared, in words.
SPARED = {
    Judgement.SPARE_ALIVE: "its platform saw it alive",
    Judgement.SPARE_ENDED: "it had ended, and how was still to be read",
    Judgement.SPARE_UNKNOWN: "its platform could not say whether it lives",
    Judgement.SPARE_WARMING_UP: "the reaper had not been watching for a whole window",
    Judgement.SPARE_LAGGING: "the log pipeline lagged, or had not worked for a whole window again",
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


def terminal() -> Console:
    """Standard output: as wide as the terminal, and wide enough for a table where there is none."""
    return Console(width=None if sys.stdout.isatty() else 160)


def short_id(run: Run) -> str:
    """The end of an id: ids begin with the time, so it is the end that tells runs of one minute apart."""
    return str(run.id).rsplit("-", 1)[-1]


def span(duration: timedelta | float) -> str:
    """A duration in words that fit a table: `4.2 s`, `5 min 12 s`, `3 h 4 min`."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def runs_table(runs: Sequence[Run], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("RUN", "ADAPTER", "STATUS", "ATTEMPT", "STARTED", "LAST SIGN", "LABELS", "ERROR"):
        table.add_column(column, no_wrap=column != "ERROR")
    for run in runs:
        status = Status(run.status)
        table.add_row(
            short_id(run),
            run.adapter,
            f"[{COLOURS[status]}]{status.value}[/]",
            f"{run.attempt}/{run.max_attempts}",
            f"{span(now - run.started_at)} ago" if run.started_at else "-",
            f"{span(now - run.updated_at)} ago" if status is Status.RUNNING else "-",
            " ".join(f"{name}={value}" for name, value in run.labels.items()) or "-",
            f"{run.error_code or '-'}{' (gave signs of life later)' if _came_late(run) else ''}",
        )
    return table


def _came_late(run: Run) -> bool:
    """Whether something came of an attempt after it was reaped: perhaps it was alive."""
    return any(attempt.late_output_at or attempt.late_result_at for attempt in run.attempts)


def run_record(run: Run) -> dict[str, Any]:
    """A run as data; the config is left out, since it may hold secrets."""
    return {
        "id": str(run.id),
        "adapter": run.adapter,
        "out_of_process_liveness": run.out_of_process_liveness,
        "status": run.status,
        "attempt": run.attempt,
        "epoch": run.epoch,
        "max_attempts": run.max_attempts,
        "max_runtime_seconds": run.max_runtime.total_seconds() if run.max_runtime else None,
        "labels": run.labels,
        "error_code": run.error_code,
        "error_message": run.error_message,
        "last_proof": run.last_proof,
        "created_at": _time(run.created_at),
        "started_at": _time(run.started_at),
        "updated_at": _time(run.updated_at),
        "finished_at": _time(run.finished_at),
        "attempts": [
            {
                "attempt": attempt.attempt,
                "worker_node": attempt.worker_node,
                "host": attempt.host,
                "work": attempt.work,
                "started_at": _time(attempt.started_at),
                "finished_at": _time(attempt.finished_at),
                "outcome": attempt.outcome,
                "last_seq": attempt.last_seq,
                "termination": attempt.termination,
                "reaped_at": _time(attempt.reaped_at),
                "late_output_at": _time(attempt.late_output_at),
                "late_result_at": _time(attempt.late_result_at),
            }
            for attempt in run.attempts
        ],
    }


def health_record(pulse: Pulse | None, reasons: list[str], account: Sequence[Account]) -> dict[str, Any]:
    return {
        "healthy": not reasons,
        "reasons": reasons,
        "sweep_age_seconds": pulse.age.total_seconds() if pulse and pulse.age else None,
        "canary_age_seconds": pulse.lag.total_seconds() if pulse and pulse.lag else None,
        "last_report": pulse.last_report if pulse else None,
        "account": [asdict(line) for line in account],
    }


def event_record(event: RunEvent) -> dict[str, Any]:
    return {"at": _time(event.at), "attempt": event.attempt, "kind": event.kind, "detail": event.detail}


def sparing_record(sparing: Sparing) -> dict[str, Any]:
    return {
        "attempt": sparing.attempt,
        "judgement": sparing.judgement,
        "silent_since": _time(sparing.silent_since),
        "first_at": _time(sparing.first_at),
        "last_at": _time(sparing.last_at),
        "times": sparing.times,
        "detail": sparing.detail,
    }


def log_record(log: LogState) -> dict[str, Any]:
    """The state of an attempt's log as data."""
    archive = log.archive
    return {
        "attempt": log.attempt,
        "chunks": log.stored.count,
        "missing": list(log.missing),
        "late": list(log.late),
        "quarantined": [{"first": first, "last": last, "reason": reason} for first, last, reason in log.quarantined],
        "archive": archive
        and {
            "object": archive.key,
            "bytes": archive.size,
            "sha256": archive.sha256,
            "written_at": _time(archive.written_at),
            "removed_at": _time(archive.removed_at),
        },
    }


def _log_sentences(log: LogState) -> list[str]:
    """Where an attempt's log is, and everything about it that is not as it should be."""
    archive, of_attempt = log.archive, f"The log of attempt {log.attempt}"
    where = "is open" if archive is None else "is closed"
    if archive is not None and archive.removed_at:
        where = f"was removed at {archive.removed_at:%Y-%m-%d %H:%M:%S} UTC (retention)"
    elif archive is not None and archive.key:
        where = f"is closed: {archive.size} bytes in {archive.key}"
    lines = [f"{of_attempt} {where}; {log.stored.count} chunks."]
    if log.missing and (archive is not None or log.ended):
        lines.append(f"{of_attempt} lacks the chunks {log.missing}.")
    if log.late:
        lines.append(f"{of_attempt}: the chunks {log.late} came after it was closed.")
    lines += [
        f"{of_attempt}: the chunks {first}-{last} could not be stored and are in quarantine: {reason}."
        for first, last, reason in log.quarantined
    ]
    return lines


def explanation(
    run: Run, events: Sequence[RunEvent], sparings: Sequence[Sparing], logs: Sequence[LogState], now: datetime
) -> list[str]:
    """What is known of a run and why it is as it is, for a person who was woken for it."""
    lines = [f"Run {run.id}", f"{run.adapter}: {_status_sentence(run, now)}"]
    if run.error_message:
        lines.append(run.error_message)
    if run.labels:
        lines.append("Labels: " + " ".join(f"{name}={value}" for name, value in run.labels.items()))
    lines += [_sparing_sentence(sparing) for sparing in sparings]
    lines += [sentence for event in events if (sentence := _dossier_sentence(event))]
    lines += [sentence for attempt in run.attempts for sentence in _late_sentences(attempt)]
    lines += _owed_sentences(run)
    lines += [sentence for log in logs for sentence in _log_sentences(log)]
    return [*lines, "", *(_event_line(event) for event in events)]


def _status_sentence(run: Run, now: datetime) -> str:
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


def _sparing_sentence(sparing: Sparing) -> str:
    """Why a suspect was left alone, in words."""
    times = "once" if sparing.times == 1 else f"{sparing.times} times, last"
    why = SPARED[Judgement(sparing.judgement)]
    return (
        f"Attempt {sparing.attempt} was suspect and spared {times} at {sparing.last_at:%H:%M:%S} UTC, since {why}: "
        f"it was then silent for {_evidence(sparing.detail)}"
    )


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


def _owed_sentences(run: Run) -> list[str]:
    return [
        f"The work of attempt {attempt.attempt} is still to be confirmed gone by host {attempt.host or '(any)'}"
        + (
            "; the next attempt waits for that. If the host is gone for good, cancel the run and start it again."
            if run.status == Status.QUEUED
            else "."
        )
        for attempt in run.attempts
        if attempt.termination == "owed"
    ]


def _event_line(event: RunEvent) -> str:
    shown = {
        name: value for name, value in event.detail.items() if event.kind != EventKind.REAPED or name == "error_code"
    }
    detail = " ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
    return f"  {event.at:%H:%M:%S}  attempt {event.attempt}  {event.kind:<12} {detail}".rstrip()


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _clock(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%H:%M:%S} UTC"
