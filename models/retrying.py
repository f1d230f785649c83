"""The retry rule: which lost attempt is followed by another, after how long, and how the run looks in between.

The reaper (`models.reaping`), a worker that gives work up (`models.draining`) and the simulation all end a lost attempt
through `end_of_lost`; what ended by itself passes through `with_retry`.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

from reprieve.models.liveness import Timing
from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.work import End, Fence, Retries


class Attempt(Protocol):
    """The attempt that was lost, as the reaper knows it or as its worker does."""

    @property
    def fence(self) -> Fence: ...
    @property
    def attempt(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def retries(self) -> Retries: ...


#: From this attempt on, the wait before the next one grows no further.
LAST_GROWTH = 5


def may_retry(outcome: Mapping[str, Any], ended: Attempt) -> bool:
    """Whether the run is queued again, while attempts are left: if its worker was lost with the work, or as it asked.

    Work that lives elsewhere may still be running when its proof of life is lost: unless the run asked for it,
    starting it again is a decision for a person. What ended by itself is never repeated by our own choice.
    """
    if ended.attempt >= ended.max_attempts:
        return False
    return outcome.get("error_code") == ErrorCode.PROCESS_LOST or ended.retries.ask_for(outcome)


def retry_delay(lost: Attempt, timing: Timing) -> timedelta:
    """How long a retry waits: somewhere within a sweep's interval for each attempt that was lost, up to five.

    By the run's id, so that the many runs which one fault ended do not start together (thundering herd).
    """
    share = (lost.fence.run_id.int ^ lost.fence.epoch) % 1000 / 1000
    return timing.sweep_interval * min(lost.attempt, LAST_GROWTH) * share


def with_retry(end: End, ended: Attempt, timing: Timing) -> End:
    """The same end, or a retry where the run asked for one: after its own delay, and not before its adapter said."""
    if end.status is not Status.FAILED or not may_retry(end.outcome, ended):
        return end
    delay = ended.retries.delay or retry_delay(ended, timing)
    return replace(
        end,
        status=Status.QUEUED,
        kind=EventKind.RETRIED,
        error_code=None,
        error_message=None,
        retry_after=max(delay, end.retry_after),
    )


def end_of_lost(lost: Attempt, code: ErrorCode, sentence: str, timing: Timing, last_seq: int | None = None) -> End:
    """The end of an attempt without a result of its own: queued for the next attempt, or failed with `sentence`."""
    end = End(
        fence=lost.fence,
        status=Status.FAILED,
        kind=EventKind.FAILED,
        error_code=code,
        error_message=sentence,
        outcome={"error_code": code.value},
        detail={"error_code": code.value, "error_message": sentence},
        last_seq=last_seq,
    )
    return with_retry(end, lost, timing)
