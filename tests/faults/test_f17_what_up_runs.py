"""F17: what `reprieve up` was told holds for all that it runs, and for whoever talks to it; its servers come back."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from sqlalchemy.exc import DBAPIError

from reprieve.models.liveness import Timing
from reprieve.stores.addresses import read_addresses, write_addresses
from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.embedded.address import choose_port
from reprieve.stores.urls import Url
from reprieve.workers import bootstrap
from reprieve.workers.bootstrap import Services, fleet_services
from reprieve.workers.current import resolve_settings
from reprieve.workers.settings import load_settings
from tests.conftest import Servers
from tests.support.forking import REPRIEVE
from tests.support.processes import Process, run_command, spawn
from tests.support.remote import remote_with_token
from tests.support.rows import status_of, watch_for
from tests.support.waiting import eventually

LINES = 40


class Up:
    """`reprieve up` on a folder of its own, at a time scale that only it was told of."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.environment = {
            "REPRIEVE_DATA_DIR": str(self.data),
            "REPRIEVE_DATABASE_URL": "",
            "REPRIEVE_REDIS_URL": "",
        }
        environment = self.environment | {
            "REPRIEVE_TIME_SCALE": "30",
            # Another stack may begin at the same moment, and take the usual ones.
            "REPRIEVE_API_ADDRESS": f"127.0.0.1:{choose_port()}",
            "FLOWER_PORT": str(choose_port()),
        }
        self.process: Process = spawn("up", [REPRIEVE, "up"], environment, folder, forked=False)

    def look(self) -> None:
        """Have services of the test's own on the servers, to look at rows."""
        known = {name: url.get_secret_value() for name, url in read_addresses(self.data).items()}
        self.services = bootstrap.build(load_settings(data_dir=self.data, time_scale=30, **known))

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.environment
        return run_command([REPRIEVE, *words], env=environment, text=True, timeout=120)


@pytest.fixture(scope="module")
def up(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    started = Up(tmp_path_factory.mktemp("up"))
    try:
        started.process.wait_for("Ctrl-C ends everything", timeout=120)
        started.look()
        yield started
    finally:
        started.process.stop(timeout=60)
        EmbeddedPostgres(started.data / "postgres").remove()


def killed(server: EmbeddedPostgres | EmbeddedRedis) -> Callable[[], bool]:
    """Ends a server as `kill -9` does; the answer says whether another one is there."""
    before = server.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    return lambda: server.pid not in (None, before)


@pytest.mark.row("F17")
def test_servers_of_up_that_are_killed_come_back_where_they_were_and_the_runs_go_on(up: Up) -> None:
    script = f"n=0; while [ $n -lt {LINES} ]; do n=$((n + 1)); echo line $n; sleep 0.2; done"
    runs = [
        up.call("run", "--adapter", adapter, "--", "sh", "-c", script).stdout.strip()
        for adapter in ("process", "detached")
    ]
    assert all(UUID(run) for run in runs)
    for run in runs:
        eventually(lambda run=run: up.services.logs.last_seq(UUID(run), 1) >= 2, timeout=60)
    before = read_addresses(up.data)
    up.services.database.dispose()
    for server in (EmbeddedRedis(up.data / "redis"), EmbeddedPostgres(up.data / "postgres")):
        eventually(killed(server), timeout=60, what=lambda: up.process.output)
        assert f"{server.title} has ended; it is started again." in up.process.output
        assert Url.parse(server.url) in [Url.parse(url.get_secret_value()) for url in before.values()]
    for run in runs:
        eventually(lambda run=run: ended_well(up, UUID(run)), timeout=90, what=lambda: up.process.output)
        log = up.call("logs", run)
        assert log.stdout.splitlines() == [f"line {number}" for number in range(1, LINES + 1)]
        assert log.returncode == 0
        assert "reaped" not in up.call("explain", run).stdout


def ended_well(up: Up, run: UUID) -> bool:
    try:
        return status_of(up.services, run) == "succeeded"
    except DBAPIError:  # It starts up still.
        return False


@pytest.mark.row("F17")
def test_a_command_takes_the_time_scale_of_the_stack_that_it_talks_to(up: Up) -> None:
    before = eventually(up.services.sweeps.last_watch, timeout=60)
    # One by hand is skipped while another is under way.
    eventually(lambda: '"skipped"' not in up.call("sweep").stdout)
    after = eventually(up.services.sweeps.last_watch)
    # A sweep at another scale would have begun a new watch.
    assert (after.since, after.window) == (before.since, Timing.scaled(30).window)
    assert after.last_sweep_at > before.last_sweep_at
    eventually(lambda: up.call("health").returncode == 0, timeout=60)


@pytest.mark.row("F15")
def test_up_prints_no_password_and_no_command_line_of_its_processes_has_one(up: Up) -> None:
    secrets = {url.get_secret_value() for url in read_addresses(up.data).values()}
    passwords = {Url.parse(url).password for url in secrets} | {(up.data / "flower-password").read_text().strip()}
    assert len(passwords) == 3
    ours = psutil.Process(up.process.pid)
    lines = [" ".join(process.cmdline()) for process in (ours, *ours.children(recursive=True))]
    told = up.process.output + "\n".join(lines) + up.call("doctor").stdout + up.call("doctor", "--json").stdout
    assert len(lines) > 8
    assert not [password for password in passwords if password and password in told]
    assert (up.data / "flower-password").stat().st_mode & 0o077 == 0


# -- the time scale, closer


@pytest.mark.row("F17")
@pytest.mark.parametrize(("told", "expected"), [(30, 30), (1, 1)])
def test_the_time_scale_of_up_goes_before_that_of_a_commands_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: int, expected: int
) -> None:
    monkeypatch.setenv("REPRIEVE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REPRIEVE_DATABASE_URL", "")
    monkeypatch.setenv("REPRIEVE_TIME_SCALE", "6")
    write_addresses(tmp_path, "postgresql+psycopg2://h/d", "redis://h/0", told)
    assert resolve_settings().time_scale == expected
    monkeypatch.setenv("REPRIEVE_DATABASE_URL", "postgresql://another/d")
    assert resolve_settings().time_scale == 6


@pytest.mark.row("F17")
def test_whoever_judges_the_fleet_takes_the_time_of_its_last_sweep(services: Services) -> None:
    assert fleet_services() is services
    watch_for(services, 3600, window=Timing.scaled(30).window)
    try:
        assert fleet_services().timing == Timing.scaled(30)
    finally:
        bootstrap.use(services)


# -- reprieve exec


@pytest.mark.row("F17")
def test_exec_says_at_once_and_with_the_address_that_nobody_answers_and_ends_at_the_first_signal_afterwards(
    services: Services, tmp_path: Path
) -> None:
    work, token = remote_with_token(services)
    gone = "http://127.0.0.1:9"
    command = [REPRIEVE, "exec", "--run", str(work.run_id), "--server", gone, "--", "sh", "-c", "sleep 1; echo printed"]
    process = spawn("exec", command, {"REPRIEVE_RUN_TOKEN": token}, tmp_path)
    try:
        process.wait_for(f"Nobody answers at {gone}")
        assert "printed" not in process.output
        process.wait_for(f"nobody has ever answered at {gone}")
        assert "printed" in process.output
        process.send(signal.SIGTERM)
        assert process.popen.wait(20) == 128 + signal.SIGTERM
        assert re.search(r"not reported yet is lost", process.output)
        assert "Traceback" not in process.output
    finally:
        process.stop(timeout=0)
