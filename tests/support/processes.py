"""Real workers and beat, as child processes that a test may kill and the fixture always ends."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import psutil

from reprieve.adapters import host
from reprieve.models.process import ProcessIdentity
from tests.support.forking import APPLICATION, CELERY, PARENT, Forked
from tests.support.waiting import eventually

READY = " ready."

Child = subprocess.Popen[bytes] | Forked


@dataclass
class Process:
    """A child of the test in a session of its own, writing to `log`."""

    name: str
    popen: Child
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
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    *,
    cwd: Path | None = None,
    forked: bool = True,
) -> Process:
    """Start a command in a session of its own, one of our programs as a fork; what it prints is in `folder`."""
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        popen = start(command, env=env, cwd=cwd, stdout=output, stderr=output, forked=forked)
    return Process(name, popen, log)


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: IO[bytes],
    stderr: IO[bytes],
    session: bool = True,
    forked: bool = True,
) -> Child:
    """As `subprocess.Popen`, without standard input; `forked` lets it be a fork where it is one of our programs."""
    command = [str(word) for word in command]
    env = dict(os.environ) if env is None else env
    if forked and PARENT.may_fork(command, env):
        with Path(os.devnull).open("rb") as nothing:
            files = nothing.fileno(), stdout.fileno(), stderr.fileno()
            return PARENT.fork(command, env, str(cwd or Path.cwd()), files, session=session)
    return subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=session,
        preexec_fn=_heed_signals,
    )


def run_command(
    command: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: bool = False,
    timeout: float = 60,
    forked: bool = True,
) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run` with `capture_output`, and with what `start` does; text is UTF-8."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        popen = start(words, env=env, cwd=cwd, stdout=stdout, stderr=stderr, session=False, forked=forked)
        try:
            code = popen.wait(timeout)
        finally:
            popen.kill()
            popen.wait()
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read().decode(errors="replace") if text else file.read())
    return subprocess.CompletedProcess(words, code, *said)


def _heed_signals() -> None:
    """A shell that runs the tests in the background ignores Ctrl-C, or a hang-up, and so would their children."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def celery(*arguments: str, application: str = APPLICATION) -> list[str]:
    return [*CELERY, "-A", application, *arguments]


def beat(*options: str) -> list[str]:
    """Beat as a deployment runs it."""
    return celery("beat", "-S", "reprieve.workers.pulse:Scheduler", "-l", "INFO", "--pidfile=", *options)


def processes_marked(name: str, value: str) -> list[psutil.Process]:
    """The live processes of this machine whose environment has `name=value`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
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
