"""Real workers and beat, as child processes that a test may kill and the fixture always ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil

from reprieve.adapters import host
from reprieve.models.process import ProcessIdentity
from tests.support.waiting import eventually

READY = " ready."


@dataclass
class Process:
    """A child of the test in a session of its own, writing to `log`."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        """As `kill -9` does: nothing of it gets to say anything."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, timeout: float = 20.0) -> None:
        """Ask it to end, then end it with all that is left of its session."""
        if self.popen.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def wait_for(self, text: str, timeout: float = 40.0) -> None:
        def said() -> bool:
            assert self.popen.poll() is None, f"{self.name} ended:\n{self.output}"
            return text in self.output

        eventually(said, timeout=timeout, what=lambda: f"{text!r} from {self.name}:\n{self.output[-2000:]}")


def spawn(
    name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, *, cwd: Path | None = None
) -> Process:
    """Start a process in a session of its own; what it prints is in `folder`."""
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        popen = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,
            # A shell that runs the tests in the background ignores Ctrl-C, and so would its children.
            preexec_fn=_heed_interrupts,
        )
    return Process(name, popen, log)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


#: Where Celery finds our app.
APPLICATION = "reprieve.workers.app"


def celery(*arguments: str, application: str = APPLICATION) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "celery", "-A", application, *arguments]


def beat(*options: str) -> list[str]:
    """Beat as a deployment runs it."""
    return celery("beat", "-S", "reprieve.workers.pulse:Scheduler", "-l", "INFO", "--pidfile=", *options)


def processes_marked(name: str, value: str) -> list[psutil.Process]:
    """The live processes of this machine whose environment has `name=value`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(name) == value:
                found.append(process)
    return found


def processes_of(run_id: UUID) -> list[psutil.Process]:
    """The living processes of a run's work."""
    return processes_marked("REPRIEVE_RUN_ID", str(run_id))


@contextmanager
def sleeping_process() -> Iterator[ProcessIdentity]:
    """A process that leads its own group and does nothing for as long as the block lasts, unless it is ended."""
    popen = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        identity = host.identify(popen.pid)
        assert identity is not None
        yield identity
    finally:
        popen.kill()
        popen.wait()
