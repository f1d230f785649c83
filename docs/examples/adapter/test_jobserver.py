"""The adapter against a job server: what every adapter has to pass, and that a fleet runs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import reprieve_jobserver
from job_server import Jobs, job_server
from reprieve_jobserver import JobServerAdapter

from reprieve import enqueue_run
from reprieve.testing.contract import AdapterContract, Config, Printing
from reprieve.testing.fleet import Fleet

pytest_plugins = ["reprieve.testing.fixtures"]


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    with job_server() as made:
        yield made


class TestJobServer(AdapterContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobServerAdapter:
        monkeypatch.setattr(reprieve_jobserver, "LOOK_EVERY", 0.05)
        return JobServerAdapter(tmp_path, "here")

    @pytest.fixture
    def printing(self, jobs: Jobs) -> Printing:
        return Printing({"server": jobs.url, "command": ["echo", "hello"]}, b"hello\n")

    @pytest.fixture
    def failing(self, jobs: Jobs) -> Config:
        return {"server": jobs.url, "command": ["false"]}

    @pytest.fixture
    def lasting(self, jobs: Jobs) -> Config:
        return {"server": jobs.url, "command": ["sh", "-c", "echo up; exec sleep 600"]}


def test_a_fleet_runs_a_job(reprieve_fleet: Fleet, jobs: Jobs) -> None:
    run = enqueue_run("jobserver", {"server": jobs.url, "command": ["echo", "hello"]})
    assert reprieve_fleet.finish(run).status == "succeeded"
    assert reprieve_fleet.output(run) == b"hello\n"
