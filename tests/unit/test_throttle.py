"""The throttle over a fake Redis: its keys, its stand-in while Redis is away, and the block that gives back."""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from uuid import UUID

import fakeredis
import pytest
import time_machine
from redis import Redis

from reprieve.models.work import Fence
from reprieve.stores import throttle as module
from reprieve.stores.throttle import Throttle, proof_key

RUNS = [Fence(UUID(int=number), 1) for number in range(1, 6)]
RUN, OTHER = RUNS[:2]


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def redis(server: fakeredis.FakeServer) -> Iterator[Redis]:
    with fakeredis.FakeRedis(server=server) as client:
        yield client


@pytest.fixture
def throttle(redis: Redis) -> Throttle:
    return Throttle(redis, 60)


@pytest.fixture
def away(redis: Redis, server: fakeredis.FakeServer) -> None:
    server.connected = False


# -- the key


def test_a_key_names_its_run_and_its_owner_and_ends_with_the_refresh_interval(throttle: Throttle, redis: Redis) -> None:
    throttle.take([RUN], "me")
    assert redis.keys() == [f"proof:{RUN.run_id}".encode()]
    assert redis.get(proof_key(RUN.run_id)) == b"me"
    assert 59 <= redis.ttl(proof_key(RUN.run_id)) <= 60


@pytest.mark.parametrize(("seconds", "due"), [(59, False), (61, True)])
def test_a_run_is_due_again_when_the_refresh_interval_has_passed(redis: Redis, seconds: float, due: bool) -> None:
    with time_machine.travel(time.time(), tick=False) as traveller:
        Throttle(redis, 60).take([RUN], "me")
        traveller.shift(seconds)
        assert bool(Throttle(redis, 60).take([RUN], "other")) is due


@pytest.mark.parametrize(("seconds", "due"), [(2.9, False), (3.1, True)])
def test_redis_is_not_asked_again_about_a_key_that_was_there_a_moment_ago(
    throttle: Throttle, redis: Redis, monkeypatch: pytest.MonkeyPatch, seconds: float, due: bool
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    throttle.take([RUN], "me")
    redis.delete(proof_key(RUN.run_id))
    now += seconds
    assert bool(throttle.take([RUN], "me")) is due


def forget(throttle: Throttle) -> None:
    throttle.forget([RUN.run_id])


def release(throttle: Throttle) -> None:
    throttle.release([RUN], "me")


@pytest.mark.parametrize("let_go", [forget, release])
def test_a_key_that_was_let_go_here_is_asked_for_at_once(
    throttle: Throttle, let_go: Callable[[Throttle], None]
) -> None:
    assert throttle.take([RUN], "me") == {RUN}
    assert throttle.take([RUN], "me") == set()
    let_go(throttle)
    assert throttle.take([RUN], "me") == {RUN}


def test_no_more_keys_are_remembered_than_fit(
    throttle: Throttle, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_RUNS", 2)
    for fence in RUNS:
        throttle.take([fence], "me")
    redis.flushall()
    assert len([fence for fence in RUNS if throttle.take([fence], "me")]) >= 2


def test_a_refusal_does_not_make_the_key_live_longer(throttle: Throttle, redis: Redis) -> None:
    with time_machine.travel(time.time(), tick=False) as traveller:
        throttle.take([RUN], "me")
        traveller.shift(30)
        throttle.take([RUN], "other")
        assert redis.ttl(proof_key(RUN.run_id)) == 30


# -- Redis away


@pytest.mark.usefixtures("away")
def test_without_redis_each_run_is_still_due_once(throttle: Throttle, caplog: pytest.LogCaptureFixture) -> None:
    assert throttle.take([RUN, OTHER], "me") == {RUN, OTHER}
    assert throttle.take([RUN], "me") == set()
    assert "throttling refreshes in memory" in caplog.text


@pytest.mark.usefixtures("away")
def test_without_redis_a_run_is_due_again_when_the_interval_has_passed(redis: Redis) -> None:
    throttle = Throttle(redis, 1)
    started = time.monotonic()
    throttle.take([RUN], "me")
    while not throttle.take([RUN], "me"):
        time.sleep(0.02)
    assert 1 <= time.monotonic() - started < 3


@pytest.mark.usefixtures("away")
def test_without_redis_a_released_or_forgotten_run_is_due_at_once(throttle: Throttle) -> None:
    throttle.take([RUN, OTHER], "me")
    throttle.release([RUN], "me")
    assert throttle.take([RUN, OTHER], "me") == {RUN}
    throttle.forget([OTHER.run_id])
    assert throttle.take([RUN, OTHER], "me") == {OTHER}


@pytest.mark.usefixtures("away")
def test_the_stand_in_remembers_so_many_runs_and_lets_the_oldest_go(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCAL_THROTTLE_RUNS", 4)
    throttle = Throttle(redis, 60)
    for fence in RUNS:
        throttle.take([fence], "me")
    assert len(throttle._local) == 4
    assert throttle.take(RUNS[1:], "me") == set()
    assert throttle.take(RUNS[:1], "me") == set(RUNS[:1])


def test_with_redis_back_it_is_redis_that_decides_again(
    throttle: Throttle, server: fakeredis.FakeServer, redis: Redis
) -> None:
    server.connected = False
    throttle.take([RUN], "me")
    server.connected = True
    assert throttle.take([RUN], "me") == {RUN}
    assert redis.exists(proof_key(RUN.run_id))


@pytest.mark.usefixtures("away")
def test_without_redis_an_empty_block_asks_nobody(throttle: Throttle, caplog: pytest.LogCaptureFixture) -> None:
    with throttle.claims() as claims:
        assert claims.take([]) == set()
    throttle.forget([])
    assert not caplog.records


# -- the block


def test_a_block_keeps_the_keys_of_the_refreshes_it_made_and_gives_back_the_others(
    throttle: Throttle, redis: Redis
) -> None:
    with throttle.claims() as claims:
        claims.made(claims.take([RUN, OTHER]) - {OTHER})
    assert redis.keys() == [proof_key(RUN.run_id).encode()]


def test_a_block_that_fails_gives_back_every_key_it_took_and_no_other(throttle: Throttle, redis: Redis) -> None:
    throttle.take([OTHER], "somebody else")
    with pytest.raises(ZeroDivisionError), throttle.claims() as claims:
        claims.made(claims.take([RUN, OTHER]))
        raise ZeroDivisionError
    assert redis.keys() == [proof_key(OTHER.run_id).encode()]


def test_a_block_gives_back_no_key_that_has_meanwhile_become_anothers(throttle: Throttle, redis: Redis) -> None:
    with throttle.claims() as claims:
        claims.take([RUN])
        redis.set(proof_key(RUN.run_id), "another")
    assert redis.get(proof_key(RUN.run_id)) == b"another"


def test_two_blocks_never_take_the_same_run(throttle: Throttle) -> None:
    with throttle.claims() as first, throttle.claims() as second:
        assert first.take([RUN]) == {RUN}
        assert second.take([RUN, OTHER]) == {OTHER}
