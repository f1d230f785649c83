"""What was seen last of an attempt's Pod: how it ended, should the Pod or its Job be gone at the next look.

It is kept in the handle, so that it outlives the follower and the next one can use it. Pure.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

from reprieve.models.status import ErrorCode
from reprieve.models.work import Outcome, storable


class Weight(IntEnum):
    """How much a state says about the end; for the same Pod, more is replaced by less only if it was taken back."""

    UNDER_WAY = 0
    """It was running; nothing says that it ended."""
    LEAVING = 1
    """It, or its Job, was to be deleted or to fail: gone at the next look, it has ended by that."""
    ENDED = 2
    """Its container had ended."""
    CAUSE = 3
    """The platform had said why it ended the Pod."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One state of one Pod."""

    pod: str
    """Its name; empty when the Job alone was seen."""
    weight: Weight
    end: Outcome
    """What is reported if this stays the last that was seen."""
    calls_off: bool = False
    """Whether the platform has taken back that it ends the Pod: a `CAUSE` of before is none. Not kept in the handle."""

    @property
    def tells_an_end(self) -> bool:
        return self.weight > Weight.UNDER_WAY

    def as_json(self) -> dict[str, Any]:
        """What the platform says may hold what PostgreSQL cannot."""
        code = None if self.end.error_code is None else self.end.error_code.value
        known = {"error_code": code, "sentence": self.end.error_message, "detail": self.end.detail}
        kept: dict[str, Any] = storable({"pod": self.pod, "weight": int(self.weight)} | known)
        return kept

    @classmethod
    def of_json(cls, said: Any) -> Self | None:
        """None for what this release cannot read: then nothing was seen."""
        try:
            code = None if said["error_code"] is None else ErrorCode(said["error_code"])
            end = Outcome(code, said["sentence"], dict(said["detail"]))
            return cls(str(said["pod"]), Weight(said["weight"]), end)
        except (KeyError, TypeError, ValueError):
            return None


def later(before: Seen | None, now: Seen | None) -> Seen | None:
    """What is to be kept of two states, the second of which was seen later."""
    if before is None or now is None:
        return now or before
    if now.pod and before.pod and now.pod != before.pod:
        return now
    if now.calls_off and before.weight is Weight.CAUSE:
        return now
    return now if (now.weight, bool(now.pod)) >= (before.weight, bool(before.pod)) else before
