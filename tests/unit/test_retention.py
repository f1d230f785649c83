"""For how long ended runs stay, and what is said of it."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from reprieve.models.errors import SettingsError
from reprieve.models.retention import (
    BEHIND_TOLD_AFTER,
    FAILING_TOLD_AFTER,
    Ended,
    RetentionState,
    RunRetention,
    due,
)
from reprieve.workers.settings import load_settings

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
JUST = timedelta(milliseconds=1)


def ended(lane: str, ago: timedelta | None) -> Ended:
    return Ended(uuid.uuid4(), lane, None if ago is None else NOW - ago)


def state(**changes: object) -> RetentionState:
    values: dict[str, object] = {
        "policy": "30",
        "done_until": NOW,
        "kept_since": None,
        "pass_began_at": None,
        "removed": 0,
        "last_removed": 0,
        "last_kept": 0,
        "failing_since": None,
        "failure": None,
    }
    return RetentionState(**values | changes)  # type: ignore[arg-type]


# -- what is written


@pytest.mark.parametrize(
    ("written", "days"),
    [
        ("30", {"default": 30, "claude": 30}),
        ("30,claude=7", {"default": 30, "claude": 7, "claude-2": 30}),
        (" 30 , tenant:*=90 ", {"tenant:": 90, "tenant:a": 90, "my tenant:a": 30}),
        ("claude=7", {"default": None, "claude": 7}),
        ("30,audit=never", {"default": 30, "audit": None}),
        ("never,claude=0.5", {"default": None, "claude": 0.5}),
        ("*=3,a*=1,ab*=2,abc=9", {"ax": 1, "abx": 2, "abc": 9, "b": 3}),
        ("a=b=7", {"a=b": 7, "a": None}),
        ("[ab]=7,a.c=8", {"[ab]": 7, "a": None, "abc": None}),
    ],
)
def test_a_run_stays_for_the_days_of_its_lanes_own_name_or_else_of_the_longest_pattern_that_fits(
    written: str, days: dict[str, float | None]
) -> None:
    retention = RunRetention.parse(written)
    for lane, expected in days.items():
        assert retention.of(lane) == (None if expected is None else timedelta(days=expected)), lane
    assert RunRetention.parse(str(retention)) == retention


@pytest.mark.parametrize(
    "written",
    ["x", "0", "-1", "nan", "inf", "36501", "30,40", "30,", "=7", "claude=", "a=1,a=2", "a\0=1", "a" * 129 + "=1"],
)
def test_what_is_no_retention_is_refused_by_a_sentence_that_says_what_would_do(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="30,claude=7"):
        RunRetention.parse(written)
    with pytest.raises(SettingsError, match=r"REPRIEVE_RUN_RETENTION_DAYS: has .*30,claude=7"):
        load_settings(run_retention_days=written)


def test_the_shortest_retention_is_that_of_all_lanes_and_patterns() -> None:
    assert RunRetention.parse("30,claude=7,audit=never").shortest == timedelta(days=7)
    assert RunRetention.parse("never").shortest is None


# -- what is due


def test_a_run_is_due_when_it_ended_as_long_ago_as_its_lane_says_and_not_before() -> None:
    retention = RunRetention.parse("30,claude=7,audit=never")
    gone = [ended("default", timedelta(days=30)), ended("claude", timedelta(days=7))]
    stay = [
        ended("default", timedelta(days=30) - JUST),
        ended("claude", timedelta(days=7) - JUST),
        ended("audit", timedelta(days=3000)),
        ended("claude", None),
    ]
    assert due([*gone, *stay], retention, NOW) == dict.fromkeys([run.id for run in gone], NOW)


# -- what is said


def test_nothing_is_wrong_with_a_retention_that_has_looked_at_all_runs_lately_or_is_off() -> None:
    assert state().complaints(NOW) == []
    late = {"done_until": NOW - timedelta(days=99), "kept_since": NOW - timedelta(days=99)}
    assert state(policy=None, **late).complaints(NOW) == []
    assert "not set" in state(policy=None).summary(NOW)


def test_a_retention_that_fails_or_is_behind_is_told_of_after_a_while() -> None:
    failing = state(failing_since=NOW - FAILING_TOLD_AFTER, failure="DiskFull: no room")
    assert failing.complaints(NOW) == []
    assert "DiskFull: no room" in failing.complaints(NOW + JUST)[0]
    behind = state(done_until=NOW - BEHIND_TOLD_AFTER, last_kept=3)
    assert behind.complaints(NOW) == []
    assert "worker of the queue archive" in behind.complaints(NOW + JUST)[0]
    kept = state(kept_since=NOW - BEHIND_TOLD_AFTER, last_kept=3)
    assert kept.complaints(NOW) == []
    assert "3 ended runs" in kept.complaints(NOW + JUST)[0]


def test_it_is_behind_by_the_oldest_that_is_due_whether_looked_at_or_owed_something() -> None:
    assert state().behind(NOW) == timedelta()
    assert state(kept_since=NOW - timedelta(days=3)).behind(NOW) == timedelta(days=3)
    assert state(done_until=NOW - timedelta(days=4), kept_since=NOW).behind(NOW) == timedelta(days=4)
