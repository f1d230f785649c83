"""Which silent log streams are opened again, and how often: thousands of silent Jobs are no thousands of requests."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from reprieve.adapters.kubernetes.logs import LogTimings, overdue
from reprieve.adapters.kubernetes.timings import Timings

TIMINGS = LogTimings()


@dataclass
class Stream:
    heard_at: float


def opened_again(streams: int, seconds: float) -> int:
    """How many requests so many streams, in which nothing is ever said, make in a time; the first ones apart."""
    all_of_them, requests, now = [Stream(0.0) for _ in range(streams)], 0, 0.0
    while now < seconds:
        now += TIMINGS.look_interval
        for stream in overdue(all_of_them, now, TIMINGS):
            stream.heard_at = now
            requests += 1
    return requests


def test_a_few_silent_streams_are_opened_again_each_minute_and_not_before() -> None:
    stream = Stream(0.0)
    assert overdue([stream], 60.0, TIMINGS) == []
    assert overdue([stream], 60.1, TIMINGS) == [stream]


def test_the_longest_silent_is_opened_again_first() -> None:
    streams = [Stream(float(number)) for number in range(100)]
    assert overdue(streams, 1000.0, TIMINGS) == streams[:5]


@pytest.mark.parametrize("streams", [30, 2_000, 5_000])
def test_however_many_are_silent_they_make_at_most_thirty_requests_a_minute(streams: int) -> None:
    hours = 6
    requests = opened_again(streams, hours * 3600.0)
    assert requests <= 30 * 60 * hours
    # And none is forgotten: each has its turn.
    assert requests >= streams


def test_two_thousand_idle_jobs_make_less_than_sixty_requests_a_minute_in_all() -> None:
    """Streams, both watches, the lists of all, and a sweep's list each minute."""
    timings, pages = Timings(), 2_000 / 500
    watches = 2 * 60 / (0.9 * timings.watch_seconds)
    lists = 2 * pages * 60 / (0.9 * timings.list_interval)
    assert opened_again(2_000, 24 * 3600.0) / (24 * 60) + watches + lists + pages < 60


def test_a_worker_that_follows_many_jobs_may_open_as_many_files() -> None:
    """In a process of its own, since no limit is lowered again."""
    program = """
import asyncio, resource
from reprieve.adapters.kubernetes.logs import LogTimings, Streams
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 8000))
async def main():
    streams = Streams(LogTimings(look_interval=60))
    for _ in range(3000):
        streams.add(object())
asyncio.run(main())
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    said = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout
    soft, hard = (int(word) for word in said.split())
    assert 3000 < soft < 5000
    assert hard == 8000
