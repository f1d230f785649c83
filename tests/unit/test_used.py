"""What an attempt used: when memory is named as the cause, how samples are thinned out, and what limits are taken."""

import math
from itertools import pairwise
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from reprieve.adapters.kinds import find_kind, why_no_memory_limit
from reprieve.adapters.kubernetes.quantities import bytes_of_quantity
from reprieve.models.errors import InvalidRequest
from reprieve.models.killed import Kills, with_used
from reprieve.models.requests import RunRequest
from reprieve.models.results import understood
from reprieve.models.samples import MOST, Sample, Series
from reprieve.models.status import ErrorCode
from reprieve.models.text import bytes_of, in_memory
from reprieve.models.used import Used, used_columns, used_of
from reprieve.models.work import Outcome

MIB = 1024**2
KILLED, ASKED_TO_END = Outcome.of_exit(-SIGKILL), Outcome.of_exit(-SIGTERM)
ONE_HERE = Kills(1, 12, "on its host")


# -- the cause


def test_what_its_own_cgroup_counts_is_known_with_the_peak_and_the_limit() -> None:
    told = with_used(KILLED, Used(1.5, 64 * MIB, 64 * MIB, oom_kills=2))
    assert (told.error_code, told.detail) == (ErrorCode.OOM_KILLED, {"signal": 9})
    assert told.error_message == (
        "It ran out of memory, and the kernel killed it (at the most 64 MiB, limit 64 MiB). "
        "The command was ended by SIGKILL."
    )


def test_a_command_that_failed_because_a_part_of_it_was_killed_is_told_as_that() -> None:
    told = with_used(Outcome.of_exit(1), Used(None, None, 64 * MIB, oom_kills=1))
    assert told.error_code is ErrorCode.OOM_KILLED
    assert told.error_message == (
        "It ran out of memory, and the kernel killed a part of it (limit 64 MiB). The command ended with exit status 1."
    )


def test_a_command_that_succeeded_all_the_same_has_succeeded() -> None:
    told = with_used(Outcome.of_exit(0), Used(oom_kills=1), ONE_HERE)
    assert (told.error_code, told.error_message) == (None, None)


@pytest.mark.parametrize("outcome", [KILLED, Outcome.of_exit(137)])
def test_what_the_kernel_killed_nearby_makes_it_likely_and_no_more(outcome: Outcome) -> None:
    told = with_used(outcome, Used(None, 700 * MIB, None, None), ONE_HERE)
    assert (told.error_code, told.detail) == (ErrorCode.EXIT_STATUS, outcome.detail)
    assert told.error_message == (
        f"{outcome.error_message} The kernel killed a process for want of memory on its host in the last 12 s, so it "
        "is likely that it was for that (at the most 700 MiB)."
    )
    several = with_used(outcome, Used(), Kills(3, 12, "on its host")).error_message or ""
    assert "The kernel killed processes for want of memory" in several


@pytest.mark.parametrize(
    ("outcome", "used", "nearby"),
    [
        (KILLED, Used(oom_kills=0), None),
        (KILLED, Used(), None),
        (KILLED, Used(), Kills(0, 12, "on its host")),
        (ASKED_TO_END, Used(), ONE_HERE),
        (Outcome.of_exit(136), Used(), ONE_HERE),
        (Outcome.failed("Stopped."), Used(oom_kills=1), ONE_HERE),
    ],
)
def test_nothing_else_is_told_as_memory(outcome: Outcome, used: Used, nearby: Kills | None) -> None:
    told = with_used(outcome, used, nearby)
    assert (told, told.used) == (outcome, used)


def test_what_was_seen_while_it_ran_counts_where_it_is_more_or_nothing_else_is_known() -> None:
    assert Used(2.0, 10).and_seen(Used(1.0, 30)) == Used(2.0, 30)
    assert Used(2.0, 30).and_seen(Used(9.0, 10)) == Used(2.0, 30)
    assert Used().and_seen(Used(1.0, 10)) == Used(1.0, 10)
    assert Used(2.0, 10, 99, 0).and_seen(Used()) == Used(2.0, 10, 99, 0)
    assert Used().and_seen(Used()) == Used()
    # A cgroup has counted each page once.
    assert Used(2.0, 10, 99, 0).and_seen(Used(1.0, 500)) == Used(2.0, 10, 99, 0)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (Used(1.5, 10, 20, 1), Used(1.5, 10, 20, 1)),
        (Used(math.nan, -5, 2**63, True), Used()),
        (Used(math.inf, "much"), Used()),  # type: ignore[arg-type]
        ("nothing", None),
        (None, None),
    ],
)
def test_what_an_adapter_says_that_was_used_is_kept_where_it_can_be(said: Any, kept: Used | None) -> None:
    told = understood("theirs", Outcome(detail={"exit_status": 0}, used=said))
    assert (told.error_code, told.used) == (None, kept)


def test_of_an_attempt_of_which_nothing_is_known_there_is_nothing_to_say() -> None:
    assert used_of(used_columns(Used())) is None
    known = {"cpu_seconds": 0.0, "peak_memory_bytes": None, "memory_limit_bytes": None}
    assert used_of(used_columns(Used(0.0))) == known


# -- samples


def series_of(length: int) -> Series:
    series = Series()
    for place in range(length):
        series.add(Sample(float(place), place / 2, 1000 if place == 17 else place % 10))
    return series


@pytest.mark.parametrize(("taken", "kept", "every"), [(0, 0, 1), (MOST - 1, MOST - 1, 1), (MOST, MOST // 2, 2)])
def test_samples_are_thinned_out_once_there_are_as_many_as_are_kept(taken: int, kept: int, every: int) -> None:
    series = series_of(taken)
    assert (len(series), series.every) == (kept, every)


@pytest.mark.parametrize("taken", [239, 240, 241, 479, 480, 5000, 100_000])
def test_however_long_it_runs_few_samples_span_all_of_it_and_no_peak_is_lost(taken: int) -> None:
    series = series_of(taken)
    samples = list(series)
    assert MOST // 2 <= len(samples) < MOST
    assert samples[0].at < series.every
    assert samples[-1].at > taken - 1 - series.every
    assert max(one.memory_bytes for one in samples) == series.peak_memory == 1000
    assert {second.at - first.at for first, second in pairwise(samples)} == {series.every}
    assert samples == sorted(samples)


def test_processor_time_never_falls_although_less_of_it_is_seen() -> None:
    series = Series()
    for seen in (1.0, 5.0, 3.0, 6.0):
        series.add(Sample(seen, seen, 0))
    assert [one.cpu_seconds for one in series] == [1.0, 5.0, 5.0, 6.0]


def test_a_series_goes_on_where_another_worker_has_left_it() -> None:
    before = series_of(1000)
    again = Series.resumed(before.every, list(before), before.peak_memory)
    assert (list(again), again.every, again.peak_memory) == (list(before), before.every, 1000)
    for _ in range(before.every):
        again.add(Sample(2000.0, 600.0, 5))
    assert list(again) == [*before, Sample(2000.0, 600.0, 5)]


# -- limits


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("64Mi", 64 * MIB),
        ("1.5Gi", 3 * 2**29),
        ("128974848", 128974848),
        ("129M", 129_000_000),
        ("123e6", 123_000_000),
        ("2000m", 2),
        (None, None),
        ("", None),
        ("much", None),
        ("-1Gi", None),
        ("9" * 400, None),
        ("9999999Ei", None),
    ],
)
def test_a_limit_is_understood_as_kubernetes_writes_it(written: str | None, size: int | None) -> None:
    assert bytes_of_quantity(written) == size


@pytest.mark.parametrize("limit", [None, 1024**2, 2**31, 2**60])
def test_a_limit_of_memory_is_taken(limit: int | None) -> None:
    assert RunRequest("process", {}, max_memory=limit).terms()["max_memory"] == limit


@pytest.mark.parametrize("limit", [0, -1, 1024**2 - 1, 2**60 + 1, 2.5e9, "2G", True, float("nan")])
def test_what_is_no_limit_of_memory_is_refused_with_what_would_do(limit: object) -> None:
    with pytest.raises(
        InvalidRequest,
        match=r"^max_memory is .*; give bytes as a whole number from 1,048,576 \(1 MiB\) to 1,152,921,504,606,846,976",
    ):
        RunRequest("process", {}, max_memory=limit).terms()  # type: ignore[arg-type]


@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_commands_of_a_host_can_have_a_limit(adapter: str) -> None:
    assert why_no_memory_limit(find_kind(adapter)) is None


@pytest.mark.parametrize(
    ("adapter", "instead"),
    [("remote", "ask without it."), ("kubernetes", "give its config.resources.limits.memory instead.")],
)
def test_an_adapter_that_keeps_no_such_limit_says_what_would_do(adapter: str, instead: str) -> None:
    expected = f"the adapter {adapter!r} does not limit the memory of its runs by it; {instead}"
    assert why_no_memory_limit(find_kind(adapter)) == expected


@pytest.mark.parametrize(
    ("given", "size"),
    [("1048576", 2**20), ("512M", 2**29), ("2G", 2**31), ("1.5 g", 3 * 2**29), ("2GiB", 2**31), ("64kb", 65536)],
)
def test_memory_is_given_in_powers_of_1024(given: str, size: int) -> None:
    assert bytes_of(given) == size


@pytest.mark.parametrize("given", ["", "much", "-1G", "2P", "G", "1e9", "2 G G", "9" * 5000])
def test_what_is_no_amount_of_memory_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match="is no amount of memory; give one like 512M or 2G"):
        bytes_of(given)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (64 * MIB, "64 MiB"),
        (2**31, "2 GiB"),
        (2**42, "4.0 TiB"),
    ],
)
def test_memory_is_told_in_the_units_in_which_limits_are_given(size: int, words: str) -> None:
    assert in_memory(size) == words
