"""Looking at runs directly, in the database, and ending them. Their logs are in `logs.py`.

The clients over HTTP have the same functions, by the same names; `reprieve.aio` has them for asyncio.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, Unpack
from uuid import UUID

from reprieve.client.arguments import PAGE, SomeRun, id_of
from reprieve.client.backoff import Backoff, Waiting
from reprieve.client.link import link
from reprieve.models.errors import LogUnavailable, ReprieveError, Unavailable
from reprieve.models.faults import is_unfit, unfit_database
from reprieve.models.filters import RunChoice, RunFilter
from reprieve.models.records import Run, RunPage

T = TypeVar("T")

#: Seconds for which one who waits, or follows, tries again while the database or the archive does not answer.
TRIES_FOR = 30.0


def get_run(run: SomeRun) -> Run:
    """A run and its attempts, as they are now. Raises `RunNotFound` and `Unavailable`."""
    return link().records.get(id_of(run))


def get_result(run: SomeRun) -> Any:
    """The newest result that a run has given, as JSON has it; None for none. Raises `RunNotFound` and `Unavailable`."""
    given = link().records.result(id_of(run))
    return None if given is None else json.loads(given)


def cancel_run(run: SomeRun) -> Run:
    """End a run that has not ended: tell its producer to stop and terminate its work. Returns it as it is then.

    The beginning or the end of its id will do. A run that had already ended stays as it is. Raises `RunNotFound` and
    `Unavailable`.
    """
    from reprieve.workers import cancel  # With SQLAlchemy: only those who cancel wait for it.

    with saying_what_is_away():
        return cancel.cancel_run(run)


def list_runs(**choice: Unpack[RunChoice]) -> Generator[Run]:
    """All runs, the newest first, or those that fit all that is given of `RunChoice`, which says what each means:
    `statuses`, `adapter`, `labels`, `error`, `lane`, `since`, `until`, `ended_since`, `text`.

    They are read a page at a time, while the caller goes on. Raises `InvalidRequest`, and `Unavailable`.
    """
    return _listed(RunFilter.of(**choice))


def _listed(wanted: RunFilter) -> Generator[Run]:
    page = page_of_runs(wanted, None)
    yield from page.runs
    while page.next is not None:
        page = page_of_runs(wanted, page.next)
        yield from page.runs


def page_of_runs(wanted: RunFilter, before: UUID | None) -> RunPage:
    """The next of these runs, `PAGE` at the most."""
    return link().records.page(wanted, before=before, limit=PAGE)


def wait_for(run: SomeRun, *, timeout: float | None = None) -> Run:
    """The run, once it has ended: it is looked at every 2 seconds at least. None waits for as long as that takes.

    Raises `RunNotFound`, `StillRunning` if it has not ended after `timeout` seconds (it goes on), and `Unavailable`
    while the database has not answered for half a minute.
    """
    run_id, waiting = id_of(run), Waiting(timeout)
    backoff = Backoff(min(TRIES_FOR, waiting.seconds))
    while not (found := patiently(partial(get_run, run_id), backoff)).status.is_final:
        time.sleep(waiting.pause(found))
    return found


def patiently(call: Callable[[], T], backoff: Backoff) -> T:
    """What a call returns that is made again while the database does not answer."""
    while True:
        try:
            with saying_what_is_away():
                made = call()
        except (Unavailable, LogUnavailable) as error:
            time.sleep(pause_after(error, backoff))
        else:
            backoff.reset()
            return made


def pause_after(error: Exception, backoff: Backoff) -> float:
    """Seconds until the next try; raises the error if none has helped for so long."""
    pause = backoff.pause()
    if pause is None:
        raise error
    return pause


@contextmanager
def saying_what_is_away() -> Iterator[None]:
    """Raise `Unavailable` for a database that is unfit just now, whatever library says so in its own words."""
    try:
        yield
    except ReprieveError:
        raise
    except Exception as error:
        if not is_unfit(error):
            raise
        raise Unavailable(f"{unfit_database(error)}.") from error
