"""The lines of a real worker, as a collector reads them."""

import json
from typing import Any

from reprieve import enqueue_run
from reprieve.workers.bootstrap import Services
from tests.support.processes import Process
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

    archived = f"Run {run} attempt 1: log archived, missing: none"
    eventually(lambda: archived in about(run), timeout=40, what=lambda: worker.output)
    told = about(run)
    ended = told[f"Run {run} attempt 1: failed"]
    assert (ended["attempt"], ended["level"], ended["logger"]) == (1, "INFO", "reprieve.workers.finish")
    assert told[archived]["attempt"] == 1
    assert told[f"Run {run} attempt 1: followed here."]["attempt"] == 1
    ours = [line for line in lines_of(worker) if line["logger"].startswith("workers.")]
    assert not [line for line in ours if run in line["message"] and "run_id" not in line]
    assert status_of(services, run) == "failed"
