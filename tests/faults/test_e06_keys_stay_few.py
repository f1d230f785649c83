"""E06: nothing is left in Redis for a message of output: no result, no meta data, one bounded stream per run."""

from redis import Redis

from models.work import Work
from stores.hints import LIVE_EVENTS_KEPT, live_key
from tests.support.rows import chunk, running
from tests.support.waiting import eventually
from workers import cancel_run
from workers.bootstrap import Services
from workers.logs import ingest, publish

#: What comes and goes by itself: messages on their way, and the throttle, a key per run with an end.
PASSING = (b"logs", b"unacked", b"proof:")


def _send(services: Services, works: list[Work], first: int, last: int) -> None:
    """One message per sequence number, each with a chunk of every run; returns when all are stored."""
    for seq in range(first, last + 1):
        publish([chunk(work, seq) for work in works])
    for work in works:
        eventually(lambda work=work: len(services.logs.read(work.run_id, 1)) == last, what=f"{last} chunks")


def _lasting_keys(redis: Redis) -> set[bytes]:
    return {key for key in redis.keys("*") if not key.startswith(PASSING)}


def test_e06_the_number_of_keys_stays_flat_over_hundreds_of_log_messages(
    services: Services, redis: Redis, start_worker
) -> None:
    worker = start_worker("logs")
    works = [running(services) for _ in range(3)]
    _send(services, works, 1, 20)
    before = _lasting_keys(redis)
    _send(services, works, 21, 420)
    eventually(lambda: worker.output.count("succeeded in") == 420, what="all messages to be worked off")
    assert _lasting_keys(redis) == before
    assert {key for key in before if key.startswith(b"live:")} == {live_key(work.run_id).encode() for work in works}
    assert [key for key in redis.keys("*") if b"celery-task-meta" in key] == []
    eventually(lambda: not redis.exists("logs", "unacked", "unacked_index"), what="no message to be left")


def test_e06_every_key_of_a_run_has_an_end(services: Services, redis: Redis) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    cancel_run(work.run_id)
    keys = redis.keys(f"*{work.run_id}*")
    assert len(keys) == 2
    assert all(0 < redis.ttl(key) <= 3600 for key in keys)


def test_e06_the_stream_of_a_run_is_bounded(services: Services, redis: Redis) -> None:
    work = running(services)
    for first in range(1, 5 * LIVE_EVENTS_KEPT, 500):
        services.live.publish([chunk(work, seq) for seq in range(first, first + 500)])
    # Redis trims whole nodes of its stream, of 100 entries each.
    assert LIVE_EVENTS_KEPT <= redis.xlen(live_key(work.run_id)) <= LIVE_EVENTS_KEPT + 100
