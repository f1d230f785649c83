"""E06: nothing is left in Redis for a message of output: no result, no meta data; a bounded stream for who watches."""

import pytest
from redis import Redis

from reprieve import cancel_run
from reprieve.models.chunks import blocks_of
from reprieve.models.work import Work
from reprieve.stores.hints import LIVE_EVENTS_KEPT, STOPS, live_key, watch_key
from reprieve.stores.throttle import proof_key
from reprieve.workers.bootstrap import Services
from reprieve.workers.ingest import publish
from tests.support.rows import chunk, ingest, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("E06")

#: What comes and goes by itself: messages on their way, and the throttle, a key per run with an end.
PASSING = (b"logs", b"unacked", b"proof:")


def _send(services: Services, works: list[Work], first: int, last: int) -> None:
    """One message per sequence number, each with a chunk of every run; returns when all are stored."""
    for seq in range(first, last + 1):
        publish(blocks_of([chunk(work, seq) for work in works]))
    for work in works:
        eventually(lambda work=work: len(services.logs.read(work.run_id, 1)) == last, what=f"{last} chunks")


def _lasting_keys(redis: Redis) -> set[bytes]:
    return {key for key in redis.keys("*") if not key.startswith(PASSING)}


def test_the_number_of_keys_stays_flat_over_hundreds_of_log_messages(
    services: Services, redis: Redis, start_worker
) -> None:
    worker = start_worker("logs", level="DEBUG")
    works = [running(services) for _ in range(3)]
    _send(services, works, 1, 20)
    before = _lasting_keys(redis)
    _send(services, works, 21, 420)
    eventually(lambda: worker.output.count("succeeded in") == 420, what="all messages to be worked off")
    assert _lasting_keys(redis) == before
    assert [key for key in before if key.startswith(b"live:")] == []
    assert [key for key in redis.keys("*") if b"celery-task-meta" in key] == []
    eventually(lambda: not redis.exists("logs", "unacked", "unacked_index"), what="no message to be left")


def test_every_key_of_a_run_has_an_end(services: Services, redis: Redis) -> None:
    work = running(services)
    services.live.position(work.run_id)
    ingest(services, [chunk(work, 1)])
    assert redis.exists(proof_key(work.run_id), watch_key(work.run_id), live_key(work.run_id)) == 3
    ends = [redis.ttl(key) for key in (proof_key(work.run_id), watch_key(work.run_id))]
    cancel_run(work.run_id)
    keys = redis.keys(f"*{work.run_id}*")
    assert keys == [live_key(work.run_id).encode()]
    assert all(0 < end <= 60 for end in ends)
    assert all(0 < redis.ttl(key) <= 3600 for key in [*keys, STOPS])


def test_the_stream_of_a_run_is_bounded(services: Services, redis: Redis) -> None:
    work = running(services)
    services.live.position(work.run_id)
    for first in range(1, 5 * LIVE_EVENTS_KEPT, 500):
        blocks = [block for seq in range(first, first + 500) for block in blocks_of([chunk(work, seq)])]
        services.live.publish(blocks)
    # Redis trims whole nodes of its stream, of 100 entries each.
    assert LIVE_EVENTS_KEPT <= redis.xlen(live_key(work.run_id)) <= LIVE_EVENTS_KEPT + 100
