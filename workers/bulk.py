"""Many runs in one statement, and a bad one alone: how a sweep writes."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from reprieve.models.work import End
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish_free

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Runs that a sweep reads, judges, and writes together.
PAGE_SIZE = 500


def end_in_bulk(services: Services, ends: Mapping[UUID, End]) -> set[UUID]:
    """End these runs; returns those that this ended. One that another transaction holds is left to the next sweep."""
    return in_bulk(lambda some: [run.run_id for run in finish_free(services, some)[0]], ends)


def in_bulk(act: Callable[[Sequence[T]], Iterable[UUID] | None], by_run: Mapping[UUID, T]) -> set[UUID]:
    """Apply `act` to all in one statement. If that fails, apply it run by run, so that one bad row blocks no others.

    A row that another transaction holds is such a failure. Returns what `act` returned, all together.
    """
    try:
        return set(act(list(by_run.values())) or ())
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        if len(by_run) == 1:
            logger.exception("The verdict on run %s cannot be carried out; the others are.", *by_run)
            return set()
        return {done for run_id, item in by_run.items() for done in in_bulk(act, {run_id: item})}
