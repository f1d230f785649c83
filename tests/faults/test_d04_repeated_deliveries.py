"""D04: however deliveries are cut, shuffled, repeated and interleaved, the log has each chunk once, in order."""

import random
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from reprieve.models.chunks import Chunk
from reprieve.models.status import EventKind, Status
from reprieve.models.work import End, Fence, Work
from reprieve.stores.throttle import proof_key
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.faults.helpers_cdeg import all_at_once, image
from tests.support.rows import age, chunk, claim, expire_key, ingest, running, updated_at

pytestmark = pytest.mark.row("D04")

CHUNKS_OF_AN_ATTEMPT = 6


def _two_attempts(services: Services) -> list[Work]:
    first = running(services, max_attempts=2)
    finish(services, [End(fence=first.fence, status=Status.QUEUED, kind=EventKind.REAPED, work_ended=True)])
    second = claim(services, first.run_id, "worker@test")
    assert second is not None
    return [first, second]


def _output(work: Work, count: int = CHUNKS_OF_AN_ATTEMPT) -> list[Chunk]:
    return [chunk(work, seq, b"%d of attempt %d\n" % (seq, work.attempt)) for seq in range(1, count + 1)]


def _seqs(services: Services, run_id: UUID, attempt: int) -> list[int]:
    return [stored.seq for stored in services.logs.read(run_id, attempt)]


EVERYTHING = 4 * CHUNKS_OF_AN_ATTEMPT
deliveries = st.lists(st.lists(st.integers(0, EVERYTHING - 1), min_size=1, max_size=12), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries=deliveries, last=st.permutations(range(EVERYTHING)))
def test_any_deliveries_leave_each_chunk_once_and_in_order(
    services: Services, deliveries: list[list[int]], last: list[int]
) -> None:
    works = [*_two_attempts(services), *_two_attempts(services)]
    chunks = [piece for work in works for piece in _output(work)]
    arrived: set[int] = set()
    for delivery in [*deliveries, last]:
        report = ingest(services, [chunks[index] for index in delivery])
        assert report["new"] == len(set(delivery) - arrived)
        arrived |= set(delivery)
        for work in works:
            mine = [one for one in (chunks[index] for index in arrived) if Fence(one.run_id, one.epoch) == work.fence]
            own = {one.seq for one in mine}
            assert _seqs(services, work.run_id, work.attempt) == sorted(own)
    for work in works:
        stored = services.logs.read(work.run_id, work.attempt)
        assert [piece.data for piece in stored] == [piece.data for piece in _output(work)]


def test_overlapping_messages_taken_at_once_store_and_announce_each_chunk_once(
    services: Services, redis: Redis
) -> None:
    works = [running(services) for _ in range(4)]
    chunks = [piece for work in works for piece in _output(work, 50)]
    places = {work.run_id: services.live.position(work.run_id) for work in works}
    messages = [random.sample(chunks, 150) for _ in range(7)] + [random.sample(chunks, len(chunks))]
    reports = all_at_once([lambda message=message: ingest(services, message) for message in messages])
    assert sum(report["new"] for report in reports) == len(chunks)
    for work in works:
        assert _seqs(services, work.run_id, 1) == list(range(1, 51))
        announced = [one.seq for one in _announced(services, work.run_id, places[work.run_id])]
        assert sorted(announced) == list(range(1, 51))


def test_a_repeated_chunk_does_not_replace_the_first(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"first\n")])
    ingest(services, [chunk(work, 1, b"again\n"), chunk(work, 2, b"second\n")])
    assert [stored.data for stored in services.logs.read(work.run_id, 1)] == [b"first\n", b"second\n"]


def test_repeated_output_is_no_proof_of_life_even_when_no_throttle_holds_it_back(
    services: Services, redis: Redis
) -> None:
    work = running(services)
    output = _output(work)
    place = services.live.position(work.run_id)
    assert ingest(services, output)["refreshed"] == 1
    age(services, work.run_id, 200)
    expire_key(services, redis, work.run_id)
    before = image(services, work)
    assert ingest(services, output[::-1]) == {"chunks": 6, "new": 0, "refreshed": 0, "refused": 0}
    assert image(services, work) == before
    assert redis.exists(proof_key(work.run_id)) == 0
    assert len(_announced(services, work.run_id, place)) == 6


def test_one_new_chunk_among_repeated_ones_is_proof_of_life(services: Services, redis: Redis) -> None:
    work = running(services)
    output = _output(work)
    ingest(services, output[:5])
    age(services, work.run_id, 200)
    expire_key(services, redis, work.run_id)
    before = updated_at(services, work.run_id)
    assert ingest(services, output) == {"chunks": 6, "new": 1, "refreshed": 1, "refused": 0}
    assert updated_at(services, work.run_id) > before


def _announced(services: Services, run_id: UUID, place: str) -> list[Chunk]:
    """The chunks that live events told of since a place."""
    told = []
    while events := (answer := services.live.wait(run_id, place))[0]:
        place = answer[1]
        told += [chunk for event in events if event.block for chunk in event.block.chunks()]
    return told
