"""How often and for how long the adapter asks, in one place, so that tests can be quick."""

from dataclasses import dataclass, field

from reprieve.adapters.kubernetes.answers import ApiError
from reprieve.adapters.kubernetes.api import CONNECT_TIMEOUT, READ_TIMEOUT
from reprieve.adapters.kubernetes.logs import LogTimings

#: Seconds before what was not answered is asked again, at first; and between two looks whether a deleted Job is gone.
STATUS_INTERVAL = 5.0
#: Seconds between two looks, at first, whether a deleted Job is gone, or whether one may be created by now.
LOOK_INTERVAL = 0.25
#: Seconds between two looks of a follower at what its watch has shown. That costs no request: what is new wakes it.
PULSE = 10.0
#: The longest pause, in seconds, between two questions to an API server that does not answer.
MAX_BACKOFF = 60.0
#: Seconds between two questions about a Job, or two lists, where there may be no watch.
UNWATCHED_INTERVAL = 20.0
#: Seconds that a watch is asked to last. It is then resumed, so that it proves itself alive at least this often: with a
#: pulse and a keepalive of the worker, no proof of life is older than 90.
WATCH_SECONDS = 50.0
#: Seconds beyond which a watch that should have ended, and says nothing, is taken for half-open.
WATCH_GRACE = 8.0
#: Seconds for which a watch that was taken up must be silent to have caught up with what it was behind.
WATCH_SETTLE = 1.0
#: Seconds between two lists of all, by which a change is found that a watch has kept from us: not longer than the
#: window, so that the silence which convicts a dead run begins within it.
LIST_INTERVAL = 300.0
#: Seconds that a watch goes on when nobody follows a Job in its namespace any more: the next may be on its way.
LINGER = 60.0
#: Seconds that an attempt may be kept from beginning (no image, no node, no quota) before its run fails.
BLOCKED_LIMIT = 10 * 60.0
#: Seconds between two looks at the events of a Job that has no Pod: a quota may keep it from being created.
EVENTS_INTERVAL = 30.0
#: Seconds that a Job that has ended may still have a container that runs, before it is no longer waited for.
END_GRACE = 60.0
#: Seconds within which a deleted Job and its Pods must be gone; Pods have 30 to end by themselves, by default.
TERMINATION_LIMIT = 90.0


@dataclass(frozen=True, slots=True)
class Timings:
    """In seconds."""

    status_interval: float = STATUS_INTERVAL
    look_interval: float = LOOK_INTERVAL
    pulse: float = PULSE
    max_backoff: float = MAX_BACKOFF
    unwatched_interval: float = UNWATCHED_INTERVAL
    watch_seconds: float = WATCH_SECONDS
    watch_grace: float = WATCH_GRACE
    watch_settle: float = WATCH_SETTLE
    list_interval: float = LIST_INTERVAL
    linger: float = LINGER
    blocked_limit: float = BLOCKED_LIMIT
    events_interval: float = EVENTS_INTERVAL
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
