"""The throttle: one refresh per run and interval, over any Redis and without one, and the block that gives back."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from uuid import UUID

import fakeredis
import pytest
import time_machine
from redis import Redis

from reprieve.models.work import Fence
from reprieve.stores import throttle as module
from reprieve.stores.throttle import Throttle, proof_key
from tests.support.waiting import eventually

RUNS = [Fence(UUID(int=number), 1) for number in range(1, 6)]
RUN, OTHER = RUNS[:2]


# -- over any Redis


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


def test_the_first_to_ask_takes_the_run_and_nobody_else_does(throttle: Throttle) -> None:
    assert throttle.take([RUN], "me") == {RUN}
    assert throttle.take([RUN, OTHER], "you") == {OTHER}
    assert throttle.take([RUN, OTHER], "me") == set()


def test_a_key_names_its_run_and_its_owner_and_is_set_with_its_end(throttle: Throttle, server: Redis) -> None:
    throttle.take([RUN], "me")
    assert server.keys("proof:*") == [proof_key(RUN.run_id).encode()] == [f"proof:{RUN.run_id}".encode()]
    assert server.get(proof_key(RUN.run_id)) == b"me"
    assert 50 <= server.ttl(proof_key(RUN.run_id)) <= 60


def test_a_key_that_has_expired_can_be_taken_again(server: Redis) -> None:
    throttle = Throttle(server, 1)
    assert throttle.take([RUN], "me") == {RUN}
    assert throttle.take([RUN], "me") == set()
    eventually(lambda: throttle.take([RUN], "me"), timeout=5)


def test_a_later_epoch_of_the_same_run_is_throttled_with_it(throttle: Throttle) -> None:
    throttle.take([RUN], "me")
    assert throttle.take([Fence(RUN.run_id, RUN.epoch + 1)], "me") == set()


def test_whoever_took_a_run_can_give_it_back(throttle: Throttle) -> None:
    throttle.take([RUN, OTHER], "me")
    throttle.release([RUN], "me")
    assert throttle.take([RUN, OTHER], "you") == {RUN}


def test_nobody_can_give_back_what_another_took(throttle: Throttle) -> None:
    throttle.take([RUN], "me")
    throttle.release([RUN], "you")
    assert throttle.take([RUN], "you") == set()


def test_giving_back_what_nobody_took_is_no_error(throttle: Throttle) -> None:
    throttle.release([RUN], "me")
    throttle.release([], "me")
    assert throttle.take([RUN], "me") == {RUN}


def test_a_forgotten_run_is_due_whoever_took_it(throttle: Throttle) -> None:
    throttle.take([RUN, OTHER], "me")
    throttle.forget([RUN.run_id])
    assert throttle.take([RUN, OTHER], "you") == {RUN}


def test_of_many_who_ask_at_once_each_run_is_one_ones(throttle: Throttle) -> None:
    fences = [Fence(UUID(int=number), 1) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        taken = [fence for part in pool.map(lambda name: throttle.take(fences, str(name)), range(8)) for fence in part]
    assert sorted(taken) == sorted(fences)


# -- the block


def test_a_block_keeps_what_it_used_and_gives_back_the_rest(throttle: Throttle) -> None:
    with throttle.permits() as permits:
        permits.made(permits.take([RUN, OTHER]) - {OTHER})
    assert throttle.take([RUN, OTHER], "you") == {OTHER}


def test_a_block_that_fails_gives_back_every_key_it_took_and_no_other(throttle: Throttle, server: Redis) -> None:
    throttle.take([OTHER], "somebody else")
    with pytest.raises(ZeroDivisionError), throttle.permits() as permits:
        permits.made(permits.take([RUN, OTHER]))
        raise ZeroDivisionError
    assert server.keys("proof:*") == [proof_key(OTHER.run_id).encode()]


@pytest.mark.row("A08")
@pytest.mark.parametrize("fails", [False, True])
def test_a_block_gives_back_no_key_that_has_meanwhile_become_anothers(
    throttle: Throttle, server: Redis, fails: bool
) -> None:
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), throttle.permits() as permits:
        assert permits.take([RUN, OTHER]) == {RUN, OTHER}
        server.set(proof_key(OTHER.run_id), "another", ex=60)
        if fails:
            raise ZeroDivisionError
    assert server.get(proof_key(RUN.run_id)) is None
    assert server.get(proof_key(OTHER.run_id)) == b"another"


def test_two_blocks_never_take_the_same_run(throttle: Throttle) -> None:
    with throttle.permits() as first, throttle.permits() as second:
        assert first.take([RUN]) == {RUN}
        assert second.take([RUN, OTHER]) == {OTHER}


# -- what a fake can show: time that passes, and Redis away


@pytest.fixture
def fake() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def client(fake: fakeredis.FakeServer) -> Iterator[Redis]:
    with fakeredis.FakeRedis(server=fake) as connected:
        yield connected


@pytest.fixture
def faked(client: Redis) -> Throttle:
    return Throttle(client, 60)


@pytest.fixture
def away(client: Redis, fake: fakeredis.FakeServer) -> None:
    fake.connected = False


@pytest.mark.parametrize(("seconds", "due"), [(59, False), (61, True)])
def test_a_run_is_due_again_when_the_refresh_interval_has_passed(client: Redis, seconds: float, due: bool) -> None:
    with time_machine.travel(time.time(), tick=False) as traveller:
        Throttle(client, 60).take([RUN], "me")
        traveller.shift(seconds)
        assert bool(Throttle(client, 60).take([RUN], "other")) is due


@pytest.mark.parametrize(("seconds", "due"), [(2.9, False), (3.1, True)])
def test_redis_is_not_asked_again_about_a_key_that_was_there_a_moment_ago(
    faked: Throttle, client: Redis, monkeypatch: pytest.MonkeyPatch, seconds: float, due: bool
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    faked.take([RUN], "me")
    client.delete(proof_key(RUN.run_id))
    now += seconds
    assert bool(faked.take([RUN], "me")) is due


def forget(faked: Throttle) -> None:
    faked.forget([RUN.run_id])


def release(faked: Throttle) -> None:
    faked.release([RUN], "me")


@pytest.mark.parametrize("let_go", [forget, release])
def test_a_key_that_was_let_go_here_is_asked_for_at_once(faked: Throttle, let_go: Callable[[Throttle], None]) -> None:
    assert faked.take([RUN], "me") == {RUN}
    assert faked.take([RUN], "me") == set()
    let_go(faked)
    assert faked.take([RUN], "me") == {RUN}


def test_no_more_keys_are_remembered_than_fit(faked: Throttle, client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_RUNS", 2)
    for fence in RUNS:
        faked.take([fence], "me")
    client.flushall()
    assert len([fence for fence in RUNS if faked.take([fence], "me")]) >= 2


def test_a_refusal_does_not_make_the_key_live_longer(faked: Throttle, client: Redis) -> None:
    with time_machine.travel(time.time(), tick=False) as traveller:
        faked.take([RUN], "me")
        traveller.shift(30)
        faked.take([RUN], "other")
        assert client.ttl(proof_key(RUN.run_id)) == 30


@pytest.mark.usefixtures("away")
def test_without_redis_each_run_is_still_due_once(faked: Throttle, caplog: pytest.LogCaptureFixture) -> None:
    assert faked.take([RUN, OTHER], "me") == {RUN, OTHER}
    assert faked.take([RUN], "me") == set()
    assert "throttling refreshes in memory" in caplog.text


@pytest.mark.usefixtures("away")
def test_without_redis_a_run_is_due_again_when_the_interval_has_passed(client: Redis) -> None:
    faked = Throttle(client, 1)
    started = time.monotonic()
    faked.take([RUN], "me")
    while not faked.take([RUN], "me"):
        time.sleep(0.02)
    assert 1 <= time.monotonic() - started < 3


@pytest.mark.usefixtures("away")
def test_without_redis_a_released_or_forgotten_run_is_due_at_once(faked: Throttle) -> None:
    faked.take([RUN, OTHER], "me")
    faked.release([RUN], "me")
    assert faked.take([RUN, OTHER], "me") == {RUN}
    faked.forget([OTHER.run_id])
    assert faked.take([RUN, OTHER], "me") == {OTHER}


@pytest.mark.usefixtures("away")
def test_the_stand_in_remembers_so_many_runs_and_lets_the_oldest_go(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCAL_THROTTLE_RUNS", 4)
    faked = Throttle(client, 60)
    for fence in RUNS:
        faked.take([fence], "me")
    assert len(faked._local) == 4
    assert faked.take(RUNS[1:], "me") == set()
    assert faked.take(RUNS[:1], "me") == set(RUNS[:1])


def test_with_redis_back_it_is_redis_that_decides_again(
    faked: Throttle, fake: fakeredis.FakeServer, client: Redis
) -> None:
    fake.connected = False
    faked.take([RUN], "me")
    fake.connected = True
    assert faked.take([RUN], "me") == {RUN}
    assert client.exists(proof_key(RUN.run_id))


@pytest.mark.usefixtures("away")
def test_without_redis_an_empty_block_asks_nobody(faked: Throttle, caplog: pytest.LogCaptureFixture) -> None:
    with faked.permits() as permits:
        assert permits.take([]) == set()
    faked.forget([])
    assert not caplog.records
