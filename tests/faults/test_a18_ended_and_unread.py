"""A18: what has ended is never convicted unread, and doubt is counted while we ask, not while we are away."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from reprieve import enqueue_run
from reprieve.models.judging import Judgement
from reprieve.models.liveness import Timing
from reprieve.models.status import ErrorCode, Probe
from reprieve.models.work import Work
from reprieve.stores.migrate import migrate
from reprieve.workers import bootstrap, hints
from reprieve.workers import sweep as sweeping
from reprieve.workers.bootstrap import Services
from reprieve.workers.explaining import explain
from reprieve.workers.settings import load_settings
from reprieve.workers.supervision import stopping
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import reap_event, supervised
from tests.support.fleet import Fleet
from tests.support.processes import processes_of
from tests.support.rows import age, kinds, record_handle, running, status_of, watch_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A18")

DAY = 86_400.0
Says = Callable[[Probe], None]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    """What the platform of all work says from now on."""

    def say(answer: Probe) -> None:
        monkeypatch.setattr(sweeping, "ask", lambda services, fences: {fence.run_id: answer for fence in fences})

    return say


def silent_for(services: Services, seconds: float) -> Work:
    work = running(services)
    record_handle(services, work.fence, None, {"name": "job"})
    age(services, work.run_id, seconds)
    watch_for(services, 2 * DAY)
    return work


def judged(services: Services) -> dict[str, int]:
    judgements: dict[str, int] = sweep(services, by_hand=True)["judgements"]
    return judgements


def move(services: Services, judgement: Judgement, seconds: float) -> None:
    """Have what was judged so have been judged so much earlier."""
    with services.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE sparings SET first_at = first_at - %(by)s, last_at = last_at - %(by)s WHERE judgement = %(of)s",
            {"by": timedelta(seconds=seconds), "of": judgement.value},
        )


def is_to_be_adopted(services: Services, run_id: UUID) -> bool:
    return run_id in [found for found, _, _ in services.adoptions.to_adopt(services.node, ["detached"], 100)]


@pytest.mark.parametrize("watched", [0, 299, DAY])
def test_what_has_ended_waits_for_a_reader_however_long_and_however_young_our_watch(
    services: Services, says: Says, watched: float
) -> None:
    work = silent_for(services, DAY)
    watch_for(services, watched)
    says(Probe.ENDED)
    for _ in range(2):
        assert judged(services) == {"spare_ended": 1}
    assert is_to_be_adopted(services, work.run_id)


@pytest.mark.parametrize(("asked", "judgement"), [(1795, "spare_unknown"), (1805, "reap_unanswered")])
def test_doubt_is_counted_from_the_first_question_in_vain(
    services: Services, says: Says, asked: float, judgement: str
) -> None:
    work = silent_for(services, DAY)
    says(Probe.UNKNOWN)
    assert judged(services) == {"spare_unknown": 1}
    move(services, Judgement.SPARE_UNKNOWN, asked)
    assert judged(services) == {judgement: 1}
    if judgement == "reap_unanswered":
        told = services.runs.get(work.run_id).error_message or ""
        assert "It was asked about since" in told
        assert "for 180" in told.rpartition("UTC")[2]
        assert reap_event(services, work.run_id)["unanswered_since"] is not None
        assert "It had been asked in vain since" in explain(services, work.run_id).text


@pytest.mark.parametrize(("watched", "judgement"), [(1795, "spare_unknown"), (1805, "reap_unanswered")])
def test_a_gap_in_our_watch_begins_doubt_anew_and_warming_up_counts(
    services: Services, says: Says, watched: float, judgement: str
) -> None:
    silent_for(services, DAY)
    says(Probe.UNKNOWN)
    judged(services)
    move(services, Judgement.SPARE_UNKNOWN, DAY / 2)
    watch_for(services, watched)
    assert judged(services) == {judgement: 1}


def test_while_the_watch_warms_up_a_question_in_vain_is_counted(services: Services, says: Says) -> None:
    silent_for(services, DAY)
    watch_for(services, 1)
    says(Probe.UNKNOWN)
    assert judged(services) == {"spare_unknown": 1}


@pytest.mark.parametrize(
    ("between", "judgement"),
    [
        (Probe.ENDED, "spare_unknown"),
        (Probe.ALIVE, None),
    ],
)
def test_an_answer_ends_doubt(services: Services, says: Says, between: Probe, judgement: str | None) -> None:
    silent_for(services, DAY)
    says(Probe.UNKNOWN)
    judged(services)
    move(services, Judgement.SPARE_UNKNOWN, 1805)
    says(between)
    judged(services)
    says(Probe.UNKNOWN)
    assert judged(services) == ({judgement: 1} if judgement else {})


def test_a_platform_that_says_dead_now_and_then_while_nobody_is_convicted_does_not_put_off_the_end_of_doubt(
    services: Services, says: Says
) -> None:
    silent_for(services, DAY)
    says(Probe.UNKNOWN)
    judged(services)
    move(services, Judgement.SPARE_UNKNOWN, 1805)
    watch_for(services, 100)
    says(Probe.DEAD)
    assert judged(services) == {"spare_warming_up": 1}
    watch_for(services, DAY)
    says(Probe.UNKNOWN)
    assert judged(services) == {"reap_unanswered": 1}


def test_work_of_a_host_without_workers_is_doubted_for_as_long_as_doubt_may_last_and_no_longer(
    services: Services,
) -> None:
    """B01 stays closed: the host is not waited for, and its silence is counted from the first sweep that asked."""
    work = running(services)
    handle = {"pid": 1, "process_group_id": 1, "started_at": 1.0, "namespace": "n", "folder": "f", "host": "gone"}
    record_handle(services, work.fence, "gone", handle)
    age(services, work.run_id, DAY)
    watch_for(services, 2 * DAY)
    assert judged(services) == {"spare_unknown": 1}
    move(services, Judgement.SPARE_UNKNOWN, 1805)
    assert judged(services) == {"reap_unanswered": 1}


@pytest.mark.parametrize(
    ("answer", "status"), [(Probe.ENDED, "running"), (Probe.ALIVE, "failed"), (Probe.UNKNOWN, "failed")]
)
def test_whoever_reads_how_overdue_work_has_ended_is_given_the_time_to(
    services: Services, monkeypatch: pytest.MonkeyPatch, answer: Probe, status: str
) -> None:
    monkeypatch.setattr(stopping, "ask_here", lambda _, handles, __: {one.run_id: answer for one in handles})
    work = replace(running(services), max_runtime_seconds=0.0)
    with supervised(services, work) as (watcher, context):
        context.on_dispatch({"name": "job"})
        watcher.supervise()
        assert (status_of(services, work.run_id), context.stopping) == (status, status == "failed")


# -- a real outage


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with ExitStack() as ending:
        made = Fleet(tmp_path, ending, time_scale=30)
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        # The application of this process is set up for other servers; the sweep finds what was not sent.
        monkeypatch.setattr(hints, "send_hint", lambda *_, **__: None)
        yield made


@pytest.fixture
def wired(fleet: Fleet) -> Iterator[Services]:
    wired = bootstrap.build(load_settings())
    migrate(wired.database)
    bootstrap.use(wired)
    yield wired
    bootstrap.use(None)


def was_away_for(services: Services, span: timedelta) -> None:
    """Have the outage that has just ended been so much longer."""
    with services.database.begin() as connection:
        for statement in (
            "UPDATE runs SET updated_at = updated_at - %s",
            "UPDATE runs SET started_at = started_at - %s",
            "UPDATE workers SET seen_at = seen_at - %s",
            "UPDATE reaper_watch SET watching_since = watching_since - %s",
            "UPDATE reaper_watch SET last_sweep_at = last_sweep_at - %s",
        ):
            connection.exec_driver_sql(statement, (span,))


def watched_since(services: Services, moment: datetime, span: timedelta) -> bool:
    """Whether a watch that began after this moment is so old."""
    watch = services.sweeps.last_watch()
    return watch is not None and watch.since > moment and watch.last_sweep_at - watch.since > span


@pytest.mark.parametrize("max_runtime", [None, 30])
def test_what_ended_while_all_followers_were_dead_and_the_database_away_has_its_own_result_recorded(
    fleet: Fleet, wired: Services, tmp_path: Path, max_runtime: float | None
) -> None:
    timing, stop = Timing.scaled(30), tmp_path / "stop"
    script = 'while [ ! -e "$0" ]; do sleep 0.1; done; echo last words; exit 7'
    everything = [fleet.start("runs"), fleet.start("logs,control"), fleet.start_beat()]
    run = enqueue_run("detached", {"command": ["sh", "-c", script, str(stop)]}, max_runtime=max_runtime)
    eventually(lambda: "dispatched" in kinds(wired, run.id))
    eventually(lambda: processes_of(run.id))
    for process in everything:
        process.kill()
    fleet.postgres.kill()
    stop.touch()
    eventually(lambda: not processes_of(run.id))
    fleet.postgres.start()
    was_away_for(wired, 2 * timing.doubt_limit)
    back = wired.database.now()
    fleet.start("logs,control")
    fleet.start_beat()
    # For longer than it takes to warm up and to hear: what convicts for silence convicts by then.
    eventually(lambda: watched_since(wired, back, 2 * timing.window + timing.sweep_interval), timeout=90)
    assert status_of(wired, run.id) == "running", explain(wired, run.id).text
    fleet.start("runs")
    eventually(lambda: status_of(wired, run.id) == "failed", timeout=60)
    ended = wired.runs.get(run.id)
    assert ended.error_code == ErrorCode.EXIT_STATUS
    assert "7" in (ended.error_message or "")
    assert "reaped" not in kinds(wired, run.id)
