"""A whole Reprieve over servers of another kind, asked only through its commands, as a person would."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from models.rows import Run
from stores.database import Database
from stores.runs import RunStore
from tests.support.processes import Process, celery, spawn
from tests.support.waiting import eventually

PROGRAMS = Path(sys.executable).parent

#: So many lines, each of which must be in the log once.
LINES = 3000


class Fleet:
    """Workers and two beats at a thirtieth of the timings, over these servers."""

    def __init__(self, folder: Path, database: str, redis: str, broker: str) -> None:
        self._folder = folder
        self._processes: list[Process] = []
        self._database = Database(database)
        self.runs = RunStore(self._database)
        self.environment = {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONWARNINGS": "ignore",
            "REPRIEVE_DATA_DIR": str(folder / "data"),
            "REPRIEVE_NODE_NAME": "here",
            "REPRIEVE_TIME_SCALE": "30",
            "REPRIEVE_DRAIN_SECONDS": "1",
            "REPRIEVE_DATABASE_URL": database,
            "REPRIEVE_REDIS_URL": redis,
            "REPRIEVE_BROKER_URL": broker,
        }

    def start_worker(self, queues: str, concurrency: int) -> Process:
        options = ("-Q", queues, "-P", "threads", "-c", str(concurrency), "-n", f"{queues[:4]}@here", "-l", "INFO")
        command = celery("-A", "workers", "worker", "--without-gossip", "--without-mingle", *options)
        return self._start(command, " ready.")

    def start_beat(self) -> Process:
        return self._start(["reprieve", "start", "beat"], "beat: Starting")

    def _start(self, command: list[str], said: str) -> Process:
        process = spawn(f"process-{len(self._processes)}", command, self.environment, self._folder)
        self._processes.append(process)
        process.wait_for(said)
        return process

    def stop(self) -> None:
        for process in self._processes:
            process.stop()
        self._database.dispose()

    def ask(self, *arguments: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        command = [PROGRAMS / "reprieve", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self._folder, capture_output=True, text=True, timeout=timeout
        )

    def start(self, *command: str, adapter: str = "detached") -> UUID:
        done = self.ask("run", "--adapter", adapter, "--", *command)
        assert done.returncode == 0, done.stderr
        return UUID(done.stdout.strip())

    def becomes(self, run_id: UUID, status: str) -> Run:
        eventually(lambda: self.runs.get(run_id).status == status, timeout=90, interval=0.3, what=self.told)
        return self.runs.get(run_id)

    def told(self) -> str:
        """The last that each process said, for a test that fails."""
        return "\n".join(f"--- {one.name}\n{one.output[-1500:]}" for one in self._processes)

    def everything_told(self) -> str:
        return "".join(one.output for one in self._processes)


@contextmanager
def running_fleet(
    folder: Path, database: str, redis: str, broker: str = "", *, concurrency: int = 20
) -> Iterator[Fleet]:
    """The database is brought up to date, and all that was started is ended. `concurrency` is for runs."""
    fleet = Fleet(folder, database, redis, broker)
    migrated = fleet.ask("migrate")
    assert migrated.returncode == 0, migrated.stderr
    try:
        fleet.start_worker("runs", concurrency)
        fleet.start_worker("logs,control,archive", 4)
        fleet.start_beat()
        fleet.start_beat()
        yield fleet
    finally:
        fleet.stop()


def keeps_its_promises(fleet: Fleet) -> None:
    """What is promised, seen through the commands: whole logs, exit statuses, cancel, a dead run that is found."""
    silent = fleet.start("sleep", "3600")
    fleet.becomes(silent, "running")
    work = eventually(lambda: fleet.runs.get_attempt(silent, 1).handle, timeout=60)
    os.killpg(work["process_group_id"], signal.SIGKILL)
    for adapter in ("process", "detached"):
        done = fleet.ask("run", "--adapter", adapter, "--follow", "--", "sh", "-c", f"seq 1 {LINES}; exit 3")
        assert done.returncode == 3, done.stderr + fleet.told()
        assert done.stdout.splitlines() == [str(number) for number in range(1, LINES + 1)]
    ended = fleet.start("sleep", "3600", adapter="process")
    fleet.becomes(ended, "running")
    assert fleet.ask("cancel", str(ended)).returncode == 0
    assert fleet.becomes(silent, "failed").error_code == "adapter_liveness_lost"
    assert fleet.runs.get(ended).status == "cancelled"
    eventually(lambda: fleet.ask("health").returncode == 0, timeout=60, what=lambda: fleet.ask("health").stdout)


def prints_once(fleet: Fleet) -> None:
    """A run goes from beginning to end."""
    done = fleet.ask("run", "--follow", "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr + fleet.told()


def wrong(fleet: Fleet) -> list[str]:
    """What `reprieve doctor` finds wrong, but that Flower was given no password here."""
    lines = [line for line in fleet.ask("doctor").stdout.splitlines() if line.startswith("BAD")]
    return [line for line in lines if "flower" not in line]
