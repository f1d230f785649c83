"""The states of a run, the one table of transitions between them, and the words for why and what happened.

The same table stands as a trigger in the database (`stores/migrations`) and as a diagram in `docs/run_lifecycle.md`.
"""

from enum import StrEnum


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]


#: From each status, the statuses that may follow. `running → queued` is a retry. The first final state wins.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
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
    UNKNOWN_ADAPTER = "unknown_adapter"
    """The worker that took the run has no adapter of its type installed."""


class EventKind(StrEnum):
    """What `run_events` can tell. Append-only: what happened stays told."""

    ENQUEUED = "enqueued"
    RESENT = "resent"
    CLAIMED = "claimed"
    SPAWNED = "spawned"
    DISPATCHED = "dispatched"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REAPED = "reaped"
    RETRIED = "retried"
    ATTACHED = "attached"
    NOTED = "noted"
    LATE_OUTPUT = "late_output"
    LATE_RESULT = "late_result"
    TERMINATED = "terminated"
    TERMINATION_FAILED = "termination_failed"


class Proof(StrEnum):
    """The kinds of proof of life: what refreshed `updated_at` last."""

    CLAIM = "claim"
    OUTPUT = "output"
    KEEPALIVE = "keepalive"
    HEARTBEAT = "heartbeat"
    PROBE = "probe"


class Probe(StrEnum):
    """What a platform says of work when it is asked. Any doubt is UNKNOWN."""

    ALIVE = "alive"
    """It is there and has not ended."""
    ENDED = "ended"
    """It has ended by itself, and its result is there to be read: whoever attaches will read it."""
    DEAD = "dead"
    """It is not there, and nothing is left of it to read."""
    UNKNOWN = "unknown"
    """The platform did not say: it was away, refused to answer, or cannot know."""
