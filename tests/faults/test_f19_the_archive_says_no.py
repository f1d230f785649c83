"""F19: what the archive refuses is told where a person looks, and an address that cannot be one is refused at once."""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from typer.testing import CliRunner

from reprieve.cli import doctor
from reprieve.cli.main import app
from reprieve.models.errors import LogUnavailable, SettingsError
from reprieve.models.work import End, Outcome, Work
from reprieve.stores import objects
from reprieve.stores.archive import LogArchives
from reprieve.stores.closings import Closings
from reprieve.stores.logs import PostgresLogStore
from reprieve.workers import bootstrap
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_owed, close_task, expire_logs
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from reprieve.workers.settings import load_settings
from tests.support.forking import REPRIEVE
from tests.support.http import calling
from tests.support.object_store import MISSING, ObjectStore, object_store
from tests.support.processes import run_command
from tests.support.rows import chunk, in_process, ingest, running

pytestmark = [pytest.mark.row("F19"), pytest.mark.usefixtures("every_log_is_large")]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(objects, "RETRIES", {"max_retries": 0})
        yield made


@pytest.fixture
def wired(services: Services, store: ObjectStore) -> Services:
    """Services whose archive is that store."""
    settings = services.settings.model_copy(
        update={"log_archive_url": "s3://logs/of/reprieve", "log_retention_days": 1}
    )
    archives = LogArchives(services.database, settings.archive_url)
    made = replace(
        services,
        settings=settings,
        archives=archives,
        logs=PostgresLogStore(services.database, archives),
        closings=Closings(services.database, archives),
    )
    bootstrap.use(made)
    return made


def owed(services: Services, count: int = 1) -> list[Work]:
    """Runs that ended a while ago, whose logs are whole and open."""
    works = [running(services) for _ in range(count)]
    for work in works:
        ingest(services, [chunk(work, 1)])
        finish(services, [End.by_result(work.fence, Outcome(), 1)])
    pass_days(services, 2)
    return works


def pass_days(services: Services, days: float) -> None:
    with services.database.begin() as connection:
        for table, column in (("run_attempts", "finished_at"), ("runs", "finished_at"), ("log_archives", "written_at")):
            moved = f"UPDATE {table} SET {column} = {column} - make_interval(days => {days})"
            connection.execute(text(moved))


def health_of(services: Services) -> str:
    return CliRunner().invoke(app, ["health"]).stdout


# -- the last refusal


def test_a_refusal_stands_in_explain_health_and_a_metric_until_the_archive_takes_logs_again(
    wired: Services, store: ObjectStore
) -> None:
    (work,) = owed(wired)
    assert "refus" not in explain(wired, work.run_id).text
    assert "log archive" not in health_of(wired)
    store.refuse("PUT")
    assert close_task.run(str(work.run_id), 1) == {"run": str(work.run_id), "log": "refused"}
    with calling(wired) as client:
        metrics = client.get("/metrics").text
        told = {
            "explain": explain(wired, work.run_id).text,
            "health": health_of(wired),
            "fleet": client.get("/v1/fleet").text,
            "ready": client.get("/health/ready").text,
            "doctor": doctor.archiving(wired)[1],
        }
    for where, said in told.items():
        assert "did not take runs/" in said, where
        assert "403" in said, where
    assert 'reprieve_archive_refusing_seconds{operation="write"} 0.0\n' not in metrics
    assert "The log of attempt 1 waits for the archive." in told["explain"]
    assert not doctor.archiving(wired)[0]
    store.refuse()
    assert close_task.run(str(work.run_id), 1)["log"] == "done"
    assert doctor.archiving(wired)[0]
    assert "log archive" not in health_of(wired)
    assert "waits for the archive" not in explain(wired, work.run_id).text


def test_a_run_whose_log_is_closed_or_still_going_on_is_not_said_to_wait_for_the_archive(
    wired: Services, store: ObjectStore
) -> None:
    (closed,) = owed(wired)
    close_task.run(str(closed.run_id), 1)
    going_on = in_process(wired)
    (waiting,) = owed(wired)
    store.refuse("PUT")
    close_task.run(str(waiting.run_id), 1)
    said = {work.run_id: "waits for the archive" in explain(wired, work.run_id).text for work in (closed, going_on)}
    assert not any(said.values())
    assert "waits for the archive" in explain(wired, waiting.run_id).text


def test_many_owed_logs_and_sweeps_cost_one_sentence_and_no_traceback(
    wired: Services, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    owed(wired, 5)
    store.refuse("PUT")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            close_owed(wired)
    refused = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(refused) == 1
    assert "did not take" in refused[0].getMessage()
    assert not any(record.exc_info for record in caplog.records)
    assert len(wired.closings.owed(10)) <= 5


def test_a_removal_that_is_refused_is_told_as_such_and_keeps_no_log_from_being_closed(
    wired: Services, store: ObjectStore
) -> None:
    (old,) = owed(wired)
    close_task.run(str(old.run_id), 1)
    pass_days(wired, 2)
    store.refuse("DELETE")
    assert expire_logs(wired) == 0
    assert "did not remove runs/" in health_of(wired)
    (young,) = owed(wired)
    assert close_task.run(str(young.run_id), 1)["log"] == "done"
    assert "did not remove runs/" in health_of(wired)
    store.refuse()
    wired.archives.remove(old.run_id, 1)
    assert "log archive" not in health_of(wired)


# -- doctor


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("PUT", "cannot be written to"),
        ("GET", "cannot be read"),
        ("DELETE", "cannot remove objects (doctor-"),
    ],
)
@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_doctor_says_which_of_writing_reading_and_removing_does_not_work(
    wired: Services, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, method: str, words: str, how: str
) -> None:
    monkeypatch.setattr(objects, "PROBE_SECONDS", 1.0)
    if how == "refuses":
        store.refuse(method)
    else:
        store.hanging.add(method)
    began = time.monotonic()
    with pytest.raises(LogUnavailable) as refused:
        doctor.archive(wired)
    assert words in str(refused.value)
    other = {"cannot be written to", "cannot be read", "cannot remove objects (doctor-"} - {words}
    if method != "PUT":
        assert not [one for one in other if one in str(refused.value)]
    if how == "hangs":
        assert "has not answered for 1 s" in str(refused.value)
    assert time.monotonic() - began < 8
    assert [key for key in store.objects if "doctor-" in key] == [] or method == "DELETE"
    found = next(one for one in doctor.findings(wired) if one.what == "archive")
    assert not found.well


def test_doctor_uses_the_archive_and_leaves_nothing_behind(wired: Services, store: ObjectStore) -> None:
    well, told = doctor.archive(wired)
    assert (well, store.objects) == (True, {})
    assert "written, read, listed and removed" in told
    assert {"PUT", "GET", "DELETE"} <= set(store.seen)


def test_doctor_says_that_there_is_no_such_bucket(wired: Services, store: ObjectStore) -> None:
    store.refuse("PUT", "GET", "DELETE", how=MISSING)
    with pytest.raises(LogUnavailable, match="no such bucket"):
        doctor.archive(wired)


def test_doctor_makes_no_folder_and_finds_one_that_takes_nothing(services: Services, tmp_path: Path) -> None:
    folder = services.settings.data_dir / "archive"
    assert doctor.archive(services)[0]
    assert not folder.exists()
    folder.mkdir()
    assert doctor.archive(services)[0]
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_doctor_finds_a_folder_that_its_user_may_not_write_to() -> None:
    code = (
        "import os, sys\n"
        "from reprieve.stores.objects import Objects\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: Objects(sys.argv[1]).probe()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        command = [sys.executable, "-c", code, Path(folder).as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "LogUnavailable" in done.stdout, done.stderr
    assert "cannot be written to" in done.stdout


# -- addresses


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "is no address of an object store"),
        ("/srv/logs", "is no address of an object store"),
        ("s3://", "names no bucket"),
        ("s3:/bucket", "names no bucket"),
        ("s3:bucket", "names no bucket"),
        ("gs://", "names no bucket"),
        ("https://", "names no bucket"),
        ("file://relative", "three slashes"),
        ("file:relative", "three slashes"),
        ("file:///", "three slashes"),
        ("ftp://host/folder", "known here"),
        ("s4://bucket", "known here"),
        ("s3://b ucket", "known here"),
        ("file:///dev/null/logs", "/dev/null is none"),
        ("file:///tmp/logs?mode=0700", "leave out"),
        ("memory://", "memory of one process"),
        (f"file:///tmp/{'x' * 300}", "File name too long"),
        ("s3://key:secret@bucket/prefix", "holds a password"),
        ("s3://[bucket", "is no address"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv("REPRIEVE_LOG_ARCHIVE_URL", url)
    with pytest.raises(SettingsError, match=r"^REPRIEVE_LOG_ARCHIVE_URL: ") as refused:
        load_settings()
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/a/prefix", "gs://bucket/x", "abfs://c@a.dfs.core.windows.net"]
)
def test_an_address_of_a_store_elsewhere_is_taken_without_asking_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REPRIEVE_LOG_ARCHIVE_URL", url)
    assert load_settings().archive_url == url


def test_a_folder_is_taken_and_not_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not" / "yet", tmp_path / "with space"):
        monkeypatch.setenv("REPRIEVE_LOG_ARCHIVE_URL", folder.as_uri())
        assert load_settings().archive_url == folder.as_uri()
    assert list(tmp_path.iterdir()) == []


def test_who_is_to_fill_an_archive_that_there_cannot_be_does_not_start(services: Services) -> None:
    """A folder that can only be seen not to be made by making it."""
    environment = {**os.environ, "REPRIEVE_LOG_ARCHIVE_URL": "file:///proc/archive"}
    done = run_command([REPRIEVE, "start", "worker-archive"], env=environment, text=True)
    assert done.returncode == 2
    assert "file:///proc/archive" in done.stderr
    assert "Traceback" not in done.stderr


# -- doctor's other checks


def test_doctor_judges_refreshes_and_not_changes_of_status(services: Services) -> None:
    for _ in range(100):
        running(services)
    with services.database.begin() as connection:  # What short runs do to the table: none of it is a HOT update.
        for status, finished in (("queued", "NULL"), ("running", "NULL")):
            change = f"UPDATE runs SET status = '{status}', finished_at = {finished}, started_at = clock_timestamp()"
            connection.execute(text(change))
    before = {work.id: work.updated_at for work in services.records.newest(limit=100)}
    well, told = doctor.hot_updates(services)
    assert well, told
    assert {work.id: work.updated_at for work in services.records.newest(limit=100)} == before


@pytest.mark.parametrize("column", ["updated_at", "last_proof"])
def test_doctor_finds_an_index_that_makes_every_refresh_dear(services: Services, column: str) -> None:
    running(services)
    with services.database.begin() as connection:
        connection.execute(text(f"CREATE INDEX a_mistake ON runs (status, {column})"))
    try:
        well, told = doctor.hot_updates(services)
        assert not well
        assert "is there an index on updated_at or last_proof" in told
    finally:
        with services.database.begin() as connection:
            connection.execute(text("DROP INDEX a_mistake"))
    assert doctor.hot_updates(services)[0]


def test_a_database_that_is_not_there_is_one_sentence_with_what_to_do(services: Services) -> None:
    there = services.settings.require_database_url().rpartition("/")[0]
    missing = services.settings.model_copy(update={"database_url": SecretStr(f"{there}/not_made_yet")})
    found = list(doctor.findings(bootstrap.build(missing)))
    about = [one for one in found if "database" in one.told.lower() and not one.well]
    assert [one.what for one in about] == ["database"]
    assert "createdb" in about[0].told
    assert "not_made_yet" in about[0].told
