"""Flower as an operator uses it: what it shows of runs, and what comes of its buttons."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from redis import Redis

from reprieve import enqueue_run
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_run
from reprieve.workers.reporting import record_result
from tests.conftest import StartWorker
from tests.faults.helpers_abf import enqueueing
from tests.support.flower import Flower, running_flower
from tests.support.processes import Process, processes_of
from tests.support.rows import kinds, status_of
from tests.support.waiting import eventually

SILENT = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
SECRET = "hunter2-in-the-environment"


@pytest.fixture
def flower(services: Services, environment: dict[str, str], tmp_path: Path) -> Iterator[Flower]:
    """With its buttons."""
    with running_flower(environment, tmp_path, FLOWER_READ_ONLY="False") as started:
        yield started


def test_a_run_is_a_task_of_its_own_id_with_short_arguments_and_a_result_that_says_something(
    services: Services, flower: Flower, start_worker: StartWorker
) -> None:
    start_worker("runs,logs,control", name="all")
    with enqueueing(services) as enqueue:
        run = enqueue("process", {"command": ["echo", "hello"], "env": {"PASSWORD": SECRET}})
        eventually(lambda: flower.task(run).get("state") == "SUCCESS", timeout=60, interval=0.5)
    shown = flower.task(run)
    assert (shown["name"], shown["args"], shown["kwargs"]) == ("runs.execute", f"({run})", "{}")
    assert all(word in shown["result"] for word in (str(run), "'attempt': 1", "'result': 'succeeded'", "'chunks': 1"))
    assert SECRET not in flower.page("/api/tasks")
    sweep = app.send_task("reaper.sweep").id
    eventually(lambda: flower.task(sweep).get("state") == "SUCCESS", timeout=60, interval=0.5)
    assert "judged" in flower.task(sweep)["result"] or "skipped" in flower.task(sweep)["result"]


def test_the_brokers_password_is_on_no_page(services: Services, flower: Flower, start_worker: StartWorker) -> None:
    start_worker("control", name="all")
    password = services.settings.require_broker_url().split(":")[2].split("@")[0]
    assert len(password) > 8
    for path in ("/workers", "/broker", "/tasks", "/api/workers?refresh=true", "/worker/all@test"):
        assert password not in flower.page(path)


@pytest.mark.parametrize("terminate", ["false", "true"])
def test_a_run_whose_task_is_revoked_is_cancelled_whether_it_waits_or_runs(
    services: Services, flower: Flower, start_worker: StartWorker, terminate: str
) -> None:
    start_worker("runs,logs", name="runs", concurrency=1)
    with enqueueing(services) as enqueue:
        runs, waits, untouched = (enqueue("process", {"command": SILENT}) for _ in range(3))
        eventually(lambda: status_of(services, runs) == "running")
        revoke(flower, waits, terminate)
        eventually(lambda: status_of(services, waits) == "cancelled", timeout=30)
        assert status_of(services, runs) == "running"
        revoke(flower, runs, terminate)
        eventually(lambda: status_of(services, runs) == "cancelled", timeout=30)
        eventually(lambda: processes_of(runs) == [], timeout=30)
        eventually(lambda: status_of(services, untouched) == "running", timeout=30)
        assert [kind for kind in kinds(services, waits) if kind in ("claimed", "cancelled")] == ["cancelled"]


def revoke(flower: Flower, run: UUID, terminate: str) -> None:
    assert "message" in flower.page(f"/api/task/revoke/{run}?terminate={terminate}", "POST")


def test_what_is_revoked_and_is_no_run_changes_nothing(
    services: Services, flower: Flower, start_worker: StartWorker
) -> None:
    worker = start_worker("runs,logs", name="runs")
    for name in ("no-id-at-all", "01a20de4-632b-7419-8c06-23dae7e67e68"):
        flower.page(f"/api/task/revoke/{name}", "POST")
    worker.wait_for("Tasks flagged as revoked: 01a20de4")
    with enqueueing(services) as enqueue:
        run = enqueue("process", {"command": ["true"]})
        eventually(lambda: status_of(services, run) == "succeeded", timeout=30)
    assert "A step of supervision failed" not in worker.output


def active(worker: str) -> list[str]:
    """The tasks that this worker says it is at, by their ids."""
    answer = app.control.inspect([worker], timeout=5).active() or {}
    return [task["id"] for task in answer.get(worker, [])]


def test_a_run_is_started_while_it_lives_and_has_failed_or_succeeded_with_its_time_when_it_ends(
    services: Services, flower: Flower, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("runs,logs", name="runs")
    command = ["sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit $1", "sh"]
    with enqueueing(services) as enqueue:
        well, badly = (enqueue("process", {"command": [*command, status]}) for status in "03")
        for run in (well, badly):
            eventually(lambda run=run: flower.task(run).get("state") == "STARTED", timeout=60, interval=0.3)
            assert flower.task(run)["worker"] == "runs@test"
        assert sorted(active("runs@test")) == sorted([str(well), str(badly)])
        (tmp_path / "go").touch()
        eventually(lambda: flower.task(well).get("state") == "SUCCESS", interval=0.3)
        eventually(lambda: flower.task(badly).get("state") == "FAILURE", interval=0.3)
    assert flower.task(well)["runtime"] > 0
    assert "exit_status: The command ended with exit status 3." in flower.task(badly)["exception"]
    assert active("runs@test") == []


def test_what_others_have_ended_is_told_as_well(
    services: Services, flower: Flower, start_worker: StartWorker, start_beat: Callable[[], Process]
) -> None:
    runs, control = start_worker("runs", name="runs"), start_worker("logs,control", name="control")
    start_beat()
    with enqueueing(services) as enqueue:
        remote, cancelled, lost = (enqueue("remote", {}), *(enqueue("process", {"command": SILENT}) for _ in range(2)))
        for run in (remote, cancelled, lost):
            eventually(lambda run=run: flower.task(run).get("state") == "STARTED", timeout=60, interval=0.3)
        record_result(services, remote, services.tokens.issue(remote), {"exit_status": 0}, 0)
        cancel_run(cancelled)
        eventually(lambda: flower.task(remote).get("state") == "SUCCESS", interval=0.3)
        eventually(lambda: flower.task(cancelled).get("state") == "REVOKED", interval=0.3)
        runs.kill()
        eventually(
            lambda: flower.task(lost).get("state") == "FAILURE",
            interval=0.3,
            timeout=60,
            what=lambda: f"{status_of(services, lost)} {flower.task(lost)} {control.output[-3000:]}",
        )
        assert "process_lost" in flower.task(lost)["exception"]


@pytest.mark.row("F13")
def test_a_worker_whose_connection_to_the_broker_is_lost_goes_on_with_its_runs_and_still_lists_them(
    services: Services, start_worker: StartWorker, redis: Redis, tmp_path: Path
) -> None:
    worker = start_worker("runs,logs", name="runs")
    command = ["sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"]
    runs = [enqueue_run("process", {"command": command}).id, enqueue_run("remote", {}).id]
    eventually(lambda: {status_of(services, run) for run in runs} == {"running"})
    for lost in range(2):
        for connection in psutil.Process(worker.popen.pid).net_connections():
            redis.client_kill_filter(addr=f"{connection.laddr.ip}:{connection.laddr.port}")
        eventually(lambda lost=lost: worker.output.count("Connection to broker lost") > lost)
        eventually(lambda: sorted(active("runs@test")) == sorted(map(str, runs)), timeout=60)
    later = enqueue_run("process", {"command": ["true"]}).id
    eventually(lambda: status_of(services, later) == "succeeded")
    (tmp_path / "go").touch()
    eventually(lambda: status_of(services, runs[0]) == "succeeded")
    assert worker.popen.poll() is None
