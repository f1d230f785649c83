"""Live output: each chunk once and in order, whoever is cut off, slow, late or many."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx2
import pytest
from redis.exceptions import RedisError
from sqlalchemy import text

from reprieve import cancel_run
from reprieve.api import live
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.hints import LiveEvents
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import chunk, claim, ingest, new_run, running
from tests.support.served import Served
from tests.support.sse import Event, stream
from tests.support.waiting import eventually


def url(served: Served, run_id: UUID) -> str:
    return f"{served.url}/v1/runs/{run_id}/log/live"


def seqs(events: list[Event]) -> list[tuple[int, int]]:
    """Attempt and number of every chunk that these events bring."""
    return [(one.data["attempt"], each["seq"]) for one in events if one.name == "output" for each in one.data["chunks"]]


def numbered(first: int, last: int, attempt: int = 1) -> list[tuple[int, int]]:
    return [(attempt, seq) for seq in range(first, last + 1)]


def write(services: Services, work: Work, first: int, last: int) -> None:
    ingest(services, [chunk(work, seq, f"line {seq}\n".encode()) for seq in range(first, last + 1)])


def end(services: Services, work: Work, last_seq: int) -> None:
    assert finish(services, [End.by_result(work.fence, Outcome(), last_seq)])


class Reading:
    """A reader on a thread of its own, as `EventSource` is one: it comes back with its last id until told not to."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ended = threading.Event()
        self.events: list[Event] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                with stream(self._address, last_event_id=self.events[-1].id if self.events else None) as opened:
                    if opened.response.status_code == 204:
                        return
                    self.connections += 1
                    for event in opened.events():
                        self.events.append(event)
            except httpx2.HTTPError:
                self._ended.wait(0.05)

    def wait(self) -> list[Event]:
        self._thread.join(60)
        assert not self._thread.is_alive(), seqs(self.events)
        return self.events

    def give_up(self) -> None:
        self._ended.set()


@pytest.fixture
def read(served: Served) -> Iterator[Any]:
    readings: list[Reading] = []

    def begin(run_id: UUID) -> Reading:
        readings.append(Reading(url(served, run_id)))
        return readings[-1]

    yield begin
    for reading in readings:
        reading.give_up()


def test_a_reader_gets_what_was_there_and_what_comes_and_is_told_of_the_end(
    services: Services, served: Served, read: Any
) -> None:
    work = running(services)
    write(services, work, 1, 450)
    reading = read(work.run_id)
    eventually(lambda: seqs(reading.events) == numbered(1, 450))
    write(services, work, 451, 455)
    eventually(lambda: seqs(reading.events) == numbered(1, 455))
    end(services, work, 455)
    events = reading.wait()
    assert seqs(events) == numbered(1, 455)
    assert (events[-1].name, events[-1].data, reading.connections) == ("end", {"status": "succeeded"}, 1)
    with stream(url(served, work.run_id), last_event_id=events[-1].id) as again:
        assert again.response.status_code == 204


def test_a_reader_that_was_cut_off_misses_nothing_and_sees_nothing_twice(
    services: Services, served: Served, read: Any
) -> None:
    work, last = running(services), 0
    reading = read(work.run_id)
    for _ in range(3):
        write(services, work, last + 1, last + 40)
        eventually(lambda last=last: len(seqs(reading.events)) >= last + 20)
        served.stop()
        write(services, work, last + 41, last + 80)
        last += 80
        served.start()
    end(services, work, last)
    assert seqs(reading.wait()) == numbered(1, last)
    assert reading.connections >= 4


@pytest.mark.parametrize("place", ["1:7", "1:10"])
def test_a_reader_says_where_it_was(services: Services, served: Served, place: str) -> None:
    work = running(services)
    write(services, work, 1, 10)
    end(services, work, 10)
    after = int(place.partition(":")[2])
    with stream(url(served, work.run_id), last_event_id=place) as by_header:
        assert seqs(list(by_header.events())) == numbered(after + 1, 10)
    with stream(url(served, work.run_id), attempt=1, after=after) as by_query:
        assert seqs(list(by_query.events())) == numbered(after + 1, 10)


@pytest.mark.parametrize("place", ["7", "a:b", "1:-1", ":", "1:٣", "9" * 50 + ":1"])
def test_a_place_that_is_none_is_a_problem(services: Services, served: Served, place: str) -> None:
    run = new_run(services)
    answer = httpx2.get(url(served, run.id), headers={"Last-Event-ID": place.encode()})
    assert (answer.status_code, "ATTEMPT:SEQ" in answer.json()["detail"]) == (422, True)


def test_without_redis_output_comes_from_the_store(
    services: Services, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise RedisError

    for name in ("wait_for_any", "watch", "publish"):
        monkeypatch.setattr(LiveEvents, name, away if name != "publish" else lambda *_: None)
    work = running(services)
    reading = read(work.run_id)
    for last in (3, 6):
        write(services, work, last - 2, last)
        eventually(lambda last=last: seqs(reading.events) == numbered(1, last))
    end(services, work, 6)
    assert seqs(reading.wait()) == numbered(1, 6)


def test_a_slow_reader_gets_everything_and_nothing_waits_for_it_in_memory(
    services: Services, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    take = live.Subscription.take

    def counting(self: live.Subscription) -> Any:
        kept.append(len(self._blocks))
        return take(self)

    monkeypatch.setattr(live.Subscription, "take", counting)
    work = running(services)
    with stream(url(served, work.run_id)) as opened:
        reader = opened.events()
        write(services, work, 1, 1)
        first = next(reader)
        for seq in range(2, 1001):
            ingest(services, [chunk(work, seq, b"x" * 3000)])
        end(services, work, 1000)
        assert seqs([first, *reader]) == numbered(1, 1000)
    assert max(kept) <= live.BLOCKS_KEPT


def test_an_event_is_as_large_as_a_page_can_take_in_and_no_larger(services: Services, read: Any) -> None:
    work = running(services)
    eighth = live.EVENT_BYTES // 8
    ingest(services, [chunk(work, seq, b"x" * (eighth + (seq == 9))) for seq in range(1, 18)])
    end(services, work, 17)
    events = read(work.run_id).wait()
    assert seqs(events) == numbered(1, 17)
    # Eight fill an event; with a byte more than that, the next begins one.
    of_each = [[each["seq"] for each in one.data["chunks"]] for one in events if one.name == "output"]
    assert of_each == [[*range(1, 9)], [*range(9, 16)], [16, 17]]


@pytest.mark.parametrize("named", [True, False])
def test_a_gap_is_waited_for_and_told_when_it_stays(services: Services, read: Any, named: bool) -> None:
    work = running(services)
    write(services, work, 1, 2)
    write(services, work, 4, 5)
    reading = read(work.run_id)
    eventually(lambda: seqs(reading.events) == numbered(1, 2))
    end(services, work, 7)
    with services.database.begin() as connection:
        statement = "UPDATE run_attempts SET finished_at = finished_at - interval '61 s', last_seq = :last_seq"
        connection.execute(text(statement), {"last_seq": 7 if named else None})
    events = reading.wait()
    assert seqs(events) == [*numbered(1, 2), *numbered(4, 5)]
    told = [(one.data["first"], one.data["last"]) for one in events if one.name == "gap"]
    assert told == ([(3, 3), (6, 7)] if named else [(3, 3)])


def test_a_chunk_that_fills_a_gap_comes_in_its_place(services: Services, read: Any) -> None:
    work = running(services)
    write(services, work, 2, 3)
    reading = read(work.run_id)
    write(services, work, 1, 1)
    eventually(lambda: seqs(reading.events) == numbered(1, 3))
    end(services, work, 3)
    assert seqs(reading.wait()) == numbered(1, 3)


def test_every_attempt_is_read_and_a_run_that_never_began_ends_at_once(services: Services, read: Any) -> None:
    work = running(services, max_attempts=2)
    write(services, work, 1, 3)
    reading, never = read(work.run_id), read(new_run(services).id)
    eventually(lambda: seqs(reading.events) == numbered(1, 3))
    with services.database.begin() as connection:
        statement = "UPDATE runs SET status = 'queued', updated_at = clock_timestamp() WHERE id = :id"
        connection.execute(text(statement), {"id": work.run_id})
        statement = "UPDATE run_attempts SET finished_at = clock_timestamp(), last_seq = 3 WHERE run_id = :id"
        connection.execute(text(statement), {"id": work.run_id})
    again = claim(services, work.run_id, "worker@elsewhere")
    assert again is not None
    ingest(services, [chunk(again, seq, attempt=2) for seq in (1, 2)])
    end(services, again, 2)
    assert seqs(reading.wait()) == [*numbered(1, 3), *numbered(1, 2, attempt=2)]
    cancel_run(never._address.split("/")[-3])
    assert [one.data for one in never.wait()] == [{"status": "cancelled"}]


def test_readers_that_leave_leave_nothing_behind(services: Services, served: Served) -> None:
    runs = [running(services) for _ in range(3)]
    before = threading.active_count()
    for work in runs:
        write(services, work, 1, 1)
        for _ in range(5):
            with stream(url(served, work.run_id)) as opened:
                assert next(opened.events()).id == "1:1"
    hub = served.app.state.hub
    write(services, runs[0], 2, 2)
    eventually(lambda: hub.readers == 0, timeout=30)
    assert (hub._subscriptions, hub._positions) == ({}, {})
    assert threading.active_count() <= before + live.STORE_THREADS + 4


def test_a_silent_stream_is_kept_open_by_comments(
    services: Services, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PING", 1)
    work = running(services)
    with stream(url(served, work.run_id)) as opened:
        threading.Timer(3, end, (services, work, 0)).start()
        assert [one.name for one in opened.events()] == ["end"]
        assert opened.comments >= 2


def test_more_streams_than_a_process_can_keep_are_told_to_come_later(
    services: Services, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_READERS", 1)
    work = running(services)
    write(services, work, 1, 1)
    with stream(url(served, work.run_id)) as opened:
        events = opened.events()
        next(events)
        answer = httpx2.get(url(served, work.run_id))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
