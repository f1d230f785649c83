"""What callers name: a run, a place in a log. Checked here, for direct calls and HTTP alike."""

from uuid import UUID

from reprieve.models.errors import InvalidRequest, RunNotFound
from reprieve.models.records import Run
from reprieve.models.text import as_given

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
        raise RunNotFound(f"{as_given(run, 60)} is no run; give one, or its whole id.") from None


def check_place(attempt: int | None, after: int) -> None:
    """Raises `InvalidRequest` for what is no place in a log."""
    if attempt is not None and not _is_within(attempt, 1, LAST_ATTEMPT):
        raise InvalidRequest(f"attempt is {attempt!r}; the first is 1.")
    if not _is_within(after, 0, LAST_SEQ):
        raise InvalidRequest(f"after is {after!r}; give the number of the last item that you have, or 0.")


def _is_within(value: object, first: int, last: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and first <= value <= last
