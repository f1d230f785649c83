"""Quiet: a run that is alive and gives no output. What a sweep makes of it, as a pure function. All times are the
database's.

The window knows nothing of this: silence there is that of every proof of life, here it is that of the output alone, and
counts only where the run asked for it (`quiet_after`, `max_silence`). What our own lag may hide is no silence. A run is
known to have given no output only up to its last refresh, which carries what its follower saw, and up to the newest
canary that came back, before which all output is stored. While we do not look or hear for a whole window, or the
spool of a living worker holds output of the attempt, or nobody follows it, nothing is said; whoever attaches begins to
count anew. So an end comes up to two sweeps late, and never early.

What is not known: output that the adapter cannot read (a platform that gives its heartbeat, and not its log), and what
the work itself holds back in its buffers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from heapq import nsmallest
from typing import Any
from uuid import UUID

from reprieve.models.errors import InvalidRequest
from reprieve.models.liveness import Timing
from reprieve.models.reaping import Brake
from reprieve.models.retrying import end_of_lost
from reprieve.models.status import ErrorCode
from reprieve.models.text import in_seconds
from reprieve.models.watching import Watch, hears_reports
from reprieve.models.work import NO_RETRIES, End, Fence, Retries

#: No longer than this is a run snoozed at once; it can be snoozed again.
LONGEST_SNOOZE = timedelta(days=30)


class Hush(Enum):
    """What a sweep makes of a run that may be quiet."""

    STALLED = auto()
    """It gave no output for longer than its `max_silence`: its attempt is ended."""
    QUIET = auto()
    """It gave none for longer than its `quiet_after`, and nobody was told of this silence yet."""
    HEARD = auto()
    """The store has output of which its row does not know."""
    NOTHING = auto()
    """Nothing new: it was told already, it is not quiet, or what we hear proves nothing."""


@dataclass(frozen=True, slots=True)
class Listened:
    """A running run whose row knows of no recent output: what the sweep reads of it.

    `output_at` is the last output of which its row knows, `stored_at` when the store took the last chunk of the
    attempt, `attached_at` when another worker last began to follow it. `is_on_its_way`: output of it may be there that
    nobody has stored, since the spool of a living worker holds some, or since nobody follows it just now. `reports`:
    its work reports over the HTTP API. `start_by` is when it was to have begun at the latest.
    """

    run_id: UUID
    epoch: int
    attempt: int
    max_attempts: int
    adapter: str
    started_at: datetime
    updated_at: datetime
    output_at: datetime | None
    stored_at: datetime | None
    quiet_at: datetime | None
    quiet_after: timedelta | None
    max_silence: timedelta | None
    attached_at: datetime | None = None
    is_on_its_way: bool = False
    reports: bool = False
    start_by: datetime | None = None
    retries: Retries = NO_RETRIES

    @property
    def fence(self) -> Fence:
        return Fence(self.run_id, self.epoch)

    @property
    def last_output(self) -> datetime | None:
        """None while the attempt has given none."""
        return max(filter(None, (self.output_at, self.stored_at)), default=None)

    @property
    def quiet_since(self) -> datetime:
        """Its last output; or its start, where an older release left there what the attempt before had given."""
        return max(self.last_output or self.started_at, self.started_at)

    @property
    def listened_since(self) -> datetime:
        """From when on its silence counts: who attaches has still to read what came while nobody followed it.

        What begins elsewhere may have waited there, as long as it was given to begin.
        """
        may_wait = self.reports and self.last_output is None
        begun_by = self.start_by if may_wait else None
        return max(self.quiet_since, self.attached_at or self.quiet_since, begun_by or self.quiet_since)


def listen_to(one: Listened, watch: Watch, now: datetime, timing: Timing) -> Hush:
    """What the sweep at `now` makes of it; `watch` is what it has heard by now."""
    silence = _silence(one, watch, now, timing)
    if silence is not None and one.max_silence is not None and silence > one.max_silence:
        return Hush.STALLED
    if silence is not None and one.quiet_after is not None and silence > one.quiet_after:
        return Hush.NOTHING if one.quiet_at is not None and one.quiet_at >= one.quiet_since else Hush.QUIET
    return Hush.NOTHING if one.last_output == one.output_at else Hush.HEARD


def _silence(one: Listened, watch: Watch, now: datetime, timing: Timing) -> timedelta | None:
    """For how long it is known to have given no output; None where what we hear proves nothing."""
    if watch.age(now) < timing.window or watch.heard_for(now) < timing.window or watch.heard_at is None:
        return None
    if one.is_on_its_way or (one.reports and not hears_reports(watch, now, timing)):
        return None
    return min(one.updated_at, watch.heard_at) - one.listened_since


def brake_stalled(stalled: Iterable[Listened], fleet: int) -> list[Listened]:
    """Those that are ended by this sweep, the longest quiet first: that many stall at once may be a fault of ours."""
    stalled = list(stalled)
    limit = Brake(fleet=fleet, convicted=len(stalled))
    return nsmallest(limit.allowed, stalled, key=lambda one: (one.quiet_since, one.run_id))


def end_of_stalled(one: Listened, now: datetime, timing: Timing) -> End:
    """The end of an attempt that stalled. It applies only if there is no output still, and no snooze."""
    limit = one.max_silence or timedelta(0)
    sentence = (
        f"Gave no output for longer than its max_silence of {limit.total_seconds():g} s; "
        f"{f'the last was at {_clock(one.last_output)}' if one.last_output else 'it had given none at all'}."
    )
    end = end_of_lost(one, ErrorCode.STALLED, sentence, timing)
    return replace(end, detail=end.detail | dossier(one, now), quiet_before=now - limit)


def dossier(one: Listened, now: datetime) -> dict[str, Any]:
    """The evidence that it is quiet: times in ISO 8601, durations in seconds."""
    return {
        "output_at": one.last_output.isoformat() if one.last_output else None,
        "quiet_seconds": round((now - one.quiet_since).total_seconds(), 3),
        "quiet_after_seconds": in_seconds(one.quiet_after),
        "max_silence_seconds": in_seconds(one.max_silence),
    }


def checked_snooze(seconds: float) -> timedelta:
    """For how long a run is snoozed; 0 ends a snooze. Raises `InvalidRequest`."""
    try:
        length = timedelta(seconds=seconds)
    except (TypeError, ValueError, OverflowError):
        length = timedelta(-1)
    if not timedelta(0) <= length <= LONGEST_SNOOZE:
        raise InvalidRequest(
            f"A run cannot be snoozed for {str(seconds)[:100]} s; give seconds from 0, which ends a snooze, to "
            f"{LONGEST_SNOOZE.days} days."
        )
    return length


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
