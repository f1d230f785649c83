"""The shadow reaper's arguments and sentences."""

from datetime import timedelta

import pytest

from reprieve.models.errors import InvalidRequest
from reprieve.models.liveness import Timing
from reprieve.models.whatif import Shadow, checked_days, total, windows_of

TIMING = Timing()
THREE_MINUTES, TEN_MINUTES = timedelta(minutes=3), timedelta(minutes=10)


def test_each_window_is_asked_about_once_and_in_order() -> None:
    assert windows_of([600, 180, 600], TIMING) == [THREE_MINUTES, TEN_MINUTES]
    assert [one.total_seconds() for one in windows_of([], TIMING)] == [120, 180, 240, 300, 600]


@pytest.mark.parametrize("seconds", [-1, 0, 80, 86_401, float("nan"), float("inf")])
def test_a_window_that_any_live_run_exceeds_or_that_is_none_is_refused(seconds: float) -> None:
    assert windows_of([80.1, 86_400], TIMING)
    with pytest.raises(InvalidRequest, match="give seconds above 80, which the row of any live run may be old"):
        windows_of([seconds], TIMING)


def test_too_many_windows_or_days_are_refused() -> None:
    windows_of([100.0 + one for one in range(20)], TIMING)
    with pytest.raises(InvalidRequest, match="give at most 20"):
        windows_of([100.0 + one for one in range(21)], TIMING)
    assert [checked_days(days) for days in (1, 90)] == [1, 90]
    for days in (0, 91):
        with pytest.raises(InvalidRequest, match="from 1 to 90"):
            checked_days(days)


def test_days_are_added_up_and_a_window_that_reaps_nobody_says_so() -> None:
    days = [Shadow(THREE_MINUTES, 9, 8, 1), Shadow(THREE_MINUTES, 5, 3, 2, 1, 1)]
    three, ten = total(days, [THREE_MINUTES, TEN_MINUTES])
    assert three == Shadow(THREE_MINUTES, 14, 11, 3, 1, 1)
    assert three.sentence == (
        "at 180 s, 14 attempts would have been reaped; 11 of them succeeded later, 3 were reaped in fact; "
        "1 reaped attempt would have been waited for longer, of which 1 gave signs of life later."
    )
    assert ten.sentence == "at 600 s, 0 attempts would have been reaped."
