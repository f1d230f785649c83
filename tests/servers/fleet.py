"""A whole Reprieve over servers of another kind, asked only through its commands, as a person would."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

from reprieve.models.rows import RunRow
from reprieve.stores.database import Database
from reprieve.stores.runs.store import RunStore
from tests.support.fleet import Workers
from tests.support.waiting import eventually

PROGRAMS = Path(sys.executable).parent

#: So many lines, each of which must be in the log once.
LINES = 3000


class Asked(Workers):
    """Workers and two beats at a thirtieth of the timings over these servers, which are asked by commands."""

    def __init__(self, folder: Path, ending: ExitStack, database: str, redis: str, broker: str) -> None:
        environment = {
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
        super().__init__(folder, ending, environment)
        rows = Database(database)
        ending.callback(rows.dispose)
        self.runs = RunStore(rows)

    def ask(self, *arguments: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        command = [PROGRAMS / "reprieve", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=timeout
        )

    def run(self, *command: str, adapter: str = "detached") -> UUID:
        done = self.ask("run", "--adapter", adapter, "--", *command)
        assert done.returncode == 0, done.stderr
        return UUID(done.stdout.strip())

    def becomes(self, run_id: UUID, status: str) -> RunRow:
        eventually(
            lambda: self.runs.get(run_id).status == status, timeout=90, interval=0.3, what=lambda: self.told(1500)
        )
        return self.runs.get(run_id)


@contextmanager
def running_fleet(
    folder: Path, database: str, redis: str, broker: str = "", *, concurrency: int = 20
) -> Iterator[Asked]:
    """The database is brought up to date, and all that was started is ended. `concurrency` is for runs."""
    with ExitStack() as ending:
        fleet = Asked(folder, ending, database, redis, broker)
        migrated = fleet.ask("migrate")
        assert migrated.returncode == 0, migrated.stderr
        fleet.start("runs", concurrency)
        fleet.start("logs,control,archive")
        fleet.start_beat()
        fleet.start_beat()
        yield fleet


def keeps_its_promises(fleet: Asked) -> None:
    """What is promised, seen through the commands: whole logs, exit statuses, cancel, a dead run that is found."""
    silent = fleet.run("sleep", "3600")
    fleet.becomes(silent, "running")
    work = eventually(lambda: fleet.runs.get_attempt(silent, 1).handle, timeout=60)
    os.killpg(work["process_group_id"], signal.SIGKILL)
    for adapter in ("process", "detached"):
        done = fleet.ask("run", "--adapter", adapter, "--follow", "--", "sh", "-c", f"seq 1 {LINES}; exit 3")
        assert done.returncode == 3, done.stderr + fleet.told(1500)
        assert done.stdout.splitlines() == [str(number) for number in range(1, LINES + 1)]
    ended = fleet.run("sleep", "3600", adapter="process")
    fleet.becomes(ended, "running")
    assert fleet.ask("cancel", str(ended)).returncode == 0
    assert fleet.becomes(silent, "failed").error_code == "adapter_liveness_lost"
    assert fleet.runs.get(ended).status == "cancelled"
    eventually(lambda: fleet.ask("health").returncode == 0, timeout=60, what=lambda: fleet.ask("health").stdout)


def prints_once(fleet: Asked) -> None:
    """A run goes from beginning to end."""
    done = fleet.ask("run", "--follow", "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr + fleet.told(1500)


def wrong(fleet: Asked) -> list[str]:
    """What `reprieve doctor` finds wrong, but that Flower was given no password here."""
    lines = [line for line in fleet.ask("doctor").stdout.splitlines() if line.startswith("BAD")]
    return [line for line in lines if "flower" not in line]
