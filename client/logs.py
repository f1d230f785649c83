"""Reading what runs print directly, from the database and the archive."""

import time
from collections.abc import Generator, Iterator
from copy import copy
from uuid import UUID

from reprieve.client.arguments import SomeRun, check_place, id_of
from reprieve.client.backoff import Backoff
from reprieve.client.runs import TRIES_FOR, get_run, pause_after, saying_what_is_away
from reprieve.models.chunks import Chunk
from reprieve.models.errors import LogUnavailable, RunNotFound, Unavailable
from reprieve.models.gaps import Gap, refuse_if_gone
from reprieve.models.output import LogItem, Output
from reprieve.models.reading import Reading
from reprieve.workers.bootstrap import services


def read_log(run: SomeRun, *, attempt: int | None = None, after: int = 0) -> Generator[LogItem]:
    """What is stored of an attempt's log, in order, behind the item with the number `after`.

    It is that of the last attempt if none is named; a run without any has an empty one. Raises, when the first item is
    asked for, `RunNotFound` where there is no such attempt, `LogRemoved` or `LogLost` where nothing is left of what was
    there, and `LogUnavailable` while the archive does not answer.
    """
    check_place(attempt, after)
    return _read(id_of(run), attempt, after)


def _read(run_id: UUID, attempt: int | None, after: int) -> Generator[LogItem]:
    found = get_run(run_id)
    number = found.attempt if attempt is None else attempt
    if number > found.attempt:
        raise RunNotFound(f"Run {run_id} has no attempt {number} (yet): it has had {found.attempt}.")
    if number:
        items = services().log_of(run_id).stored(number, after)
        with saying_what_is_away():
            yield from map(_as_item, items if after else _unless_gone(run_id, number, items))


def _unless_gone(run_id: UUID, attempt: int, items: Iterator[Chunk | Gap]) -> Iterator[Chunk | Gap]:
    """The same items; raises where there are only gaps, of what is gone."""
    gaps: list[Gap] = []
    for item in items:
        if not isinstance(item, Gap):
            yield from gaps
            yield item
            yield from items
            return
        gaps.append(item)
    refuse_if_gone(run_id, attempt, gaps)
    yield from gaps


def follow_log(run: SomeRun, *, attempt: int = 1, after: int = 0) -> Generator[LogItem]:
    """The log from this place on as it comes, of all attempts: each item once and in order, until the run has ended.

    While the database or the archive does not answer, it is tried again for half a minute. Raises `RunNotFound`, and
    then `Unavailable` or `LogUnavailable`.
    """
    check_place(attempt, after)
    return _followed(id_of(run), attempt, after)


def _followed(run_id: UUID, attempt: int, after: int) -> Generator[LogItem]:
    backoff = Backoff(TRIES_FOR)
    while True:
        try:
            with saying_what_is_away():
                for item in services().log_of(run_id).follow(attempt, after):
                    given = _as_item(item)
                    attempt, after = given.attempt, given.last
                    backoff.reset()
                    yield given
                return
        except (Unavailable, LogUnavailable) as error:
            time.sleep(pause_after(error, backoff))


class Follower:
    """The same for one who waits elsewhere, from this place on."""

    def __init__(self, run_id: UUID, attempt: int, after: int) -> None:
        self._run_id = run_id
        self._reading = Reading(attempt, after)

    def ready(self) -> list[LogItem] | None:
        """What can be read now: nothing while more is to come, None when all was read. Raises `RunNotFound`.

        What a look that failed has read is given by the next one.
        """
        reading = copy(self._reading)
        with saying_what_is_away():
            items = services().log_of(self._run_id).ready(reading)
        self._reading = reading
        return None if items is None else list(map(_as_item, items))


def _as_item(item: Chunk | Gap) -> LogItem:
    """What a reader in this project is given, as a caller is."""
    return item if isinstance(item, Gap) else Output(item.attempt, item.seq, item.time, item.stream, item.data)
