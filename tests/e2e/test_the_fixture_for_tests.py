"""`reprieve.testing`, as others use it: in a pytest of their own, beside an environment and a `.env` of theirs."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import eventually

TESTS = """
import os

from reprieve import cancel_run, enqueue_run, list_runs


def test_a_run_is_done_by_a_real_worker(reprieve_fleet):
    run = enqueue_run("process", {"command": ["sh", "-c", "echo made; echo no >&2; exit 3"]}, idempotency_key="one")
    assert reprieve_fleet.finish(run).error_code == "exit_status"
    assert reprieve_fleet.output(run, "stdout") == b"made\\n"


def test_the_next_one_begins_without_runs_and_may_leave_some(reprieve_fleet):
    assert list(list_runs()) == []
    run = enqueue_run("process", {"command": ["true"]}, idempotency_key="one")
    assert reprieve_fleet.finish(run).status == "succeeded"
    for adapter in ("process", "detached"):
        enqueue_run(adapter, {"command": ["sh", "-c", "exec sleep 7654"]})


def test_one_without_it_has_its_own_environment():
    assert os.environ["REPRIEVE_DATABASE_URL"] == "postgresql://ours@127.0.0.1:9/ours"
    assert "REPRIEVE_REDIS_URL" not in os.environ
"""


@pytest.mark.slow
def test_a_fleet_is_there_for_the_tests_that_ask_for_it_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["reprieve.testing.fixtures"]\n')
    (tmp_path / "test_reports.py").write_text(TESTS)
    (tmp_path / ".env").write_text("REPRIEVE_BROKER_URL=amqp://ours:secret@127.0.0.1:9//\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPRIEVE_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            "-p",
            "no:randomly",
            "--basetemp",
            tmp_path / "temporary",
        ],
        env=kept | {"REPRIEVE_DATABASE_URL": "postgresql://ours@127.0.0.1:9/ours"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    eventually(lambda: not [line for line in command_lines() if str(tmp_path) in line or "sleep 7654" in line])


def command_lines() -> list[str]:
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
