"""Owed work that fails: what is kept of the error, and what a person is told."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from reprieve.models.owed import MAX_REASON, TOLD_AFTER, Backlog, Duty, Failing, reason_of

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("  No space left.\nErrno 28.  "), "OSError: No space left"),
        (OSError("No more than MAX."), "OSError: No more than MAX"),
        (ValueError(), "ValueError"),
        (ValueError(" \n "), "ValueError"),
        (KeyError("x" * 600), f"KeyError: '{'x' * 600}"[:MAX_REASON]),
    ],
)
def test_a_reason_is_the_kind_of_the_error_and_its_first_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


@pytest.mark.parametrize(
    ("tries", "due_in", "words"),
    [
        (1, timedelta(seconds=30), "tried once since 2026-01-01 11:55:00 UTC: no. It is tried again in 30 s."),
        (2, timedelta(seconds=30), "tried 2 times since 2026-01-01 11:55:00 UTC: no. It is tried again in 30 s."),
        (2, timedelta(0), "tried 2 times since 2026-01-01 11:55:00 UTC: no. It is tried again now."),
    ],
)
@pytest.mark.parametrize(
    ("duty", "what"),
    [
        (Duty.CLOSING, "The log of attempt 3 could not be closed, "),
        (Duty.ADOPTION, "No worker could take over the work of attempt 3, "),
    ],
)
def test_what_fails_is_told_with_how_often_since_when_and_what_follows(
    duty: Duty, what: str, tries: int, due_in: timedelta, words: str
) -> None:
    since = NOW - timedelta(minutes=5)
    assert Failing(duty, UUID(int=1), 3, tries, "no", since, NOW + due_in).sentence(NOW) == what + words


@pytest.mark.parametrize(("oldest", "told"), [(TOLD_AFTER, False), (TOLD_AFTER + timedelta(microseconds=1), True)])
def test_health_tells_of_what_has_failed_for_longer_than_five_minutes(oldest: timedelta, told: bool) -> None:
    backlog = Backlog(Duty.REMOVAL, 2, oldest, "no")
    assert backlog.is_told is told
    assert backlog.sentence == (
        "There are 2 expired logs that could not be removed, for up to 5 min 0 s. The last time: no."
    )


@pytest.mark.parametrize("duty", list(Duty))
def test_each_duty_waits_for_longer_and_longer_up_to_a_limit_and_has_words(duty: Duty) -> None:
    assert timedelta(0) < duty.first_pause < duty.longest_pause
    assert duty.failure
