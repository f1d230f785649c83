"""Hints in Redis: they make something happen soon, are bounded, and may all be lost."""

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from redis import Redis
from redis.exceptions import RedisError

from reprieve.models.chunks import Block, Chunk, blocks_of
from reprieve.models.work import Fence
from reprieve.stores.cache import connect
from reprieve.stores.hints import (
    LIVE_EVENT_BYTES,
    LIVE_EVENTS_KEPT,
    LIVE_STREAM_LIFE,
    STOP_SIGNAL_LIFE,
    STOP_SIGNALS_KEPT,
    STOPS,
    LiveEvent,
    LiveEvents,
    StopSignals,
    live_key,
)
from reprieve.workers.bootstrap import Services
from tests.support.rows import chunk, ingest, running
from tests.support.waiting import eventually

#: Nobody listens on this port.
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def live(redis: Redis) -> LiveEvents:
    return LiveEvents(redis)


@pytest.fixture
def stops(redis: Redis) -> StopSignals:
    return StopSignals(redis)


@pytest.fixture
def away() -> Iterator[Redis]:
    with connect(NOWHERE) as client:
        yield client


@pytest.fixture
def run_id() -> UUID:
    return uuid4()


def line(run_id: UUID, seq: int, data: bytes = b"line\n") -> Block:
    [block] = blocks_of([Chunk(run_id, 1, 1, seq, "stdout", data)])
    return block


def seqs(events: Sequence[LiveEvent]) -> list[int]:
    return [chunk.seq for event in events if event.block for chunk in event.block.chunks()]


# -- live events


def test_what_ingest_stored_can_be_waited_for(services: Services) -> None:
    work = running(services)
    place = services.live.position(work.run_id)
    ingest(services, [chunk(work, 1, b"a\xff"), chunk(work, 2, b"b", stream="stderr")])
    events, place = services.live.wait(work.run_id, place)
    assert [event.attempt for event in events] == [1]
    told = [(chunk.seq, chunk.stream, chunk.data) for event in events for chunk in event.block.chunks()]
    assert told == [(1, "stdout", b"a\xff"), (2, "stderr", b"b")]
    assert services.live.wait(work.run_id, place) == ([], place)


def test_what_came_again_is_not_announced_again(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    place = services.live.position(work.run_id)
    ingest(services, [chunk(work, 1), chunk(work, 2)])
    assert seqs(services.live.wait(work.run_id, place)[0]) == [2]


def test_a_reader_who_waits_is_woken_by_the_next_event(live: LiveEvents, run_id: UUID) -> None:
    later = threading.Timer(0.1, live.publish, [[line(run_id, 1)]])
    later.start()
    events, _ = live.wait(run_id, live.position(run_id))
    later.join()
    assert seqs(events) == [1]


def test_a_run_that_nobody_watches_has_no_stream(live: LiveEvents, run_id: UUID) -> None:
    live.publish([line(run_id, 1)])
    assert live.wait(run_id, "0") == ([], "0")


def test_a_reader_gets_only_what_comes_after_its_place(live: LiveEvents, run_id: UUID) -> None:
    live.position(run_id)
    live.publish([line(run_id, 1)])
    place = live.position(run_id)
    live.publish([line(run_id, 2), line(run_id, 3)])
    events, place = live.wait(run_id, place)
    assert seqs(events) == [2, 3]
    assert place == live.position(run_id)


def test_the_place_in_a_stream_that_does_not_exist_is_its_beginning(live: LiveEvents, run_id: UUID) -> None:
    place = live.position(run_id)
    live.publish([line(run_id, 1)])
    assert seqs(live.wait(run_id, place)[0]) == [1]


def test_each_run_has_a_stream_of_its_own(live: LiveEvents, run_id: UUID) -> None:
    other = uuid4()
    live.position(run_id)
    live.position(other)
    live.publish([line(run_id, 1), line(other, 7)])
    assert seqs(live.wait(other, "0")[0]) == [7]


@pytest.mark.parametrize(("size", "travels"), [(1, True), (LIVE_EVENT_BYTES // 2, True), (LIVE_EVENT_BYTES + 1, False)])
def test_a_large_block_is_announced_without_its_data(live: LiveEvents, run_id: UUID, size: int, travels: bool) -> None:
    block = line(run_id, 1, random.Random(1).randbytes(size))
    live.position(run_id)
    live.publish([block])
    [event] = live.wait(run_id, "0")[0]
    assert (event.block is not None) is travels
    assert not travels or event.block.chunks() == [replace(chunk, epoch=0) for chunk in block.chunks()]


def test_a_stream_keeps_the_newest_events_and_not_many_more(live: LiveEvents, redis: Redis, run_id: UUID) -> None:
    live.position(run_id)
    for start in range(1, 3001, 500):
        live.publish([line(run_id, seq) for seq in range(start, start + 500)])
    assert LIVE_EVENTS_KEPT <= redis.xlen(live_key(run_id)) <= LIVE_EVENTS_KEPT * 1.2
    [(_, newest)] = redis.xrevrange(live_key(run_id), count=1)
    assert newest[b"last"] == b"3000"


def test_a_stream_is_gone_some_time_after_its_last_event(live: LiveEvents, redis: Redis, run_id: UUID) -> None:
    live.position(run_id)
    live.publish([line(run_id, 1)])
    redis.expire(live_key(run_id), 5)
    live.publish([line(run_id, 2)])
    assert LIVE_STREAM_LIFE - 60 < redis.ttl(live_key(run_id)) <= LIVE_STREAM_LIFE


# -- stop signals


@pytest.mark.parametrize(("signalled", "told"), [(4, False), (5, True), (6, True)])
def test_a_follower_is_told_by_a_signal_for_its_epoch_or_a_later_one(
    stops: StopSignals, run_id: UUID, signalled: int, told: bool
) -> None:
    stops.send([Fence(run_id, signalled)])
    fence = Fence(run_id, 5)
    assert stops.received([fence]) == ({fence} if told else set())


def test_a_signal_is_for_its_run_alone(stops: StopSignals, run_id: UUID) -> None:
    stops.send([Fence(run_id, 1)])
    fences = [Fence(uuid4(), 1), Fence(run_id, 1), Fence(uuid4(), 1)]
    assert stops.received(fences) == {fences[1]}
    assert stops.received([]) == set()


def test_a_signal_does_not_wait_for_ever(stops: StopSignals, redis: Redis, run_id: UUID) -> None:
    stops.send([Fence(run_id, 1)])
    assert STOP_SIGNAL_LIFE - 60 < redis.ttl(STOPS) <= STOP_SIGNAL_LIFE


@pytest.mark.row("E06")
def test_signals_that_nobody_reads_are_so_many_and_no_more(stops: StopSignals, redis: Redis) -> None:
    for _ in range(12):
        stops.send([Fence(uuid4(), 1) for _ in range(1000)])
    assert STOP_SIGNALS_KEPT <= redis.xlen(STOPS) < 1.1 * STOP_SIGNALS_KEPT


def test_a_signal_counts_for_a_run_that_is_followed_only_after_it_came(stops: StopSignals, run_id: UUID) -> None:
    stops.send([Fence(run_id, 3)])
    assert stops.received([Fence(uuid4(), 1)]) == set()
    assert stops.received([Fence(run_id, 3), Fence(run_id, 4)]) == {Fence(run_id, 3)}


def test_every_process_gets_every_signal(redis: Redis, run_id: UUID) -> None:
    one, other, fence = StopSignals(redis), StopSignals(redis), Fence(run_id, 1)
    one.send([fence])
    assert one.received([fence]) == other.received([fence]) == {fence}
    redis.flushall()
    # What is begun anew goes on by the clock, in milliseconds; within the same one, the database tells.
    eventually(lambda: one.send([Fence(run_id, 2)]) or one.received([Fence(run_id, 2)]))
    assert one.received([Fence(run_id, 2)]) == other.received([Fence(run_id, 2)]) == {Fence(run_id, 2)}


# -- Redis away


def test_without_redis_a_hint_is_lost_with_a_word_and_no_error(
    away: Redis, run_id: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    LiveEvents(away).publish([line(run_id, 1, b"hunter2")])
    StopSignals(away).send([Fence(run_id, 1)])
    assert "1 blocks were stored without a live event" in caplog.text
    assert "followers will learn from the database" in caplog.text
    assert "hunter2" not in caplog.text


def test_without_redis_nobody_is_told_to_stop_and_every_place_is_the_beginning(away: Redis, run_id: UUID) -> None:
    assert StopSignals(away).received([Fence(run_id, 1)]) == set()
    assert LiveEvents(away).position(run_id) == "0"


def test_without_redis_a_reader_who_waits_learns_it(away: Redis, run_id: UUID) -> None:
    with pytest.raises(RedisError):
        LiveEvents(away).wait(run_id, "0")
