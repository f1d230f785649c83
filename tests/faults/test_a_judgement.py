"""A07, A12, A13, A14, A15: what is judged, by which evidence, and that the evidence still holds when it is used."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from reprieve.adapters import host
from reprieve.adapters.registry import find_adapter
from reprieve.models.errors import SettingsError, TimingRefused, UnknownAdapter
from reprieve.models.liveness import Timing
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import EventKind, Proof, Status
from reprieve.models.work import End, Work
from reprieve.stores.runs.refresh import REFRESH
from reprieve.workers import lifecycle
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.refresh import give_proof
from reprieve.workers.settings import load_settings
from reprieve.workers.supervisor import Supervisor
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import (
    BROKEN_WORKER,
    WINDOW,
    interrupted,
    shipping,
    somebody_waits_for_a_lock,
    sweep_in_another_process,
)
from tests.support.processes import sleeping_process
from tests.support.rows import (
    age,
    chunk,
    claim,
    in_process,
    ingest,
    new_run,
    record_process,
    running,
    status_of,
    watch_for,
)
from tests.support.waiting import eventually

MINUTE = timedelta(seconds=60)


@pytest.fixture
def live_process() -> Iterator[ProcessIdentity]:
    with sleeping_process() as identity:
        yield identity


# -- A07


@pytest.mark.row("A07")
def test_a_window_of_five_refresh_intervals_is_accepted_and_a_shorter_one_refused_naming_both() -> None:
    assert Timing(window=5 * MINUTE, refresh_interval=MINUTE).window == 5 * MINUTE
    with pytest.raises(TimingRefused, match=r"299 s.*60 s"):
        Timing(window=timedelta(seconds=299), refresh_interval=MINUTE)


@pytest.mark.row("A07")
def test_settings_refuse_a_window_as_short_as_the_refresh_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    load_settings()
    monkeypatch.setattr("reprieve.models.liveness.WINDOW", MINUTE)
    with pytest.raises(SettingsError, match=r"window \(60 s\).*refresh interval \(60 s\)"):
        load_settings()


@pytest.mark.row("A07")
def test_a_time_scale_that_leaves_no_margin_is_refused_naming_window_and_refresh_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPRIEVE_TIME_SCALE", "30")
    assert load_settings().timing.window == timedelta(seconds=10)
    monkeypatch.setenv("REPRIEVE_TIME_SCALE", "60")
    with pytest.raises(SettingsError, match=r"Time scale 60: The window \(5 s\) .*refresh interval 1 s"):
        load_settings()


@pytest.mark.row("A07")
def test_a_worker_does_not_start_with_a_window_as_short_as_the_refresh_interval(start_worker) -> None:
    worker = start_worker(application=BROKEN_WORKER, extra={WINDOW: "60", "REPRIEVE_TIME_SCALE": "1"}, wait=False)
    assert worker.popen.wait(timeout=60) != 0
    assert "The window (60 s) must be at least 5 times the refresh interval (60 s)" in worker.output


# -- A12


@pytest.mark.row("A12")
@pytest.mark.parametrize("out_of_process", [True, False])
def test_a_run_queued_for_ten_minutes_is_not_reaped_where_a_running_one_is(
    services: Services, out_of_process: bool
) -> None:
    queued = new_run(services, out_of_process_liveness=out_of_process).id
    silent = running(services, out_of_process_liveness=out_of_process).run_id
    for run_id in (queued, silent):
        age(services, run_id, 600)
    watch_for(services, 3600)
    report = sweep(services)
    assert (report["judged"], report["reaped"]) == (1, 1)
    assert (status_of(services, queued), status_of(services, silent)) == ("queued", "failed")


@pytest.mark.row("A12")
def test_a_run_that_waits_for_its_next_attempt_is_not_reaped(services: Services) -> None:
    waiting = in_process(services, max_attempts=2).run_id
    age(services, waiting, 600)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1
    assert status_of(services, waiting) == "queued"
    age(services, waiting, 600)
    watch_for(services, 3600)
    assert sweep(services)["judged"] == 0
    assert status_of(services, waiting) == "queued"


# -- A13


@pytest.mark.row("A13")
def test_a_refresh_between_the_select_and_the_update_spares_the_run_and_no_other(services: Services) -> None:
    rescued, silent = running(services), running(services)
    for work in (rescued, silent):
        age(services, work.run_id, 600)
    watch_for(services, 3600)
    refreshes = []
    sweeping = interrupted(services, lambda page: refreshes.append(give_proof(services, [rescued.fence], Proof.OUTPUT)))
    report = sweep(sweeping)
    assert refreshes == [{rescued.fence}]
    assert report["reaped"] == 1
    assert status_of(services, rescued.run_id) == "running"
    assert status_of(services, silent.run_id) == "failed"


@pytest.mark.row("A13")
def test_a_run_claimed_anew_between_the_select_and_the_update_is_spared(services: Services) -> None:
    work = in_process(services, max_attempts=2)
    age(services, work.run_id, 600)
    watch_for(services, 3600)

    def next_attempt(page: object) -> None:
        """Its first attempt ends for a retry, another worker claims it, and is just as silent."""
        finish(services, [End(work.fence, Status.QUEUED, EventKind.REAPED, work_ended=True)])
        assert claim(services, work.run_id, "worker@elsewhere") is not None
        age(services, work.run_id, 600)

    assert sweep(interrupted(services, next_attempt))["reaped"] == 0
    assert status_of(services, work.run_id) == "running"


@pytest.mark.row("A13")
@pytest.mark.parametrize(("ending", "status"), [("commit", "running"), ("rollback", "failed")])
def test_a_refresh_that_is_under_way_while_the_reap_wants_the_row_decides_by_how_it_ends(
    services: Services, ending: str, status: str
) -> None:
    work = running(services)
    age(services, work.run_id, 600)
    watch_for(services, 3600)
    sweeping = threading.Thread(target=sweep, args=(services,))
    with services.database.engine.connect() as refreshing:
        parameters = {"ids": [str(work.run_id)], "epochs": [work.epoch], "output_ages": [0], "proof": "output"}
        refreshing.execute(REFRESH, parameters)
        sweeping.start()
        eventually(lambda: somebody_waits_for_a_lock(services) or not sweeping.is_alive())
        getattr(refreshing, ending)()
        sweeping.join(timeout=30)
    assert not sweeping.is_alive()
    sweep(services, by_hand=True)
    assert status_of(services, work.run_id) == status


# -- A14


def recorded(services: Services, work: Work, process: ProcessIdentity) -> Work:
    """The run, with this process on its row as its child."""
    record_process(services, work.fence, services.host, process)
    return work


@pytest.mark.row("A14")
def test_a_process_that_follows_nothing_judges_by_the_row_alone(
    services: Services, environment: dict[str, str], live_process: ProcessIdentity
) -> None:
    fresh, silent = (recorded(services, in_process(services), live_process) for _ in range(2))
    age(services, fresh.run_id, 280)
    age(services, silent.run_id, 310)
    watch_for(services, 3600)
    assert sweep_in_another_process(environment)["reaped"] == 1
    assert status_of(services, fresh.run_id) == "running"
    assert status_of(services, silent.run_id) == "failed"


@pytest.mark.row("A14")
def test_a_process_that_follows_a_silent_run_and_not_a_live_one_judges_by_the_row_alone(
    services: Services, live_process: ProcessIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, silent = in_process(services), in_process(services)
    with shipping(services) as shipper:
        crew = lifecycle.Crew(shipper, Supervisor(services, shipper))
        monkeypatch.setattr(lifecycle, "_crew", crew)
        with crew.supervisor.follow(silent) as context:
            context.on_spawn(live_process.pid, live_process.process_group_id, live_process.started_at)
            age(services, fresh.run_id, 280)
            age(services, silent.run_id, 310)
            watch_for(services, 3600)
            assert sweep(services)["reaped"] == 1
    assert status_of(services, fresh.run_id) == "running"
    assert status_of(services, silent.run_id) == "failed"


# -- A15

BRAND_NEW = {"adapter": "brand-new"}
GONE = ProcessIdentity(pid=2**22 + 1, process_group_id=2**22 + 1, started_at=1.0, namespace=host.namespace())


@pytest.mark.row("A15")
@pytest.mark.parametrize(
    ("out_of_process", "code"), [(True, "adapter_liveness_lost"), (False, "process_lost")], ids=["out", "in"]
)
def test_an_adapter_that_the_sweeping_process_does_not_know_is_judged_by_the_rows_capability(
    services: Services, environment: dict[str, str], out_of_process: bool, code: str
) -> None:
    with pytest.raises(UnknownAdapter):
        find_adapter("brand-new")
    capability = {"out_of_process_liveness": out_of_process}
    fresh, silent = (running(services, **BRAND_NEW, **capability) for _ in range(2))
    age(services, fresh.run_id, 280)
    age(services, silent.run_id, 310)
    watch_for(services, 3600)
    assert sweep_in_another_process(environment)["reaped"] == 1
    assert status_of(services, fresh.run_id) == "running"
    assert services.runs.get(silent.run_id).error_code == code


@pytest.mark.row("A15")
def test_the_capability_on_the_row_wins_over_the_adapters_name(services: Services) -> None:
    misnamed = running(services, adapter="process", out_of_process_liveness=True)
    age(services, misnamed.run_id, 280)
    assert ingest(services, [chunk(misnamed, 1)])["refreshed"] == 1
    age(services, misnamed.run_id, 310)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1
    assert services.runs.get(misnamed.run_id).error_code == "adapter_liveness_lost"


@pytest.mark.row("A15")
def test_output_of_an_unknown_adapter_without_a_pid_keeps_its_run_alive(services: Services) -> None:
    work = running(services, **BRAND_NEW)
    age(services, work.run_id, 310)
    assert services.runs.get_attempt(work.run_id, 1).process is None
    assert ingest(services, [chunk(work, 1)])["refreshed"] == 1
    watch_for(services, 3600)
    assert sweep(services)["judged"] == 0


@pytest.mark.row("A15")
def test_an_unknown_adapter_is_never_judged_by_a_pid(services: Services, live_process: ProcessIdentity) -> None:
    fresh_without_process = recorded(services, running(services, **BRAND_NEW), GONE)
    silent_with_process = recorded(services, running(services, **BRAND_NEW), live_process)
    assert host.is_alive(live_process)
    assert not host.is_alive(GONE)
    age(services, fresh_without_process.run_id, 280)
    age(services, silent_with_process.run_id, 310)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1
    assert status_of(services, fresh_without_process.run_id) == "running"
    assert services.runs.get(silent_with_process.run_id).error_code == "adapter_liveness_lost"
