"""What a sweep makes of a run that gives no output, on both sides of every threshold."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from reprieve.models.errors import InvalidRequest
from reprieve.models.quiet import Hush, Listened, brake_stalled, checked_snooze, end_of_stalled, listen_to
from reprieve.models.reaping import BRAKE_LEAST
from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.text import seconds_of
from tests.unit.test_reaping import A_MOMENT, NOW, TIMING, watch

HOUR = timedelta(hours=1)
CLEAR = watch(lag=timedelta(0))


def listened(**changes: Any) -> Listened:
    """Silent since its start three hours ago, its row refreshed just now, nothing asked for."""
    usual = Listened(
        run_id=UUID(int=1),
        epoch=7,
        attempt=1,
        max_attempts=1,
        adapter="process",
        started_at=NOW - 3 * HOUR,
        updated_at=NOW,
        output_at=None,
        stored_at=None,
        quiet_at=None,
        quiet_after=None,
        max_silence=None,
    )
    return replace(usual, **changes)


@pytest.mark.parametrize(
    ("silence", "found"),
    [(HOUR, Hush.NOTHING), (HOUR + A_MOMENT, Hush.QUIET), (2 * HOUR, Hush.QUIET), (2 * HOUR + A_MOMENT, Hush.STALLED)],
)
def test_it_is_quiet_after_one_limit_and_has_stalled_after_the_other(silence: timedelta, found: Hush) -> None:
    one = listened(output_at=NOW - silence, quiet_after=HOUR, max_silence=2 * HOUR)
    assert listen_to(one, CLEAR, NOW, TIMING) is found


def test_without_any_output_silence_counts_from_the_start_of_the_attempt() -> None:
    assert listen_to(listened(quiet_after=3 * HOUR), CLEAR, NOW, TIMING) is Hush.NOTHING
    assert listen_to(listened(quiet_after=3 * HOUR - A_MOMENT), CLEAR, NOW, TIMING) is Hush.QUIET


def test_a_silence_is_told_once_and_the_next_one_anew() -> None:
    one = listened(output_at=NOW - 2 * HOUR, quiet_after=HOUR)
    assert listen_to(replace(one, quiet_at=NOW - HOUR), CLEAR, NOW, TIMING) is Hush.NOTHING
    assert listen_to(replace(one, quiet_at=NOW - 2 * HOUR - A_MOMENT), CLEAR, NOW, TIMING) is Hush.QUIET


def test_nothing_is_made_of_a_run_that_asked_for_nothing() -> None:
    assert listen_to(listened(), CLEAR, NOW, TIMING) is Hush.NOTHING


def test_what_the_store_has_counts_where_the_row_does_not_know_of_it() -> None:
    one = listened(output_at=NOW - 2 * HOUR, max_silence=HOUR)
    assert listen_to(replace(one, stored_at=NOW - HOUR), CLEAR, NOW, TIMING) is Hush.HEARD
    assert listen_to(replace(one, stored_at=NOW - HOUR - A_MOMENT), CLEAR, NOW, TIMING) is Hush.STALLED
    assert listen_to(replace(one, stored_at=NOW - 3 * HOUR), CLEAR, NOW, TIMING) is Hush.STALLED


@pytest.mark.parametrize("until", ["row", "canary"])
def test_it_counts_only_up_to_what_the_row_and_the_canary_tell(until: str) -> None:
    one = listened(output_at=NOW - HOUR - timedelta(seconds=50), max_silence=HOUR)
    for seconds, found in ((50, Hush.NOTHING), (49, Hush.STALLED)):
        ago = timedelta(seconds=seconds)
        if until == "row":
            assert listen_to(replace(one, updated_at=NOW - ago), CLEAR, NOW, TIMING) is found
        else:
            assert listen_to(one, watch(lag=ago), NOW, TIMING) is found


@pytest.mark.parametrize(
    "hearing",
    [
        watch(age=TIMING.window - A_MOMENT),
        watch(heard_for=TIMING.window - A_MOMENT),
        watch(heard_for=None),
        watch(heard_for=None, lag=None),
    ],
    ids=["blind until lately", "deaf until lately", "lagging", "never heard"],
)
def test_our_own_lag_stalls_nobody_and_makes_nobody_quiet(hearing: Any) -> None:
    one = listened(quiet_after=HOUR, max_silence=2 * HOUR)
    assert listen_to(one, hearing, NOW, TIMING) is Hush.NOTHING
    assert listen_to(one, watch(age=TIMING.window, heard_for=TIMING.window), NOW, TIMING) is Hush.STALLED


def test_whoever_attaches_begins_to_count_anew() -> None:
    one = listened(max_silence=HOUR, attached_at=NOW - HOUR)
    assert listen_to(one, CLEAR, NOW, TIMING) is Hush.NOTHING
    assert listen_to(replace(one, attached_at=NOW - HOUR - A_MOMENT), CLEAR, NOW, TIMING) is Hush.STALLED


def test_what_an_earlier_attempt_gave_does_not_make_this_one_quiet() -> None:
    one = listened(started_at=NOW - HOUR, output_at=NOW - 3 * HOUR, max_silence=HOUR)
    assert listen_to(one, CLEAR, NOW, TIMING) is Hush.NOTHING
    assert listen_to(replace(one, started_at=NOW - HOUR - A_MOMENT), CLEAR, NOW, TIMING) is Hush.STALLED


def test_output_in_the_spool_of_a_living_worker_is_on_its_way() -> None:
    assert listen_to(listened(max_silence=HOUR, is_on_its_way=True), CLEAR, NOW, TIMING) is Hush.NOTHING


def test_work_that_reports_over_http_has_stalled_only_while_an_api_takes_reports() -> None:
    one = listened(max_silence=HOUR, reports=True)
    heard = replace(CLEAR, reports_at=NOW, reports_since=NOW - TIMING.window)
    assert listen_to(one, heard, NOW, TIMING) is Hush.STALLED
    assert listen_to(one, replace(heard, reports_since=NOW - HOUR / 60), NOW, TIMING) is Hush.NOTHING


def test_of_many_that_stall_at_once_the_longest_quiet_are_ended_first() -> None:
    many = [
        listened(run_id=UUID(int=number), output_at=NOW - HOUR - number * A_MOMENT) for number in range(BRAKE_LEAST + 5)
    ]
    assert brake_stalled(many[:BRAKE_LEAST], fleet=20) == sorted(many[:BRAKE_LEAST], key=lambda one: one.quiet_since)
    first = brake_stalled(many, fleet=20)
    assert [one.run_id.int for one in first] == list(range(BRAKE_LEAST + 4, 4, -1))


def test_a_stalled_attempt_fails_with_the_moment_of_its_last_output() -> None:
    end = end_of_stalled(listened(output_at=NOW - 2 * HOUR, max_silence=HOUR, max_attempts=3), NOW, TIMING)
    assert (end.status, end.kind, end.error_code) == (Status.FAILED, EventKind.FAILED, ErrorCode.STALLED)
    assert (end.quiet_before, end.silent_before, end.work_ended) == (NOW - HOUR, None, False)
    assert end.error_message == (
        "Gave no output for longer than its max_silence of 3600 s; the last was at 2026-01-01 10:00:00 UTC."
    )
    assert (end.detail["quiet_seconds"], end.detail["max_silence_seconds"]) == (7200, 3600)
    none_yet = end_of_stalled(listened(max_silence=HOUR), NOW, TIMING)
    assert "it had given none at all" in (none_yet.error_message or "")


@pytest.mark.parametrize(
    ("length", "seconds"), [("90", 90), ("30s", 30), ("45m", 2700), ("1h", 3600), ("1.5 h", 5400), ("2d", 172_800)]
)
def test_a_length_of_time_is_read_as_people_write_it(length: str, seconds: float) -> None:
    assert seconds_of(length) == seconds


@pytest.mark.parametrize("length", ["", "h", "1w", "-1h", "1e9", "1h30m", "\u0661h", "9" * 10, "1 \n h"])
def test_what_is_no_length_of_time_is_refused(length: str) -> None:
    with pytest.raises(InvalidRequest, match="is no length of time; give one like 90, 30s"):
        seconds_of(length)


@pytest.mark.parametrize("seconds", [-1, 30 * 86_400 + 1, float("nan"), float("inf"), 1e300])
def test_a_snooze_that_is_too_long_or_none_is_refused(seconds: float) -> None:
    assert checked_snooze(0) == timedelta(0)
    assert checked_snooze(30 * 86_400) == timedelta(days=30)
    with pytest.raises(InvalidRequest, match="give seconds from 0"):
        checked_snooze(seconds)
