"""`reprieve export`: what a retention is going to remove, whole, a line each."""

import fcntl
import json
import os
import signal
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reprieve.models.rows import RunAttempt, RunEvent, RunRow, RunSpec
from reprieve.stores import export as module
from reprieve.workers.bootstrap import Services
from tests.integration.test_retention import begun, ended, large
from tests.support.forking import REPRIEVE
from tests.support.processes import run_command, spawn
from tests.support.waiting import eventually

DAY = timedelta(days=1)


def exported(services: Services, before: datetime) -> dict[UUID, dict[str, Any]]:
    return {UUID(run["run"]["id"]): run for run in services.export.runs(before)}


@pytest.mark.parametrize("page", [1, 2, 100])
def test_each_run_that_ended_before_a_day_is_exported_once_the_oldest_first(
    services: Services, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(module, "PAGE", page)
    runs = [ended(services, days) for days in (50, 45, 41)]
    ended(services, 39)
    begun(services, 60)
    found = exported(services, services.database.now() - 40 * DAY)
    assert [*found] == runs


def test_a_run_that_was_asked_for_before_and_ended_after_is_not_exported(services: Services) -> None:
    run_id = ended(services, 50)
    services.database.run(f"UPDATE runs SET finished_at = now() - interval '30 days' WHERE id = '{run_id}'")
    assert exported(services, services.database.now() - 40 * DAY) == {}


def test_an_exported_run_has_every_column_of_its_rows_and_where_its_log_is(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ended(services, labels={"team": "a"})
    large(monkeypatch)
    archived = ended(services)
    found = exported(services, services.database.now())
    run = found[kept]
    assert set(run["run"]) == set(RunRow.__table__.columns.keys())
    for rows, table in ((run["spec"], RunSpec), (run["attempts"][0], RunAttempt), (run["events"][0], RunEvent)):
        assert set(rows) == set(table.__table__.columns.keys()) - {"run_id"}
    assert run["spec"]["labels"] == {"team": "a"}
    assert [event["kind"] for event in run["events"]] == ["enqueued", "claimed", "succeeded"]
    assert (run["logs"][0]["stored"], run["logs"][0]["object"]) == ("{[1,3)}", None)
    assert found[archived]["logs"][0]["object"].startswith(f"runs/{archived}/1-")


def export(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command([REPRIEVE, "export", *arguments], env={**os.environ, **environment}, text=True)


def test_the_command_writes_a_file_whole_or_under_another_name_and_overwrites_none(
    services: Services, environment: dict[str, str], tmp_path: Path
) -> None:
    run_id = ended(services, labels={"café": "\u202e\n"})
    to = tmp_path / "old.ndjson"
    done = export(environment, "--before", services.database.now().isoformat(), "--to", str(to))
    assert done.returncode == 0, done.stderr
    assert "1 runs that ended before" in done.stderr
    [line] = to.read_text().splitlines()
    assert json.loads(line)["run"]["id"] == str(run_id)
    assert line.isascii()
    assert to.stat().st_mode & 0o777 == 0o600
    again = export(environment, "--before", "2026-01-01", "--to", str(to))
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert list(tmp_path.glob("*.part")) == []
    shown = export(environment, "--before", services.database.now().isoformat())
    assert shown.stdout == line + "\n"


def test_of_two_exports_into_one_file_the_second_is_refused_and_the_first_is_whole(
    services: Services, environment: dict[str, str], tmp_path: Path
) -> None:
    ended(services)
    to, part = tmp_path / "old.ndjson", tmp_path / "old.ndjson.part"
    wanted = ("--before", services.database.now().isoformat(), "--to", str(to))
    with part.open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        first.write("what the first has written\n")
        first.flush()
        second = export(environment, *wanted)
        assert (second.returncode, part.read_text()) == (2, "what the first has written\n")
        assert "another export writes" in second.stderr
    # What a stopped one has left is written anew.
    assert export(environment, *wanted).returncode == 0
    assert "first" not in to.read_text()
    assert not part.exists()


@pytest.mark.parametrize("before", ["soon", "2026-13-01", ""])
def test_what_is_no_date_is_refused_by_a_sentence(environment: dict[str, str], before: str) -> None:
    refused = export(environment, "--before", before)
    assert refused.returncode == 2
    assert "--before" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_export_that_is_interrupted_ends_at_once_also_while_the_database_is_at_work(
    services: Services, environment: dict[str, str], tmp_path: Path
) -> None:
    ended(services)
    to = tmp_path / "old.ndjson"
    with services.database.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE run_events IN ACCESS EXCLUSIVE MODE")
        process = spawn(
            "export", [REPRIEVE, "export", "--before", "2030-01-01", "--to", str(to)], environment, tmp_path
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = CAST('run_events' AS regclass) AND NOT granted"
        eventually(lambda: services.database.run(waiting)[0][0])
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(4) == 130
    assert "the export was stopped after 0 runs" in process.output
    assert not to.exists()
