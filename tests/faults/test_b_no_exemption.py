"""B01, B02, B06: nothing exempts a run without an end: no handle in memory, no live PID, no row of a worker."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from reprieve.adapters import host
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import supervised
from tests.faults.helpers_cdeg import bury, forget_watch
from tests.support.nodes import a_node
from tests.support.processes import sleeping_process
from tests.support.rows import age, in_process, record_handle, running, status_of, updated_at, watch_for


def sweep_after(services: Services, work: Work, silent: float) -> str:
    """The status of a run after a sweep that found it silent for so long."""
    age(services, work.run_id, silent)
    forget_watch(services)
    watch_for(services, 3600)
    sweep(services, by_hand=True)
    return status_of(services, work.run_id)


@pytest.mark.row("B01")
def test_a_follower_that_never_returns_does_not_keep_a_dead_child_alive(services: Services) -> None:
    work = in_process(services)
    with supervised(services, work) as (supervisor, context):
        with sleeping_process() as child:
            context.on_spawn(child.pid, child.process_group_id, child.started_at)
            age(services, work.run_id, 100)
            supervisor.supervise()
            vouched = updated_at(services, work.run_id)
            assert (services.database.now() - vouched).total_seconds() < 60
        services.throttle.forget([work.run_id])
        supervisor.supervise()
        assert updated_at(services, work.run_id) == vouched
        assert sweep_after(services, work, 301) == "failed"


@pytest.mark.row("B01")
@pytest.mark.parametrize(("doubted", "status"), [(1795, "running"), (1801, "failed")])
def test_doubt_about_work_of_a_host_that_is_gone_ends_thirty_minutes_after_the_first_question(
    services: Services, doubted: float, status: str
) -> None:
    work = running(services)
    handle = {"pid": 1, "process_group_id": 1, "started_at": 1.0, "namespace": "n", "folder": "f", "host": "gone"}
    record_handle(services, work.fence, "gone", handle)
    assert sweep_after(services, work, 301) == "running"
    with services.database.begin() as connection:
        moved = "UPDATE sparings SET first_at = clock_timestamp() - make_interval(secs => %s)"
        connection.exec_driver_sql(moved, (doubted,))
    sweep(services, by_hand=True)
    assert status_of(services, work.run_id) == status


def detached(services: Services, process: ProcessIdentity, **changes: object) -> Work:
    """A silent process of this host that nobody follows, as the `detached` adapter leaves it."""
    work = running(services, **changes)
    name = f"{work.run_id}/1"
    (services.settings.data_dir / "adapters" / "detached" / name).mkdir(parents=True)
    handle = process.as_handle() | {"folder": name, "host": services.host}
    record_handle(services, work.fence, services.host, handle)
    return work


@pytest.mark.row("B02")
def test_a_silent_process_that_lives_is_ended_when_its_time_is_over(services: Services) -> None:
    with sleeping_process() as process:
        work = detached(services, process, max_runtime=timedelta(days=15))
        age(services, work.run_id, 14 * 86_400, "started_at")
        assert sweep_after(services, work, 86_400) == "running"
        age(services, work.run_id, 15 * 86_400 + 1, "started_at")
        assert sweep_after(services, work, 86_400) == "failed"
        assert services.runs.get(work.run_id).error_code == "timed_out"
        bury(services)
        assert not host.is_alive(process)


@pytest.mark.row("B02")
def test_a_silent_process_that_lives_is_followed_again_and_one_that_is_gone_is_reaped(services: Services) -> None:
    with sleeping_process() as process:
        work = detached(services, process)
        assert sweep_after(services, work, 301) == "running"
        assert services.runs.get_attempt(work.run_id, 1).adoption == "owed"
    assert sweep_after(services, work, 301) == "failed"
    assert services.runs.get(work.run_id).error_code == "adapter_liveness_lost"


@pytest.mark.row("B06")
def test_a_run_is_found_dead_whatever_is_known_of_its_worker(services: Services) -> None:
    known, unknown = in_process(services), in_process(services)
    worker_id = uuid4()
    services.workers.seen(worker_id, "runs@here", a_node("here"))
    with services.database.begin() as connection:
        values = {"worker": worker_id, "id": known.run_id}
        connection.execute(text("UPDATE run_attempts SET worker_id = :worker WHERE run_id = :id"), values)
    assert sweep_after(services, known, 301) == "failed"
    with services.database.begin() as connection:
        connection.execute(text("DELETE FROM workers"))
    assert sweep_after(services, unknown, 301) == "failed"


@pytest.mark.row("B06")
def test_a_run_whose_very_attempt_is_not_known_is_found_dead(services: Services) -> None:
    work, live = in_process(services), in_process(services)
    with services.database.begin() as connection:
        connection.execute(text("DELETE FROM run_attempts WHERE run_id = :id"), {"id": work.run_id})
    assert sweep_after(services, work, 301) == "failed"
    assert status_of(services, live.run_id) == "running"
