"""A run's whole way through a real worker."""

from reprieve import cancel_run, enqueue_run
from reprieve.workers.bootstrap import Services
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
