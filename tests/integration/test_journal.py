"""The lines of a real worker, as a collector reads them."""

import json
from typing import Any
from uuid import UUID

from reprieve import enqueue_run
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from tests.support.processes import READY, Process
from tests.support.rows import status_of
from tests.support.waiting import eventually


def lines_of(process: Process) -> list[dict[str, Any]]:
    """What it logged; Celery's banner is for people, and no JSON."""
    return [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]


def test_every_line_about_a_run_names_it_and_its_attempt(services: Services, start_worker) -> None:
    worker = start_worker("runs,logs,control,archive", extra={"REPRIEVE_LOG_FORMAT": "json"}, wait=False)
    eventually(lambda: any(line["message"].endswith("ready.") for line in lines_of(worker)), timeout=40)
    run = str(enqueue_run("process", {"command": ["sh", "-c", "head -c 30000 /dev/urandom; exit 3"]}).id)

    def about(run: str) -> dict[str, dict[str, Any]]:
        return {line["message"]: line for line in lines_of(worker) if line.get("run_id") == run}

    failed = f"Run {run} attempt 1 failed (exit_status): The command ended with exit status 3."
    eventually(lambda: failed in about(run), timeout=40, what=lambda: worker.output)
    told = about(run)
    assert (told[failed]["attempt"], told[failed]["level"]) == (1, "INFO")
    assert (told[failed]["logger"], told[failed]["error_code"]) == ("reprieve.workers.finish", "exit_status")
    assert told[f"Run {run} attempt 1 is followed here: process."]["attempt"] == 1
    ours = [line for line in lines_of(worker) if line["logger"].startswith("workers.")]
    assert not [line for line in ours if run in line["message"] and "run_id" not in line]
    assert status_of(services, run) == "failed"


def test_a_run_is_two_lines_and_its_messages_are_none(services: Services, start_worker) -> None:
    quiet, loud = "runs,logs,archive", "control"
    worker = start_worker(quiet, name="quiet")
    run = str(enqueue_run("process", {"command": ["sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.3; done"]}).id)
    worker.wait_for(f"Run {run} attempt 1 succeeded")
    eventually(lambda: services.closings.find(UUID(run), 1).is_closed, timeout=40, what="a closed log")
    lines = worker.output.split(READY)[-1].splitlines()
    assert [line.split("] ")[-1] for line in lines if line.strip()] == [
        f"Run {run} attempt 1 is followed here: process.",
        f"Run {run} attempt 1 succeeded",
    ]
    everything = start_worker(loud, name="loud", level="DEBUG")
    app.send_task("reaper.sweep")
    everything.wait_for("Task reaper.sweep[", timeout=40)
    assert "received" in everything.output
