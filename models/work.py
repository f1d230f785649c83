"""The values that pass between the rooms: who may write for a run, what was claimed, what came out, how it ends."""

import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from reprieve.models.lanes import DEFAULT_LANE
from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.used import Used

#: Error messages are cut to this many characters: they are on the row, in events, and on a terminal.
MAX_ERROR_MESSAGE = 2_000


class Fence(NamedTuple):
    """A fencing token: a write for a run applies only while the run's epoch is still this one."""

    run_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class Retries:
    """Which ends of an attempt another one follows, by what an outcome says of them, and how long that one waits."""

    on: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    delay: timedelta | None = None

    def ask_for(self, outcome: Mapping[str, Any]) -> bool:
        """Whether the run asked for another attempt after this outcome."""
        return any(outcome.get(name) in causes for name, causes in self.on.items())


def retries_of(on: Mapping[str, Sequence[int | str]] | None, delay: timedelta | None) -> Retries:
    """As a run's row has them."""
    return Retries(on or {}, delay)


#: Those of a run that asked for none.
NO_RETRIES = Retries()


@dataclass(frozen=True, slots=True)
class Work:
    """A claimed run, as an adapter gets it."""

    run_id: UUID
    attempt: int
    epoch: int
    adapter: str
    config: dict[str, Any]
    labels: dict[str, str]
    max_runtime_seconds: float | None = None
    """Seconds that are left of its `max_runtime`."""
    max_attempts: int = 1
    trace_parent: str | None = None
    """Its place in a trace, as a W3C `traceparent`."""
    lane: str = DEFAULT_LANE
    retries: Retries = NO_RETRIES
    max_memory_bytes: int | None = None
    """What all of an attempt may have in memory."""

    @property
    def fence(self) -> Fence:
        return Fence(self.run_id, self.epoch)

    @property
    def environment(self) -> dict[str, str]:
        """The work's own environment variables: which attempt it is, and its trace context."""
        own = {"REPRIEVE_RUN_ID": str(self.run_id), "REPRIEVE_ATTEMPT": str(self.attempt)}
        return own | ({"TRACEPARENT": self.trace_parent} if self.trace_parent else {})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an adapter says of work that has ended: success, or an error code and a sentence."""

    error_code: ErrorCode | None = None
    error_message: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    work_ended: bool = True
    """False when something of the work is still there that could not be ended: it is owed its termination."""
    retry_after: float = 0.0
    """Seconds before which another attempt would do no better, as with a provider's quota: a retry waits that long."""
    used: Used | None = field(default=None, compare=False)
    """What was measured of it, where something was."""

    @classmethod
    def failed(cls, message: str, code: ErrorCode = ErrorCode.ADAPTER_ERROR, **detail: Any) -> "Outcome":
        return cls(code, message, detail)

    @classmethod
    def of_exit(cls, returncode: int) -> "Outcome":
        """From a return code as `subprocess` gives it: negative for a signal."""
        if returncode < 0:
            name = _signal_name(-returncode)
            return cls(ErrorCode.EXIT_STATUS, f"The command was ended by {name}.", {"signal": -returncode})
        if returncode > 0:
            message = f"The command ended with exit status {returncode}."
            return cls(ErrorCode.EXIT_STATUS, message, {"exit_status": returncode})
        return cls(detail={"exit_status": 0})


def storable(value: Any) -> Any:
    """What PostgreSQL can hold of a value: an end that could not be written would leave its run running.

    Its text holds no NUL, UTF-8 no half of a surrogate pair, and JSON no more than numbers that are finite, text,
    lists and objects with names.
    """
    match value:
        case str():
            return value.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "backslashreplace").decode()
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case dict():
            return {storable(str(name)): storable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [storable(inner) for inner in value]
        case _:
            return storable(str(value))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class End:
    """How one run leaves an active status: by its own result, a reap, a time-out, a cancel, or for a retry.

    It applies only while the run has this epoch and `from_status` and, where `silent_before` is given, no proof of
    life since then, or, where `quiet_before` is given, no output since then and no snooze: the conditions stand again
    in the UPDATE. `work_ended` is False when something may still run,
    which then is owed its termination. A run that is queued again may be claimed once `retry_after` has passed.
    """

    fence: Fence
    status: Status
    kind: EventKind
    error_code: ErrorCode | None = None
    error_message: str | None = None
    outcome: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    last_seq: int | None = None
    work_ended: bool = False
    from_status: Status = Status.RUNNING
    silent_before: datetime | None = None
    quiet_before: datetime | None = None
    retry_after: timedelta = timedelta(0)
    used: Used | None = None

    @classmethod
    def by_result(cls, fence: Fence, outcome: Outcome, last_seq: int, *, work_ended: bool = True) -> "End":
        """The end that the follower of a run reports."""
        said = {name: storable(value) for name, value in outcome.detail.items()}
        if outcome.error_code is None:
            return cls(
                fence=fence,
                status=Status.SUCCEEDED,
                kind=EventKind.SUCCEEDED,
                outcome=said,
                detail=said,
                last_seq=last_seq,
                work_ended=work_ended,
                used=outcome.used,
            )
        message = storable(outcome.error_message or "")[:MAX_ERROR_MESSAGE]
        detail = said | {"error_code": outcome.error_code.value, "error_message": message}
        return cls(
            fence=fence,
            status=Status.FAILED,
            kind=EventKind.FAILED,
            error_code=outcome.error_code,
            error_message=message,
            outcome=detail,
            detail=detail,
            last_seq=last_seq,
            work_ended=work_ended,
            retry_after=timedelta(seconds=outcome.retry_after),
            used=outcome.used,
        )

    def bare(self) -> "End":
        """The same end without anything that came from outside: what is recorded where its content cannot be."""
        message = None if self.error_code is None else "How it ended could not be stored; its worker's log has it."
        said = {} if self.error_code is None else {"error_code": self.error_code.value, "error_message": message}
        return replace(self, error_message=message, outcome=said, detail=said)

    @property
    def in_words(self) -> str:
        """What a log says of it, behind the names of the run and the attempt."""
        what = "ended, and another is to follow" if self.status is Status.QUEUED else self.status.value
        return what if self.error_code is None else f"{what} ({self.error_code.value}): {self.error_message}"

    @classmethod
    def by_cancel(cls, fence: Fence, from_status: Status, by: str | None = None) -> "End":
        """The end that somebody asked for: `by` says who."""
        return cls(
            fence=fence,
            status=Status.CANCELLED,
            kind=EventKind.CANCELLED,
            from_status=from_status,
            detail={} if by is None else {"by": by},
        )
