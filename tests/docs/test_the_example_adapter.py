"""docs/examples/adapter, installed as its page says, under real workers: what it must bear, it bears."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from reprieve import cancel_run, enqueue_run
from reprieve.adapters import registry
from reprieve.models.errors import InvalidRequest
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.docs.job_server import Jobs, job_server
from tests.faults.helpers_abf import enqueueing
from tests.support.rows import since_started, status_of
from tests.support.waiting import eventually

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "adapter"

#: Prints lines until a file is there.
PRINTER = """
import pathlib, sys, time
number = 0
while not pathlib.Path(sys.argv[1]).exists():
    number += 1
    print("line", number, flush=True)
    time.sleep(0.1)
sys.exit(4)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the example."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--target", folder, EXAMPLE], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def jobs(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """A job server, and the adapter for it in this process and in the workers that it starts."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    registry.adapter_classes.cache_clear()
    with job_server() as made:
        yield made
    registry.adapter_classes.cache_clear()


def output(services: Services, run: UUID) -> bytes:
    return b"".join(chunk.data for chunk in services.logs.read(run, 1, limit=100_000))


def test_a_job_outlives_its_worker_and_a_server_that_is_away_and_its_log_is_whole(
    services: Services, start_worker: StartWorker, start_beat, jobs: Jobs, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    with enqueueing(services) as enqueue:
        start_worker("logs,control", name="others")
        first = start_worker("runs", name="first")
        command = [sys.executable, "-c", PRINTER, str(told)]
        run = enqueue("jobserver", {"server": jobs.url, "command": command})
        eventually(lambda: output(services, run).count(b"\n") > 5)
        first.kill()
        start_worker("runs", name="second")
        start_beat()
        eventually(lambda: services.runs.get(run).epoch == 2, timeout=60)
        jobs.broken = True
        noted = "The job server does not answer: 500"
        eventually(lambda: any(noted in str(event.detail) for event in services.runs.events(run)))
        jobs.broken = False
        told.touch()
        eventually(lambda: status_of(services, run) == "failed", timeout=60)
        assert (services.runs.get(run).attempts[0].outcome or {})["exit_status"] == 4
        (job,) = jobs.running
        eventually(lambda: output(services, run) == jobs.output(job).read_bytes())


def test_a_cancelled_run_has_its_job_ended_and_one_whose_job_is_gone_is_reaped(
    services: Services, start_worker: StartWorker, start_beat, jobs: Jobs
) -> None:
    with enqueueing(services) as enqueue:
        start_worker("runs,logs,control", name="all")
        start_beat()
        ended, gone = (enqueue("jobserver", {"server": jobs.url, "command": ["sleep", "600"]}) for _ in range(2))
        eventually(lambda: len(jobs.running) == 2)
        jobs.end(f"reprieve-{gone}-1")
        cancel_run(ended)
        eventually(lambda: services.runs.get_attempt(ended, 1).termination == "done")
        assert not jobs.running
        eventually(lambda: services.runs.get(gone).error_code == "adapter_liveness_lost", timeout=90)


@pytest.mark.row("A23")
def test_a_job_whose_server_is_away_when_it_is_to_be_created_is_created_when_it_is_back(
    services: Services, start_worker: StartWorker, start_beat, jobs: Jobs
) -> None:
    jobs.broken = True
    with enqueueing(services) as enqueue:
        start_worker("runs,logs,control", name="all")
        start_beat()
        run = enqueue("jobserver", {"server": jobs.url, "command": ["true"]})
        # For longer than the window, which is 10 s here.
        eventually(lambda: since_started(services, run) > 15, timeout=60)
        assert status_of(services, run) == "running"
        jobs.broken = False
        eventually(lambda: status_of(services, run) == "succeeded", timeout=60)


def test_a_config_that_it_cannot_take_is_refused_when_it_is_asked_for(services: Services, jobs: Jobs) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.server: .*URL"):
        enqueue_run("jobserver", {"server": "nowhere", "command": []})
