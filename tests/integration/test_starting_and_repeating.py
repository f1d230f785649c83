"""When a run may begin, by when it must have, and which of its ends another attempt follows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from reprieve import enqueue_run
from reprieve.adapters.kinds import find_kind, starts_work
from reprieve.models.errors import InvalidRequest
from reprieve.models.liveness import Timing
from reprieve.models.retrying import with_retry
from reprieve.models.status import ErrorCode, EventKind, Proof, Status
from reprieve.models.work import End, Fence, Outcome, Retries, Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.explaining import explain
from reprieve.workers.refresh import give_proof
from reprieve.workers.reporting import heartbeat
from reprieve.workers.sweep import sweep
from tests.conftest import StartWorker
from tests.support.rows import age, claim, kinds, new_run, running, status_of, watch_for
from tests.support.waiting import eventually

TRUE = {"command": ["true"]}


# -- not before


def test_a_run_begins_when_its_time_has_come_and_not_before(services: Services, start_worker: StartWorker) -> None:
    start_worker("runs,logs")
    at = services.database.now() + timedelta(seconds=3)
    run = enqueue_run("process", TRUE, start_at=at)
    assert run.not_before == at
    told = explain(services, run.id).text
    assert f"It may begin at {at:%Y-%m-%d %H:%M:%S} UTC" in told
    eventually(lambda: status_of(services, run.id) == "succeeded")
    started = services.runs.get(run.id).started_at
    assert started is not None
    assert started >= at


def test_many_runs_that_wait_for_their_time_are_not_in_the_way_of_one_that_may_begin(services: Services) -> None:
    later = services.database.now() + timedelta(hours=1)
    for _ in range(5):
        new_run(services, adapter="process", start_at=later)
    now = new_run(services, adapter="process")
    from reprieve.models.places import Room

    assert [work.run_id for work in services.claims.claim([Room(("process",), 9)], "w").works] == [now.id]
    assert services.claims.let_in(9) == 0


# -- not after


def test_a_run_that_has_not_begun_in_time_fails_and_no_worker_takes_it_any_more(services: Services) -> None:
    late = new_run(services, adapter="process", start_within=timedelta(hours=1))
    early = new_run(services, adapter="process", start_within=timedelta(hours=1))
    assert "It fails as not_started if it has not begun by" in explain(services, late.id).text
    age(services, late.id, 1, "start_by")
    assert claim(services, late.id, "w") is None
    sweep(services, by_hand=True)
    ended = services.runs.get(late.id)
    assert (ended.status, ended.error_code) == ("failed", "not_started")
    assert str(ended.error_message).startswith("No worker had begun it by ")
    assert status_of(services, early.id) == "queued"
    assert kinds(services, late.id) == ["enqueued", "failed"]


def test_a_sweep_takes_no_longer_for_many_that_have_not_begun_and_the_next_one_goes_on(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprieve.workers.sweep.PAGE_SIZE", 2)
    runs = [new_run(services, start_within=timedelta(seconds=60)) for _ in range(5)]
    for run in runs:
        age(services, run.id, 1, "start_by")
    hasty = replace(services, timing=replace(services.timing, sweep_interval=timedelta(milliseconds=1)))
    assert [sweep(hasty, by_hand=True)["not_started"] for _ in range(4)] == [2, 2, 1, 0]


def test_the_time_counts_from_start_at(services: Services) -> None:
    at = services.database.now() + timedelta(days=1)
    run = new_run(services, start_at=at, start_within=timedelta(hours=1))
    assert run.start_by == at + timedelta(hours=1)


def test_a_run_that_has_begun_in_time_is_not_failed_for_it_nor_is_its_retry(services: Services) -> None:
    run = new_run(services, adapter="process", start_within=timedelta(hours=1), max_attempts=2)
    assert claim(services, run.id, "w") is not None
    age(services, run.id, 60, "start_by")
    sweep(services, by_hand=True)
    assert status_of(services, run.id) == "running"


def test_remote_work_may_be_silent_until_the_time_by_which_it_is_to_begin_and_is_failed_after_it(
    services: Services,
) -> None:
    watch_for(services, 3600)
    run = new_run(services, adapter="remote", config={}, start_within=timedelta(hours=2))
    services.tokens.issue(run.id)
    assert claim(services, run.id, "w") is not None
    age(services, run.id, 3600)
    sweep(services, by_hand=True)
    assert status_of(services, run.id) == "running"
    age(services, run.id, 3600 + 60, "start_by")
    age(services, run.id, 2 * 3600 + 60)
    sweep(services, by_hand=True)
    ended = services.runs.get(run.id)
    assert (ended.status, ended.error_code) == ("failed", "not_started")


def test_a_worker_that_keeps_remote_work_alive_until_it_is_recorded_has_not_reported_for_it(services: Services) -> None:
    watch_for(services, 3600)
    run = new_run(services, adapter="remote", config={}, start_within=timedelta(hours=2))
    services.tokens.issue(run.id)
    work = claim(services, run.id, "w")
    assert work is not None
    assert give_proof(services, [work.fence], Proof.KEEPALIVE)
    age(services, run.id, 3600)
    sweep(services, by_hand=True)
    assert status_of(services, run.id) == "running"
    age(services, run.id, 60, "start_by")
    sweep(services, by_hand=True)
    assert services.runs.get(run.id).error_code == "not_started"


def test_what_remote_work_waited_for_elsewhere_is_no_silence_of_its_own(services: Services) -> None:
    watch_for(services, 36_000)
    run = new_run(
        services, adapter="remote", config={}, start_within=timedelta(hours=2), max_silence=timedelta(minutes=10)
    )
    token = services.tokens.issue(run.id)
    assert claim(services, run.id, "w") is not None
    age(services, run.id, 3600)
    age(services, run.id, 3600, "started_at")
    heartbeat(services, run.id, token)
    take_reports(services)
    assert sweep(services, by_hand=True)["stalled"] == 0
    age(services, run.id, 700, "start_by")
    assert sweep(services, by_hand=True)["stalled"] == 1


def take_reports(services: Services) -> None:
    """Have an API have taken reports for hours."""
    services.sweeps.take_reports(timedelta(hours=1), after_a_gap=True)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE reaper_watch SET reports_since = clock_timestamp() - interval '10 h'"))


def test_remote_work_that_has_reported_is_judged_by_its_silence_as_ever(services: Services) -> None:
    watch_for(services, 3600)
    run = new_run(services, adapter="remote", config={}, start_within=timedelta(hours=2))
    token = services.tokens.issue(run.id)
    assert claim(services, run.id, "w") is not None
    heartbeat(services, run.id, token)
    assert services.runs.get(run.id).last_proof == "heartbeat"
    age(services, run.id, 3600)
    sweep(services, by_hand=True)
    assert services.runs.get(run.id).error_code == "adapter_liveness_lost"


def test_a_command_whose_worker_died_at_once_is_reaped_after_the_window_whatever_it_was_given_to_start(
    services: Services,
) -> None:
    watch_for(services, 3600)
    run = new_run(services, adapter="process", out_of_process_liveness=False, start_within=timedelta(hours=2))
    assert claim(services, run.id, "w") is not None
    age(services, run.id, 3600)
    sweep(services, by_hand=True)
    assert services.runs.get(run.id).error_code == "process_lost"


# -- again, by itself


def work(attempt: int = 1, **on: Any) -> Work:
    fence = running_fence()
    return Work(fence.run_id, attempt, fence.epoch, "process", {}, {}, max_attempts=3, retries=Retries(on))


def running_fence() -> Fence:
    from uuid import uuid4

    return Fence(uuid4(), 1)


@pytest.mark.parametrize(
    ("outcome", "on", "again"),
    [
        (Outcome.of_exit(75), {"exit_status": [74, 75]}, True),
        (Outcome.of_exit(76), {"exit_status": [74, 75]}, False),
        (Outcome.of_exit(0), {"exit_status": [75]}, False),
        (Outcome.failed("Quota."), {"error_code": ["adapter_error"]}, True),
        (Outcome.failed("Gone.", reason="Evicted"), {"reason": ["Evicted", "NodeLost"]}, True),
        (Outcome.failed("Gone.", reason="Preempted"), {"reason": ["Evicted", "NodeLost"]}, False),
        (Outcome.of_exit(75), {}, False),
    ],
)
def test_an_end_is_followed_by_another_attempt_only_if_the_run_asked_for_that(
    outcome: Outcome, on: dict[str, Any], again: bool
) -> None:
    of = work(**on)
    end = with_retry(End.by_result(of.fence, outcome, 0), of, Timing())
    assert (end.status is Status.QUEUED) is again
    assert (end.kind is EventKind.RETRIED) is again
    assert end.detail == End.by_result(of.fence, outcome, 0).detail


def test_the_last_attempt_is_followed_by_none() -> None:
    of = work(attempt=3, exit_status=[75])
    assert with_retry(End.by_result(of.fence, Outcome.of_exit(75), 0), of, Timing()).status is Status.FAILED


def test_a_retry_waits_for_as_long_as_the_run_or_its_adapter_says_whichever_is_longer() -> None:
    fence = running_fence()
    retries = Retries({"error_code": ["adapter_error"]}, timedelta(seconds=60))
    of = Work(fence.run_id, 1, fence.epoch, "process", {}, {}, max_attempts=3, retries=retries)
    for said, waits in ((0.0, 60), (30.0, 60), (600.0, 600)):
        outcome = Outcome(ErrorCode.ADAPTER_ERROR, "Quota.", retry_after=said)
        assert with_retry(End.by_result(fence, outcome, 0), of, Timing()).retry_after == timedelta(seconds=waits)


def test_a_command_is_repeated_for_the_exit_status_that_it_named_until_it_succeeds(
    services: Services, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("runs,logs")
    script = f"echo $REPRIEVE_ATTEMPT >> {tmp_path}/tries; test $REPRIEVE_ATTEMPT = 3 || exit 75"
    wanted = {"retry_on": {"exit_status": [75]}, "retry_delay": 0.1, "max_attempts": 5}
    run = enqueue_run("process", {"command": ["sh", "-c", script]}, **wanted)
    other = enqueue_run("process", {"command": ["sh", "-c", "exit 76"]}, **wanted)
    eventually(lambda: status_of(services, run.id) == "succeeded", timeout=60)
    assert (tmp_path / "tries").read_text().split() == ["1", "2", "3"]
    eventually(lambda: status_of(services, other.id) == "failed")
    assert services.runs.get(other.id).attempt == 1
    assert kinds(services, run.id).count("retried") == 2


def test_a_reap_is_followed_by_another_attempt_where_the_run_asked_for_it_once_the_old_work_is_gone(
    services: Services,
) -> None:
    watch_for(services, 3600)
    lost = running(services, adapter="remote", max_attempts=2, retry_on={"error_code": ["adapter_liveness_lost"]})
    stays = running(services, adapter="remote", max_attempts=2)
    for one in (lost, stays):
        age(services, one.run_id, 3600)
    sweep(services, by_hand=True)
    assert (status_of(services, lost.run_id), status_of(services, stays.run_id)) == ("queued", "failed")
    assert claim(services, lost.run_id, "w") is None
    services.terminations.settle(lost.run_id, 1)
    age(services, lost.run_id, 1, "not_before")
    again = claim(services, lost.run_id, "w")
    assert again is not None
    assert again.retries.on == {"error_code": ["adapter_liveness_lost"]}


# -- what is refused


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"retry_on": {"exit_status": [75]}}, "give how often it may be started, 2 or more"),
        ({"retry_on": {"exit_status": [0]}, "max_attempts": 2}, "whole numbers from 1 to 255"),
        ({"retry_on": {"status": [1]}, "max_attempts": 2}, "'status' is no cause; known are exit_status, error_code"),
        ({"retry_on": {"error_code": ["not_started"]}, "max_attempts": 2}, "any of adapter_liveness_lost"),
        ({"start_at": datetime(2026, 12, 1)}, "give a datetime with a time zone"),
        ({"start_at": datetime.max.replace(tzinfo=UTC)}, "give a moment of the years 1970 to 8999"),
        ({"start_at": datetime.min.replace(tzinfo=UTC)}, "give a moment of the years 1970 to 8999"),
        ({"start_within": -1}, "start_within is -1; give seconds above 0"),
        ({"priority": 101}, "give a whole number from -100 to 100"),
        ({"lane": "tenant:*"}, "without an asterisk"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(services: Services, wanted: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        enqueue_run("process", TRUE, **wanted)


def test_work_that_starts_elsewhere_is_not_asked_to_be_started_again(services: Services) -> None:
    assert [starts_work(find_kind(name)) for name in ("process", "remote")] == [True, False]
    with pytest.raises(InvalidRequest, match="nobody but its caller starts the work of the adapter 'remote'"):
        enqueue_run("remote", {}, max_attempts=2, retry_on={"error_code": ["adapter_error"]})
