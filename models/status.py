"""The states of a run, the one table of transitions between them, and the words for why and what happened.

The same table stands as a trigger in the database (`stores/migrations`) and as a diagram in `docs/run_lifecycle.md`.
"""

from enum import StrEnum


class Status(StrEnum):
    QUEUED = "queued"
    """Waits for a worker, for its first attempt or a retry."""
    RUNNING = "running"
    """A worker has claimed it; its work is, or was, under way."""
    SUCCEEDED = "succeeded"
    """Its work ended as it should."""
    FAILED = "failed"
    """Its error code says why."""
    CANCELLED = "cancelled"
    """Somebody ended it."""

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]


#: From each status, the statuses that may follow. `running → queued` is a retry. The first final state wins.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


class ErrorCode(StrEnum):
    """Why a run failed, or an attempt was lost."""

    ADAPTER_LIVENESS_LOST = "adapter_liveness_lost"
    """Work outside the worker gave no proof of life for longer than the window."""
    PROCESS_LOST = "process_lost"
    """The worker that owned the child gave no proof of life for longer than the window."""
    ADAPTER_ERROR = "adapter_error"
    """The adapter raised an exception, or could not start the work."""
    EXIT_STATUS = "exit_status"
    """The work ended by itself, with a status other than 0 or by a signal."""
    TIMED_OUT = "timed_out"
    """The run was running for longer than its `max_runtime`."""
    NOT_STARTED = "not_started"
    """The run had not begun within its `start_within`."""
    STALLED = "stalled"
    """An attempt gave no output for longer than the run's `max_silence`, however alive."""
    OOM_KILLED = "oom_killed"
    """The work was ended because it used more memory than it may."""
    UNKNOWN_ADAPTER = "unknown_adapter"
    """The worker that took the run had no adapter of its type. No longer written: such runs stay queued."""


class EventKind(StrEnum):
    """What `run_events` can record. Append-only: what happened stays recorded."""

    ENQUEUED = "enqueued"
    """It was requested."""
    AGAIN = "again"
    """A new run was asked for that does the same again."""
    RESENT = "resent"
    """No worker had claimed it: its message was sent again."""
    CLAIMED = "claimed"
    """A worker began an attempt."""
    SPAWNED = "spawned"
    """The process of the attempt was recorded, before it may begin."""
    DISPATCHED = "dispatched"
    """The handle of work elsewhere was recorded, before it may begin."""
    SUCCEEDED = "succeeded"
    """The work ended as it should."""
    FAILED = "failed"
    """The work ended otherwise, or could not begin."""
    CANCELLED = "cancelled"
    """Somebody ended the run."""
    REAPED = "reaped"
    """The reaper ended it, silent or overdue; the evidence is with the event."""
    RETRIED = "retried"
    """The worker that owned the work gave the attempt up; the run waits for the next."""
    ATTACHED = "attached"
    """Another worker follows the work."""
    QUIET = "quiet"
    """It gave no output for longer than its `quiet_after`."""
    SNOOZED = "snoozed"
    """Somebody said for how long nobody is to be told that it is quiet."""
    NOTED = "noted"
    """Something to know about the attempt: why its work cannot begin, for example, or that its host is lost."""
    LATE_OUTPUT = "late_output"
    """Output arrived after the attempt was reaped: perhaps it was alive."""
    LATE_RESULT = "late_result"
    """A result arrived after the attempt was reaped: perhaps it was alive."""
    TERMINATED = "terminated"
    """The work is confirmed gone."""
    TERMINATION_FAILED = "termination_failed"
    """The work could not be ended; it is tried again."""


class Proof(StrEnum):
    """The kinds of proof of life: what refreshed `updated_at` last."""

    CLAIM = "claim"
    """A worker took the run."""
    OUTPUT = "output"
    """The work has printed something."""
    KEEPALIVE = "keepalive"
    """The worker saw its child alive."""
    HEARTBEAT = "heartbeat"
    """The adapter, or the work itself, says that it is alive."""
    PROBE = "probe"
    """Its platform said so when it was asked."""


class Probe(StrEnum):
    """What a platform says about work when it is asked. Any doubt is UNKNOWN."""

    ALIVE = "alive"
    """It is there and has not ended."""
    ENDED = "ended"
    """It has ended by itself, and its result is there to be read by the worker that attaches."""
    DEAD = "dead"
    """It is not there, and nothing is left of it to read."""
    UNKNOWN = "unknown"
    """The platform did not say: it was down, refused to answer, or cannot know."""
