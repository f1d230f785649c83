"""Lanes: a name under which so many runs may be running at once. Pure.

A rule is for the lanes that fit its pattern: one name, or the beginning of names and an asterisk (`tenant:*`), where
each of those has the limit for itself. Of several patterns the exact one counts, and else the longest
(`stores.runs.queue`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from reprieve.models.errors import InvalidRequest
from reprieve.models.text import as_given, is_plain_text, shown

#: The lane of a run that names none.
DEFAULT_LANE = "default"
MAX_LANE_LENGTH = 128
#: The highest limit; a rule without one has none.
MOST_AT_ONCE = 1_000_000
#: Runs that are counted before one that waits.
MOST_COUNTED = 10_000
#: Lanes that one worker names.
MAX_SERVED = 100


def checked_lane(lane: object) -> str:
    """The name of a lane that a run may wait in. Raises `InvalidRequest`."""
    if not isinstance(lane, str) or not _is_name(lane) or "*" in lane:
        raise InvalidRequest(
            f"lane is {as_given(lane, 200)}; give text of 1 to {MAX_LANE_LENGTH} characters, without an asterisk, "
            "a comma, or a space at either end."
        )
    return lane


def checked_pattern(pattern: object) -> str:
    """A lane's name, or the beginning of names and an asterisk. Raises `InvalidRequest`."""
    if not isinstance(pattern, str) or not is_pattern(pattern):
        raise InvalidRequest(
            f"{as_given(pattern, 200)} is no lane: give its name, or the beginning of names and one asterisk, as "
            f"in tenant:*; 1 to {MAX_LANE_LENGTH} characters, without a comma, or a space at either end."
        )
    return pattern


def is_pattern(text: str) -> bool:
    """Whether it is a lane's name, or the beginning of names and an asterisk."""
    return _is_name(text) and "*" not in text[:-1]


def checked_limit(limit: object) -> int | None:
    """How many runs of a lane may be running at once; None for any number. Raises `InvalidRequest`."""
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MOST_AT_ONCE:
        raise InvalidRequest(
            f"limit is {as_given(limit, 100)}; give a whole number from 1 to {MOST_AT_ONCE:,}, or none for no "
            "limit. To have none of its runs begin, pause the lane."
        )
    return limit


def served(given: str) -> list[str]:
    """The lanes of a worker, as `gpu,tenant:*` says them. Raises `InvalidRequest`."""
    patterns = [checked_pattern(one.strip()) for one in given.split(",") if one.strip()]
    if not 1 <= len(patterns) <= MAX_SERVED:
        raise InvalidRequest(f"Give 1 to {MAX_SERVED} lanes with commas between them, for example gpu,tenant:*.")
    return patterns


def rule_for(lane: str, patterns: Iterable[str]) -> str | None:
    """The one pattern whose rule a lane has: its own name, or else the longest that it fits."""
    fitting = [one for one in patterns if _fits(lane, one)]
    return max(fitting, key=lambda one: (one == lane, len(one)), default=None)


def _fits(lane: str, pattern: str) -> bool:
    """As `stores.runs.queue.fits` has it, for what PostgreSQL need not be asked."""
    return lane.startswith(pattern[:-1]) if pattern.endswith("*") else lane == pattern


def _is_name(text: str) -> bool:
    return is_plain_text(text) and 1 <= len(text) <= MAX_LANE_LENGTH and "," not in text and text == text.strip()


@dataclass(frozen=True, slots=True)
class Rule:
    """What a pattern's lanes may do."""

    pattern: str
    limit: int | None
    paused_at: datetime | None


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane that has runs, or a rule of its own; as of now.

    `under_way` counts its running runs, and attempts whose work is not confirmed gone yet (`ending`): they hold their
    places until then. `waiting` may be claimed as soon as there is a place, `later` not before a time of their own.
    """

    lane: str
    rule: Rule | None
    running: int
    ending: int
    waiting: int
    later: int
    oldest: timedelta | None
    is_served: bool

    @property
    def under_way(self) -> int:
        return self.running + self.ending

    @property
    def limit(self) -> int | None:
        return self.rule.limit if self.rule else None

    @property
    def paused_at(self) -> datetime | None:
        return self.rule.paused_at if self.rule else None

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.under_way >= self.limit

    @property
    def why_waiting(self) -> str | None:
        """Why a run of it does not begin, as far as that is the lane's doing."""
        name = shown(self.lane)
        if self.paused_at is not None:
            return f"Lane {name} is paused since {self.paused_at:%Y-%m-%d %H:%M:%S} UTC."
        if self.is_full:
            ending = (
                f" ({self.ending} of which have ended, and their work is to be confirmed gone)" if self.ending else ""
            )
            return f"{self.under_way} of {self.limit} runs of lane {name} are running{ending}."
        if not self.is_served:
            return f"No living worker serves lane {name}."
        return None

    def why_this_waits(self, ahead: int) -> str:
        """The same of one waiting run, before which so many others go."""
        why = self.why_waiting
        where = "it is next" if ahead == 0 else f"it is number {ahead + 1}"
        if ahead >= MOST_COUNTED:
            where = f"more than {MOST_COUNTED:,} runs go before it"
        return (
            f"It waits in lane {shown(self.lane)}: {where}." if why is None else f"It waits: {why[:-1]}; {where} there."
        )


def unserved(lane: str) -> str:
    """What is said of a lane in which runs wait that nobody takes."""
    return f"No living worker serves lane {shown(lane)}, in which runs wait."
