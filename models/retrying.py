"""The retry rule: which lost attempt is followed by another, after how long, and how the run looks in between.

The reaper (`models.reaping`), a worker that gives work up (`models.draining`) and the simulation all end a lost attempt
through `end_of_lost`.
"""

from datetime import timedelta
from typing import Protocol

from reprieve.models.liveness import Timing
from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.work import End, Fence


class Attempt(Protocol):
    """The attempt that was lost, as the reaper knows it or as its worker does."""

    @property
    def fence(self) -> Fence: ...
    @property
    def attempt(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...


#: From this attempt on, the wait before the next one grows no further.
LAST_GROWTH = 5


def may_retry(code: ErrorCode, lost: Attempt) -> bool:
    """Whether the run is queued again: only if its worker was lost with the work, and only while attempts are left.

    Work that lives elsewhere may still be running when its proof of life is lost; starting it again is a decision
    for a person.
    """
    return code is ErrorCode.PROCESS_LOST and lost.attempt < lost.max_attempts


def retry_delay(lost: Attempt, timing: Timing) -> timedelta:
    """How long a retry waits: somewhere within a sweep's interval for each attempt that was lost, up to five.

    By the run's id, so that the many runs which one fault ended do not start together (thundering herd).
    """
    share = (lost.fence.run_id.int ^ lost.fence.epoch) % 1000 / 1000
    return timing.sweep_interval * min(lost.attempt, LAST_GROWTH) * share


def end_of_lost(lost: Attempt, code: ErrorCode, sentence: str, timing: Timing, last_seq: int | None = None) -> End:
    """The end of an attempt without a result of its own: queued for the next attempt, or failed with `sentence`."""
    retry = may_retry(code, lost)
    return End(
        fence=lost.fence,
        status=Status.QUEUED if retry else Status.FAILED,
        kind=EventKind.RETRIED if retry else EventKind.FAILED,
        error_code=None if retry else code,
        error_message=None if retry else sentence,
        outcome={"error_code": code.value},
        detail={"error_code": code.value, "error_message": sentence},
        last_seq=last_seq,
        retry_after=retry_delay(lost, timing) if retry else timedelta(0),
    )
