"""Whether the reaper itself is alive: a pure judgement on its own signs of life."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reprieve.models.liveness import Timing

#: What is said of a database that takes no writes.
READ_ONLY = (
    "The database is read-only: no run starts, results wait for it, and so does output, on the workers' disks. "
    "Is it a replica, or is a switch-over under way?"
)


@dataclass(frozen=True, slots=True)
class Pulse:
    """The reaper's own signs of life: the age of its last completed sweep and of the newest canary that came back.

    `holder` is the process that makes a sweep just now, and for how long it has been at it: or that was never heard of
    again while it did. None between two sweeps. `read_only`: the database takes no writes. `deaf_for`: how long ago
    an API said that it takes reports, where there is running work that reports to one.
    """

    age: timedelta | None
    lag: timedelta | None
    last_report: dict[str, Any] | None
    holder: str | None = None
    held_for: timedelta | None = None
    read_only: bool = False
    deaf_for: timedelta | None = None

    @property
    def under_way(self) -> str | None:
        """Who is in the middle of a sweep, and since when, as a sentence."""
        if self.holder is None or self.held_for is None:
            return None
        return f"A sweep of {self.holder} is under way since {self.held_for.total_seconds():.0f} s."


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the log archive refuses at present: `write` or `remove`, since when without a success, and the last words.

    `refusal` is a sentence.
    """

    operation: str
    since: datetime
    at: datetime
    times: int
    refusal: str

    @property
    def sentence(self) -> str:
        """The refusal, with what follows from it."""
        follows = {
            "write": "Until it does, the logs of ended runs stay in the database.",
            "remove": "Until it does, logs that are older than the retention stay.",
        }
        return (
            f"{self.refusal.rstrip()} So it has been since {self.since:%Y-%m-%d %H:%M:%S} UTC, {self.times} times, "
            f"the last at {self.at:%H:%M:%S}. {follows.get(self.operation, '')}"
        ).rstrip()


def refused(refusals: Iterable[Refusal]) -> list[str]:
    """What the archive refuses, a sentence each."""
    return [one.sentence for one in refusals]


def ailments(pulse: Pulse | None, timing: Timing) -> list[str]:
    """What is wrong, a sentence each; none when all is well.

    A beat that dies is noticed by nobody otherwise (celery/celery #9622), nor is a worker that is up and consumes
    nothing (celery/celery #8030).
    """
    reasons = [READ_ONLY] if pulse and pulse.read_only else []
    if pulse is None or pulse.age is None:
        never = "No sweep was ever completed: is beat running, and a worker of the queue control?"
        return [*reasons, _with_holder(never, pulse)]
    if pulse.age > timing.sweep_overdue:
        overdue = (
            f"The last completed sweep is {pulse.age.total_seconds():.0f} s old: dead runs are not found. "
            "Is beat running, and a worker of the queue control?"
        )
        reasons.append(_with_holder(overdue, pulse))
    if pulse.lag is None or pulse.lag > timing.tolerated_lag + timing.sweep_interval:
        last = "none ever did" if pulse.lag is None else f"the last was sent {pulse.lag.total_seconds():.0f} s ago"
        reasons.append(
            f"Canaries do not come back through the log queue ({last}): output is late, and silence convicts nobody. "
            "Is a worker of the queue logs running, and does it keep up?"
        )
    if pulse.deaf_for is not None and pulse.deaf_for > timing.tolerated_lag + timing.sweep_interval:
        reasons.append(
            f"No HTTP API has taken reports for {pulse.deaf_for.total_seconds():.0f} s: the silence of work that "
            "reports over it convicts nobody. Is an API running, and does it answer?"
        )
    return reasons


def _with_holder(sentence: str, pulse: Pulse | None) -> str:
    under_way = pulse.under_way if pulse else None
    return f"{sentence} {under_way}" if under_way else sentence
