"""A16: a worker that was asked to stop vouches for its children until they have exited."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from reprieve import enqueue_run
from reprieve.workers.bootstrap import Services
from tests.faults.helpers_abf import database_time_after
from tests.support.processes import Process, processes_of
from tests.support.rows import kinds, new_run, status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A16")

StartWorker = Callable[..., Process]

WAIT = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)"


def test_a_silent_child_outlives_a_drain_that_is_longer_than_the_window(
    services: Services, start_worker: StartWorker, start_beat: Callable[[], Process], tmp_path: object
) -> None:
    """Thirty times as fast: the window is ten seconds, the drain fifteen."""
    start_worker("logs,control", name="control")
    start_beat()
    worker = start_worker("runs", name="runs")
    run = enqueue_run("process", {"command": [sys.executable, "-c", WAIT, f"{tmp_path}/done"]})
    eventually(lambda: processes_of(run.id))
    worker.send(signal.SIGTERM)
    eventually(database_time_after(services, 15), timeout=60, interval=0.5)
    assert status_of(services, run.id) == "running"
    assert services.runs.get(run.id).last_proof == "keepalive"
    assert processes_of(run.id)
    assert worker.popen.poll() is None
    open(f"{tmp_path}/done", "w").close()  # noqa: PTH123
    worker.popen.wait(timeout=30)
    assert status_of(services, run.id) == "succeeded"
    assert "reaped" not in kinds(services, run.id)
    assert processes_of(run.id) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_whose_adapter_never_gives_its_thread_back_ends_all_the_same(
    services: Services, start_worker: StartWorker, how: signal.Signals
) -> None:
    extra = {"ODD_WORKER": "1", "REPRIEVE_DRAIN_SECONDS": "1"}
    worker = start_worker("runs", application="tests.support.odd_worker", extra=extra)
    odd: dict[str, Any] = {"adapter": "odd-loop", "out_of_process_liveness": False, "config": {"what": "lingers"}}
    new_run(services, **odd)
    # That the run is running says only that it is claimed: a worker that is told so early has no thread to wait for.
    eventually(lambda: list(services.settings.data_dir.rglob("lingering")))
    worker.send(how)
    assert worker.popen.wait(timeout=60) == (0 if how is signal.SIGTERM else 1)
