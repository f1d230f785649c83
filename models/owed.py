"""Work that is owed: it stays owed until done, and whatever fails goes behind the rest.

Each list of owed work is ordered, and would begin with the same poison item each time. So a try that fails, or that is
never heard of again, is a *setback*: a row that says how often, why, and when the item is tried next. What never failed
comes first; what failed waits longer each time, up to a limit (exponential backoff); `explain` and health report why.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from reprieve.models.text import span

#: Characters that are kept of a reason.
MAX_REASON = 500

#: How long something may have failed before health tells of it: what fails once is mostly done by the next try.
TOLD_AFTER = timedelta(minutes=5)

#: What stands as the reason until a try has said how it went.
NO_ANSWER = "it was begun, and nothing was heard of it since"


class Duty(StrEnum):
    """What is owed to an attempt."""

    CLOSING = "closing"
    """Its log is to be archived."""
    REMOVAL = "removal"
    """Its log has expired."""
    TERMINATION = "termination"
    """Its work is to be confirmed gone."""
    ADOPTION = "adoption"
    """Its work is to be followed by another worker."""
    RETENTION = "retention"
    """Its run is to be removed, and all that belongs to it; of no single attempt (0)."""

    @property
    def failure(self) -> str:
        """What is said in a worker's own log of one that failed."""
        return _FAILURES[self]

    @property
    def first_pause(self) -> timedelta:
        """How long an item waits after its first setback; twice as long after each further one …"""
        return _PAUSES[self][0]

    @property
    def longest_pause(self) -> timedelta:
        """… up to this."""
        return _PAUSES[self][1]


#: In real time: what is at fault is mostly outside, and does not get faster with a time scale.
_PAUSES = {
    Duty.CLOSING: (timedelta(seconds=30), timedelta(minutes=10)),
    Duty.REMOVAL: (timedelta(minutes=10), timedelta(days=1)),
    # A run that is to be tried again may wait for it.
    Duty.TERMINATION: (timedelta(seconds=30), timedelta(minutes=5)),
    # Until then its output is read by nobody.
    Duty.ADOPTION: (timedelta(seconds=10), timedelta(minutes=1)),
    Duty.RETENTION: (timedelta(minutes=10), timedelta(days=1)),
}

_FAILURES = {
    Duty.CLOSING: "its log could not be closed; that is tried again",
    Duty.REMOVAL: "its log has expired, and could not be removed; that is tried again",
    Duty.TERMINATION: "its work could not be ended",
    Duty.ADOPTION: "it could not be adopted; that is tried again",
    Duty.RETENTION: "it was to be removed, and could not be; that is tried again",
}

_SENTENCES = {
    Duty.CLOSING: "The log of attempt {attempt} could not be closed",
    Duty.REMOVAL: "The log of attempt {attempt} has expired, and could not be removed",
    Duty.TERMINATION: "The work of attempt {attempt} could not be ended",
    Duty.ADOPTION: "No worker could take over the work of attempt {attempt}",
    Duty.RETENTION: "The run was to be removed, as all that have ended so long ago, and could not be",
}

_PLURALS = {
    Duty.CLOSING: "logs that could not be closed",
    Duty.REMOVAL: "expired logs that could not be removed",
    Duty.TERMINATION: "attempts whose work could not be ended",
    Duty.ADOPTION: "attempts whose work no worker could take over",
    Duty.RETENTION: "ended runs that could not be removed",
}


@dataclass(frozen=True, slots=True)
class Failing:
    """An item of owed work that failed; `reason` is of the last try."""

    duty: Duty
    run_id: UUID
    attempt: int
    tries: int
    reason: str
    since: datetime
    next_try_at: datetime

    def sentence(self, now: datetime) -> str:
        """What a person who asks about its run is told."""
        what = _SENTENCES[self.duty].format(attempt=self.attempt)
        times = "once" if self.tries == 1 else f"{self.tries} times"
        due = f"in {span(self.next_try_at - now)}" if self.next_try_at > now else "now"
        return (
            f"{what}, tried {times} since {self.since:%Y-%m-%d %H:%M:%S} UTC: {self.reason}. It is tried again {due}."
        )


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many items of one duty fail, the age of the oldest setback, and the newest reason."""

    duty: Duty
    items: int
    oldest: timedelta
    reason: str

    @property
    def is_told(self) -> bool:
        return self.oldest > TOLD_AFTER

    @property
    def sentence(self) -> str:
        what = f"{self.items} {_PLURALS[self.duty]}"
        return f"There are {what}, for up to {span(self.oldest)}. The last time: {self.reason}."


def reason_of(error: BaseException) -> str:
    """What is kept of an error: its kind, and the first line of what it says."""
    line = next(iter(str(error).strip().splitlines()), "").rstrip(".")
    return f"{type(error).__name__}: {line}"[:MAX_REASON] if line else type(error).__name__
