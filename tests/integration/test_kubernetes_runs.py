"""Runs of the `kubernetes` adapter with real workers: to their end, cancelled, and past a worker that was killed."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reprieve import cancel_run, enqueue_run
from reprieve.workers.bootstrap import Services
from tests.support.kubernetes_api import FakeCluster
from tests.support.processes import Process
from tests.support.rows import kinds, status_of, whole_log
from tests.support.waiting import eventually


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster(runs=True) as fake:
        yield fake


@pytest.fixture
def start(
    services: Services, fake: FakeCluster, tmp_path: Path, start_worker: Callable[..., Process]
) -> Callable[[], Process]:
    """Starts a worker that reaches the cluster."""
    environment = {"KUBECONFIG": str(fake.kubeconfig(tmp_path))}
    return lambda: start_worker(extra=environment)


def enqueue(script: str, **config: Any) -> UUID:
    return enqueue_run("kubernetes", {"image": "busybox:1", "command": ["sh", "-c", script], **config}).id


def output(services: Services, run_id: UUID) -> bytes:
    return b"".join(chunk.data for chunk in services.logs.read(run_id, 1))


def test_a_job_runs_to_its_end_and_its_log_and_result_are_kept(
    services: Services, start: Callable[[], Process]
) -> None:
    start()
    well, badly = enqueue("echo hello"), enqueue("echo oops; exit 7")
    eventually(lambda: status_of(services, well) == "succeeded")
    eventually(lambda: status_of(services, badly) == "failed")
    assert (whole_log(services, well), whole_log(services, badly)) == (b"hello\n", b"oops\n")
    assert services.runs.get(badly).error_message == "The command ended with exit status 7."


def test_a_cancelled_jobs_pods_are_deleted(services: Services, fake: FakeCluster, start: Callable[[], Process]) -> None:
    start()
    run_id = enqueue("echo up; sleep 600")
    eventually(lambda: output(services, run_id) == b"up\n")
    cancel_run(run_id)
    eventually(lambda: not fake.of_kind("jobs") and not fake.of_kind("pods"))
    eventually(lambda: services.runs.get_attempt(run_id, 1).termination == "done")
    assert status_of(services, run_id) == "cancelled"


def test_a_job_whose_worker_was_killed_is_followed_to_its_end_by_another(
    services: Services, fake: FakeCluster, start: Callable[[], Process], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first = start()
    run_id = enqueue(f"echo one; while [ ! -e {go} ]; do sleep 0.05; done; echo two")
    eventually(lambda: output(services, run_id) == b"one\n")
    eventually(lambda: services.workers.hosts(timedelta(minutes=1)), what="the worker to be seen")
    first.kill()
    # What the next sweep does, once the worker has not been seen for a while.
    assert services.adoptions.orphan(timedelta(0)) == 1
    start()
    eventually(lambda: "attached" in kinds(services, run_id))
    go.touch()
    eventually(lambda: status_of(services, run_id) == "succeeded")
    assert whole_log(services, run_id) == b"one\ntwo\n"
    assert len(fake.of_kind("jobs")) == 1
