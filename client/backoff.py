"""For how long, and how often, something is tried again that fails, or that is not so yet."""

import random
import time
from collections.abc import Callable
from math import inf

from reprieve.models.errors import InvalidRequest, StillRunning
from reprieve.models.records import Run

#: Seconds before the second try, at the most; each further pause is twice as long, up to the longest.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


class Backoff:
    """Pauses between tries, each longer than the one before, for so many seconds from the first failure on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self.reset()

    def beside(self, seconds: float) -> "Backoff":
        """Another one, by the same clock."""
        return Backoff(seconds, self._clock)

    def reset(self) -> None:
        """Something succeeded: the next failure is the first again."""
        self._since: float | None = None
        self._longest = FIRST_PAUSE

    def start(self) -> None:
        """The time begins now, not only when something fails."""
        self.reset()
        self._since = self._clock()

    def pause(self, asked: float = 0.0) -> float | None:
        """Seconds to wait before the next try; None when the time is over, with which the last pause ends.

        At least those seconds that the other side asked for. Those who lost the same server come back one by one.
        """
        if self._since is None:
            self._since = self._clock()
        left = self._since + self.seconds - self._clock()
        if left <= 0:
            return None
        pause = max(asked, self._longest * random.uniform(0.5, 1))  # noqa: S311 - no secret
        self._longest = min(self._longest * 2, LONGEST_PAUSE)
        return min(pause, left)


class Waiting:
    """Waits for a run to end, for so many seconds; None is for as long as it takes."""

    def __init__(self, timeout: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `InvalidRequest`."""
        self.seconds = inf if timeout is None else checked_seconds("timeout", timeout)
        self._backoff = Backoff(self.seconds, clock)
        self._backoff.start()

    def pause(self, found: Run) -> float:
        """Seconds until a run that has not ended is looked at again. Raises `StillRunning` when the time is over."""
        pause = self._backoff.pause()
        if pause is None:
            raise StillRunning(f"Run {found.id} is {found.status} after {self.seconds:g} s; it goes on.")
        return pause


def checked_seconds(name: str, seconds: float) -> float:
    """Raises `InvalidRequest` for what is no duration."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds >= 0:
        raise InvalidRequest(f"{name} is {seconds!r}; give seconds, 0 or more.")
    try:
        return float(seconds)
    except OverflowError:
        raise InvalidRequest(f"{name} is beyond all time; give seconds.") from None
