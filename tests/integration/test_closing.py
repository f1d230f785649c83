"""Closing logs: to a folder and to S3, whole at every step, read as one log wherever it is, removed when it is old."""

import hashlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import obstore
import pytest
import zstandard
from sqlalchemy import event, text

from reprieve import enqueue_run
from reprieve.models import archive as form
from reprieve.models.chunks import Block, Chunk, blocks_of
from reprieve.models.closing import Closing
from reprieve.models.errors import LogUnavailable
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.archive import LogArchives
from reprieve.stores.closings import Closings
from reprieve.stores.logs import PostgresLogStore
from reprieve.stores.partitions import DAYS_AHEAD, first_id, keep_partitions
from reprieve.stores.reading import LogReader
from reprieve.workers import closing as module
from reprieve.workers import ingest as ingesting
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log, close_owed, expire_logs, send_owed
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.support.rows import chunk, ingest, running
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server with an empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            bucket = urllib.request.Request(f"http://127.0.0.1:{port}/logs", method="PUT")
            eventually(lambda: _answers(bucket))
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def with_archive(services: Services, url: str) -> Services:
    archives = LogArchives(services.database, url)
    store = PostgresLogStore(services.database, archives)
    return replace(services, archives=archives, logs=store, closings=Closings(services.database, archives))


@pytest.fixture(params=["folder", "s3"])
def wired(services: Services, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Services:
    if request.param == "folder":
        return services
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return with_archive(services, "s3://logs/of/reprieve")


def output(work: Work, count: int, seed: int = 1) -> list[Chunk]:
    """Text, bytes that are no text, two streams, cursors."""
    noise = random.Random(seed)
    return [
        Chunk(
            work.run_id,
            work.attempt,
            work.epoch,
            seq,
            noise.choice(["stdout", "stderr"]),
            noise.randbytes(noise.randint(1, 300)) if seq % 3 else f"line {seq} äöü\0\n".encode(),
            str(seq) if seq % 5 == 0 else None,
            1_790_000_000_000 + seq,
        )
        for seq in range(1, count + 1)
    ]


def ended(services: Services, count: int) -> tuple[Work, list[Chunk]]:
    """A run that has printed so many chunks and ended."""
    work = running(services)
    chunks = output(work, count)
    for start in range(0, count, 97):
        ingest(services, chunks[start : start + 97])
    finish(services, [End.by_result(work.fence, Outcome(), count)])
    return work, [replace(one, epoch=0) for one in chunks]


def segments(services: Services, run_id: UUID) -> int:
    query = text("SELECT count(*) FROM log_segments WHERE run_id = :id")
    with services.database.begin() as connection:
        return int(connection.execute(query, {"id": run_id}).scalar_one())


def objects(services: Services) -> list[str]:
    return sorted(found["path"] for page in obstore.list(services.archives.objects.store) for found in page)


def read_all(services: Services, work: Work, limit: int = 70) -> list[Chunk]:
    chunks: list[Chunk] = []
    while page := services.logs.read(work.run_id, 1, chunks[-1].seq if chunks else 0, limit):
        chunks += page
    return chunks


# -- the archive


def test_a_closed_log_is_one_verified_object_that_any_zstd_reads(
    wired: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "FRAME_BYTES", 4_000)
    work, chunks = ended(wired, 300)
    assert close_log(wired, work.run_id, 1) is Closing.DONE
    archive = wired.archives.find(work.run_id, 1)
    assert archive is not None
    assert archive.key is not None
    data = bytes(obstore.get(wired.archives.objects.store, archive.key).bytes())
    assert (len(data), hashlib.sha256(data).hexdigest()) == (archive.size, archive.sha256)
    assert len(archive.frames) > 5
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    lines = [json.loads(line) for line in plain.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, 301))
    assert lines[2] == {
        "seq": 3,
        "at": datetime.fromtimestamp(1_790_000_000.003, UTC).isoformat(timespec="milliseconds"),
        "stream": chunks[2].stream,
        "text": "line 3 äöü\0\n",
    }
    assert segments(wired, work.run_id) == 0
    assert read_all(wired, work) == chunks
    assert wired.closings.owed(10) == []


@pytest.mark.usefixtures("every_log_is_large")
def test_an_archive_in_a_folder_outlives_a_power_cut_before_it_is_recorded(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page cache is not a disk: the file and what led to it are synced while the hot segments are still the log."""
    work, _ = ended(services, 10)
    synced: dict[int, bool] = {}
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced[os.fstat(descriptor).st_ino] = services.archives.find(work.run_id, 1) is None
        fsync(descriptor)

    monkeypatch.setattr("reprieve.stores.objects.os.fsync", noting)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    archive = services.archives.find(work.run_id, 1)
    assert archive is not None
    root = services.settings.data_dir / "archive"
    file = root / str(archive.key)
    assert synced == {path.stat().st_ino: True for path in (file, file.parent, root / "runs", root)}


@pytest.mark.usefixtures("every_log_is_large")
def test_a_folder_of_archives_is_for_nobody_elses_eyes(services: Services) -> None:
    work, _ = ended(services, 1)
    close_log(services, work.run_id, 1)
    assert (services.settings.data_dir / "archive").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_a_log_is_read_the_same_hot_closed_and_half_and_half(
    services: Services, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(form, "FRAME_BYTES", 3_000)
    work, chunks = ended(services, 120)

    def assert_read_from_any_place() -> None:
        for after in (*range(122), 500):
            assert services.logs.read(work.run_id, 1, after, limit) == chunks[after : after + limit]

    assert_read_from_any_place()
    written = services.archives.write(work.run_id, 1, services.logs.hot(work.run_id, 1))
    assert len(written.frames) > 3
    assert services.archives.record(work.run_id, 1, written, written.held.missing(120))
    assert_read_from_any_place()
    assert segments(services, work.run_id) == 2
    while services.closings.drop_segments(work.run_id, 1, 1):
        assert_read_from_any_place()
    assert segments(services, work.run_id) == 0


@pytest.mark.parametrize(("after", "limit", "fetched"), [(0, 1, 1), (0, 10, 1), (0, 11, 2), (9, 2, 2), (35, 1000, 3)])
def test_a_page_of_a_hot_log_fetches_no_more_segments_than_it_shows(
    services: Services, after: int, limit: int, fetched: int
) -> None:
    work = running(services)
    for first in range(1, 61, 10):
        ingest(services, [chunk(work, seq) for seq in range(first, first + 10)])
    rows = []

    def note(_: Any, cursor: Any, statement: str, *__: Any) -> None:
        if "chunks_before" in statement:
            rows.append(cursor.rowcount)

    event.listen(services.database.engine, "after_cursor_execute", note)
    try:
        page = services.logs.read(work.run_id, 1, after, limit)
    finally:
        event.remove(services.database.engine, "after_cursor_execute", note)
    assert [one.seq for one in page] == list(range(after + 1, min(after + limit, 60) + 1))
    assert sum(rows) == fetched


def test_a_follower_sees_no_gap_and_no_repeat_when_the_log_is_closed_under_it(services: Services) -> None:
    work, chunks = ended(services, 1200)
    following = LogReader(services.database, services.logs, services.live, work.run_id).follow()
    seen = [next(following) for _ in range(600)]
    assert close_log(services, work.run_id, 1) is Closing.DONE
    seen += list(following)
    assert [one.seq for one in seen if isinstance(one, Chunk)] == [one.seq for one in chunks]
    assert len(seen) == len(chunks)


# -- what goes wrong


@pytest.mark.usefixtures("every_log_is_large")
def test_an_object_that_is_not_what_was_written_is_not_recorded_and_the_log_stays(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, chunks = ended(services, 50)
    with monkeypatch.context() as patch:
        patch.setattr(LogArchives, "_verify", _damages_first(LogArchives._verify))
        with pytest.raises(LogUnavailable, match="is shorter than it was"):
            close_log(services, work.run_id, 1)
    assert services.archives.find(work.run_id, 1) is None
    assert read_all(services, work) == chunks
    assert close_log(services, work.run_id, 1) is Closing.DONE


def _damages_first(verify: Any) -> Any:
    def damaged(self: LogArchives, key: str, size: int, sha256: str) -> None:
        obstore.put(self.objects.store, key, b"something else")
        verify(self, key, size, sha256)

    return damaged


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (LogArchives, "write"),
        (LogArchives, "_verify"),
        (LogArchives, "record"),
        (Closings, "drop_segments"),
        (Closings, "mark_closed"),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_step_leaves_a_whole_log_that_closes_later(
    services: Services, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, after: bool
) -> None:
    work, chunks = ended(services, 200)
    real = getattr(owner, step)

    def crash(self: Any, *arguments: Any) -> None:
        if after:
            real(self, *arguments)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, crash)
        with pytest.raises(ZeroDivisionError):
            close_log(services, work.run_id, 1)
    assert read_all(services, work) == chunks
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert read_all(services, work) == chunks
    assert segments(services, work.run_id) == 0


@pytest.mark.usefixtures("every_log_is_large")
def test_a_chunk_that_comes_while_the_archive_is_written_is_in_the_next_archive(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, _ = ended(services, 20)
    real = LogArchives.write
    came: list[int] = []

    def write(self: LogArchives, *arguments: Any) -> Any:
        written = real(self, *arguments)
        if not came:
            came.append(21)
            ingest(services, [chunk(work, 21, b"just now")])
        return written

    monkeypatch.setattr(LogArchives, "write", write)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    archive = services.archives.find(work.run_id, 1)
    assert archive is not None
    assert str(archive.held) == "1-21"
    assert objects(services) == [archive.key]


def test_two_who_close_at_once_close_once(services: Services) -> None:
    work, chunks = ended(services, 500)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: close_log(services, work.run_id, 1), range(4)))
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert len(objects(services)) == 1
    assert read_all(services, work) == chunks


# -- what is owed


def test_the_sweep_sends_for_the_logs_that_are_owed_their_closing(services: Services) -> None:
    works = [ended(services, 1)[0] for _ in range(3)]
    assert services.closings.owed(10) == []
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '10 s'"))
    assert services.closings.owed(2) == [(work.run_id, 1) for work in works[:2]]
    assert sweep(services, by_hand=True)["closing"] == 3
    assert close_log(services, works[0].run_id, 1) is Closing.DONE
    assert send_owed(services) == 2


def test_the_end_of_a_run_has_its_log_closed_by_a_real_worker_without_waiting_for_a_sweep(
    services: Services, start_worker: Any
) -> None:
    start_worker("runs,logs,archive")
    # More than is stored by the time at which the end is recorded.
    runs = [
        enqueue_run("process", {"command": ["sh", "-c", script]})
        for script in ("head -c 3000000 /dev/urandom", "echo out; echo err >&2")
    ]
    for run in runs:
        eventually(lambda run=run: any(one.log_closed_at for one in services.runs.get(run.id).attempts), timeout=60)
        assert services.runs.get(run.id).status == "succeeded"
        assert not services.closings.state(run.id, 1).missing
    archive = services.archives.find(runs[0].id, 1)
    assert archive is not None
    assert not archive.gaps
    assert segments(services, runs[0].id) == 0
    assert services.archives.find(runs[1].id, 1) is None, "a small log stays where it is"
    assert {(one.stream, one.data) for one in services.logs.read(runs[1].id, 1)} == {
        ("stdout", b"out\n"),
        ("stderr", b"err\n"),
    }


# -- a sweep's one message: it goes through all that is owed


@pytest.fixture
def owed(services: Services) -> list[Work]:
    """Three logs, whole, of runs that ended a while ago."""
    works = [running(services) for _ in range(3)]
    for work in works:
        ingest(services, [chunk(work, 1)])
        finish(services, [End.by_result(work.fence, Outcome(), 1)])
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '10 s'"))
    return works


def test_all_that_is_owed_is_closed(services: Services, owed: list[Work]) -> None:
    assert close_owed(services) == {"done": 3}
    assert services.closings.owed(10) == []
    assert close_owed(services) == {}
    assert send_owed(services) == 0


@pytest.mark.usefixtures("every_log_is_large")
def test_a_log_that_cannot_be_closed_stops_no_other(
    services: Services, owed: list[Work], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = module.close_log

    def close_log(wired: Services, run_id: UUID, attempt: int) -> Any:
        if run_id == owed[0].run_id:
            raise ZeroDivisionError
        return real(wired, run_id, attempt)

    monkeypatch.setattr(module, "close_log", close_log)
    assert close_owed(services) == {"failed": 1, "done": 2}
    assert services.closings.owed(10) == [(owed[0].run_id, 1)]
    assert "could not be closed" in caplog.text


def test_a_turn_ends_before_the_next_sweep_sends_for_another(
    services: Services, owed: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_FOR", -1)
    assert close_owed(services) == {}
    assert len(services.closings.owed(10)) == 3


def test_a_real_worker_closes_what_a_message_asks_it_to(
    services: Services, owed: list[Work], start_worker: Any
) -> None:
    start_worker("archive")
    assert send_owed(services) == 3
    eventually(lambda: services.closings.owed(10) == [])


def test_a_broker_that_is_away_leaves_it_to_the_next_sweep(
    services: Services, owed: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(app, "send_task", refuse)
    assert send_owed(services) == 3


# -- retention


def retention(services: Services, days: float) -> Services:
    return replace(services, settings=services.settings.model_copy(update={"log_retention_days": days}))


@pytest.mark.usefixtures("every_log_is_large")
def test_the_logs_of_old_runs_are_removed_and_no_others(wired: Services) -> None:
    (old, _), (young, chunks) = ended(wired, 20), ended(wired, 20)
    going_on = running(wired)
    ingest(wired, [chunk(going_on, 1)])
    for work in (old, young):
        assert close_log(wired, work.run_id, 1) is Closing.DONE
    ingest(wired, [chunk(old, 21)])
    for work in (old, young, going_on):
        ingesting.ingest(wired, [Block(work.run_id, 1, 1, 30, 31, b"no block at all")])
    obstore.put(wired.archives.objects.store, f"runs/{old.run_id}/1-left-by-a-crash.ndjson.zst", b"x")
    with wired.database.begin() as connection:
        for table, column in (("runs", "finished_at"), ("log_archives", "written_at")):
            key = "id" if table == "runs" else "run_id"
            statement = f"UPDATE {table} SET {column} = {column} - interval '31 days' WHERE {key} = :id"
            connection.execute(text(statement), {"id": old.run_id})
    assert expire_logs(wired) == 0
    assert expire_logs(retention(wired, 32)) == 0
    assert expire_logs(retention(wired, 30)) == 1
    assert expire_logs(retention(wired, 30)) == 0
    assert wired.logs.read(old.run_id, 1) == []
    assert [path for path in objects(wired) if str(old.run_id) in path] == []
    archive = wired.archives.find(old.run_id, 1)
    assert archive is not None
    assert archive.removed_at is not None
    assert read_all(wired, young) == chunks
    assert len(wired.logs.read(going_on.run_id, 1)) == 1
    assert segments(wired, old.run_id) == 0
    assert [len(wired.closings.state(work.run_id, 1).quarantined) for work in (old, young, going_on)] == [0, 1, 1]


@pytest.mark.usefixtures("every_log_is_large")
def test_retention_goes_in_bounded_steps(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXPIRE_AT_ONCE", 2)
    for _ in range(3):
        assert close_log(services, ended(services, 1)[0].run_id, 1) is Closing.DONE
    with services.database.begin() as connection:
        connection.execute(text("UPDATE log_archives SET written_at = written_at - interval '2 days'"))
        connection.execute(text("UPDATE runs SET finished_at = finished_at - interval '2 days'"))
    assert [expire_logs(retention(services, 1)) for _ in range(3)] == [2, 1, 0]


# -- the days of the hot tier


@pytest.fixture
def no_days(services: Services) -> Iterator[Services]:
    """Services whose hot tier has no days, before and after."""
    _drop_days(services)
    yield services
    with services.database.begin() as connection:
        connection.execute(text("TRUNCATE log_segments"))
    _drop_days(services)


def _drop_days(services: Services) -> None:
    with services.database.begin() as connection:
        names = connection.execute(
            text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_segments'::regclass")
        )
        for name in [one for one in names.scalars() if one != "log_segments_default"]:
            connection.execute(text(f"DROP TABLE {name}"))


def test_days_are_made_ahead_and_dropped_when_they_are_over_and_empty(no_days: Services) -> None:
    assert keep_partitions(no_days.database) == {"partitions_made": DAYS_AHEAD + 1, "partitions_dropped": 0}
    assert keep_partitions(no_days.database) == {"partitions_made": 0, "partitions_dropped": 0}
    work = running(no_days)
    ingest(no_days, [chunk(work, 1)])
    day = no_days.database.now().date()
    with no_days.database.begin() as connection:
        assert connection.execute(text(f"SELECT count(*) FROM log_segments_{day:%Y%m%d}")).scalar() == 1
        for age in (4, 5):
            gone = day - timedelta(days=age)
            bounds = f"FROM ('{first_id(gone)}') TO ('{first_id(gone + timedelta(days=1))}')"
            connection.execute(
                text(f"CREATE TABLE log_segments_{gone:%Y%m%d} PARTITION OF log_segments FOR VALUES {bounds}")
            )
    late = Chunk(first_id(day - timedelta(days=4)), 1, 1, 1, "stdout", b"not closed yet")
    with no_days.database.begin() as connection:
        no_days.logs.append(connection, blocks_of([late]))
    assert keep_partitions(no_days.database) == {"partitions_made": 0, "partitions_dropped": 1}
    assert [one.data for one in no_days.logs.read(late.run_id, 1)] == [b"not closed yet"]


def test_a_day_whose_runs_have_begun_without_it_stays_in_the_default(no_days: Services) -> None:
    work = running(no_days)
    ingest(no_days, [chunk(work, 1)])
    assert keep_partitions(no_days.database)["partitions_made"] == DAYS_AHEAD
    assert [one.seq for one in no_days.logs.read(work.run_id, 1)] == [1]
