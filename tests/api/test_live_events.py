"""The fleet's events as they come: each once, by their ids, though one commits late or a reader is cut off."""

import threading
from collections.abc import Callable, Iterator
from uuid import UUID

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, text

from reprieve.api import events as api
from reprieve.stores.events import Settled, events_between
from reprieve.workers.bootstrap import Services
from tests.support.rows import new_run
from tests.support.served import Served
from tests.support.sse import Event, stream
from tests.support.waiting import eventually


class Reading:
    """A reader on a thread of its own that comes back with the last id that it has."""

    def __init__(self, url: str, after: int | None = None) -> None:
        self._url, self._after, self._ended = url, after, threading.Event()
        self.events: list[Event] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            last = self.events[-1].id if self.events else None
            params = {} if self._after is None else {"after": self._after}
            try:
                with stream(f"{self._url}/v1/events/live", last_event_id=last, **params) as opened:
                    for event in opened.events():
                        self.events.append(event)
                        if self._ended.is_set():
                            return
            except httpx2.HTTPError:
                self._ended.wait(0.05)

    def end(self) -> None:
        self._ended.set()

    @property
    def ids(self) -> list[int]:
        return [int(event.id) for event in self.events]

    def has(self, number: int) -> None:
        eventually(lambda: len(self.events) >= number, what=f"{number} events")
        assert len(self.events) == number
        assert self.ids == sorted(set(self.ids))


@pytest.fixture
def read(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Reading]]:
    monkeypatch.setattr(api, "LOOK_INTERVAL", 0.05)
    readings: list[Reading] = []

    def begin(after: int | None = None) -> Reading:
        readings.append(Reading(served.url, after))
        return readings[-1]

    yield begin
    for one in readings:
        one.end()


def newest(services: Services) -> int:
    with services.database.begin() as connection:
        return int(connection.execute(text("SELECT coalesce(max(id), 0) FROM run_events")).scalar_one())


def note(connection: Connection, run_id: UUID) -> int:
    statement = text("INSERT INTO run_events (run_id, attempt, kind) VALUES (:run, 0, 'noted') RETURNING id")
    return int(connection.execute(statement, {"run": run_id}).scalar_one())


def test_all_that_happens_after_an_id_is_told_as_it_is(services: Services, read: Callable[..., Reading]) -> None:
    before = newest(services)
    runs = [new_run(services).id for _ in range(3)]
    reading = read(before)
    reading.has(3)
    runs += [new_run(services).id for _ in range(2)]
    reading.has(5)
    assert [UUID(event.data["run_id"]) for event in reading.events] == runs
    first = reading.events[0]
    assert first.name == first.data["kind"] == "enqueued"
    assert int(first.id) == first.data["id"]


def test_without_an_id_only_what_happens_from_now_on_is_told(
    services: Services, served: Served, read: Callable[..., Reading]
) -> None:
    new_run(services)
    reading = read()
    eventually(lambda: served.app.state.watcher._up_to is not None)
    run = new_run(services).id
    eventually(lambda: reading.events)
    assert [event.data["run_id"] for event in reading.events] == [str(run)]


def test_an_event_that_commits_late_is_told_before_those_that_have_a_higher_id(
    services: Services, read: Callable[..., Reading]
) -> None:
    run, other = new_run(services).id, new_run(services).id
    reading = read(newest(services))
    with services.database.begin() as late:
        low = note(late, run)
        with services.database.begin() as connection:
            high = note(connection, other)
        with services.database.begin() as connection:
            again = note(connection, other)
        assert low < high < again
        looked = Settled(services.database)
        assert [looked.look() for _ in range(3)] == [None] * 3
        assert reading.events == []
    reading.has(3)
    assert reading.ids == [low, high, again]
    assert looked.look() == again


def test_an_event_that_is_rolled_back_holds_up_the_others_no_longer(
    services: Services, read: Callable[..., Reading]
) -> None:
    run = new_run(services).id
    reading = read(newest(services))
    with pytest.raises(ZeroDivisionError), services.database.begin() as late:
        note(late, run)
        with services.database.begin() as connection:
            high = note(connection, run)
        _ = 1 / 0
    reading.has(1)
    assert reading.ids == [high]


def test_who_writes_no_event_is_not_waited_for_and_who_begins_later_is_not_either(services: Services) -> None:
    run = new_run(services).id
    looked = Settled(services.database)
    with services.database.begin() as other:
        other.execute(text("UPDATE runs SET sends = 1"))
        assert looked.look() == newest(services)
    before = newest(services)
    with services.database.begin() as first:
        note(first, run)
        with services.database.begin() as connection:
            high = note(connection, run)
        assert looked.look() == before
        second = services.database.engine.connect()
        note(second, run)
    try:
        # What the second has is above what is settled by now; its own turn comes.
        assert looked.look() == high
        assert looked.look() == high
    finally:
        second.rollback()
        second.close()


def test_many_who_write_at_once_are_all_told_each_once(services: Services, read: Callable[..., Reading]) -> None:
    reading = read(newest(services))

    def write() -> None:
        for _ in range(25):
            new_run(services)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reading.has(100)


def test_a_reader_that_is_cut_off_goes_on_where_it_was(
    services: Services, served: Served, read: Callable[..., Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PAGE", 7)
    reading = read(newest(services))
    for _ in range(20):
        new_run(services)
    reading.has(20)
    served.stop()
    for _ in range(20):
        new_run(services)
    served.start()
    reading.has(40)


def test_what_is_no_id_is_refused(client: TestClient) -> None:
    for given in ("x", "-1", "1:2", "9" * 40):
        assert client.get("/v1/events/live", headers={"Last-Event-ID": given}).status_code == 422
    assert client.get("/v1/events/live", params={"after": -1}).status_code == 422


def test_there_are_so_many_readers_and_no_more(
    services: Services, served: Served, read: Callable[..., Reading]
) -> None:
    """Of events, and of events and logs together: what is left is for those who start runs and report."""
    read()
    eventually(lambda: served.app.state.watcher.readers == 1)
    served.app.state.hub.most = 1
    log = f"{served.url}/v1/runs/{new_run(services).id}/log/live"
    for url in (f"{served.url}/v1/events/live", log):
        refused = httpx2.get(url)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


def test_pages_are_in_order_and_have_an_end(services: Services) -> None:
    before = newest(services)
    for _ in range(5):
        new_run(services)
    up_to = newest(services)
    first = events_between(services.database, before, up_to, 3)
    second = events_between(services.database, first[-1].id, up_to, 3)
    assert [one.id for one in (*first, *second)] == sorted(one.id for one in (*first, *second))
    assert (len(first), len(second)) == (3, 2)
