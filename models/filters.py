"""Which runs are meant: what a list is asked for with, and a request that ends many or does many again."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypedDict, Unpack
from uuid import UUID

from reprieve.models.errors import InvalidRequest
from reprieve.models.status import ErrorCode, Status
from reprieve.models.text import as_given, is_plain_text

#: Characters of free text that are looked for.
MAX_WORDS = 200
#: The last twelve digits of a run's id, the last one first: an index finds those that begin with some.
END_OF_ID = 'reverse("right"(CAST(run_id AS text), 12))'


class RunChoice(TypedDict, total=False):
    """By what runs are chosen: all of it must hold. One list for every way of asking."""

    statuses: Collection[Status | str]
    """Any of these."""
    adapter: str | None
    labels: Mapping[str, str] | None
    """All of these."""
    error: ErrorCode | str | None
    """Failed as this."""
    lane: str | None
    since: datetime | None
    """Asked for at this moment, which has a time zone, or later."""
    until: datetime | None
    """Asked for before this moment."""
    ended_since: datetime | None
    """Ended at this moment or later."""
    text: str | None
    """In a label (`name=value`) or in how it failed (`code: message`), in capitals or not."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are meant, checked."""

    statuses: tuple[Status, ...] = ()
    adapter: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    error: ErrorCode | None = None
    lane: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ended_since: datetime | None = None
    text: str | None = None

    @classmethod
    def of(cls, **choice: Unpack[RunChoice]) -> "RunFilter":
        """What a caller gave. Raises `InvalidRequest`, naming the argument."""
        return cls(
            statuses=_statuses(choice.get("statuses", ())),
            adapter=_plain("adapter", choice.get("adapter")),
            labels=_labels(choice.get("labels") or {}),
            error=_error(choice.get("error")),
            lane=_plain("lane", choice.get("lane")),
            since=_moment("since", choice.get("since")),
            until=_moment("until", choice.get("until")),
            ended_since=_moment("ended_since", choice.get("ended_since")),
            text=_words(choice.get("text")),
        )

    @property
    def is_any(self) -> bool:
        """Whether every run fits."""
        return self == RunFilter()


class Sort(StrEnum):
    """In which order runs are listed."""

    NEWEST = "newest"
    """The one that was asked for last comes first."""
    OLDEST = "oldest"
    """The one that was asked for first."""
    LONGEST = "longest"
    """Of those that are running: the one whose attempt began first."""
    SILENT = "silent"
    """Of those that are running: the one whose last sign of life is the oldest."""

    @property
    def is_of_running(self) -> bool:
        """Whether it is an order of runs that are running, who are few: no index has it, and no page follows."""
        return self in (Sort.LONGEST, Sort.SILENT)

    def check(self, wanted: RunFilter, before: UUID | None = None) -> None:
        """Raises `InvalidRequest` where it is no order of these runs."""
        if not self.is_of_running:
            return
        if wanted.statuses != (Status.RUNNING,):
            raise InvalidRequest(
                f"sort={self} is for runs that are running: ask for status=running with it. All others, who may be "
                "millions, are sorted as newest or oldest."
            )
        if before is not None:
            raise InvalidRequest(f"sort={self} has one page: it changes all the time. Ask for a greater limit.")


class Deed(StrEnum):
    """What can be done to many runs."""

    CANCEL = "cancel"
    AGAIN = "again"

    @property
    def statuses(self) -> tuple[Status, ...]:
        """Those of runs that it can be done to: what has ended cannot be ended, and is done again."""
        return tuple(status for status in Status if status.is_final == (self is Deed.AGAIN))

    def of(self, wanted: RunFilter) -> RunFilter:
        """Those of these runs that it can be done to. Raises `InvalidRequest` where a status was asked for that none
        of those has.
        """
        if unfit := [status for status in wanted.statuses if status not in self.statuses]:
            known = ", ".join(self.statuses)
            raise InvalidRequest(f"{self} is not for runs that are {unfit[0]}; only for those that are {known}.")
        return replace(wanted, statuses=wanted.statuses or self.statuses)


def labels_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Labels that all must hold. Raises `InvalidRequest` where one is named with two values: no run has both."""
    labels = dict[str, str]()
    for name, value in pairs:
        if labels.setdefault(name, value) != value:
            raise InvalidRequest(f"label: {as_given(name, 100)} is named with two values; no run has both.")
    return labels


def _statuses(given: Collection[Status | str]) -> tuple[Status, ...]:
    wanted = given if isinstance(given, Collection) and not isinstance(given, str) else [given]
    try:
        return tuple(dict.fromkeys(map(Status, wanted)))
    except ValueError:
        known = ", ".join(Status)
        raise InvalidRequest(f"statuses is {as_given(given, 100)}; give a list of any of {known}.") from None


def _plain(name: str, given: str | None) -> str | None:
    if given is not None and not is_plain_text(given):
        raise InvalidRequest(f"{name} must be text, without NUL.")
    return given


def _labels(given: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(given, Mapping) or not all(map(is_plain_text, (*given, *given.values()))):
        raise InvalidRequest("labels: give a mapping of names to values, all of them text without NUL.")
    if any(not name or "=" in name for name in given):
        raise InvalidRequest("labels: no filter can ask for a name that is empty or holds '='.")
    return given


def _error(given: ErrorCode | str | None) -> ErrorCode | None:
    try:
        return None if given is None else ErrorCode(given)
    except ValueError:
        raise InvalidRequest(f"error is {as_given(given, 100)}; give one of {', '.join(ErrorCode)}.") from None


def _moment(name: str, given: datetime | None) -> datetime | None:
    """In UTC: PostgreSQL knows no zones that are more than 16 hours away, and years that no `datetime` holds."""
    if given is None:
        return None
    if not isinstance(given, datetime) or given.utcoffset() is None:
        raise InvalidRequest(f"{name} is {as_given(given, 100)}; give a datetime with a time zone.")
    try:
        return given.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(f"{name} is {as_given(given.isoformat())}; give one of the years 1 to 9999.") from None


def _words(given: str | None) -> str | None:
    if _plain("text", given) is not None and not 0 < len(given or "") <= MAX_WORDS:
        raise InvalidRequest(f"text must have 1 to {MAX_WORDS} characters.")
    return given
