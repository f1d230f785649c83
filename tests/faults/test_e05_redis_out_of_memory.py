"""E05: Redis has no memory left: output goes on to the worker's disk, it is said, and nothing is lost."""

import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from reprieve.adapters.shipper import LogShipper
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from tests.support.processes import Process
from tests.support.rows import age, chunk, ingest, running, updated_at
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("E05")


@pytest.fixture
def full(redis: Redis) -> Iterator[Redis]:
    """A Redis that refuses whatever would need memory, until `CONFIG SET maxmemory 0`."""
    redis.config_set("maxmemory", 1)
    yield redis
    redis.config_set("maxmemory", 0)


def test_output_is_spooled_while_redis_is_full_and_stored_when_it_is_not(
    services: Services, full: Redis, start_worker: Callable[..., Process], caplog: pytest.LogCaptureFixture
) -> None:
    work = running(services)
    shipper = LogShipper(services.settings.spool_dir, ingesting.publish, services.logs.stored)
    context = RunContext(services, shipper, work)
    context.on_log("stdout", b"line 0\n")
    eventually(lambda: "did not take a batch" in caplog.text)
    longest = 0.0
    for number in range(1, 5000):
        before = time.monotonic()
        context.on_log("stdout", b"line %d\n" % number)
        longest = max(longest, time.monotonic() - before)
    # One that waited for the broker would wait for its next try, or for good.
    assert longest < 1
    assert services.logs.last_seq(work.run_id, 1) == 0
    full.config_set("maxmemory", 0)
    start_worker("logs")
    assert shipper.close(60)
    assert [one.data for one in services.logs.hot(work.run_id, 1)] == [b"line %d\n" % number for number in range(5000)]


def test_the_refresh_still_reaches_the_database(services: Services, full: Redis) -> None:
    work = running(services)
    age(services, work.run_id, 100)
    before = updated_at(services, work.run_id)
    assert ingest(services, [chunk(work, 1)]) == {"chunks": 1, "new": 1, "refreshed": 1, "refused": 0}
    assert updated_at(services, work.run_id) > before
