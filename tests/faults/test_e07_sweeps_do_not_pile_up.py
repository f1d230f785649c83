"""E07: a backlog of sweeps is one sweep, and a sweep waits behind no run."""

from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from reprieve import enqueue_run
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import no_process_left
from tests.support.rows import status_of, watch_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("E07")

#: Waits to be let go, a minute at most.
LONG = "for i in $(seq 600); do [ -e go ] && exit 0; sleep 0.1; done"


def _completed_sweep(services: Services):
    with services.database.begin() as connection:
        return connection.execute(text("SELECT last_completed_at FROM reaper_watch")).scalar()


def test_of_thirty_sweeps_sent_while_no_worker_ran_one_is_executed(services: Services, start_worker) -> None:
    for _ in range(30):
        app.send_task("reaper.sweep")
    worker = start_worker("control", extra={"REPRIEVE_TIME_SCALE": "1"}, level="DEBUG")
    # One more is sent by the worker itself, when it begins.
    eventually(lambda: worker.output.count("succeeded in") == 31, what="all sweeps to be worked off")
    assert worker.output.count("'judged'") == 1
    assert worker.output.count("'skipped'") == 30


def test_a_sweep_is_due_again_a_tenth_of_its_interval_after_the_last(services: Services) -> None:
    watch_for(services, 400)
    assert "judged" in sweep(services)
    assert sweep(services) == {"skipped": "a sweep has just been made"}
    for seconds, executed in ((5, False), (7, True)):
        with services.database.begin() as connection:
            statement = text("UPDATE reaper_watch SET last_sweep_at = clock_timestamp() - make_interval(secs => :age)")
            connection.execute(statement, {"age": seconds})
        assert ("judged" in sweep(services)) is executed


def test_a_sweep_that_comes_while_another_is_under_way_does_nothing(services: Services) -> None:
    watch_for(services, 400)
    with services.sweeps.single_flight() as ours:
        assert ours
        assert sweep(services) == {"skipped": "another sweep is under way"}
    assert "judged" in sweep(services)


def test_sweeps_go_on_while_every_thread_for_runs_is_busy(
    services: Services, start_worker, start_beat, tmp_path: Path
) -> None:
    start_worker("runs", name="runs", concurrency=2)
    start_worker("control", name="control")
    runs: list[UUID] = [
        enqueue_run("process", {"command": ["sh", "-c", LONG], "cwd": str(tmp_path)}).id for _ in range(3)
    ]
    with no_process_left(*runs):
        eventually(lambda: sorted(status_of(services, run_id) for run_id in runs) == ["queued", "running", "running"])
        start_beat()
        for _ in range(3):
            before = _completed_sweep(services)
            eventually(lambda before=before: _completed_sweep(services) != before, timeout=20, what="another sweep")
        assert sorted(status_of(services, run_id) for run_id in runs) == ["queued", "running", "running"]
        (tmp_path / "go").touch()
        for run_id in runs:
            eventually(lambda run_id=run_id: status_of(services, run_id) == "succeeded")
