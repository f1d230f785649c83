"""C04: what an old attempt sends late is kept in its log and does nothing else: no refresh, no resurrection."""

import pytest
from redis import Redis

from reprieve import cancel_run
from reprieve.models.errors import Superseded
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import EventKind, Proof, Status
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.throttle import proof_key
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.refresh import give_proof
from tests.faults.helpers_cdeg import image, reap, run_image
from tests.support.rows import age, chunk, claim, ingest, record_handle, record_process, running, status_of, updated_at

pytestmark = pytest.mark.row("C04")


def _old_and_new(services: Services) -> tuple[Work, Work]:
    """The two attempts of one out-of-process run: the first was lost, the second runs."""
    first = running(services, max_attempts=2)
    finish(services, [End(fence=first.fence, status=Status.QUEUED, kind=EventKind.REAPED, work_ended=True)])
    second = claim(services, first.run_id, "worker@test")
    assert second is not None
    assert second.epoch == first.epoch + 1
    return first, second


def _late_sign_of_life(services: Services, work: Work, way: str) -> None:
    if way == "chunk":
        assert ingest(services, [chunk(work, 1, b"late\n")])["refreshed"] == 0
    else:
        assert give_proof(services, [work.fence], Proof(way)) == set()


WAYS = ["chunk", "keepalive", "heartbeat"]


@pytest.mark.parametrize("way", WAYS)
def test_an_old_attempts_late_sign_of_life_leaves_its_successor_untouched(
    services: Services, redis: Redis, way: str
) -> None:
    first, second = _old_and_new(services)
    age(services, first.run_id, 100)
    before = run_image(services, second)
    _late_sign_of_life(services, first, way)
    assert run_image(services, second) == before
    assert redis.exists(proof_key(first.run_id)) == 0


@pytest.mark.parametrize("way", WAYS)
def test_the_current_attempts_sign_of_life_does_count(services: Services, redis: Redis, way: str) -> None:
    _, second = _old_and_new(services)
    age(services, second.run_id, 100)
    before = updated_at(services, second.run_id)
    if way == "chunk":
        assert ingest(services, [chunk(second, 1)])["refreshed"] == 1
    else:
        assert give_proof(services, [second.fence], Proof(way)) == {second.fence}
    assert updated_at(services, second.run_id) > before
    assert redis.exists(proof_key(second.run_id)) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["result", "reap", "cancel"])
def test_a_late_sign_of_life_does_not_resurrect_a_run_that_has_ended(
    services: Services, redis: Redis, end: str, way: str
) -> None:
    work = running(services)
    if end == "result":
        finish(services, [End.by_result(work.fence, Outcome(), 1)])
    elif end == "reap":
        assert reap(services, work.run_id)["reaped"] == 1
    else:
        cancel_run(work.run_id)
    before = run_image(services, work)
    _late_sign_of_life(services, work, way)
    assert run_image(services, work) == before
    assert redis.exists(proof_key(work.run_id)) == 0


def test_a_late_chunk_is_kept_in_the_log_of_its_own_attempt(services: Services) -> None:
    first, second = _old_and_new(services)
    ingest(services, [chunk(second, 1, b"new\n")])
    ingest(services, [chunk(first, 1, b"late\n")])
    assert [stored.data for stored in services.logs.read(first.run_id, 1)] == [b"late\n"]
    assert [stored.data for stored in services.logs.read(first.run_id, 2)] == [b"new\n"]


def test_an_old_attempt_does_not_take_away_its_successors_throttle_key(services: Services, redis: Redis) -> None:
    first, second = _old_and_new(services)
    give_proof(services, [second.fence], Proof.KEEPALIVE)
    key = proof_key(second.run_id)
    owner = redis.get(key)
    for way in WAYS:
        _late_sign_of_life(services, first, way)
    assert redis.get(key) == owner
    assert redis.ttl(key) > 0


def test_output_of_old_and_new_in_one_message_refreshes_the_successor(services: Services) -> None:
    pairs = [_old_and_new(services) for _ in range(20)]
    message = [chunk(work, 1) for pair in pairs for work in pair]
    assert ingest(services, message) == {"chunks": 40, "new": 40, "refreshed": 20, "refused": 0}


def test_an_old_attempt_cannot_record_what_it_starts(services: Services) -> None:
    first, second = _old_and_new(services)
    before = image(services, first, second)
    with pytest.raises(Superseded):
        record_process(services, first.fence, "host", ProcessIdentity(1, 1, 1.0, "here"))
    with pytest.raises(Superseded):
        record_handle(services, first.fence, "host", {"name": "job"})
    assert image(services, first, second) == before
    record_handle(services, second.fence, "host", {"name": "job"})
    assert services.runs.get_attempt(first.run_id, 2).handle == {"name": "job"}
    assert status_of(services, first.run_id) == "running"
