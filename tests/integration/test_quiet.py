"""A run that lives and gives no output: when that is known, told, put off, and the end of it."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import text
from typer.testing import CliRunner

from reprieve import cancel_run, enqueue_run
from reprieve.cli.main import app
from reprieve.models.status import EventKind, Proof, Status
from reprieve.models.work import End, Fence, Outcome, Work
from reprieve.stores.quiet import Mark
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.quiet import snooze_run
from reprieve.workers.refresh import give_proof
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import lengthen_watch, one_turn, supervised
from tests.support.rows import (
    age,
    chunk,
    claim,
    expire_key,
    in_process,
    ingest,
    kinds,
    record_handle,
    running,
    settle,
    status_of,
    watch_for,
)
from tests.support.waiting import eventually

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ADAPTERS = ("process", "detached")


def started_ago(services: Services, work: Work, seconds: float) -> None:
    """Its attempt began so long ago; its last proof of life is of now."""
    age(services, work.run_id, seconds, "started_at")
    age(services, work.run_id, 0)


def sweep_now(services: Services) -> dict[str, Any]:
    """A sweep that has been hearing for long, and whose last canary has just come back."""
    watch_for(services, 36_000)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE reaper_watch SET heard_at = clock_timestamp()"))
    return sweep(services, by_hand=True)


def told(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return " ".join(result.output.split())


# -- when it last gave output


def test_the_output_of_an_in_process_run_reaches_its_row_with_the_keepalive_and_is_no_proof_of_life(
    services: Services, redis: Redis
) -> None:
    work = in_process(services)
    with supervised(services, work) as (supervisor, context):
        context._has_result = True  # Its worker gives a keepalive.
        one_turn(supervisor)
        assert services.runs.get(work.run_id).output_at is None
        context.on_log("stdout", b"line\n")
        one_turn(supervisor)  # Throttled: no second write within the minute.
        assert services.runs.get(work.run_id).output_at is None
        expire_key(services, redis, work.run_id)
        one_turn(supervisor)
        row = services.runs.get(work.run_id)
        assert row.output_at is not None
        assert row.output_at < row.updated_at
        assert row.last_proof == "keepalive"
        expire_key(services, redis, work.run_id)
        one_turn(supervisor)
        later = services.runs.get(work.run_id)
        assert (later.output_at, later.updated_at > row.updated_at) == (row.output_at, True)


def test_ingest_writes_no_row_for_the_output_of_an_in_process_run(services: Services) -> None:
    work = in_process(services)
    before = services.runs.get(work.run_id).updated_at
    assert ingest(services, [chunk(work, 1)])["refreshed"] == 0
    assert (services.runs.get(work.run_id).updated_at, services.runs.get(work.run_id).output_at) == (before, None)


def test_output_that_is_proof_of_life_is_of_now(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    row = services.runs.get(work.run_id)
    assert row.output_at is not None
    assert abs((row.updated_at - row.output_at).total_seconds()) < 1


def test_the_same_output_by_two_ways_ends_one_silence(services: Services, redis: Redis) -> None:
    work = running(services, quiet_after=MINUTE)
    ingest(services, [chunk(work, 1)])
    started_ago(services, work, 3600)
    age(services, work.run_id, 120, "output_at")
    with services.database.begin() as connection:
        connection.execute(text("UPDATE log_segments SET stored_at = clock_timestamp() - interval '120 s'"))
    assert sweep_now(services)["quiet"] == 1
    expire_key(services, redis, work.run_id)
    give_proof(services, [work.fence], Proof.HEARTBEAT, {work.fence: 121.0})
    assert services.runs.get(work.run_id).quiet_at is not None
    expire_key(services, redis, work.run_id)
    give_proof(services, [work.fence], Proof.HEARTBEAT, {work.fence: 1.0})
    assert services.runs.get(work.run_id).quiet_at is None


# -- told, and told once


def test_a_run_that_becomes_quiet_is_told_once_and_marked_wherever_it_is_shown(services: Services) -> None:
    work, other = (in_process(services, quiet_after=HOUR) for _ in range(2))
    started_ago(services, work, 3700)
    started_ago(services, other, 3500)
    assert [sweep_now(services)["quiet"] for _ in range(3)] == [1, 0, 0]
    assert kinds(services, work.run_id).count("quiet") == 1
    assert kinds(services, other.run_id).count("quiet") == 0
    assert status_of(services, work.run_id) == "running"
    assert told("ps").count("running, quiet 1/1") == 1
    found = {record["id"]: record for record in json.loads(told("ps", "--json"))}
    assert found[str(work.run_id)]["quiet_at"] is not None
    assert found[str(other.run_id)]["quiet_at"] is None
    assert "Quiet for 1 h 1 min: it has given no output yet; it is called quiet after 1 h 0 min." in told(
        "explain", work.run_id
    )
    assert [one.quiet for one in services.fleet.active()] == [1]


def test_output_ends_the_silence_and_the_next_one_is_told_anew(services: Services, redis: Redis) -> None:
    work = running(services, quiet_after=HOUR)
    started_ago(services, work, 3700)
    assert sweep_now(services)["quiet"] == 1
    ingest(services, [chunk(work, 1)])
    assert services.runs.get(work.run_id).quiet_at is None
    assert sweep_now(services)["quiet"] == 0
    for column in ("output_at", "updated_at"):
        age(services, work.run_id, 3700 if column == "output_at" else 0, column)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE log_segments SET stored_at = clock_timestamp() - interval '3700 s'"))
    assert sweep_now(services)["quiet"] == 1
    assert kinds(services, work.run_id).count("quiet") == 2


def test_output_of_which_only_the_store_knows_ends_it_as_well(services: Services) -> None:
    """Heartbeats may win the throttle each time; or an older release ingests."""
    work = running(services, quiet_after=HOUR, max_silence=HOUR)
    give_proof(services, [work.fence], Proof.HEARTBEAT)
    started_ago(services, work, 3700)
    ingest(services, [chunk(work, 1)])
    assert services.runs.get(work.run_id).output_at is None
    age(services, work.run_id, 0, "quiet_at")
    report = sweep_now(services)
    assert (report["quiet"], report["stalled"]) == (0, 0)
    row = services.runs.get(work.run_id)
    assert (row.quiet_at, row.output_at is not None) == (None, True)


# -- the end of it


def test_what_stalls_is_ended_and_its_work_is_owed_an_end_and_what_is_just_below_lives(services: Services) -> None:
    work, below, unasked = (
        in_process(services, max_silence=HOUR, max_attempts=3),
        in_process(services, max_silence=HOUR),
        in_process(services),
    )
    for one, seconds in ((work, 3601), (below, 3500), (unasked, 100_000)):
        started_ago(services, one, seconds)
    assert sweep_now(services)["stalled"] == 1
    row = services.runs.get(work.run_id)
    assert (row.status, row.error_code) == ("failed", "stalled")
    assert (row.attempts[0].termination, row.attempts[0].reaped_at) == ("owed", None)
    assert [status_of(services, one.run_id) for one in (below, unasked)] == ["running", "running"]
    assert "max_silence of 3600 s; it had given none at all." in told("explain", work.run_id)


def test_output_or_a_snooze_between_the_look_and_the_end_spares(services: Services) -> None:
    printing, snoozed = (running(services, max_silence=HOUR) for _ in range(2))
    for one in (printing, snoozed):
        started_ago(services, one, 3700)
    fleet = services.sweeps.fleet

    def meanwhile() -> int:
        ingest(services, [chunk(printing, 1)])
        snooze_run(services, snoozed.run_id, 60)
        return fleet()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services.sweeps, "fleet", meanwhile)
        assert sweep_now(services)["stalled"] == 0
    assert [status_of(services, one.run_id) for one in (printing, snoozed)] == ["running", "running"]


def test_a_lagging_pipeline_or_output_in_a_spool_stalls_nobody(services: Services) -> None:
    work = in_process(services, quiet_after=MINUTE, max_silence=HOUR)
    started_ago(services, work, 7200)
    watch_for(services, 36_000)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE reaper_watch SET heard_at = clock_timestamp() - interval '130 s'"))
    assert sweep(services, by_hand=True)["stalled"] == 0
    holder = UUID(int=5)
    services.spooled.hold(holder, {(work.run_id, work.attempt): (1, 3)})
    assert sweep_now(services)["stalled"] == 0
    services.spooled.hold(holder, {})
    assert kinds(services, work.run_id).count("quiet") == 0
    assert sweep_now(services)["stalled"] == 1


def test_what_nobody_follows_stalls_not_and_not_at_once_when_somebody_does(services: Services) -> None:
    """A platform that sees work alive has its row refreshed, while nobody reads what it prints."""
    work = running(services, max_silence=HOUR)
    record_handle(services, work.fence, None, {})
    started_ago(services, work, 7200)
    assert services.adoptions.hand_over([work.fence])
    assert sweep_now(services)["stalled"] == 0
    adoption = services.adoptions.adopt(work.run_id, work.attempt, work.epoch, "worker@elsewhere", UUID(int=1))
    assert adoption is not None
    assert sweep_now(services)["stalled"] == 0
    assert status_of(services, work.run_id) == "running"


def test_a_row_that_another_transaction_holds_is_told_of_by_the_next_sweep(services: Services) -> None:
    held, free = (in_process(services, quiet_after=HOUR) for _ in range(2))
    for one in (held, free):
        started_ago(services, one, 3700)
    with services.database.engine.connect() as other:
        other.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": held.run_id})
        assert sweep_now(services)["quiet"] == 1
    assert kinds(services, free.run_id).count("quiet") == 1
    assert sweep_now(services)["quiet"] == 1
    assert kinds(services, held.run_id).count("quiet") == 1


def test_a_sweep_that_stood_still_tells_nothing_that_its_successor_has_told(services: Services) -> None:
    work = in_process(services, quiet_after=HOUR)
    started_ago(services, work, 3700)
    now = services.records.now()
    ((one,),) = services.quiet.listened(now, 10)
    assert sweep_now(services)["quiet"] == 1
    assert services.quiet.mark([Mark(one, is_quiet=True)], now) == []
    assert kinds(services, work.run_id).count("quiet") == 1


def test_the_next_attempt_begins_anew(services: Services) -> None:
    work = in_process(services, quiet_after=HOUR, max_attempts=2)
    give_proof(services, [work.fence], Proof.KEEPALIVE, {work.fence: 5.0})
    started_ago(services, work, 7200)
    age(services, work.run_id, 7000, "output_at")
    assert sweep_now(services)["quiet"] == 1
    finish(services, [End(work.fence, Status.QUEUED, EventKind.RETRIED)])
    attempt = services.runs.get(work.run_id).attempts[0]
    assert attempt.output_at is not None
    assert attempt.longest_silence is not None
    settle(services, work)
    assert claim(services, work.run_id, "worker@elsewhere") is not None
    row = services.runs.get(work.run_id)
    assert (row.output_at, row.quiet_at, row.longest_silence) == (None, None, None)
    assert sweep_now(services)["quiet"] == 0


# -- snoozed


def test_a_snooze_puts_off_both_and_then_it_is_told_anew(services: Services) -> None:
    work = in_process(services, quiet_after=MINUTE, max_silence=HOUR)
    started_ago(services, work, 1000)
    assert sweep_now(services)["quiet"] == 1
    assert "snoozed until" in told("snooze", work.run_id, "1h")
    run = services.records.get(work.run_id)
    assert run.snoozed_until is not None
    assert 3590 < (run.snoozed_until - services.records.now()).total_seconds() <= 3600
    assert not run.is_quiet
    started_ago(services, work, 7200)
    report = sweep_now(services)
    assert (report["quiet"], report["stalled"]) == (0, 0)
    assert "Snoozed until" in told("explain", work.run_id)
    age(services, work.run_id, 0, "snoozed_until")
    assert sweep_now(services)["stalled"] == 1
    assert kinds(services, work.run_id)[-3:] == ["quiet", "snoozed", "failed"]


def test_a_snooze_can_be_ended_and_does_nothing_to_a_run_that_has_ended(services: Services) -> None:
    work = in_process(services, quiet_after=MINUTE)
    started_ago(services, work, 1000)
    told("snooze", work.run_id, "2d")
    assert "not snoozed any more" in told("snooze", work.run_id, "0")
    assert sweep_now(services)["quiet"] == 1
    finish(services, [End.by_result(work.fence, Outcome(), 0)])
    assert "had already ended: succeeded" in told("snooze", work.run_id, "1h")
    assert kinds(services, work.run_id).count("snoozed") == 2


# -- the longest silence


def test_the_longest_silence_of_an_attempt_is_kept_with_its_end_the_last_one_included(
    services: Services, redis: Redis
) -> None:
    work, late = in_process(services), in_process(services)
    for one in (work, late):
        age(services, one.run_id, 200)
        give_proof(services, [one.fence], Proof.KEEPALIVE)
        expire_key(services, redis, one.run_id)
        age(services, one.run_id, 100)
        give_proof(services, [one.fence], Proof.KEEPALIVE)
    age(services, late.run_id, 250)
    finish(services, [End.by_result(one.fence, Outcome(), 0) for one in (work, late)])
    for one, seconds in ((work, 200), (late, 250)):
        kept = services.runs.get_attempt(one.run_id, 1).longest_silence
        assert kept is not None
        assert seconds <= kept.total_seconds() < seconds + 10
        (attempt,) = services.records.get(one.run_id).attempts
        assert attempt.longest_silence_seconds == pytest.approx(kept.total_seconds())


def test_a_stale_fence_tells_of_no_output(services: Services) -> None:
    work = in_process(services)
    stale = Fence(work.run_id, work.epoch - 1)
    assert give_proof(services, [stale], Proof.KEEPALIVE, {stale: 0.0}) == set()
    assert services.runs.get(work.run_id).output_at is None


def test_a_command_that_hangs_ends_as_stalled_however_alive_and_one_that_prints_now_and_then_goes_on(
    services: Services, start_worker: Callable[..., Any], start_beat: Callable[[], Any]
) -> None:
    start_worker()
    start_beat()
    lengthen_watch(services)
    hangs = {"command": ["sh", "-c", "echo on; exec sleep 1000"]}
    now_and_then = {"command": ["sh", "-c", "while true; do echo on; sleep 1; done"]}
    quiet = [enqueue_run(adapter, hangs, quiet_after=4) for adapter in ADAPTERS]
    stalled = [enqueue_run(adapter, hangs, max_silence=10) for adapter in ADAPTERS]
    alive = [enqueue_run(adapter, now_and_then, max_silence=10) for adapter in ADAPTERS]
    for run in stalled:
        eventually(lambda run=run: status_of(services, run.id) == "failed", timeout=60)
        row = services.runs.get(run.id)
        assert (row.error_code, row.attempts[0].output_at is not None) == ("stalled", True)
        eventually(lambda run=run: services.runs.get_attempt(run.id, 1).termination == "done")
    for run in quiet:
        eventually(lambda run=run: kinds(services, run.id).count("quiet") == 1, timeout=60)
    for run in [*quiet, *alive]:
        assert status_of(services, run.id) == "running"
        cancel_run(run.id)
        eventually(lambda run=run: services.runs.get_attempt(run.id, 1).termination == "done")
