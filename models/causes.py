"""Why a run is as it is, in the one sentence that whoever was woken reads first, and where to look next.

The sentence names what ended the run: itself, the memory or the time that it was given, a person, the loss of its
worker, the reaper. Each kind has a beginning of its own, and what is known of this one stands behind it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.text import span


class Happened(Protocol):
    """An event of a run."""

    @property
    def kind(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def at(self) -> datetime: ...
    @property
    def detail(self) -> dict[str, Any]: ...


class Ended(Protocol):
    """A run that has ended."""

    @property
    def status(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def error_code(self) -> str | None: ...
    @property
    def error_message(self) -> str | None: ...
    @property
    def started_at(self) -> datetime | None: ...
    @property
    def finished_at(self) -> datetime | None: ...


#: How the sentence on a failure begins.
FAILED: dict[str, str] = {
    ErrorCode.ADAPTER_LIVENESS_LOST: "Reaped",
    ErrorCode.PROCESS_LOST: "Lost with its worker",
    ErrorCode.ADAPTER_ERROR: "Its adapter failed",
    ErrorCode.EXIT_STATUS: "Failed",
    ErrorCode.TIMED_OUT: "Out of time",
    ErrorCode.NOT_STARTED: "Not begun in time",
    ErrorCode.STALLED: "Stalled",
    ErrorCode.OOM_KILLED: "Killed for memory",
    ErrorCode.UNKNOWN_ADAPTER: "No worker could do it",
}

#: Where to look next; `{worker}` and `{host}` are those of its last attempt.
NEXT: dict[str, str] = {
    ErrorCode.ADAPTER_LIVENESS_LOST: "whether its work is there still, on {host} or its platform; `reprieve doctor`.",
    ErrorCode.PROCESS_LOST: "what became of {worker} on {host}: its own log, and whether the host was started again.",
    ErrorCode.ADAPTER_ERROR: "the config that it was asked for with, and the log of {worker}.",
    ErrorCode.EXIT_STATUS: "the last lines of its log.",
    ErrorCode.TIMED_OUT: "the last lines of its log: whether it was at work still, or hung.",
    ErrorCode.NOT_STARTED: "`reprieve lanes` and `reprieve workers`: whether anybody could have begun it.",
    ErrorCode.STALLED: "the last lines of its log, and what its work waits for.",
    ErrorCode.OOM_KILLED: "what it used, and whether it may have more.",
    ErrorCode.UNKNOWN_ADAPTER: "`reprieve workers`: which of them have its adapter.",
}


def cause(run: Ended, events: Sequence[Happened]) -> str:
    """What ended a run that has ended."""
    last = next((event for event in reversed(events) if event.kind in _ENDS), None)
    took = _took(run)
    if run.status == Status.SUCCEEDED:
        return f"Succeeded{took and f', after {took}'}."
    if run.status == Status.CANCELLED:
        by = last.detail.get("by") if last is not None else None
        return f"Cancelled{f' by {by}' if by else ''}{f', after {took}' if took else ', before it had begun'}."
    begun = FAILED.get(run.error_code or "", "Failed")
    if last is not None and last.kind == EventKind.REAPED and run.error_code in _OF_SILENCE:
        silent, window = span(last.detail["silent_seconds"]), span(last.detail["window_seconds"])
        return f"{begun}: no proof of life for {silent}, where {window} are allowed{took and f', after {took}'}."
    said = (run.error_message or "").strip()
    return f"{begun}: {said}" if said else f"{begun}."


def look_next(run: Ended, worker: str | None, host: str | None) -> str | None:
    """Where to look next; None where there is nothing to be found out."""
    if run.status != Status.FAILED or (where := NEXT.get(run.error_code or "")) is None:
        return None
    return "Look next: " + where.format(worker=worker or "its worker", host=host or "its host")


_ENDS = {EventKind.SUCCEEDED, EventKind.FAILED, EventKind.CANCELLED, EventKind.REAPED}
_OF_SILENCE = {ErrorCode.ADAPTER_LIVENESS_LOST, ErrorCode.PROCESS_LOST}


def _took(run: Ended) -> str:
    """How long its last attempt took; empty where it had none."""
    if run.started_at is None or run.finished_at is None:
        return ""
    return span(max(run.finished_at - run.started_at, timedelta(0)))
