"""For how long a run that has ended stays, with all that belongs to it: by its lane. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from uuid import UUID

from reprieve.models.lanes import is_pattern, rule_for
from reprieve.models.text import span

#: What stands in place of days where runs stay for ever.
NEVER = "never"
#: Days of the longest retention.
LONGEST = 36_500.0

#: How long something that is due may stay before health tells of it: much is removed when retention is turned on.
BEHIND_TOLD_AFTER = timedelta(days=2)
#: The same of a retention that fails: what fails once is mostly done by the next try, an hour later.
FAILING_TOLD_AFTER = timedelta(minutes=75)

_WHAT_WOULD_DO = (
    f"give days above 0 and up to {LONGEST:.0f}, or {NEVER}, for all runs, and for those of a lane after its name or a "
    f"pattern of names, with commas between them: 30,claude=7,tenant:*=90,audit={NEVER}"
)


@dataclass(frozen=True)
class RunRetention:
    """How long ended runs stay, by the pattern that counts for their lane (`rule_for`); None is for ever."""

    days: float | None = None
    of_lanes: tuple[tuple[str, float | None], ...] = ()

    @classmethod
    def parse(cls, written: str) -> "RunRetention":
        """`30,claude=7,tenant:*=90`. Raises ValueError with a sentence that says what would do."""
        plain: list[float | None] = []
        of_lanes: dict[str, float | None] = {}
        for part in (part.strip() for part in written.split(",")):
            lane, equals, days = part.rpartition("=")
            lane = lane.strip()
            if not equals:
                plain.append(_days(days, part))
            elif not is_pattern(lane) or lane in of_lanes:
                raise ValueError(f"has {part!r}, whose lane is none, or was named before; {_WHAT_WOULD_DO}")
            else:
                of_lanes[lane] = _days(days, part)
        if len(plain) > 1:
            raise ValueError(f"has the days of all runs {len(plain)} times; {_WHAT_WOULD_DO}")
        return cls(plain[0] if plain else None, tuple(of_lanes.items()))

    def __str__(self) -> str:
        """As it is written."""
        named = [("", self.days)] if self.days is not None else []
        return ",".join(
            f"{lane}{'=' if lane else ''}{NEVER if days is None else format(days, 'g')}"
            for lane, days in (*named, *self.of_lanes)
        )

    def of(self, lane: str) -> timedelta | None:
        """For how long an ended run of this lane stays; None for ever."""
        named = dict(self.of_lanes)
        pattern = rule_for(lane, named)
        days = self.days if pattern is None else named[pattern]
        return None if days is None else timedelta(days=days)

    @cached_property
    def shortest(self) -> timedelta | None:
        """No run goes sooner than this after its end. None: no run ever goes."""
        days = [days for days in (self.days, *(days for _, days in self.of_lanes)) if days is not None]
        return timedelta(days=min(days)) if days else None


def _days(written: str, part: str) -> float | None:
    if written.strip() == NEVER:
        return None
    try:
        days = float(written)
    except ValueError:
        days = 0.0
    if not 0 < days <= LONGEST:
        raise ValueError(f"has {part!r}; {_WHAT_WOULD_DO}")
    return days


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended: which lane it was in, and when it ended. `finished_at` is None of one that has not."""

    id: UUID
    lane: str
    finished_at: datetime | None


def due_at(run: Ended, retention: RunRetention) -> datetime | None:
    """The time at which a run is to go; None while it goes on, and for one that stays for ever."""
    age = retention.of(run.lane)
    return None if run.finished_at is None or age is None else run.finished_at + age


def due(runs: Iterable[Ended], retention: RunRetention, now: datetime) -> dict[UUID, datetime]:
    """Those of these runs that are to be gone by now, each with the time at which it was due."""
    found = ((run.id, due_at(run, retention)) for run in runs)
    return {run_id: at for run_id, at in found if at is not None and at <= now}


@dataclass(frozen=True, slots=True)
class RetentionState:
    """How far the retention of runs is, as its row says.

    `policy` is what the worker that makes it is told, as it is written; None where nothing is ever removed. The pass
    over all runs that is under way began at `pass_began_at`, and has removed `removed` runs. The last one has removed
    `last_removed`, and kept `last_kept` that were due, since something is owed to them. Everything that was due at
    `done_until` is gone, but for what is due since `kept_since`.
    """

    policy: str | None
    done_until: datetime
    kept_since: datetime | None
    pass_began_at: datetime | None
    removed: int
    last_removed: int
    last_kept: int
    failing_since: datetime | None
    failure: str | None

    def behind(self, now: datetime) -> timedelta:
        """For how long, at the most, a run has been due that is still there."""
        return now - min(self.done_until, self.kept_since or self.done_until)

    def complaints(self, now: datetime) -> list[str]:
        """What is wrong with it, a sentence each; none while it is off."""
        if self.policy is None:
            return []
        reasons = []
        if self.failing_since is not None and now - self.failing_since > FAILING_TOLD_AFTER:
            reasons.append(
                f"The retention of runs has been failing for {span(now - self.failing_since)}: {self.failure}. Ended "
                "runs stay until it does not; it is tried again."
            )
        if now - self.done_until > BEHIND_TOLD_AFTER:
            reasons.append(
                f"The retention of runs has looked at all of them {span(now - self.done_until)} ago for the last time. "
                "Is a worker of the queue archive running, and does it keep up?"
            )
        if self.kept_since is not None and now - self.kept_since > BEHIND_TOLD_AFTER:
            reasons.append(
                f"{self.last_kept} ended runs were to be removed up to {span(now - self.kept_since)} ago, and stay "
                "since something is owed to them; `reprieve explain` of one says what."
            )
        return reasons

    def summary(self, now: datetime) -> str:
        """How it goes, a sentence."""
        if self.policy is None:
            return "Ended runs stay for ever: REPRIEVE_RUN_RETENTION_DAYS is not set."
        under_way = f"; {self.removed} in the pass that is under way" if self.pass_began_at else ""
        return (
            f"Ended runs are removed after their days ({self.policy}): {self.last_removed} in the last pass, "
            f"{span(now - self.done_until)} ago{under_way}; {self.last_kept} stay since something is owed to them."
        )
