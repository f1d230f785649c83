"""What the throttle promises over any Redis: one refresh per run and interval, given back only by whoever took it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import fakeredis
import pytest
from redis import Redis

from reprieve.models.work import Token
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
def token() -> Token:
    return Token(uuid4(), 1)


@pytest.fixture
def other() -> Token:
    return Token(uuid4(), 1)


def test_the_first_to_ask_takes_the_run_and_nobody_else_does(throttle: Throttle, token: Token, other: Token) -> None:
    assert throttle.take([token], "me") == {token}
    assert throttle.take([token, other], "you") == {other}
    assert throttle.take([token, other], "me") == set()


def test_a_key_is_set_with_its_end_in_one_command(throttle: Throttle, server: Redis, token: Token) -> None:
    throttle.take([token], "me")
    assert server.get(proof_key(token.run_id)) == b"me"
    assert 50 <= server.ttl(proof_key(token.run_id)) <= 60


def test_a_key_that_has_expired_can_be_taken_again(server: Redis, token: Token) -> None:
    throttle = Throttle(server, 1)
    assert throttle.take([token], "me") == {token}
    assert throttle.take([token], "me") == set()
    eventually(lambda: throttle.take([token], "me"), timeout=5)


def test_a_later_epoch_of_the_same_run_is_throttled_with_it(throttle: Throttle, token: Token) -> None:
    throttle.take([token], "me")
    assert throttle.take([Token(token.run_id, token.epoch + 1)], "me") == set()


def test_whoever_took_a_run_can_give_it_back(throttle: Throttle, token: Token, other: Token) -> None:
    throttle.take([token, other], "me")
    throttle.release([token], "me")
    assert throttle.take([token, other], "you") == {token}


def test_nobody_can_give_back_what_another_took(throttle: Throttle, token: Token) -> None:
    throttle.take([token], "me")
    throttle.release([token], "you")
    assert throttle.take([token], "you") == set()


def test_giving_back_what_nobody_took_is_no_error(throttle: Throttle, token: Token) -> None:
    throttle.release([token], "me")
    throttle.release([], "me")
    assert throttle.take([token], "me") == {token}


def test_a_forgotten_run_is_due_whoever_took_it(throttle: Throttle, token: Token, other: Token) -> None:
    throttle.take([token, other], "me")
    throttle.forget([token.run_id])
    assert throttle.take([token, other], "you") == {token}


def test_a_block_keeps_what_it_used_and_gives_back_the_rest(throttle: Throttle, token: Token, other: Token) -> None:
    with throttle.claims() as claims:
        claims.made(claims.take([token, other]) - {other})
    assert throttle.take([token, other], "you") == {other}


def test_a_block_that_fails_gives_back_everything(throttle: Throttle, token: Token) -> None:
    with pytest.raises(ZeroDivisionError), throttle.claims() as claims:
        claims.made(claims.take([token]))
        raise ZeroDivisionError
    assert throttle.take([token], "you") == {token}


def test_of_many_who_ask_at_once_each_run_is_one_ones(throttle: Throttle) -> None:
    tokens = [Token(uuid4(), 1) for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        taken = [token for part in pool.map(lambda name: throttle.take(tokens, str(name)), range(8)) for token in part]
    assert sorted(taken) == sorted(tokens)
