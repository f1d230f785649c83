"""Gaps in a log, and why they are there. Every reader names the same gaps, in the same words."""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from reprieve.models.errors import LogLost, LogRemoved


class Why(StrEnum):
    """What has become of chunks that were handed over and cannot be read."""

    LATE = "late"
    """Known to be on their way: a later read will find them."""
    MISSING = "missing"
    """Nobody has them, or they could not be stored and are in quarantine."""
    LOST = "lost"
    """They were stored, and cannot be read any more, however often it is tried."""
    REMOVED = "removed"
    """Retention has removed them."""

    @property
    def in_words(self) -> str:
        """What is said of chunks, after their numbers."""
        return _IN_WORDS[self]


_IN_WORDS = {
    Why.LATE: "are late, and on their way",
    Why.MISSING: "are missing",
    Why.LOST: "are lost: they were stored, and cannot be read any more",
    Why.REMOVED: "were removed (retention)",
}


@dataclass(frozen=True, slots=True)
class Gap:
    """Output that was handed over and cannot be read: its first and last sequence number, and why."""

    attempt: int
    first: int
    last: int
    #: As of when it was read: the same gap may be late now, and missing later.
    why: Why = field(default=Why.MISSING, compare=False)


def refuse_if_gone(run_id: UUID, attempt: int, gaps: list[Gap]) -> None:
    """Where nothing is left of what was there, say so: that is no empty log, and not to be tried again."""
    reasons, whose = {gap.why for gap in gaps}, f"The log of run {run_id}, attempt {attempt},"
    if Why.REMOVED in reasons:
        raise LogRemoved(f"{whose} was removed, since it was older than the retention.")
    if reasons and Why.LATE not in reasons:
        raise LogLost(f"{whose} is lost: nothing of it can be read any more. `explain` says what is known of it.")
