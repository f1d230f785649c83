"""The reaper's decisions, on both sides of every threshold."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from models.liveness import Timing
from models.reaping import Judgement, Suspect, Watch, conviction, dossier, is_due, judge, may_retry, next_watch
from models.status import ErrorCode, EventKind, Status

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TIMING = Timing()
A_MOMENT = timedelta(microseconds=1)
OUT_OF_PROCESS, IN_PROCESS = True, False


def watch(
    *, last_sweep: timedelta = timedelta(0), age: timedelta = timedelta(hours=1), timing: Timing = TIMING
) -> Watch:
    return Watch(since=NOW - age, last_sweep_at=NOW - last_sweep, window=timing.window)


def suspect(*, silent: timedelta = timedelta(0), running: timedelta = timedelta(hours=2), **changes: Any) -> Suspect:
    usual = Suspect(
        run_id=UUID(int=1),
        epoch=7,
        attempt=1,
        max_attempts=1,
        out_of_process_liveness=OUT_OF_PROCESS,
        started_at=NOW - running,
        max_runtime=None,
        updated_at=NOW - silent,
        last_proof="output",
        worker_node="worker@host",
    )
    return replace(usual, **changes)


# -- the watch


def test_the_first_sweep_ever_starts_a_watch() -> None:
    assert next_watch(None, NOW, TIMING) == watch(age=timedelta(0))


@pytest.mark.parametrize("gap", [timedelta(0), TIMING.sweep_interval, TIMING.blind_after])
def test_a_sweep_up_to_three_minutes_after_the_last_goes_on_with_its_watch(gap: timedelta) -> None:
    assert next_watch(watch(last_sweep=gap), NOW, TIMING) == watch()


def test_a_sweep_more_than_three_minutes_after_the_last_starts_a_new_watch() -> None:
    assert next_watch(watch(last_sweep=TIMING.blind_after + A_MOMENT), NOW, TIMING) == watch(age=timedelta(0))


def test_a_sweep_after_one_with_another_time_scale_starts_a_new_watch() -> None:
    assert next_watch(watch(timing=Timing.scaled(30)), NOW, TIMING) == watch(age=timedelta(0))


@pytest.mark.parametrize(
    ("gap", "due"),
    [
        (timedelta(0), False),
        (TIMING.sweep_interval / 10 - A_MOMENT, False),
        (TIMING.sweep_interval / 10, True),
        (TIMING.sweep_interval, True),
    ],
)
def test_a_sweep_is_due_from_a_tenth_of_the_interval_after_the_last(gap: timedelta, due: bool) -> None:
    assert is_due(watch(last_sweep=gap), NOW, TIMING) is due


def test_the_first_sweep_ever_is_due() -> None:
    assert is_due(None, NOW, TIMING)


# -- the judgement


def test_a_run_silent_for_exactly_the_window_is_spared() -> None:
    assert judge(suspect(silent=TIMING.window), watch(), NOW, TIMING) is Judgement.SPARE_ALIVE


@pytest.mark.parametrize(
    ("liveness", "judgement"),
    [
        (OUT_OF_PROCESS, Judgement.REAP_ADAPTER_LIVENESS_LOST),
        (IN_PROCESS, Judgement.REAP_PROCESS_LOST),
    ],
)
def test_a_run_silent_for_just_over_the_window_is_reaped_for_what_it_lost(liveness: bool, judgement: Judgement) -> None:
    silent = suspect(silent=TIMING.window + A_MOMENT, out_of_process_liveness=liveness)
    assert judge(silent, watch(), NOW, TIMING) is judgement


@pytest.mark.parametrize(
    ("age", "judgement"),
    [
        (timedelta(0), Judgement.SPARE_WARMING_UP),
        (TIMING.window - A_MOMENT, Judgement.SPARE_WARMING_UP),
        (TIMING.window, Judgement.REAP_ADAPTER_LIVENESS_LOST),
    ],
)
def test_silence_convicts_nobody_before_the_watch_is_one_window_old(age: timedelta, judgement: Judgement) -> None:
    assert judge(suspect(silent=timedelta(days=1)), watch(age=age), NOW, TIMING) is judgement


def test_a_young_watch_does_not_make_a_live_run_look_silent() -> None:
    assert judge(suspect(), watch(age=timedelta(0)), NOW, TIMING) is Judgement.SPARE_ALIVE


@pytest.mark.parametrize("age", [timedelta(0), timedelta(hours=1)], ids=["young watch", "old watch"])
@pytest.mark.parametrize("silent", [timedelta(0), timedelta(days=1)], ids=["printing", "silent"])
def test_a_run_over_its_max_runtime_is_timed_out_however_alive_it_is(silent: timedelta, age: timedelta) -> None:
    limit = timedelta(minutes=30)
    overdue = suspect(silent=silent, running=limit + A_MOMENT, max_runtime=limit)
    assert judge(overdue, watch(age=age), NOW, TIMING) is Judgement.REAP_TIMED_OUT


def test_a_run_at_exactly_its_max_runtime_is_spared() -> None:
    limit = timedelta(minutes=30)
    assert judge(suspect(running=limit, max_runtime=limit), watch(), NOW, TIMING) is Judgement.SPARE_ALIVE


@pytest.mark.parametrize(
    ("silent", "judgement"),
    [
        (timedelta(seconds=10), Judgement.SPARE_ALIVE),
        (timedelta(seconds=10) + A_MOMENT, Judgement.REAP_ADAPTER_LIVENESS_LOST),
    ],
)
def test_the_window_of_a_faster_system_is_as_much_shorter(silent: timedelta, judgement: Judgement) -> None:
    timing = Timing.scaled(30)
    assert judge(suspect(silent=silent), watch(timing=timing), NOW, timing) is judgement


@pytest.mark.parametrize("judgement", list(Judgement))
def test_a_judgement_has_an_error_code_exactly_when_it_reaps(judgement: Judgement) -> None:
    assert (judgement.error_code is not None) == judgement.value.startswith("reap_")


def test_each_reap_has_the_error_code_of_its_name() -> None:
    codes = {judgement.value: judgement.error_code.value for judgement in Judgement if judgement.error_code}
    assert codes == {name: name.removeprefix("reap_") for name in codes}


# -- the retry


@pytest.mark.parametrize("code", list(ErrorCode))
def test_only_a_lost_process_with_attempts_left_is_retried(code: ErrorCode) -> None:
    assert may_retry(code, suspect(attempt=1, max_attempts=2)) is (code is ErrorCode.PROCESS_LOST)


@pytest.mark.parametrize(("attempt", "allowed"), [(2, True), (3, False), (4, False)])
def test_a_retry_needs_an_attempt_that_is_left(attempt: int, allowed: bool) -> None:
    assert may_retry(ErrorCode.PROCESS_LOST, suspect(attempt=attempt, max_attempts=3)) is allowed


# -- the conviction


@pytest.mark.parametrize("code", [ErrorCode.ADAPTER_LIVENESS_LOST, ErrorCode.PROCESS_LOST])
def test_a_conviction_for_silence_holds_only_while_the_run_is_still_silent(code: ErrorCode) -> None:
    end = conviction(suspect(), code, {}, NOW, TIMING)
    assert end.silent_before == NOW - TIMING.window


def test_a_conviction_for_the_time_limit_does_not_ask_for_silence() -> None:
    end = conviction(suspect(max_runtime=timedelta(seconds=90)), ErrorCode.TIMED_OUT, {}, NOW, TIMING)
    assert end.silent_before is None
    assert end.error_message == "Ran for longer than its max_runtime of 90 s."


@pytest.mark.parametrize("code", [ErrorCode.ADAPTER_LIVENESS_LOST, ErrorCode.PROCESS_LOST, ErrorCode.TIMED_OUT])
def test_a_reaped_run_fails_under_its_token_and_its_work_is_owed_an_end(code: ErrorCode) -> None:
    end = conviction(suspect(), code, {"judgement": "x"}, NOW, TIMING)
    assert (end.token, end.from_status, end.status) == (suspect().token, Status.RUNNING, Status.FAILED)
    assert (end.kind, end.error_code, end.work_ended) == (EventKind.REAPED, code, False)
    assert end.detail == {"judgement": "x", "error_code": code.value, "retry": False}


def test_a_lost_process_with_an_attempt_left_is_queued_without_an_error_and_still_owes_its_old_work() -> None:
    end = conviction(suspect(attempt=1, max_attempts=2), ErrorCode.PROCESS_LOST, {}, NOW, TIMING)
    assert (end.status, end.error_code, end.error_message) == (Status.QUEUED, None, None)
    assert (end.outcome, end.work_ended) == ({"error_code": "process_lost"}, False)
    assert end.detail["retry"] is True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the last was output, followed by worker@host"),
        ({"last_proof": None, "worker_node": None}, "the last was none, followed by nobody"),
    ],
)
def test_the_message_of_a_reaped_run_says_how_long_it_was_silent_and_for_whom(
    changes: dict[str, Any], words: str
) -> None:
    silent = suspect(silent=timedelta(seconds=307.4), **changes)
    message = conviction(silent, ErrorCode.ADAPTER_LIVENESS_LOST, {}, NOW, TIMING).error_message
    assert message == f"No proof of life for 307 s (window 300 s); {words}."


# -- the dossier


def test_a_dossier_holds_the_evidence_in_a_form_that_can_be_stored() -> None:
    silent = suspect(silent=timedelta(seconds=301.5), running=timedelta(hours=2), attempt=3)
    told = dossier(silent, Judgement.REAP_PROCESS_LOST, watch(age=timedelta(hours=1)), NOW, TIMING)
    expected = {
        "judgement": "reap_process_lost",
        "judged_at": "2026-01-01T12:00:00+00:00",
        "last_proof": "output",
        "last_proof_at": "2026-01-01T11:54:58.500000+00:00",
        "silent_seconds": 301.5,
        "cutoff": "2026-01-01T11:55:00+00:00",
        "window_seconds": 300.0,
        "running_seconds": 7200.0,
        "watching_since": "2026-01-01T11:00:00+00:00",
        "worker_node": "worker@host",
        "attempt": 3,
    }
    assert {name: told[name] for name in expected} == expected
    assert json.loads(json.dumps(told)) == told
