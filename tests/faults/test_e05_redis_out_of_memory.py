"""E05: Redis has no memory left: output goes on to the worker's disk, it is said, and nothing is lost."""

from collections.abc import Iterator

import pytest
from redis import Redis

from adapters.shipper import LogShipper
from tests.support.rows import age, chunk, ingest, running, updated_at
from tests.support.waiting import eventually
from workers import logs
from workers.bootstrap import Services
from workers.context import RunContext


@pytest.fixture
def full(redis: Redis) -> Iterator[Redis]:
    """A Redis that refuses whatever would need memory, until `CONFIG SET maxmemory 0`."""
    redis.config_set("maxmemory", 1)
    yield redis
    redis.config_set("maxmemory", 0)


def test_e05_output_is_spooled_while_redis_is_full_and_stored_when_it_is_not(
    services: Services, full: Redis, start_worker, caplog: pytest.LogCaptureFixture
) -> None:
    work = running(services)
    shipper = LogShipper(services.settings.spool_dir, logs.publish, services.logs.stored)
    context = RunContext(services, shipper, work)
    for number in range(5000):
        context.on_log("stdout", b"line %d\n" % number)
    eventually(lambda: "did not take a batch" in caplog.text)
    assert services.logs.last_seq(work.run_id, 1) == 0
    full.config_set("maxmemory", 0)
    start_worker("logs")
    assert shipper.close(60)
    stored = services.logs.read(work.run_id, 1, limit=10_000)
    assert [one.data for one in stored] == [b"line %d\n" % number for number in range(5000)]


def test_e05_the_refresh_still_reaches_the_database(services: Services, full: Redis) -> None:
    work = running(services)
    age(services, work.run_id, 100)
    before = updated_at(services, work.run_id)
    assert ingest(services, [chunk(work, 1)]) == {"chunks": 1, "new": 1, "refreshed": 1, "refused": 0}
    assert updated_at(services, work.run_id) > before
