"""A24: a worker that cannot reach PostgreSQL, but Redis, vouches for its work; what is really dead is found in time."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from redis import Redis

from reprieve.models.judging import Judgement
from reprieve.models.liveness import Timing
from reprieve.models.work import Fence
from reprieve.stores.hints import vouch_key
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.conftest import Servers
from tests.faults.helpers_abf import SILENT, enqueueing, lengthen_watch, supervised, swept_again
from tests.support.gateway import Gateway, Way
from tests.support.processes import Process, processes_of
from tests.support.rows import age, in_process, ingest, kinds, status_of, updated_at, watch_for
from tests.support.rows import chunk as a_chunk
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A24")

StartWorker = Callable[..., Process]

TIMING = Timing.scaled(30)
#: Prints until a file is there, and succeeds; and one that prints nothing before that.
UNTIL = 'while [ ! -e "$0" ]; do echo tick; sleep 0.2; done; echo last'
QUIET_UNTIL = 'while [ ! -e "$0" ]; do sleep 0.2; done; echo last'


# -- the decision, and what it is told


def suspect_of(services: Services) -> Fence:
    """An in-process run that the database has not heard of for longer than the window."""
    work = in_process(services)
    age(services, work.run_id, 301)
    watch_for(services, 3600)
    return work.fence


def test_a_run_that_is_vouched_for_is_spared_and_not_refreshed(services: Services) -> None:
    fence = suspect_of(services)
    before = updated_at(services, fence.run_id)
    assert services.vouches.give([fence])
    assert sweep(services)["judgements"] == {"spare_vouched": 1}
    assert updated_at(services, fence.run_id) == before
    assert sweep(services, by_hand=True)["judgements"] == {"spare_vouched": 1}


@pytest.mark.parametrize("epoch", [-1, 1])
def test_a_vouch_for_another_epoch_is_worth_nothing(services: Services, epoch: int) -> None:
    fence = suspect_of(services)
    services.vouches.give([fence._replace(epoch=fence.epoch + epoch)])
    assert sweep(services)["judgements"] == {"reap_process_lost": 1}


def test_redis_forgets_a_vouch_a_tolerated_lag_after_it_was_given(services: Services, redis: Redis) -> None:
    fence = suspect_of(services)
    services.vouches.give([fence])
    assert 0 < redis.pttl(vouch_key(fence)) <= services.timing.tolerated_lag.total_seconds() * 1000
    redis.delete(vouch_key(fence))
    assert sweep(services)["judgements"] == {"reap_process_lost": 1}


def seen_vouched(services: Services, run_id: UUID, ago: timedelta) -> None:
    with services.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE sparings SET detail = jsonb_set(detail, '{vouched_at}', to_jsonb(clock_timestamp() - %s)) "
            "WHERE run_id = %s AND judgement = 'spare_vouched'",
            (ago, run_id),
        )


@pytest.mark.parametrize(("ago", "judgement"), [(179, Judgement.SPARE_VOUCHED), (181, Judgement.REAP_PROCESS_LOST)])
def test_when_redis_was_flushed_a_sweep_remembers_what_an_earlier_one_was_told(
    services: Services, redis: Redis, ago: int, judgement: Judgement
) -> None:
    fence = suspect_of(services)
    services.vouches.give([fence])
    sweep(services)
    redis.flushall()
    seen_vouched(services, fence.run_id, timedelta(seconds=ago))
    assert sweep(services, by_hand=True)["judgements"] == {judgement.value: 1}


def test_what_is_remembered_of_a_vouch_does_not_renew_itself(services: Services, redis: Redis) -> None:
    fence = suspect_of(services)
    services.vouches.give([fence])
    sweep(services)
    redis.flushall()
    seen_vouched(services, fence.run_id, timedelta(seconds=100))
    sweep(services, by_hand=True)
    (sparing,) = services.sweeps.sparings(fence.run_id)
    seen = datetime.fromisoformat(sparing.detail["vouched_at"])
    assert sparing.times == 2
    assert services.database.now() - seen >= timedelta(seconds=100)


def test_output_does_not_refresh_a_run_in_process(services: Services) -> None:
    fence = suspect_of(services)
    before = updated_at(services, fence.run_id)
    ingest(services, [a_chunk(fence, 1)])
    assert updated_at(services, fence.run_id) == before


def test_a_worker_vouches_only_when_the_database_was_not_told_for_two_keepalives(
    services: Services, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = in_process(services)
    patient = replace(services, timing=replace(services.timing, vouch_after=timedelta(hours=1)))
    for wired, vouched in ((patient, False), (services_at_once(services), True)):
        with supervised(wired, work) as (supervisor, context):
            context.on_spawn(os.getpid(), os.getpgid(0), started_at())
            supervisor.vouch()
            assert bool(redis.exists(vouch_key(work.fence))) is vouched


def services_at_once(services: Services) -> Services:
    return replace(services, timing=replace(services.timing, vouch_after=timedelta(0)))


def started_at() -> float:
    from reprieve.adapters import host

    identity = host.identify(os.getpid())
    assert identity is not None
    return identity.started_at


def test_a_child_that_is_gone_is_not_vouched_for_but_a_result_that_waits_to_be_recorded_is(
    services: Services, redis: Redis
) -> None:
    work = in_process(services)
    with supervised(services_at_once(services), work) as (supervisor, context):
        context.on_spawn(2**22 - 1, 2**22 - 1, 1.0)
        supervisor.vouch()
        assert not redis.exists(vouch_key(work.fence))
        context.has_result()
        supervisor.vouch()
        assert redis.exists(vouch_key(work.fence))


def test_a_result_in_hand_outranks_a_time_limit_that_passes_while_it_cannot_be_recorded(services: Services) -> None:
    work = replace(in_process(services), max_runtime_seconds=0.0)
    with supervised(services, work) as (supervisor, context):
        context.has_result()
        supervisor.supervise()
        assert (status_of(services, work.run_id), context.stopping) == ("running", False)
    with supervised(services, work) as (supervisor, context):
        supervisor.supervise()
        assert services.runs.get(work.run_id).error_code == "timed_out"


def test_one_heartbeat_is_one_vouch(services: Services, redis: Redis) -> None:
    work = in_process(services)
    with supervised(services_at_once(services), work) as (supervisor, context):
        context.heartbeat()
        supervisor.vouch()
        redis.delete(vouch_key(work.fence))
        supervisor.vouch()
        assert not redis.exists(vouch_key(work.fence))


# -- real workers


@pytest.fixture
def way(servers: Servers) -> Iterator[Gateway]:
    """The way of the worker of runs to PostgreSQL; all others take the straight one."""
    with Gateway(servers.postgres.url) as gateway:
        yield gateway


@pytest.fixture
def worker(way: Gateway, services: Services, start_worker: StartWorker, start_beat: Callable[[], Process]) -> Process:
    start_worker("logs,control", name="control")
    start_beat()
    lengthen_watch(services)
    return start_worker("runs", name="cut-off", extra={"REPRIEVE_DATABASE_URL": way.url})


def spared_as_vouched(services: Services, run_id: UUID) -> bool:
    return any(one.judgement == Judgement.SPARE_VOUCHED for one in services.sweeps.sparings(run_id))


def silent_for(services: Services, run_id: UUID, span: timedelta) -> Callable[[], bool]:
    """Whether the row is so old; fails at once where the run is no longer running."""

    def holds() -> bool:
        assert status_of(services, run_id) == "running", services.runs.get(run_id).error_message
        return services.database.now() - updated_at(services, run_id) > span

    return holds


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("cut", [Way.REFUSED, Way.SILENT, Way.NO_ANSWER])
def test_runs_of_a_worker_that_is_cut_off_from_postgresql_alone_live_and_their_results_are_recorded(
    services: Services, way: Gateway, tmp_path, cut: Way
) -> None:
    stop, ended = tmp_path / "stop", tmp_path / "ended"
    with enqueueing(services) as enqueue:
        printing = enqueue("process", {"command": ["sh", "-c", UNTIL, str(stop)]})
        quiet = enqueue("process", {"command": ["sh", "-c", QUIET_UNTIL, str(stop)]}, max_attempts=2)
        ends = enqueue("process", {"command": ["sh", "-c", UNTIL, str(ended)]})
        runs = (printing, quiet, ends)
        for run_id in runs:
            eventually(lambda run_id=run_id: "spawned" in kinds(services, run_id))
        way.turn(cut)
        for run_id in runs:
            eventually(silent_for(services, run_id, TIMING.window + TIMING.sweep_interval), timeout=60)
        ended.touch()
        eventually(lambda: not processes_of(ends))
        for run_id in runs:
            eventually(silent_for(services, run_id, 3 * TIMING.window), timeout=90)
            assert spared_as_vouched(services, run_id)
        stop.touch()
        way.turn(Way.OPEN)
        for run_id in runs:
            eventually(lambda run_id=run_id: status_of(services, run_id) == "succeeded", timeout=90)
            assert services.runs.get(run_id).attempt == 1
            assert not {"reaped", "late_result"} & set(kinds(services, run_id))


@pytest.mark.parametrize("cut", [Way.REFUSED, Way.SILENT])
def test_a_worker_that_is_killed_while_it_is_cut_off_is_found_dead_in_time(
    services: Services, worker: Process, way: Gateway, cut: Way
) -> None:
    with enqueueing(services) as enqueue:
        runs = [enqueue("process", {"command": command}) for command in (SILENT, ["sh", "-c", UNTIL, "/nowhere"])]
        for run_id in runs:
            eventually(lambda run_id=run_id: "spawned" in kinds(services, run_id))
        way.turn(cut)
        for run_id in runs:
            eventually(lambda run_id=run_id: spared_as_vouched(services, run_id), timeout=60)
        worker.send(signal.SIGKILL)
        worker.popen.wait()
        died = services.database.now()
        for run_id in runs:
            eventually(lambda run_id=run_id: status_of(services, run_id) == "failed", timeout=60)
            found = services.runs.get(run_id).finished_at
            assert found is not None
            allowance = timedelta(seconds=4)  # What sweeps and beat are late on a busy machine.
            assert found - died <= TIMING.window + TIMING.sweep_interval + allowance
            assert services.runs.get(run_id).error_code == "process_lost"


def test_a_child_that_is_killed_while_its_worker_is_cut_off_has_its_own_end_recorded(
    services: Services, worker: Process, way: Gateway
) -> None:
    with enqueueing(services) as enqueue:
        run_id = enqueue("process", {"command": SILENT})
        eventually(lambda: "spawned" in kinds(services, run_id))
        way.turn(Way.SILENT)
        eventually(lambda: spared_as_vouched(services, run_id), timeout=60)
        for process in processes_of(run_id):
            process.kill()
        swept_again(services)
        way.turn(Way.OPEN)
        eventually(lambda: status_of(services, run_id) == "failed", timeout=60)
        assert services.runs.get(run_id).error_code == "exit_status"
