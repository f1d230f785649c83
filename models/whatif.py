"""The shadow reaper: which attempts another window would have had reaped, by the longest silence that is kept of each.

The window stays what it is. This tells whether it may be trusted: how many were silent for nearly as long and lived.
What is counted is an upper bound. The longest silence of an attempt includes what we were blind or deaf for ourselves,
and those in which a platform that was asked, or a worker's vouch, would have spared it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from reprieve.models.errors import InvalidRequest
from reprieve.models.liveness import Timing

#: The windows that are asked about where none is given, as shares of the one that there is.
USUAL_SHARES = (0.4, 0.6, 0.8, 1.0, 2.0)
#: So many windows, and days, may be asked about at once.
MOST_WINDOWS, MOST_DAYS = 20, 90


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a window would have done to the attempts that have ended.

    `silent` were silent for longer; of these, `succeeded` did so in the end, and `reaped` were reaped for silence in
    fact. `waited_for` were reaped for a silence that was no longer than this window, so that it would have waited on;
    `came_late` of them gave a sign of life after they were reaped.
    """

    window: timedelta
    silent: int = 0
    succeeded: int = 0
    reaped: int = 0
    waited_for: int = 0
    came_late: int = 0

    @property
    def sentence(self) -> str:
        told = f"at {self.window.total_seconds():g} s, {_count(self.silent, 'attempt')} would have been reaped"
        if self.silent:
            told += f"; {self.succeeded} of them succeeded later, {self.reaped} were reaped in fact"
        if self.waited_for:
            told += (
                f"; {_count(self.waited_for, 'reaped attempt')} would have been waited for longer, of which "
                f"{self.came_late} gave signs of life later"
            )
        return told + "."


def windows_of(seconds: Sequence[float], timing: Timing) -> list[timedelta]:
    """The windows that are asked about, each once, in order; the usual ones where none is given.

    Raises `InvalidRequest` for one that any live run exceeds, since its row is not refreshed so often, or that is too
    long to be one.
    """
    if not seconds:
        return [timing.window * share for share in USUAL_SHARES]
    if len(seconds) > MOST_WINDOWS:
        raise InvalidRequest(f"--window is given {len(seconds)} times; give at most {MOST_WINDOWS}.")
    least, most = (timing.refresh_interval + timing.keepalive_interval).total_seconds(), 86_400
    for one in seconds:
        if not least < one <= most:
            raise InvalidRequest(
                f"--window is {one:g}; give seconds above {least:g}, which the row of any live run may be old, and up "
                f"to {most}."
            )
    return [timedelta(seconds=one) for one in sorted(set(seconds))]


def checked_days(days: int) -> int:
    """Over how many days; raises `InvalidRequest`."""
    if not 1 <= days <= MOST_DAYS:
        raise InvalidRequest(f"--days is {days}; give a whole number from 1 to {MOST_DAYS}.")
    return days


def total(shadows: Iterable[Shadow], windows: Sequence[timedelta]) -> list[Shadow]:
    """The sums for each of these windows."""
    sums = {window: Shadow(window) for window in windows}
    for one in shadows:
        so_far = sums[one.window]
        sums[one.window] = Shadow(
            one.window,
            so_far.silent + one.silent,
            so_far.succeeded + one.succeeded,
            so_far.reaped + one.reaped,
            so_far.waited_for + one.waited_for,
            so_far.came_late + one.came_late,
        )
    return list(sums.values())


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
