"""The supervisor: who is told to stop, what counts as proof of life, what is overdue, and which work is ended."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from reprieve import cancel_run
from reprieve.adapters import host
from reprieve.adapters.shipper import LogShipper
from reprieve.models.liveness import Timing
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import ErrorCode, Proof
from reprieve.models.work import End, Fence, Outcome, Work
from reprieve.stores.cache import connect
from reprieve.stores.hints import StopSignals
from reprieve.stores.throttle import Throttle, proof_key
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.finish import finish
from reprieve.workers.supervision import burying
from reprieve.workers.supervisor import Supervisor
from reprieve.workers.sweep import sweep
from tests.support.rows import (
    age,
    claim,
    in_process,
    kinds,
    record_handle,
    record_process,
    running,
    settle,
    status_of,
    updated_at,
    watch_for,
)
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

Follow = Callable[[Work], RunContext]
Spawn = Callable[..., ProcessIdentity]


def shipper(services: Services) -> LogShipper:
    return LogShipper(services.settings.spool_dir, lambda blocks: None, lambda keys: {})


@pytest.fixture
def supervisor(services: Services) -> Supervisor:
    """One whose turns are the test's to take."""
    return Supervisor(services, shipper(services))


@pytest.fixture
def following() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def follow(supervisor: Supervisor, following: ExitStack) -> Follow:
    return lambda work: following.enter_context(supervisor.follow(work))


@pytest.fixture
def blind(services: Services) -> Iterator[Services]:
    """The same services without Redis."""
    with connect("redis://127.0.0.1:1/0") as nowhere:
        seconds = services.timing.refresh_seconds
        yield replace(services, stops=StopSignals(nowhere), throttle=Throttle(nowhere, seconds))


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts processes that lead their own groups, and ends them."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> ProcessIdentity:
        started.append(subprocess.Popen(command or ("sleep", "100"), start_new_session=True))
        identity = host.identify(started[-1].pid)
        assert identity is not None
        return identity

    yield start
    for popen in started:
        popen.kill()
        popen.wait()


def silent_seconds(services: Services, run_id: Any) -> float:
    return float((services.database.now() - updated_at(services, run_id)).total_seconds())


# -- stop


def test_a_stop_signal_reaches_the_run_it_is_for_and_no_other(
    services: Services, supervisor: Supervisor, follow: Follow
) -> None:
    told, other = follow(running(services)), follow(running(services))
    services.stops.send([told.fence])
    supervisor.supervise()
    assert (told.stopping, other.stopping) == (True, False)


def test_a_stop_signal_of_an_earlier_epoch_is_for_somebody_else(
    services: Services, supervisor: Supervisor, follow: Follow
) -> None:
    context = follow(running(services))
    services.stops.send([Fence(context.run_id, context.fence.epoch - 1)])
    supervisor.supervise()
    assert not context.stopping


def test_a_cancelled_run_is_told_to_stop_at_the_next_turn(
    services: Services, supervisor: Supervisor, follow: Follow
) -> None:
    supervisor.supervise()
    context, other = follow(running(services)), follow(running(services))
    cancel_run(context.run_id)
    supervisor.supervise()
    assert (context.stopping, other.stopping) == (True, False)


def test_without_redis_the_database_tells_a_run_that_ended_to_stop(services: Services, blind: Services) -> None:
    supervisor = Supervisor(blind, shipper(services))
    ended, other = running(services), running(services)
    with supervisor.follow(ended) as context, supervisor.follow(other) as untouched:
        finish(blind, [End.by_result(ended.fence, Outcome.failed("elsewhere"), 0)])
        supervisor.supervise()
        assert (context.stopping, untouched.stopping) == (True, False)


def test_without_redis_a_run_that_was_claimed_anew_is_told_to_stop(services: Services, blind: Services) -> None:
    supervisor = Supervisor(blind, shipper(services))
    work = in_process(services, max_attempts=2)
    with supervisor.follow(work) as context:
        watch_for(services, 3600)
        age(services, work.run_id, 301)
        sweep(blind, by_hand=True)
        settle(services, work)
        assert claim(services, work.run_id, "another@nowhere") is not None
        supervisor.supervise()
        assert context.stopping


def test_a_run_that_is_no_longer_followed_is_nobodys_to_vouch_for(services: Services, supervisor: Supervisor) -> None:
    work = running(services)
    with supervisor.follow(work) as context:
        context.heartbeat()
    age(services, work.run_id, 200)
    supervisor.supervise()
    assert silent_seconds(services, work.run_id) >= 200


# -- proof of life


def test_a_heartbeat_refreshes_its_run_and_silence_refreshes_none(
    services: Services, supervisor: Supervisor, follow: Follow
) -> None:
    heard, silent = follow(running(services)), follow(running(services))
    for context in (heard, silent):
        age(services, context.run_id, 200)
    heard.heartbeat()
    supervisor.supervise()
    assert silent_seconds(services, heard.run_id) < 100
    assert services.runs.get(heard.run_id).last_proof == Proof.HEARTBEAT
    assert silent_seconds(services, silent.run_id) >= 200
    assert services.runs.get(silent.run_id).last_proof == Proof.CLAIM


def test_a_keepalive_refreshes_a_run_whose_process_lives_and_none_whose_process_is_gone(
    services: Services, supervisor: Supervisor, follow: Follow, spawn: Spawn
) -> None:
    alive, dead = follow(in_process(services)), follow(in_process(services))
    for context in (alive, dead):
        identity = spawn()
        context.on_spawn(identity.pid, identity.process_group_id, identity.started_at)
        age(services, context.run_id, 200)
    host.terminate(identity)
    supervisor.supervise()
    assert silent_seconds(services, alive.run_id) < 100
    assert services.runs.get(alive.run_id).last_proof == Proof.KEEPALIVE
    assert silent_seconds(services, dead.run_id) >= 200


def test_without_redis_a_live_run_is_refreshed_all_the_same(services: Services, blind: Services) -> None:
    supervisor, work = Supervisor(blind, shipper(services)), running(services)
    with supervisor.follow(work) as context:
        age(services, work.run_id, 200)
        context.heartbeat()
        supervisor.supervise()
    assert silent_seconds(services, work.run_id) < 100


def test_a_run_is_vouched_for_once_per_keepalive_interval(services: Services, redis: Redis) -> None:
    """The interval is 0.7 s here; the throttle, which would hide it, is opened by hand."""
    quick = replace(services, timing=Timing.scaled(30))
    supervisor, work = Supervisor(quick, shipper(services)), running(services)
    with supervisor.follow(work) as context:
        supervisor.supervise()
        redis.delete(proof_key(work.run_id))
        age(services, work.run_id, 200)
        context.heartbeat()
        supervisor.supervise()
        assert silent_seconds(services, work.run_id) >= 200
        eventually(lambda: supervisor.supervise() or silent_seconds(services, work.run_id) < 100, timeout=5)


def test_a_proof_that_the_database_did_not_take_holds_up_nothing_and_is_given_again_at_the_next_turn(
    services: Services,
    supervisor: Supervisor,
    follow: Follow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context, told = follow(running(services)), follow(running(services))
    age(services, context.run_id, 200)
    context.heartbeat()
    services.stops.send([told.fence])
    with monkeypatch.context() as broken:
        broken.setattr("reprieve.workers.refresh.write_proof", fail)
        supervisor.supervise()
    assert "the database is away" in caplog.text
    assert silent_seconds(services, context.run_id) >= 200
    assert told.stopping
    context.heartbeat()
    supervisor.supervise()
    assert silent_seconds(services, context.run_id) < 100


def fail(*_: Any) -> Any:
    raise ConnectionError("the database is away")


# -- overdue


def test_a_run_over_its_limit_is_ended_as_timed_out_and_one_within_it_goes_on(
    services: Services, supervisor: Supervisor, follow: Follow
) -> None:
    overdue = follow(running(services, max_runtime=timedelta(seconds=0.05)))
    within = follow(running(services, max_runtime=timedelta(hours=1)))
    overdue.on_log("stdout", b"a line")
    eventually(lambda: overdue.is_overdue)
    supervisor.supervise()
    run = services.runs.get(overdue.run_id)
    assert (run.status, run.error_code) == ("failed", ErrorCode.TIMED_OUT)
    assert (run.attempts[0].termination, run.attempts[0].last_seq) == ("owed", 1)
    assert (overdue.stopping, within.stopping) == (True, False)
    assert status_of(services, within.run_id) == "running"


def test_an_overdue_run_that_ended_by_itself_keeps_its_own_end(
    services: Services, supervisor: Supervisor, follow: Follow
) -> None:
    work = running(services, max_runtime=timedelta(seconds=0.05))
    context = follow(work)
    eventually(lambda: context.is_overdue)
    finish(services, [End.by_result(work.fence, Outcome.of_exit(0), 0)])
    supervisor.supervise()
    assert status_of(services, work.run_id) == "succeeded"
    assert kinds(services, work.run_id) == ["enqueued", "claimed", "succeeded"]


# -- work that is owed its end


def owed(services: Services, handle: dict[str, Any] | None, named: str | None = "test-host", **changes: Any) -> Work:
    """A run that was cancelled while its work, if it has any, may still be running."""
    work = running(services, **changes)
    if handle is not None:
        record_handle(services, work.fence, named, handle)
    cancel_run(work.run_id)
    return work


def termination(services: Services, work: Work) -> str | None:
    return services.runs.get_attempt(work.run_id, work.attempt).termination


@pytest.mark.parametrize("named", ["test-host", None])
def test_work_that_this_host_can_end_is_ended_and_settled(
    services: Services, supervisor: Supervisor, spawn: Spawn, named: str | None
) -> None:
    identity, untouched = spawn(), spawn()
    work = owed(services, identity.as_handle(), named)
    supervisor.bury()
    assert (host.is_alive(identity), host.is_alive(untouched)) == (False, True)
    assert termination(services, work) == "done"
    assert kinds(services, work.run_id)[-1] == "terminated"


def test_work_of_another_host_is_left_alone(services: Services, supervisor: Supervisor, spawn: Spawn) -> None:
    identity = spawn()
    work = owed(services, identity.as_handle(), "another-host")
    supervisor.bury()
    assert host.is_alive(identity)
    assert termination(services, work) == "owed"


def test_the_child_of_a_worker_that_is_gone_is_ended_by_its_process_metadata(
    services: Services, supervisor: Supervisor, spawn: Spawn
) -> None:
    identity, work = spawn(), in_process(services)
    record_process(services, work.fence, "test-host", identity)
    cancel_run(work.run_id)
    supervisor.bury()
    assert not host.is_alive(identity)
    assert termination(services, work) == "done"


def test_an_attempt_that_started_nothing_is_settled(services: Services, supervisor: Supervisor) -> None:
    work = owed(services, None)
    supervisor.bury()
    assert termination(services, work) == "done"


def test_work_that_is_not_owed_its_end_goes_on(services: Services, supervisor: Supervisor, spawn: Spawn) -> None:
    identity, work = spawn(), running(services)
    record_handle(services, work.fence, "test-host", identity.as_handle())
    supervisor.bury()
    assert host.is_alive(identity)
    assert termination(services, work) is None


def reaped_beside(services: Services, identity: ProcessIdentity) -> Work:
    """A run that was reaped for silence and is to be retried, whose child is still there."""
    work = in_process(services, max_attempts=2)
    record_process(services, work.fence, "test-host", identity)
    watch_for(services, 3600)
    age(services, work.run_id, 301)
    sweep(services, by_hand=True)
    return work


def test_a_run_that_waited_for_its_old_work_to_end_waits_for_its_pause_too(
    services: Services, supervisor: Supervisor, spawn: Spawn, redis: Redis
) -> None:
    identity = spawn()
    work = reaped_beside(services, identity)
    assert (status_of(services, work.run_id), redis.llen("runs")) == ("queued", 0)
    supervisor.bury()
    assert not host.is_alive(identity)
    assert redis.llen("runs") == 0  # It is retried after a pause: then a worker finds it.
    assert services.runs.get(work.run_id).not_before is not None


def test_a_run_that_may_be_claimed_at_once_when_its_old_work_has_ended_is_sent(
    services: Services, supervisor: Supervisor, spawn: Spawn, redis: Redis
) -> None:
    work = reaped_beside(services, spawn())
    age(services, work.run_id, 1, "not_before")
    supervisor.bury()
    assert redis.llen("runs") == 1


def test_a_cancelled_runs_work_is_ended_without_sending_the_run_again(
    services: Services, supervisor: Supervisor, spawn: Spawn, redis: Redis
) -> None:
    owed(services, spawn().as_handle())
    supervisor.bury()
    assert redis.llen("runs") == 0


def test_work_that_cannot_be_ended_stays_owed_is_told_once_and_does_not_hold_up_others(
    services: Services, supervisor: Supervisor, spawn: Spawn
) -> None:
    stuck, identity = owed(services, {"no": "process"}), spawn()
    other = owed(services, identity.as_handle())
    supervisor.bury()
    supervisor.bury()
    assert (termination(services, stuck), termination(services, other)) == ("owed", "done")
    assert kinds(services, stuck.run_id).count("termination_failed") == 1
    Supervisor(services, shipper(services)).bury()
    assert kinds(services, stuck.run_id).count("termination_failed") == 1


def test_work_that_could_not_be_ended_is_tried_again_after_a_while_and_not_before(
    services: Services, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burying, "BURY_AGAIN", 1.0)
    identity, supervisor = spawn(), Supervisor(services, shipper(services))
    work, tries = owed(services, identity.as_handle()), []

    def terminate(handle: dict[str, Any]) -> None:
        tries.append(time.monotonic())
        if len(tries) < 2:
            raise ConnectionError("the platform is away")

    monkeypatch.setattr(services.adapters.get("detached"), "terminate", terminate)
    eventually(lambda: supervisor.bury() or termination(services, work) == "done", timeout=10)
    assert len(tries) == 2
    assert tries[1] - tries[0] >= 1
    assert kinds(services, work.run_id)[-2:] == ["termination_failed", "terminated"]


def test_much_work_that_cannot_be_ended_does_not_keep_other_work_from_its_end(
    services: Services, supervisor: Supervisor, spawn: Spawn
) -> None:
    for _ in range(101):
        owed(services, {"no": "process"})
    other = owed(services, spawn().as_handle())
    for _ in range(3):
        supervisor.bury()
    assert termination(services, other) == "done"


# -- its threads


def test_a_supervisor_that_was_started_takes_its_turns_until_it_is_closed(services: Services, spawn: Spawn) -> None:
    quick = replace(services, timing=Timing.scaled(30))
    supervisor = Supervisor(quick, shipper(services))
    supervisor.start()
    try:
        with supervisor.follow(running(services)) as context:
            work = owed(services, spawn().as_handle())
            cancel_run(context.run_id)
            assert eventually(lambda: context.stopping)
            eventually(lambda: termination(services, work) == "done")
    finally:
        supervisor.close()
    assert not any(thread.is_alive() for thread in supervisor._threads)


def test_a_turn_that_fails_is_told_and_tried_again(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quick = replace(services, timing=Timing.scaled(30))
    supervisor, failures = Supervisor(quick, shipper(services)), []

    def supervise() -> None:
        failures.append(1)
        raise ConnectionError("the database is away")

    monkeypatch.setattr(supervisor, "supervise", supervise)
    supervisor.start()
    try:
        eventually(lambda: len(failures) >= 2, timeout=10)
    finally:
        supervisor.close()
    assert "supervise failed; it is tried again in a moment" in caplog.text


def test_a_worker_that_stood_still_in_its_heartbeat_gives_another_before_it_takes_anything(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, passed, given = Supervisor(services, direct_shipper(services)), [1000.0], list[float]()
    monkeypatch.setattr("reprieve.workers.supervision.vouching._clock", lambda: passed[0])
    seen = services.workers.seen

    def give_and_stand_still(*arguments: Any) -> None:
        seen(*arguments)
        given.append(passed[0])
        passed[0] += 100.0 if len(given) == 1 else 0.0

    monkeypatch.setattr(services.workers, "seen", give_and_stand_still)
    for _ in range(3):
        supervisor.be_seen()
    assert given == [1000.0, 1100.0]
