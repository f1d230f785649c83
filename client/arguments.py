"""What callers name: a run, a filter for runs, a place in a log. Checked here, for direct calls and HTTP alike."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from reprieve.models.errors import InvalidRequest, RunNotFound
from reprieve.models.records import Run
from reprieve.models.status import Status
from reprieve.models.text import is_plain_text, shown

#: A run, or its whole id.
SomeRun = Run | UUID | str
#: Runs on one page of a list.
PAGE = 200
#: The highest attempt, and the highest sequence number, that can be asked for.
LAST_ATTEMPT, LAST_SEQ = 2**31 - 1, 2**62


def id_of(run: SomeRun) -> UUID:
    """The id of a run. Raises `RunNotFound` for what can be none."""
    if isinstance(run, Run):
        return run.id
    try:
        return run if isinstance(run, UUID) else UUID(run)
    except (ValueError, AttributeError, TypeError):
        raise RunNotFound(f"{shown(repr(run))[:60]} is no run; give one, or its whole id.") from None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are listed."""

    statuses: tuple[Status, ...]
    adapter: str | None
    labels: Mapping[str, str]

    @classmethod
    def of(
        cls, statuses: Collection[Status | str], adapter: str | None, labels: Mapping[str, str] | None
    ) -> "RunFilter":
        """What a caller gave. Raises `InvalidRequest`, naming the argument."""
        if adapter is not None and not is_plain_text(adapter):
            raise InvalidRequest("adapter must be text, without NUL.")
        return cls(_statuses(statuses), adapter, _labels(labels or {}))


def _statuses(given: Collection[Status | str]) -> tuple[Status, ...]:
    wanted = given if isinstance(given, Collection) and not isinstance(given, str) else [given]
    try:
        return tuple(map(Status, wanted))
    except ValueError:
        known = ", ".join(Status)
        raise InvalidRequest(f"statuses is {shown(repr(given))[:100]}; give a list of any of {known}.") from None


def _labels(given: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(given, Mapping) or not all(map(is_plain_text, (*given, *given.values()))):
        raise InvalidRequest("labels: give a mapping of names to values, all of them text without NUL.")
    if any(not name or "=" in name for name in given):
        raise InvalidRequest("labels: no filter can ask for a name that is empty or holds '='.")
    return given


def check_place(attempt: int | None, after: int) -> None:
    """Raises `InvalidRequest` for what is no place in a log."""
    if attempt is not None and not _is_within(attempt, 1, LAST_ATTEMPT):
        raise InvalidRequest(f"attempt is {attempt!r}; the first is 1.")
    if not _is_within(after, 0, LAST_SEQ):
        raise InvalidRequest(f"after is {after!r}; give the number of the last item that you have, or 0.")


def _is_within(value: object, first: int, last: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and first <= value <= last
