"""E14: a store that hangs costs those who read from it, and nobody else; an API that was stuck heard nothing."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from redis import Redis
from sqlalchemy import text

from reprieve.api import desks
from reprieve.models.errors import LogUnavailable
from reprieve.models.health import ailments
from reprieve.models.judging import Judgement, judge
from reprieve.models.liveness import Timing
from reprieve.models.records import RunPage
from reprieve.models.watching import Watch
from reprieve.models.work import End, Outcome, Work
from reprieve.stores import objects
from reprieve.stores.archive import LogArchives
from reprieve.stores.closings import Closings
from reprieve.stores.logs import PostgresLogStore
from reprieve.stores.patience import Patience
from reprieve.workers import reporting
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.support import sse
from tests.support.http import opened
from tests.support.object_store import ObjectStore, object_store
from tests.support.remote import remote_with_token
from tests.support.rows import age, chunk, expire_key, ingest, running, status_of, updated_at, watch_for
from tests.support.served import Served
from tests.support.waiting import eventually
from tests.unit.test_reaping import NOW, TIMING, suspect

pytestmark = [pytest.mark.row("E14"), pytest.mark.usefixtures("every_log_is_large")]

READERS = 60
#: Seconds within which whoever gives a sign of life is answered, on a slow and busy machine.
SOON = 2.5
#: The same beside callers that hang for a minute.
LONG_BEFORE_A_MINUTE = 10.0


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def wired(services: Services, store: ObjectStore) -> Services:
    """Services whose archive is that store."""
    settings = services.settings.model_copy(update={"log_archive_url": "s3://logs"})
    archives = LogArchives(services.database, settings.archive_url)
    logs = PostgresLogStore(services.database, archives)
    closings = Closings(services.database, archives)
    return replace(services, settings=settings, archives=archives, logs=logs, closings=closings)


@contextmanager
def serving(services: Services) -> Iterator[Served]:
    made = Served(opened(services))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def closed_log(services: Services) -> Work:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    finish(services, [End.by_result(work.fence, Outcome(), 1)])
    assert close_log(services, work.run_id, 1).value == "done"
    return work


def asked(served: Served, path: str, method: str = "GET") -> socket.socket:
    """A connection on which this was asked for, and nothing read yet."""
    connection = socket.create_connection(("127.0.0.1", served.port))
    connection.sendall(
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n\r\n".encode()
    )
    connection.settimeout(60)
    return connection


def answer_on(connection: socket.socket) -> str:
    parts = []
    while data := connection.recv(65536):
        parts.append(data)
    return b"".join(parts).decode()


def seconds_of(call: Callable[[], httpx2.Response]) -> float:
    began = time.monotonic()
    answer = call()
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began


# -- places


@pytest.mark.parametrize("path", ["attempts/1/output/stdout", "log/live"])
def test_behind_sixty_readers_of_a_log_whose_store_hangs_no_heartbeat_waits_and_live_output_flows(
    wired: Services, store: ObjectStore, redis: Redis, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(objects, "READ_SECONDS", 4.0)
    monkeypatch.setattr(desks, "LONGEST_WAIT", 2.0)
    log, (work, token) = closed_log(wired), remote_with_token(wired)
    store.hanging = {"GET", "HEAD"}
    with serving(wired) as served, httpx2.Client(base_url=served.url, timeout=60) as client, ExitStack() as open_ones:
        readers = [open_ones.enter_context(asked(served, f"/v1/runs/{log.run_id}/{path}")) for _ in range(READERS)]
        eventually(lambda: store.waiting >= 4)

        def heartbeat() -> httpx2.Response:
            return client.post(f"/v1/runs/{work.run_id}/heartbeat", headers={"Authorization": f"Bearer {token}"})

        for _ in range(5):
            assert seconds_of(heartbeat) < SOON
        assert seconds_of(lambda: client.get("/health/live")) < SOON
        assert time_of(lambda: client.get("/health/ready")) < SOON
        before = updated_at(wired, work.run_id)
        expire_key(wired, redis, work.run_id)
        assert seconds_of(heartbeat) < SOON
        assert updated_at(wired, work.run_id) > before
        ingest(wired, [chunk(work, 1)])
        began = time.monotonic()
        with sse.stream(f"{served.url}/v1/runs/{work.run_id}/log/live") as live:
            events = live.events()
            for seq in (1, 2):
                if seq == 2:
                    ingest(wired, [chunk(work, seq)])
                    began = time.monotonic()
                assert [one["seq"] for one in next(events).data["chunks"]] == [seq]
                assert time.monotonic() - began < SOON
        if path != "log/live":
            answers = [answer_on(reader) for reader in readers]
            assert {answer.split()[1] for answer in answers} == {"503"}
            assert all("retry-after: 5" in answer.lower() for answer in answers)
        store.closing.set()


def time_of(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_who_holds_all_threads_and_connections_of_the_api_holds_none_of_those_for_reports(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, token = remote_with_token(services)
    may_go_on = threading.Event()

    def stuck(*_: object, **__: object) -> RunPage:
        with services.database.begin():
            may_go_on.wait(60)
        return RunPage(runs=[], next=None)

    monkeypatch.setattr(services.records, "page", stuck)
    headers = {"Authorization": f"Bearer {token}"}
    with (
        serving(services) as served,
        httpx2.Client(base_url=served.url, timeout=30) as client,
        ExitStack() as open_ones,
    ):
        for _ in range(READERS):
            open_ones.enter_context(asked(served, "/v1/runs"))
        eventually(lambda: services.database.engine.pool.checkedout() >= 15)  # type: ignore[attr-defined]
        try:
            for _ in range(3):
                assert (
                    seconds_of(lambda: client.post(f"/v1/runs/{work.run_id}/heartbeat", headers=headers))
                    < LONG_BEFORE_A_MINUTE
                )
            body = {"first_seq": 1, "chunks": []}
            report = f"/v1/runs/{work.run_id}/output"
            assert seconds_of(lambda: client.post(report, headers=headers, json=body)) < LONG_BEFORE_A_MINUTE
            assert seconds_of(lambda: client.get("/health/live")) < LONG_BEFORE_A_MINUTE
            assert time_of(lambda: client.get("/health/ready")) < LONG_BEFORE_A_MINUTE
        finally:
            may_go_on.set()


# -- deadlines


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_every_call_to_a_store_that_hangs_comes_back(
    wired: Services, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    log = closed_log(wired)
    monkeypatch.setattr(objects, "READ_SECONDS", 0.5)
    monkeypatch.setattr(objects, "WRITE_SECONDS", 0.5)
    store.hanging = {method}
    calls: dict[str, Callable[[], object]] = {
        "PUT": lambda: wired.archives.write(log.run_id, 1, [chunk(log, 1)]),
        "GET": lambda: wired.logs.read(log.run_id, 1),
        "HEAD": lambda: wired.archives.write(log.run_id, 1, [chunk(log, 1)]),
        "DELETE": lambda: wired.archives.remove(log.run_id, 1),
    }
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match=r"has not answered for [01] s"):
        calls[method]()
    assert time.monotonic() - began < SOON + 1


def test_a_call_that_never_comes_back_costs_its_caller_its_deadline_and_holds_one_place() -> None:
    never, patience = threading.Event(), Patience(2)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            patience.call(0.05, never.wait)
    with pytest.raises(TimeoutError):  # Both places are taken: nothing more is begun.
        patience.call(0.05, lambda: pytest.fail("was called"))
    never.set()
    assert eventually(lambda: _quietly(patience)) == "done"


def _quietly(patience: Patience) -> str | None:
    try:
        return patience.call(0.05, lambda: "done")
    except TimeoutError:
        return None


def test_what_a_call_says_in_time_is_what_its_caller_gets() -> None:
    patience = Patience(1)
    assert [patience.call(5, lambda: "said") for _ in range(20)] == ["said"] * 20
    with pytest.raises(ZeroDivisionError):
        patience.call(5, lambda: 1 / 0)
    assert patience.call(5, lambda: None) is None


# -- hearing


def watch(**changes: Any) -> Watch:
    hour = timedelta(hours=1)
    long_ago = {"since": NOW - hour, "last_sweep_at": NOW, "hearing_since": NOW - hour, "heard_at": NOW}
    return Watch(**{"window": TIMING.window, **long_ago, **changes})


@pytest.mark.parametrize(
    ("since", "last", "judgement"),
    [
        (3600.0, 0.0, Judgement.REAP_SILENT),
        (300.0, 120.0, Judgement.REAP_SILENT),
        (299.9, 0.0, Judgement.SPARE_DEAF),  # It has not been back for a whole window.
        (3600.0, 120.1, Judgement.SPARE_DEAF),  # It is stuck, or away.
        (3600.0, -120.1, Judgement.SPARE_DEAF),  # The clock was set back since.
        (None, None, Judgement.REAP_SILENT),  # There never was an API.
    ],
)
def test_silence_over_an_api_that_took_no_reports_convicts_nobody(
    since: float | None, last: float | None, judgement: Judgement
) -> None:
    def ago(seconds: float | None) -> datetime | None:
        return None if seconds is None else NOW - timedelta(seconds=seconds)

    heard = watch(reports_since=ago(since), reports_at=ago(last))
    silent = suspect(silent=timedelta(seconds=301))
    assert judge(replace(silent, reports=True), heard, None, NOW, TIMING) is judgement
    assert judge(silent, heard, None, NOW, TIMING) is Judgement.REAP_SILENT  # It reports by another way.


def heard(services: Services, *, since: float, last: float) -> None:
    """Have an API have been taking reports for so many seconds, and last so many ago."""
    statement = text(
        "UPDATE reaper_watch SET reports_since = clock_timestamp() - CAST(:since AS interval), "
        "reports_at = clock_timestamp() - CAST(:last AS interval)"
    )
    with services.database.begin() as connection:
        connection.execute(statement, {"since": timedelta(seconds=since), "last": timedelta(seconds=last)})


def reports(services: Services) -> tuple[datetime, datetime] | None:
    watch = services.sweeps.last_watch()
    return (watch.reports_since, watch.reports_at) if watch and watch.reports_since and watch.reports_at else None


def test_remote_work_is_spared_while_the_api_was_stuck_and_reaped_once_it_was_back_for_a_window(
    services: Services,
) -> None:
    (work, _), other = remote_with_token(services), running(services, adapter="third_party")
    watch_for(services, 4000)
    age(services, work.run_id, 400)
    heard(services, since=100, last=1)
    assert sweep(services, by_hand=True)["judgements"] == {"spare_deaf": 1}
    assert "the HTTP API that it reports to was stuck or away" in explain(services, work.run_id).text
    heard(services, since=400, last=200)
    assert sweep(services, by_hand=True)["judgements"] == {"spare_deaf": 1}
    heard(services, since=301, last=1)
    age(services, other.run_id, 400)
    assert sweep(services, by_hand=True)["reaped"] == 2
    assert [status_of(services, one.run_id) for one in (work, other)] == ["failed", "failed"]


def test_where_no_api_ever_ran_dead_remote_work_is_reaped_as_any_other(services: Services) -> None:
    work, _ = remote_with_token(services)
    watch_for(services, 4000)
    age(services, work.run_id, 301)
    assert sweep(services, by_hand=True)["reaped"] == 1


def test_apis_that_are_restarted_one_after_the_other_are_no_gap_and_one_that_stood_still_is(
    services: Services,
) -> None:
    watch_for(services, 4000)
    tolerated = services.timing.tolerated_lag
    services.sweeps.take_reports(tolerated, after_a_gap=False)
    begun = reports(services)
    assert begun is not None
    heard(services, since=400, last=119)  # The last one ended, and the next is there.
    services.sweeps.take_reports(tolerated, after_a_gap=False)
    now = reports(services)
    assert now is not None
    assert now[1] - now[0] > timedelta(seconds=399)
    services.sweeps.take_reports(tolerated, after_a_gap=True)  # A second one thaws that has missed what was sent to it.
    now = reports(services)
    assert now is not None
    assert now[1] - now[0] < timedelta(seconds=5)
    heard(services, since=400, last=121)
    services.sweeps.take_reports(tolerated, after_a_gap=False)
    now = reports(services)
    assert now is not None
    assert now[1] - now[0] < timedelta(seconds=5)


def test_an_api_says_that_it_takes_reports_on_the_way_that_reports_take(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, taken = threading.Event(), []

    def stuck(*_: object) -> dict[str, bool]:
        taken.append(1)
        may_go_on.wait(60)
        return {"stop": False}

    monkeypatch.setattr(reporting, "heartbeat", stuck)
    watch_for(services, 4000)
    fast = replace(services, timing=Timing.scaled(30))
    with serving(fast) as served, ExitStack() as open_ones:
        begun = eventually(lambda: reports(services))
        eventually(lambda: reports_after(services, begun[1]))
        assert (reports(services) or begun)[0] == begun[0]
        for _ in range(desks.REPORTS_AT_ONCE):
            open_ones.enter_context(asked(served, f"/v1/runs/{UUID(int=1)}/heartbeat", "POST"))
        eventually(lambda: len(taken) == desks.REPORTS_AT_ONCE)
        last = reports(services)
        assert last is not None
        eventually(lambda: services.database.now() - last[1] > fast.timing.tolerated_lag + timedelta(seconds=0.5))
        assert reports(services) == last
        may_go_on.set()
        back = eventually(lambda: reports_after(services, last[1]))
        assert back[0] > last[1]


def reports_after(services: Services, moment: datetime) -> tuple[datetime, datetime] | None:
    said = reports(services)
    return said if said and said[1] > moment else None


def test_health_says_that_no_api_takes_reports_where_there_is_work_that_sends_them(services: Services) -> None:
    def told() -> bool:
        pulse = services.sweeps.pulse()
        return any("No HTTP API has taken reports" in one for one in ailments(pulse, services.timing))

    watch_for(services, 4000)
    sweep(services, by_hand=True)
    heard(services, since=4000, last=181)
    assert not told()
    remote_with_token(services)
    assert told()
    heard(services, since=4000, last=179)
    assert not told()
