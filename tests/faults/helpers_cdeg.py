"""What the fault tests of rows C, D, E and G share: ends brought about, rows compared, processes to be ended."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import UUID

import psutil
from sqlalchemy import text

from reprieve.models.status import EventKind
from reprieve.models.work import Work
from reprieve.workers import sweep as sweeping
from reprieve.workers.bootstrap import Services, build
from reprieve.workers.supervisor import Supervisor
from reprieve.workers.sweep import sweep
from tests.support.processes import processes_of
from tests.support.rows import age, kinds, watch_for
from tests.support.shipping import direct_shipper

T = TypeVar("T")

FINAL_KINDS = {EventKind.SUCCEEDED, EventKind.FAILED, EventKind.CANCELLED, EventKind.REAPED}


def reap(services: Services, run_id: UUID) -> dict[str, Any]:
    """Have a real sweep find the run silent for longer than the window, with nobody to ask; returns its report."""
    with nobody_to_ask():
        return judge_silent(services, run_id)


def judge_silent(services: Services, run_id: UUID) -> dict[str, Any]:
    """Have a real sweep find the run silent for longer than the window, and ask its platform; returns its report."""
    forget_watch(services)
    watch_for(services, 400)
    age(services, run_id, 400)
    return sweep(services, by_hand=True)


@contextmanager
def nobody_to_ask() -> Iterator[None]:
    """Sweeps of this process find no platform that would speak for a silent run, though its work may be there."""
    with patch.object(sweeping, "ask", return_value={}):
        yield


def forget_watch(services: Services) -> None:
    """`watch_for` leaves the window of a watch as it is; a real worker of this test had another time scale."""
    with services.database.begin() as connection:
        connection.execute(text("DELETE FROM reaper_watch"))


_IMAGE = """
    SELECT r.xmin::text AS written_by, r.ctid::text AS place, r.*, a.xmin::text, a.ctid::text, a.*
    FROM runs r LEFT JOIN run_attempts a ON a.run_id = r.id AND a.attempt = :attempt WHERE r.id = :id
"""


def image(services: Services, *works: Work) -> list[Any]:
    """The rows of these attempts and their runs, with the transaction that wrote each, and what happened: equal twice
    only when nobody wrote any of it in between."""
    with services.database.begin() as connection:
        rows = [
            tuple(connection.execute(text(_IMAGE), {"id": work.run_id, "attempt": work.attempt}).one())
            for work in works
        ]
    return [*rows, *(kinds(services, work.run_id) for work in works)]


def run_image(services: Services, work: Work) -> Any:
    """The row of a run alone, with the transaction that wrote it."""
    with services.database.begin() as connection:
        query = text("SELECT r.xmin::text, r.ctid::text, r.* FROM runs r WHERE r.id = :id")
        return tuple(connection.execute(query, {"id": work.run_id}).one())


def final_kinds(services: Services, run_id: UUID) -> list[str]:
    """The kinds of the events that ended a run which had one attempt."""
    return [event.kind for event in services.runs.events(run_id) if event.kind in FINAL_KINDS]


@contextmanager
def counting_updates(services: Services) -> Iterator[Callable[[], int]]:
    """Counts the UPDATEs that touch a row of `runs`, whoever makes them."""
    install = """
        CREATE SEQUENCE counted_updates;
        CREATE FUNCTION count_update() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM nextval('counted_updates'); RETURN NULL; END $$;
        CREATE TRIGGER count_updates AFTER UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION count_update();
    """
    remove = "DROP TRIGGER count_updates ON runs; DROP FUNCTION count_update; DROP SEQUENCE counted_updates;"

    def counted() -> int:
        with services.database.begin() as connection:
            query = text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM counted_updates")
            return int(connection.execute(query).scalar_one())

    with services.database.begin() as connection:
        connection.execute(text(install))
    try:
        yield counted
    finally:
        with services.database.begin() as connection:
            connection.execute(text(remove))


def bury(services: Services) -> None:
    """One turn over the owed terminations, as a worker makes it that was just started on the host of `services`."""
    Supervisor(services, direct_shipper(services)).bury()


@contextmanager
def on_another_host(services: Services, name: str) -> Iterator[Services]:
    """The same system, as a process on the host `name` sees it."""
    there = build(services.settings.model_copy(update={"node_name": name}))
    try:
        yield there
    finally:
        there.database.dispose()
        there.identity.let_go()


@contextmanager
def at_time_scale(services: Services, scale: int) -> Iterator[Services]:
    """The same system with all timings divided by `scale`."""
    quick = build(services.settings.model_copy(update={"time_scale": scale}))
    try:
        yield quick
    finally:
        quick.database.dispose()


@contextmanager
def no_process_left(*run_ids: UUID) -> Iterator[None]:
    """Ends what these runs have started and a test that failed has left running."""
    try:
        yield
    finally:
        for process in [process for run_id in run_ids for process in processes_of(run_id)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def all_at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of these calls, each on a thread of its own, all let go at the same moment."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait(timeout=60)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
