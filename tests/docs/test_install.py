"""docs/install.md: what it says is installed is enough for what it says."""

import subprocess
from pathlib import Path

import pytest

from reprieve.models.status import Status
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.docs.environments import ROOT, Environment, build_wheel, install
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: What a service does with runs, by all that it imports.
SERVICE = """
import asyncio
import reprieve
import reprieve.aio
from reprieve.client import AsyncClient, Client

first = reprieve.enqueue_run("process", {"command": ["sh", "-c", "echo hello; echo there >&2"]}, idempotency_key="one")
assert reprieve.wait_for(first.id, timeout=60).status == "succeeded"
assert b"hello" in b"".join(part.data for part in reprieve.read_log(first.id))
many = reprieve.enqueue_runs([{"adapter": "detached", "config": {"command": ["sleep", "600"]}}] * 3)
ended = [reprieve.cancel_run(many[0].id), *[asyncio.run(reprieve.aio.cancel_run(run.id)) for run in many[1:]]]
assert [run.status for run in ended] == ["cancelled"] * 3
for name in reprieve.__all__:
    getattr(reprieve, name)
Client("http://127.0.0.1:9", "token").close()
print(first.id)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("resolution", ["highest", "lowest-direct"])
def test_a_service_asks_for_runs_with_what_pip_install_reprieve_brings(
    resolution: str, wheel: Path, services: Services, start_worker: StartWorker, tmp_path: Path
) -> None:
    installed = install(tmp_path / "venv", wheel, resolution=resolution)
    start_worker("runs,logs,control")
    done = run(installed, ["python", "-W", "error::DeprecationWarning:reprieve", "-c", SERVICE], services, tmp_path)
    assert done.returncode == 0, done.stderr
    assert services.runs.get(services.records.resolve(done.stdout.strip())).status == Status.SUCCEEDED
    refused = run(installed, ["reprieve", "ps"], services, tmp_path)
    assert (refused.returncode, refused.stderr) == (
        2,
        "reprieve: The command `reprieve` needs typer, which is not installed: pip install 'reprieve[cli]'.\n",
    )


@pytest.mark.parametrize("resolution", ["highest", "lowest-direct"])
def test_a_worker_does_a_run_with_what_the_extra_worker_brings(
    resolution: str, wheel: Path, services: Services, environment: dict[str, str], tmp_path: Path
) -> None:
    installed = install(tmp_path / "venv", wheel, "worker", resolution=resolution)
    started = run(installed, ["reprieve", "run", "--", "echo", "hello"], services, tmp_path)
    assert started.returncode == 0, started.stderr
    command = [installed.program("reprieve"), "start", "worker-runs", "--queues=runs,logs,control"]
    variables = installed.variables() | environment
    with subprocess.Popen(command, env=variables, cwd=tmp_path, stderr=subprocess.DEVNULL) as worker:
        try:
            run_id = services.records.resolve(started.stdout.strip())
            eventually(lambda: services.records.get(run_id).status.is_final, timeout=60)
        finally:
            worker.terminate()
    assert services.records.get(run_id).status == Status.SUCCEEDED
    for command_of_a_host in (["ps"], ["migrate"], ["health", "--json"], ["logs", str(run_id)]):
        done = run(installed, ["reprieve", *command_of_a_host], services, tmp_path)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr


def test_the_example_adapter_is_installed_as_its_page_says_and_passes_the_contract(wheel: Path, tmp_path: Path) -> None:
    installed = install(tmp_path / "venv", wheel, "embedded", "pytest", "pytest-timeout")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    example = tmp_path / "docs" / "examples" / "adapter"
    done = subprocess.run(
        ["sh", "-ec", "pip install --quiet ./docs/examples/adapter && python -m pytest -q docs/examples/adapter"],
        env=installed.variables(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{example}\n{done.stdout}\n{done.stderr}"


def run(
    installed: Environment, command: list[str], services: Services, folder: Path
) -> "subprocess.CompletedProcess[str]":
    """A program of the environment, on the servers of this test."""
    program, *arguments = command
    variables = installed.variables() | {"REPRIEVE_DATA_DIR": str(services.settings.data_dir)}
    called = [installed.program(program), *arguments]
    return subprocess.run(called, env=variables, cwd=folder, capture_output=True, text=True, timeout=120)
