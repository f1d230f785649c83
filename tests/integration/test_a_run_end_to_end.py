"""A run's whole way through a real worker."""

import sys

import pytest

from reprieve import cancel_run, enqueue_run
from reprieve.models.records import Run
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.support.rows import status_of
from tests.support.waiting import eventually


def test_a_command_runs_and_its_output_is_stored_byte_for_byte(services: Services, start_worker) -> None:
    start_worker()
    run = enqueue_run("process", {"command": ["printf", r"a\377\000b"]})
    eventually(lambda: status_of(services, run.id) == "succeeded")
    stored = eventually(lambda: services.logs.read(run.id, 1))
    assert b"".join(chunk.data for chunk in stored) == b"a\xff\x00b"


def test_a_cancelled_run_is_stopped_and_stays_cancelled(services: Services, start_worker) -> None:
    start_worker()
    run = enqueue_run("detached", {"command": ["sleep", "100"]})
    eventually(lambda: status_of(services, run.id) == "running")
    assert cancel_run(run.id).status == "cancelled"
    eventually(lambda: services.runs.get_attempt(run.id, 1).termination == "done")
    assert status_of(services, run.id) == "cancelled"


@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_what_a_run_used_is_on_its_row_also_if_it_was_cancelled(
    services: Services, start_worker: StartWorker, adapter: str
) -> None:
    start_worker()
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('burned', flush=True)\n"
    ended = enqueue_run(adapter, {"command": [sys.executable, "-c", burn]})
    cancelled = enqueue_run(adapter, {"command": [sys.executable, "-c", burn + "time.sleep(100)"]})
    eventually(lambda: status_of(services, ended.id) == "succeeded")
    eventually(lambda: services.logs.read(cancelled.id, 1))
    cancel_run(cancelled.id)

    def has_said_it_all(run: Run) -> bool:
        """Of one that was cancelled, what was seen last comes first."""
        used = services.records.get(run.id).attempts[0].used
        return used is not None and (used.cpu_seconds or 0) > 0.29 and (used.peak_memory_bytes or 0) > 1024**2

    eventually(lambda: has_said_it_all(ended) and has_said_it_all(cancelled))
