"""Whether the reaper is well, on both sides of each threshold."""

from dataclasses import replace
from datetime import timedelta

import pytest

from reprieve.models.health import Pulse, ailments
from reprieve.models.liveness import Timing

TIMING = Timing()
A_MOMENT = timedelta(microseconds=1)
HEARD = TIMING.tolerated_lag + TIMING.sweep_interval
WELL = Pulse(age=timedelta(0), lag=timedelta(0), last_report=None, deaf_for=timedelta(0))


@pytest.mark.row("F01")
@pytest.mark.parametrize(
    ("name", "limit", "begins"),
    [
        ("age", TIMING.sweep_overdue, "The last completed sweep is 180 s old"),
        ("lag", HEARD, "Canaries do not come back"),
        ("deaf_for", HEARD, "No HTTP API has taken reports"),
    ],
)
def test_a_sign_of_life_is_missed_when_it_is_older_than_its_limit(name: str, limit: timedelta, begins: str) -> None:
    assert ailments(replace(WELL, **{name: limit}), TIMING) == []
    [reason] = ailments(replace(WELL, **{name: limit + A_MOMENT}), TIMING)
    assert reason.startswith(begins)


def test_a_sign_that_never_came_is_missed_and_a_database_that_takes_no_writes_is_named_first() -> None:
    assert [one.split(":")[0] for one in ailments(None, TIMING)] == ["No sweep was ever completed"]
    [unheard] = ailments(replace(WELL, lag=None), TIMING)
    assert "none ever did" in unheard
    assert ailments(replace(WELL, deaf_for=None), TIMING) == []
    assert ailments(replace(WELL, read_only=True, age=None), TIMING)[0].startswith("The database is read-only")


def test_a_sweep_that_is_overdue_names_who_is_at_it() -> None:
    late = replace(WELL, age=timedelta(hours=1), holder="host:1", held_for=timedelta(seconds=40))
    assert ailments(late, TIMING)[0].endswith("A sweep of host:1 is under way since 40 s.")
