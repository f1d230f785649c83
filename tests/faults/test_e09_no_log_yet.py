"""E09: a run without a log is read, and followed, as an empty log; that is no error."""

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection

from reprieve import cancel_run
from reprieve.models.chunks import Chunk
from reprieve.models.gaps import Gap
from reprieve.models.work import End, Outcome
from reprieve.stores.database import Database
from reprieve.stores.logs import LogStore
from reprieve.stores.memory_logs import MemoryLogStore
from reprieve.stores.reading import LogReader
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.forking import REPRIEVE
from tests.support.processes import run_command
from tests.support.rows import chunk, claim, ingest, new_run, running

pytestmark = pytest.mark.row("E09")


def _reprieve(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return run_command([REPRIEVE, *arguments], env={**os.environ, **environment})


@pytest.mark.parametrize("kept_in", ["postgres", "memory"])
def test_a_run_without_a_log_reads_as_an_empty_log(services: Services, kept_in: str) -> None:
    logs: LogStore = services.logs if kept_in == "postgres" else MemoryLogStore()
    for run_id in (new_run(services).id, running(services).run_id, uuid4()):
        for attempt in (0, 1, 2):
            assert logs.read(run_id, attempt) == []
            assert logs.read(run_id, attempt, after_seq=7) == []
            assert logs.last_seq(run_id, attempt) == 0


def test_live_events_of_a_run_that_said_nothing_are_none(services: Services) -> None:
    run_id = running(services).run_id
    position = services.live.position(run_id)
    assert services.live.wait(run_id, position) == ([], position)


class NoticedDatabase(Database):
    """Says when somebody has looked at it."""

    def __init__(self, services: Services) -> None:
        super().__init__(services.settings.require_database_url())
        self.looked_at = threading.Event()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with super().begin() as connection:
            yield connection
        self.looked_at.set()


@contextmanager
def _following(services: Services, run_id: UUID) -> Iterator[Future[list[Chunk | Gap]]]:
    """What somebody gets to see who has begun to follow when the block begins, and does so until the run ends."""
    database = NoticedDatabase(services)
    follower = LogReader(database, services.logs, services.live, run_id)
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(lambda: list(follower.follow()))
        assert database.looked_at.wait(30)
        yield seen
    database.dispose()


def test_following_a_run_without_output_ends_empty_when_the_run_ends(services: Services) -> None:
    work = running(services)
    with _following(services, work.run_id) as seen:
        finish(services, [End.by_result(work.fence, Outcome(), 0)])
        assert seen.result(timeout=30) == []


def test_following_a_run_that_never_begins_ends_empty_when_it_is_cancelled(services: Services) -> None:
    queued = new_run(services)
    with _following(services, queued.id) as seen:
        cancel_run(queued.id)
        assert seen.result(timeout=30) == []


def test_whoever_follows_a_run_that_has_not_begun_gets_its_first_chunk(services: Services) -> None:
    queued = new_run(services)
    with _following(services, queued.id) as seen:
        work = claim(services, queued.id, "worker@test")
        assert work is not None
        ingest(services, [chunk(work, 1, b"first\n")])
        finish(services, [End.by_result(work.fence, Outcome(), 1)])
        assert [item.data for item in seen.result(timeout=30)] == [b"first\n"]


def test_the_command_line_shows_nothing_of_a_run_without_a_log(services: Services, environment: dict[str, str]) -> None:
    for run_id in (new_run(services).id, running(services).run_id):
        shown = _reprieve(environment, "logs", str(run_id))
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, b"", b"")
