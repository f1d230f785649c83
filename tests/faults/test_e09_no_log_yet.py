"""E09: a run without a log is read, and followed, as an empty log; that is no error."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from models.work import End, Outcome
from stores.following import LogFollower
from stores.logs import LogStore, MemoryLogStore
from tests.faults.helpers_cdeg import all_at_once
from tests.support.rows import chunk, new_run, running
from workers import cancel_run
from workers.bootstrap import Services
from workers.finish import finish
from workers.logs import ingest


def _follower(services: Services, run_id: UUID) -> LogFollower:
    return LogFollower(services.runs, services.logs, services.live, run_id)


def _reprieve(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-W", "ignore", "-c", "from cli.main import main; main()", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("kept_in", ["postgres", "memory"])
def test_e09_a_run_without_a_log_reads_as_an_empty_log(services: Services, kept_in: str) -> None:
    logs: LogStore = services.logs if kept_in == "postgres" else MemoryLogStore()
    for run_id in (new_run(services).id, running(services).run_id, uuid4()):
        for attempt in (0, 1, 2):
            assert logs.read(run_id, attempt) == []
            assert logs.read(run_id, attempt, after_seq=7) == []
            assert logs.last_seq(run_id, attempt) == 0


def test_e09_live_events_of_a_run_that_said_nothing_are_none(services: Services) -> None:
    run_id = running(services).run_id
    position = services.live.position(run_id)
    assert services.live.wait(run_id, position) == ([], position)


def test_e09_following_a_run_without_output_ends_empty_when_the_run_ends(services: Services) -> None:
    work, queued = running(services), new_run(services)
    with ThreadPoolExecutor(2) as pool:
        followed = [
            pool.submit(lambda run_id=run_id: list(_follower(services, run_id).follow()))
            for run_id in (work.run_id, queued.id)
        ]
        finish(services, [End.by_result(work.token, Outcome(), 0)])
        cancel_run(queued.id)
        assert [each.result(timeout=30) for each in followed] == [[], []]


def test_e09_whoever_follows_before_the_first_chunk_gets_it(services: Services) -> None:
    queued = new_run(services)

    def follow() -> list[bytes]:
        return [item.data for item in _follower(services, queued.id).follow()]

    def run() -> list[bytes]:
        work = services.runs.claim(queued.id, "worker@test")
        assert work is not None
        assert list(_follower(services, queued.id).stored(1)) == []
        ingest(services, [chunk(work, 1, b"first\n")])
        finish(services, [End.by_result(work.token, Outcome(), 1)])
        return [b"first\n"]

    seen, printed = all_at_once([follow, run])
    assert seen == printed


def test_e09_the_command_line_shows_nothing_of_a_run_without_a_log(
    services: Services, environment: dict[str, str]
) -> None:
    for run_id in (new_run(services).id, running(services).run_id):
        shown = _reprieve(environment, "logs", str(run_id))
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, b"", b"")
