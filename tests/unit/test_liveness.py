"""The timings: what they must be to each other, and which time scales keep them so."""

from datetime import timedelta

import pytest

from reprieve.models.errors import TimingRefused
from reprieve.models.liveness import (
    SHIPPING_ALLOWANCE,
    SHORTEST_ASK_LIMIT,
    SHORTEST_BLIND_AFTER,
    SHORTEST_SWEEP_LEASE,
    SHORTEST_VOUCH_AFTER,
    SHORTEST_WORKER_GONE_AFTER,
    Timing,
)

#: Divisors of 60 up to 30: the refresh interval stays a whole number of seconds, the window keeps its margin.
ACCEPTED_SCALES = {1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30}


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def test_the_timings_are_those_that_the_promises_were_made_with() -> None:
    assert Timing() == Timing(
        window=seconds(300),
        refresh_interval=seconds(60),
        sweep_interval=seconds(60),
        keepalive_interval=seconds(20),
        blind_after=seconds(90),
        sweep_overdue=seconds(180),
        tolerated_lag=seconds(120),
        resend_after=seconds(60),
    )


def test_a_window_of_exactly_five_refresh_intervals_is_accepted() -> None:
    assert Timing(window=seconds(300), refresh_interval=seconds(60)).refresh_seconds == 60


def test_a_window_of_just_under_five_refresh_intervals_is_refused_with_both_values() -> None:
    with pytest.raises(TimingRefused, match=r"window \(299\.999 s\) .* 5 times the refresh interval \(60 s\)"):
        Timing(window=seconds(299.999), refresh_interval=seconds(60))


def test_a_refresh_interval_of_one_second_is_the_shortest_that_is_accepted() -> None:
    assert Timing(refresh_interval=seconds(1)).refresh_seconds == 1


@pytest.mark.parametrize("refresh", [0.5, 0.999, 1.5, 59.999, 0, -1])
def test_a_refresh_interval_that_redis_cannot_count_is_refused_with_its_value(refresh: float) -> None:
    with pytest.raises(TimingRefused, match=rf"refresh interval \({refresh:g} s\) .* whole number of seconds"):
        Timing(refresh_interval=seconds(refresh))


def test_a_window_as_long_as_the_oldest_live_row_is_accepted() -> None:
    lag = seconds(300) - seconds(60) - SHIPPING_ALLOWANCE
    assert Timing(tolerated_lag=lag).oldest_live_row == seconds(300)


def test_a_window_shorter_than_the_oldest_live_row_is_refused_with_both_values() -> None:
    lag = seconds(300.5) - seconds(60) - SHIPPING_ALLOWANCE
    with pytest.raises(TimingRefused, match=r"window \(300 s\) .* \(300\.5 s: refresh interval 60 s, .* lag 237\.5 s"):
        Timing(tolerated_lag=lag)


@pytest.mark.parametrize("scale", sorted(ACCEPTED_SCALES))
def test_a_time_scale_divides_every_timing_but_for_what_a_machine_needs(scale: int) -> None:
    scaled, real = Timing.scaled(scale), Timing()
    divided = {name: getattr(real, name) / scale for name in real.__slots__}
    divided["blind_after"] = max(divided["blind_after"], SHORTEST_BLIND_AFTER)
    divided["vouch_after"] = max(divided["vouch_after"], SHORTEST_VOUCH_AFTER)
    divided["sweep_lease"] = max(divided["sweep_lease"], SHORTEST_SWEEP_LEASE)
    divided["ask_limit"] = max(divided["ask_limit"], SHORTEST_ASK_LIMIT)
    divided["worker_gone_after"] = max(divided["worker_gone_after"], SHORTEST_WORKER_GONE_AFTER)
    assert {name: getattr(scaled, name) for name in real.__slots__} == divided


@pytest.mark.parametrize("scale", sorted(set(range(1, 61)) - ACCEPTED_SCALES))
def test_every_other_time_scale_up_to_60_is_refused_and_told_what_would_do(scale: int) -> None:
    with pytest.raises(TimingRefused, match=rf"Time scale {scale}: .* Use a divisor of 60 up to 30\."):
        Timing.scaled(scale)


@pytest.mark.parametrize("scale", [0, -1, -60])
def test_a_time_scale_that_slows_down_is_refused_with_its_value(scale: int) -> None:
    with pytest.raises(TimingRefused, match=rf"time scale of {scale} .* use 1 or more"):
        Timing.scaled(scale)
