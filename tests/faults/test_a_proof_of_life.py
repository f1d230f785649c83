"""A01, A02, A17: what a run does to show that it lives, and that any one sign of it is enough."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from reprieve.models.errors import InvalidChunk
from reprieve.models.liveness import Timing
from reprieve.models.process import ProcessIdentity
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import (
    SILENT,
    database_time_after,
    enqueueing,
    following,
    impatient_services,
    locked,
    one_turn,
    pass_time,
    shipping,
    supervised,
    swept_again,
)
from tests.support.processes import sleeping_process
from tests.support.rows import age, chunk, in_process, ingest, running, status_of, updated_at, watch_for
from tests.support.waiting import eventually

#: A run whose last proof of life was before the first of these minutes is dead after the fifth, and not before.
MINUTES = range(1, 8)
LAST_MINUTE_ALIVE = 4


@pytest.fixture
def impatient(services: Services) -> Iterator[Services]:
    with impatient_services(services) as replaced:
        yield replaced


def spawned(context: RunContext, process: ProcessIdentity) -> None:
    context.on_spawn(process.pid, process.process_group_id, process.started_at)


# -- A01


@pytest.mark.row("A01")
def test_on_log_of_an_out_of_process_run_advances_updated_at_and_a_second_call_within_the_interval_does_not(
    services: Services, redis: Redis
) -> None:
    work = running(services)
    claimed_at = updated_at(services, work.run_id)
    with following(services, work) as follower:
        follower.say("first\n")
        refreshed_at = updated_at(services, work.run_id)
        assert refreshed_at > claimed_at

        follower.say("second\n")
        pass_time(services, redis, 59)
        follower.say("third\n")
        assert updated_at(services, work.run_id) == refreshed_at - timedelta(seconds=59)

        pass_time(services, redis, 1)
        follower.say("fourth\n")
        assert updated_at(services, work.run_id) > refreshed_at
    assert services.logs.last_seq(work.run_id, 1) == 4


@pytest.mark.row("A01")
def test_on_log_of_an_in_process_run_leaves_updated_at_to_its_worker(services: Services) -> None:
    work = in_process(services)
    claimed_at = updated_at(services, work.run_id)
    with following(services, work) as follower:
        follower.say("a line\n")
    assert services.logs.last_seq(work.run_id, 1) == 1
    assert updated_at(services, work.run_id) == claimed_at


@pytest.mark.row("A01")
def test_a_chatty_run_is_not_reaped_while_a_silent_one_is(services: Services, redis: Redis) -> None:
    chatty, silent = running(services), running(services)
    watch_for(services, 3600)
    with following(services, chatty) as follower:
        for minute in MINUTES:
            pass_time(services, redis)
            follower.say(f"minute {minute}\n")
            sweep(services)
            assert status_of(services, chatty.run_id) == "running"
            assert (status_of(services, silent.run_id) == "running") == (minute <= LAST_MINUTE_ALIVE)


@pytest.mark.row("A01")
def test_a_row_that_a_stalled_transaction_holds_does_not_keep_another_runs_output_from_refreshing(
    impatient: Services,
) -> None:
    held, other = running(impatient), running(impatient)
    before = updated_at(impatient, other.run_id)
    with locked(impatient, held.run_id):
        assert ingest(impatient, [chunk(held, 1), chunk(other, 1)])["new"] == 2
        assert updated_at(impatient, other.run_id) > before
    assert ingest(impatient, [chunk(held, 2)])["refreshed"] == 1


@pytest.mark.row("A01")
@pytest.mark.parametrize("cursor", ["\0", "\ud800", 2**64, {1: 2}], ids=["NUL", "surrogate", "large", "number_as_key"])
def test_one_runs_cursor_that_no_message_or_store_can_hold_does_not_hold_up_the_output_of_another(
    services: Services, cursor: Any
) -> None:
    careless, other = running(services), running(services)
    before = updated_at(services, other.run_id)
    with shipping(services) as shipper:
        with suppress(InvalidChunk):
            RunContext(services, shipper, careless).on_log("stdout", "a line\n", cursor)
        RunContext(services, shipper, other).on_log("stdout", "a line\n")
        eventually(lambda: updated_at(services, other.run_id) > before, timeout=10)


# -- A02


@pytest.mark.row("A02")
def test_silent_children_in_and_out_of_the_worker_survive_where_an_abandoned_run_does_not(
    services: Services, start_worker, start_beat
) -> None:
    start_worker()
    start_beat()
    with enqueueing(services) as enqueue:
        silent = [enqueue(adapter, {"command": SILENT}) for adapter in ("process", "detached")]
        eventually(lambda: all(status_of(services, run_id) == "running" for run_id in silent))
        abandoned = [running(services).run_id, in_process(services).run_id]

        eventually(database_time_after(services, 1.5 * Timing.scaled(30).window.total_seconds()))
        swept_again(services)

        assert [status_of(services, run_id) for run_id in silent] == ["running", "running"]
        assert [status_of(services, run_id) for run_id in abandoned] == ["failed", "failed"]
        assert [services.runs.get(run_id).last_proof for run_id in silent] == ["keepalive", "heartbeat"]


@pytest.mark.row("A02")
def test_a_supervisor_vouches_for_a_silent_child_until_the_child_is_gone(services: Services, redis: Redis) -> None:
    work = in_process(services)
    watch_for(services, 3600)
    with supervised(services, work) as (supervisor, context):
        with sleeping_process() as process:
            spawned(context, process)
            for _ in MINUTES:
                pass_time(services, redis)
                supervisor.supervise()
                sweep(services)
                assert status_of(services, work.run_id) == "running"
        for minute in MINUTES:
            pass_time(services, redis)
            supervisor.supervise()
            sweep(services)
            assert (status_of(services, work.run_id) == "running") == (minute <= LAST_MINUTE_ALIVE)


@pytest.mark.row("A02")
def test_a_row_that_a_stalled_transaction_holds_does_not_cost_the_other_runs_their_keepalive(
    impatient: Services,
) -> None:
    held, other = running(impatient), running(impatient)
    age(impatient, other.run_id, 290)
    before = updated_at(impatient, other.run_id)
    with supervised(impatient, held) as (supervisor, held_context), supervisor.follow(other) as other_context:

        def refreshed_after_another_turn() -> bool:
            held_context.heartbeat()
            other_context.heartbeat()
            one_turn(supervisor)
            return updated_at(impatient, other.run_id) > before

        with locked(impatient, held.run_id):
            eventually(refreshed_after_another_turn, timeout=10)


# -- A17


@pytest.mark.row("A17")
def test_output_alone_keeps_a_run_alive_while_its_keepalive_is_stalled(services: Services, redis: Redis) -> None:
    work = running(services)
    watch_for(services, 3600)
    with supervised(services, work) as (_, context):
        for _ in MINUTES:
            pass_time(services, redis)
            before = updated_at(services, work.run_id)
            context.on_log("stdout", "still here\n")
            eventually(lambda before=before: updated_at(services, work.run_id) > before)
            sweep(services)
            assert status_of(services, work.run_id) == "running"
    assert services.runs.get(work.run_id).last_proof == "output"


@pytest.mark.row("A17")
def test_heartbeats_alone_keep_a_run_alive_after_its_output_has_stopped(services: Services, redis: Redis) -> None:
    work = running(services)
    watch_for(services, 3600)
    with supervised(services, work) as (supervisor, context):
        context.on_log("stdout", "the last line\n")
        eventually(lambda: services.runs.get(work.run_id).last_proof == "output")
        for _ in MINUTES:
            pass_time(services, redis)
            context.heartbeat()
            supervisor.supervise()
            sweep(services)
            assert status_of(services, work.run_id) == "running"
    assert services.runs.get(work.run_id).last_proof == "heartbeat"


@pytest.mark.row("A17")
def test_a_run_with_neither_output_nor_heartbeat_is_reaped(services: Services, redis: Redis) -> None:
    work = running(services)
    watch_for(services, 3600)
    with supervised(services, work) as (supervisor, _):
        for minute in MINUTES:
            pass_time(services, redis)
            supervisor.supervise()
            sweep(services)
            assert (status_of(services, work.run_id) == "running") == (minute <= LAST_MINUTE_ALIVE)
    assert services.runs.get(work.run_id).error_code == "adapter_liveness_lost"
