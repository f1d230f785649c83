"""A06: a backlog of output convicts nobody: silence counts only where what is said would have been heard."""

import signal
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import text

from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import database_time_after, enqueueing
from tests.support.processes import Process
from tests.support.rows import age, chunk, in_process, ingest, running, status_of, watch_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A06")

StartWorker = Callable[..., Process]


def canaries_came_back_last(services: Services, seconds_ago: float) -> None:
    with services.database.begin() as connection:
        statement = text("UPDATE reaper_watch SET heard_at = clock_timestamp() - make_interval(secs => :s)")
        connection.execute(statement, {"s": seconds_ago})


def silent_for_six_minutes(services: Services) -> list:
    """Out-of-process runs whose platform cannot be asked: nothing but their output speaks for them."""
    works = [running(services) for _ in range(5)]
    for work in works:
        age(services, work.run_id, 360)
    return works


def test_nobody_is_reaped_while_the_log_workers_are_stopped_for_six_minutes(services: Services) -> None:
    works, lost = silent_for_six_minutes(services), in_process(services)
    age(services, lost.run_id, 360)
    watch_for(services, 3600)
    canaries_came_back_last(services, 360)
    report = sweep(services)
    assert report["judgements"] == {"spare_lagging": 5, "reap_process_lost": 1}
    assert {status_of(services, work.run_id) for work in works} == {"running"}


@pytest.mark.parametrize(("ago", "reaped"), [(118, 5), (122, 0)])
def test_the_pipeline_lags_when_the_last_canary_back_is_older_than_two_minutes(
    services: Services, ago: float, reaped: int
) -> None:
    silent_for_six_minutes(services)
    watch_for(services, 3600)
    canaries_came_back_last(services, ago)
    assert sweep(services)["reaped"] == reaped


def test_when_output_comes_through_again_the_living_have_a_whole_window_to_be_heard(services: Services) -> None:
    works = silent_for_six_minutes(services)
    watch_for(services, 3600)
    canaries_came_back_last(services, 360)
    sweep(services)
    canaries_came_back_last(services, 0)
    assert sweep(services, by_hand=True)["judgements"] == {"spare_lagging": 5}
    speaking, silent = works[:4], works[4]
    ingest(services, [chunk(work, 1) for work in speaking])
    with services.database.begin() as connection:
        connection.execute(text("UPDATE reaper_watch SET hearing_since = hearing_since - interval '300 s'"))
    assert sweep(services, by_hand=True)["reaped"] == 1
    assert status_of(services, silent.run_id) == "failed"


def test_the_canary_waits_behind_the_output_in_the_log_queue(services: Services, start_worker: StartWorker) -> None:
    """Through the real queue: a stopped log worker echoes nothing, and one that goes on does."""
    worker = start_worker("logs", name="logs")
    sweep(services, by_hand=True)
    first = eventually(lambda: services.sweeps.heard_at())
    worker.send(signal.SIGSTOP)
    sweep(services, by_hand=True)
    second = services.sweeps.last_watch()
    assert second is not None
    assert services.sweeps.heard_at() == first
    worker.send(signal.SIGCONT)
    eventually(lambda: services.sweeps.heard_at() == second.last_sweep_at)


def test_live_runs_outlast_log_workers_that_are_away_for_longer_than_the_window(
    services: Services, start_worker: StartWorker, start_beat: Callable[[], Process]
) -> None:
    """The whole system, thirty times as fast: the log workers stand still for two windows, and nobody is reaped."""
    logs = start_worker("logs", name="logs")
    start_worker("runs,control", name="others")
    start_beat()
    command = [sys.executable, "-u", "-c", "import time\nwhile True: print('tick'); time.sleep(0.2)"]
    with enqueueing(services) as enqueue:
        runs = [enqueue("detached", {"command": command}) for _ in range(5)]
        eventually(lambda: all(services.logs.last_seq(run_id, 1) for run_id in runs))
        logs.send(signal.SIGSTOP)
        eventually(database_time_after(services, 20), timeout=60, interval=0.5)
        assert {status_of(services, run_id) for run_id in runs} == {"running"}
        logs.send(signal.SIGCONT)
        seen = {run_id: services.logs.last_seq(run_id, 1) for run_id in runs}
        eventually(lambda: all(services.logs.last_seq(run_id, 1) > seen[run_id] for run_id in runs))
