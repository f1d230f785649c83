"""F04: a worker that held messages when it lost Redis lives on, keeps its runs, and consumes again."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis

from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from tests.conftest import Servers, StartWorker
from tests.faults.helpers_abf import enqueueing
from tests.support.processes import Process
from tests.support.rows import status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("F04")

KillAndRestart = Callable[[Process], None]

#: Prints a line, and ends when a file is there.
UNTIL_TOLD = """
import pathlib, sys, time
print("begun", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
print("told", flush=True)
"""


@pytest.fixture
def kill_and_restart_redis(servers: Servers) -> Iterator[Callable[[Process], None]]:
    """Kills Redis, and starts it again once a worker has tried in vain to come back to it."""

    def kill_and_restart(worker: Process) -> None:
        servers.redis.kill()
        worker.wait_for("Cannot connect to")
        servers.redis.start()

    yield kill_and_restart
    servers.redis.start()


def in_hand(redis: Redis) -> int:
    """Messages that workers have taken and not acknowledged."""
    return int(redis.zcard("unacked_index"))


def test_a_worker_that_waits_with_delayed_messages_outlives_its_connection_and_consumes_again(
    services: Services, redis: Redis, start_worker: StartWorker, kill_and_restart_redis: KillAndRestart
) -> None:
    worker = start_worker("archive", name="archive", concurrency=2, level="DEBUG")
    for _ in range(10):
        app.send_task("logs.close", args=[str(uuid4()), 1], countdown=3600)
    eventually(lambda: in_hand(redis) == 10)
    kill_and_restart_redis(worker)

    def consumes() -> bool:
        assert worker.popen.poll() is None, worker.output
        app.send_task("logs.close_owed")
        return "logs.close_owed" in worker.output and "succeeded" in worker.output.rsplit("logs.close_owed", 1)[1]

    eventually(consumes, timeout=60, interval=1)


def test_a_worker_that_has_taken_more_runs_than_it_can_start_keeps_its_children_when_redis_goes(
    services: Services, redis: Redis, start_worker: StartWorker, kill_and_restart_redis: KillAndRestart, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    worker = start_worker("runs,logs", name="runs", concurrency=2)
    with enqueueing(services) as enqueue:
        command = [sys.executable, "-I", "-S", "-c", UNTIL_TOLD, str(told)]
        runs = [enqueue("process", {"command": command}) for _ in range(3)]
        eventually(lambda: sorted(status_of(services, run) for run in runs) == ["queued", "running", "running"])
        eventually(lambda: redis.llen("runs") == 0)  # The third has no place, and its message is settled all the same.
        kill_and_restart_redis(worker)
        told.touch()
        began = [run for run in runs if services.runs.get(run).attempt == 1]

        def ended() -> bool:
            assert worker.popen.poll() is None, worker.output
            return all(status_of(services, run) == "succeeded" for run in began)

        eventually(ended, timeout=60)
        assert all(services.runs.get(run).attempt == 1 for run in began)
        fresh = enqueue("process", {"command": command})
        eventually(lambda: status_of(services, fresh) == "succeeded", timeout=60)
