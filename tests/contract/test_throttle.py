"""What the throttle promises over any Redis: one refresh per run and interval, given back only by whoever took it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import fakeredis
import pytest
from redis import Redis

from reprieve.models.work import Fence
from reprieve.stores.throttle import Throttle, proof_key
from tests.support.waiting import eventually


@pytest.fixture(params=["fake", "real"])
def server(request: pytest.FixtureRequest) -> Iterator[Redis]:
    if request.param == "fake":
        with fakeredis.FakeRedis() as client:
            yield client
    else:
        yield request.getfixturevalue("redis")


@pytest.fixture
def throttle(server: Redis) -> Throttle:
    return Throttle(server, 60)


@pytest.fixture
def fence() -> Fence:
    return Fence(uuid4(), 1)


@pytest.fixture
def other() -> Fence:
    return Fence(uuid4(), 1)


def test_the_first_to_ask_takes_the_run_and_nobody_else_does(throttle: Throttle, fence: Fence, other: Fence) -> None:
    assert throttle.take([fence], "me") == {fence}
    assert throttle.take([fence, other], "you") == {other}
    assert throttle.take([fence, other], "me") == set()


def test_a_key_is_set_with_its_end_in_one_command(throttle: Throttle, server: Redis, fence: Fence) -> None:
    throttle.take([fence], "me")
    assert server.get(proof_key(fence.run_id)) == b"me"
    assert 50 <= server.ttl(proof_key(fence.run_id)) <= 60


def test_a_key_that_has_expired_can_be_taken_again(server: Redis, fence: Fence) -> None:
    throttle = Throttle(server, 1)
    assert throttle.take([fence], "me") == {fence}
    assert throttle.take([fence], "me") == set()
    eventually(lambda: throttle.take([fence], "me"), timeout=5)


def test_a_later_epoch_of_the_same_run_is_throttled_with_it(throttle: Throttle, fence: Fence) -> None:
    throttle.take([fence], "me")
    assert throttle.take([Fence(fence.run_id, fence.epoch + 1)], "me") == set()


def test_whoever_took_a_run_can_give_it_back(throttle: Throttle, fence: Fence, other: Fence) -> None:
    throttle.take([fence, other], "me")
    throttle.release([fence], "me")
    assert throttle.take([fence, other], "you") == {fence}


def test_nobody_can_give_back_what_another_took(throttle: Throttle, fence: Fence) -> None:
    throttle.take([fence], "me")
    throttle.release([fence], "you")
    assert throttle.take([fence], "you") == set()


def test_giving_back_what_nobody_took_is_no_error(throttle: Throttle, fence: Fence) -> None:
    throttle.release([fence], "me")
    throttle.release([], "me")
    assert throttle.take([fence], "me") == {fence}


def test_a_forgotten_run_is_due_whoever_took_it(throttle: Throttle, fence: Fence, other: Fence) -> None:
    throttle.take([fence, other], "me")
    throttle.forget([fence.run_id])
    assert throttle.take([fence, other], "you") == {fence}


def test_a_block_keeps_what_it_used_and_gives_back_the_rest(throttle: Throttle, fence: Fence, other: Fence) -> None:
    with throttle.claims() as claims:
        claims.made(claims.take([fence, other]) - {other})
    assert throttle.take([fence, other], "you") == {other}


def test_a_block_that_fails_gives_back_everything(throttle: Throttle, fence: Fence) -> None:
    with pytest.raises(ZeroDivisionError), throttle.claims() as claims:
        claims.made(claims.take([fence]))
        raise ZeroDivisionError
    assert throttle.take([fence], "you") == {fence}


def test_of_many_who_ask_at_once_each_run_is_one_ones(throttle: Throttle) -> None:
    fences = [Fence(uuid4(), 1) for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        taken = [fence for part in pool.map(lambda name: throttle.take(fences, str(name)), range(8)) for fence in part]
    assert sorted(taken) == sorted(fences)
