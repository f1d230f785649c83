"""E01: however much a run prints, its row is written at most once per refresh interval."""

import pytest
from redis import Redis

from reprieve.models.chunks import Chunk
from reprieve.models.liveness import Timing
from reprieve.models.status import Proof
from reprieve.models.work import Work
from reprieve.stores.throttle import proof_key
from reprieve.workers.bootstrap import Services
from reprieve.workers.refresh import give_proof
from tests.faults.helpers_cdeg import all_at_once, at_time_scale, counting_updates
from tests.support.rows import chunk, expire_key, ingest, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("E01")


def _messages(work: Work, count: int, size: int) -> list[list[Chunk]]:
    return [[chunk(work, seq) for seq in range(first, first + size)] for first in range(1, count * size, size)]


def test_ten_thousand_chunks_within_an_interval_are_one_update(services: Services, redis: Redis) -> None:
    work = running(services)
    messages = _messages(work, count=100, size=100)
    with counting_updates(services) as updates:
        taken = [messages[start::8] for start in range(8)]
        all_at_once([lambda share=share: [ingest(services, message) for message in share] for share in taken])
        assert services.logs.last_seq(work.run_id, 1) == 10_000
        assert redis.exists(proof_key(work.run_id)) == 1, "the test took longer than an interval"
        assert updates() == 1


def test_every_kind_of_proof_shares_the_one_update_of_an_interval(services: Services) -> None:
    work = running(services)
    with counting_updates(services) as updates:
        give_proof(services, [work.fence], Proof.KEEPALIVE)
        for seq in range(1, 50):
            ingest(services, [chunk(work, seq)])
            give_proof(services, [work.fence], Proof.HEARTBEAT)
        assert updates() == 1


def test_the_interval_is_the_throttle_keys_life_and_is_not_prolonged_by_output(
    services: Services, redis: Redis
) -> None:
    work = running(services)
    with counting_updates(services) as updates:
        ingest(services, [chunk(work, 1)])
        key = proof_key(work.run_id)
        assert 55 <= redis.ttl(key) <= 60
        redis.expire(key, 20)
        ingest(services, [chunk(work, 2)])
        assert 15 <= redis.ttl(key) <= 20
        expire_key(services, redis, work.run_id)
        ingest(services, [chunk(work, 3)])
        ingest(services, [chunk(work, 4)])
        assert updates() == 2


def test_output_without_a_pause_is_one_update_per_interval(services: Services) -> None:
    with at_time_scale(services, 30) as quick, counting_updates(quick) as updates:
        assert quick.timing == Timing.scaled(30)
        work = running(quick)
        seq, begun = 0, quick.database.now()

        def four_intervals_have_passed() -> bool:
            nonlocal seq
            seq += 1
            ingest(quick, [chunk(work, seq)])
            return (quick.database.now() - begun) > 4 * quick.timing.refresh_interval

        eventually(four_intervals_have_passed, interval=0)
        passed = (quick.database.now() - begun) / quick.timing.refresh_interval
        assert 3 <= updates() - 1 <= passed + 1
