"""How often and for how long the adapter asks, in one place, so that tests can be quick."""

from dataclasses import dataclass, field

from reprieve.adapters.kubernetes.api import CONNECT_TIMEOUT, READ_TIMEOUT, ApiError
from reprieve.adapters.kubernetes.logs import LogTimings

#: Seconds between two questions to the API server about one Job.
STATUS_INTERVAL = 5.0
#: Seconds between two looks whether the log, or an error in it, is there.
LOOK_INTERVAL = 0.25
#: The longest pause, in seconds, between two questions to an API server that does not answer.
MAX_BACKOFF = 60.0
#: Seconds that an attempt may be kept from beginning (no image, no node, no quota) before its run fails.
BLOCKED_LIMIT = 10 * 60.0
#: Seconds that a Job that has ended may still have a container that runs, before it is no longer waited for.
END_GRACE = 60.0
#: Seconds within which a deleted Job and its Pods must be gone; Pods have 30 to end by themselves, by default.
TERMINATION_LIMIT = 90.0


@dataclass(frozen=True, slots=True)
class Timings:
    """In seconds."""

    status_interval: float = STATUS_INTERVAL
    look_interval: float = LOOK_INTERVAL
    max_backoff: float = MAX_BACKOFF
    blocked_limit: float = BLOCKED_LIMIT
    end_grace: float = END_GRACE
    termination_limit: float = TERMINATION_LIMIT
    connect_timeout: float = CONNECT_TIMEOUT
    read_timeout: float = READ_TIMEOUT
    log: LogTimings = field(default_factory=LogTimings)


class Backoff:
    """Pauses, in seconds, before an API server that does not answer is asked again."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._pause = 0.0

    def next(self, error: Exception | None = None) -> float:
        """Twice as long each time; as long as the API server asks for, within limits."""
        self._pause = min(self._pause * 2 or self._timings.status_interval, self._timings.max_backoff)
        asked = (error.retry_after if isinstance(error, ApiError) else None) or 0.0
        return min(max(self._pause, asked), self._timings.max_backoff)

    def reset(self) -> None:
        self._pause = 0.0
