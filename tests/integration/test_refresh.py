"""A refresh that fails, or meets a Redis that is down, swallows no proof of life: rows A08 and A09."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from redis import Redis
from sqlalchemy.exc import DBAPIError

from reprieve.models.chunks import blocks_of
from reprieve.models.messages import encode_message
from reprieve.models.status import Proof
from reprieve.models.work import Fence
from reprieve.stores.cache import connect
from reprieve.stores.throttle import Throttle, proof_key
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.refresh import give_proof
from tests.faults.helpers_abf import one_turn, pass_time, poisoned, supervised
from tests.support.rows import chunk, ingest, running, updated_at
from tests.support.waiting import eventually


@contextmanager
def without_redis(services: Services, refresh_seconds: int = 60) -> Iterator[Services]:
    """Services whose throttle talks to a port where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with connect(f"redis://127.0.0.1:{closed.getsockname()[1]}/0") as nowhere:
            yield replace(services, throttle=Throttle(nowhere, refresh_seconds))


# -- A08


@pytest.mark.row("A08")
@pytest.mark.parametrize("at_commit", [False, True], ids=["at_the_update", "at_the_commit"])
def test_a_failed_refresh_releases_the_key_surfaces_and_leaves_the_next_chunk_to_refresh(
    services: Services, redis: Redis, at_commit: bool
) -> None:
    work = running(services)
    before = updated_at(services, work.run_id)
    with poisoned(services, work.run_id, at_commit=at_commit):
        with pytest.raises(DBAPIError, match="poisoned row"):
            ingest(services, [chunk(work, 1)])
        assert redis.get(proof_key(work.run_id)) is None
        assert updated_at(services, work.run_id) == before
    assert ingest(services, [chunk(work, 2)])["refreshed"] == 1
    assert updated_at(services, work.run_id) > before
    assert redis.get(proof_key(work.run_id)) is not None


@pytest.mark.row("A08")
def test_a_failed_keepalive_releases_the_key_and_surfaces(services: Services, redis: Redis) -> None:
    work = running(services)
    with poisoned(services, work.run_id):
        with pytest.raises(DBAPIError, match="poisoned row"):
            give_proof(services, [work.fence], Proof.KEEPALIVE)
        assert redis.get(proof_key(work.run_id)) is None
    assert give_proof(services, [work.fence], Proof.KEEPALIVE) == {work.fence}


@pytest.mark.row("A08")
def test_a_heartbeat_whose_refresh_failed_is_given_at_the_next_turn(services: Services) -> None:
    work = running(services)
    with supervised(services, work) as (supervisor, context):
        context.heartbeat()
        with poisoned(services, work.run_id):
            one_turn(supervisor)
        assert services.runs.get(work.run_id).last_proof == "claim"
        one_turn(supervisor)
    assert services.runs.get(work.run_id).last_proof == "heartbeat"


@pytest.mark.row("A08")
def test_the_output_of_a_failed_refresh_is_stored_when_its_message_comes_again(
    services: Services, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []
    monkeypatch.setattr(ingesting, "publish", sent.append)
    monkeypatch.setattr(ingesting, "OUR_FAULT_PAUSE", 0)
    work = running(services)
    before = updated_at(services, work.run_id)
    blocks = blocks_of([chunk(work, 1), chunk(work, 2)])
    message = encode_message(blocks)
    with poisoned(services, work.run_id):
        ingesting.ingest_task(message)
    assert services.logs.read(work.run_id, 1) == []
    assert sent == [blocks]
    assert ingesting.ingest_task(message) == {"chunks": 2, "new": 2, "refreshed": 1, "refused": 0}
    assert updated_at(services, work.run_id) > before


@pytest.mark.row("A08")
def test_a_refresh_that_matches_no_row_releases_its_key_and_keeps_the_others(services: Services, redis: Redis) -> None:
    work, superseded = running(services), running(services)
    stale = Fence(superseded.run_id, superseded.epoch - 1)
    assert give_proof(services, [work.fence, stale], Proof.HEARTBEAT) == {work.fence}
    assert redis.get(proof_key(superseded.run_id)) is None
    assert redis.get(proof_key(work.run_id)) is not None
    assert give_proof(services, [superseded.fence], Proof.HEARTBEAT) == {superseded.fence}


@pytest.mark.row("A08")
def test_without_redis_the_database_is_refreshed_once_per_interval(services: Services) -> None:
    work, other = running(services), running(services)
    before = updated_at(services, work.run_id)
    with without_redis(services) as alone:
        assert ingest(alone, [chunk(work, 1)])["refreshed"] == 1
        refreshed_at = updated_at(services, work.run_id)
        assert refreshed_at > before
        assert ingest(alone, [chunk(work, 2)])["refreshed"] == 0
        assert give_proof(alone, [work.fence], Proof.KEEPALIVE) == set()
        assert updated_at(services, work.run_id) == refreshed_at
        assert ingest(alone, [chunk(other, 1), chunk(work, 3)])["refreshed"] == 1


@pytest.mark.row("A08")
def test_without_redis_the_next_interval_brings_the_next_refresh(services: Services) -> None:
    work = running(services)
    with without_redis(services, refresh_seconds=1) as alone:
        started = time.monotonic()
        assert give_proof(alone, [work.fence], Proof.HEARTBEAT) == {work.fence}
        eventually(lambda: give_proof(alone, [work.fence], Proof.HEARTBEAT) == {work.fence})
        assert time.monotonic() - started >= 1


@pytest.mark.row("A08")
def test_without_redis_a_failed_refresh_is_made_up_for_by_the_next_chunk(services: Services) -> None:
    work = running(services)
    with without_redis(services) as alone:
        with poisoned(services, work.run_id), pytest.raises(DBAPIError, match="poisoned row"):
            ingest(alone, [chunk(work, 1)])
        assert ingest(alone, [chunk(work, 2)])["refreshed"] == 1


# -- A09


def commands_on(redis: Redis, servers_url: str, key: str, action) -> list[list[str]]:
    """The words of every command about `key` that reaches Redis during `action`."""
    with connect(servers_url) as watching, watching.monitor() as monitor:
        action()
        redis.echo("the end")
        seen = []
        while "the end" not in (command := monitor.next_command()["command"]):
            seen.append(command.split())
    return [words for words in seen if key in words]


@pytest.mark.row("A09")
def test_a_key_is_taken_by_one_command_that_also_sets_its_end(services: Services, redis: Redis, servers) -> None:
    work = running(services)
    key = proof_key(work.run_id)
    commands = commands_on(redis, servers.redis.url, key, lambda: ingest(services, [chunk(work, 1)]))
    (only,) = commands
    assert only[:2] == ["SET", key]
    assert {"NX", "EX", "60"} <= set(only[3:])


@pytest.mark.row("A09")
@pytest.mark.parametrize("times", [1, 2])
def test_a_key_has_at_most_a_minute_to_live_however_often_it_is_asked_for(
    services: Services, redis: Redis, times: int
) -> None:
    work = running(services)
    for seq in range(times):
        pass_time(services, redis, 20)
        ingest(services, [chunk(work, seq + 1)])
    assert 0 < redis.ttl(proof_key(work.run_id)) <= 60 - 20 * (times - 1)


@pytest.mark.row("A09")
def test_a_crash_right_after_the_key_was_taken_delays_the_next_refresh_by_no_more_than_its_life(
    services: Services, redis: Redis
) -> None:
    work = running(services)
    crashed = services.throttle.take([work.fence], "a worker that is dead by now")
    assert crashed == {work.fence}
    pass_time(services, redis, 59)
    assert give_proof(services, [work.fence], Proof.KEEPALIVE) == set()
    pass_time(services, redis, 1)
    assert give_proof(services, [work.fence], Proof.KEEPALIVE) == {work.fence}
