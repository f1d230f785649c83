"""Whether the reaper itself is alive: a pure judgement on its own signs of life."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from models.liveness import Timing


@dataclass(frozen=True, slots=True)
class Pulse:
    """The reaper's own signs of life: the age of its last completed sweep and of the newest canary that came back."""

    age: timedelta | None
    lag: timedelta | None
    last_report: dict[str, Any] | None


def ailments(pulse: Pulse | None, timing: Timing) -> list[str]:
    """What is wrong, a sentence each; none when all is well.

    A beat that dies is noticed by nobody otherwise (celery/celery #9622), nor is a worker that is up and consumes
    nothing (celery/celery #8030).
    """
    if pulse is None or pulse.age is None:
        return ["No sweep was ever completed: is beat running, and a worker of the queue control?"]
    reasons = []
    if pulse.age > timing.sweep_overdue:
        reasons.append(
            f"The last completed sweep is {pulse.age.total_seconds():.0f} s old: dead runs are not found. "
            "Is beat running, and a worker of the queue control?"
        )
    if pulse.lag is None or pulse.lag > timing.tolerated_lag + timing.sweep_interval:
        told = "none ever did" if pulse.lag is None else f"the last was sent {pulse.lag.total_seconds():.0f} s ago"
        reasons.append(
            f"Canaries do not come back through the log queue ({told}): output is late, and silence convicts nobody. "
            "Is a worker of the queue logs running, and does it keep up?"
        )
    return reasons
