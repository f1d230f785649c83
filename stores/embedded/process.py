"""Finding, starting, waiting for and ending server processes.

A pid alone proves nothing, since pids are used again. A process counts as the server of a data folder only if it is
called like the server and works in that folder (both servers make the data folder their working directory).
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from reprieve.stores.embedded.accounts import Account

#: Seconds between two looks at a condition: short beside a server's start (0.05 s and more), cheap on a slow machine.
PAUSE_SECONDS = 0.02

#: Servers do not inherit our environment: it may hold secrets, and variables such as PGOPTIONS change what they do.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Look until the condition holds (True) or the seconds are over (False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def spawn(command: Sequence[str], data: Path, log: Path, account: Account) -> "subprocess.Popen[bytes]":
    """Start a server in a session of its own, so that a Ctrl-C at our terminal does not reach it.

    It begins in its data folder, so that it can be recognised from its first moment on, and holds none of our open
    files: if it kept our output open, a reader of that would wait for ever after our end.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            cwd=data,
            env=ENVIRONMENT,
            start_new_session=True,
            umask=0o077,
            user=account.uid,
            group=account.gid,
            extra_groups=account.extra_groups,
        )
    finally:
        os.close(descriptor)


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie has, even where nobody ever collects it (containers without an init)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def parent_of(process: psutil.Process) -> int | None:
    """The process id of the parent, None if the process is gone meanwhile."""
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def serves(process: psutil.Process, programs: Iterable[str], data: Path) -> bool:
    """Whether this is a live process of one of these programs at work in this data folder."""
    try:
        return process.name() in programs and not is_gone(process) and Path(process.cwd()) == data
    except psutil.Error:  # gone meanwhile, or of a user into whose processes we may not look: not ours
        return False


def from_pid_file(pid_file: Path, programs: Iterable[str], data: Path) -> psutil.Process | None:
    """The server that a pid file names, or None if the file is absent, unreadable, stale or names something else."""
    try:
        process = psutil.Process(int(pid_file.read_text(encoding="ascii").split()[0]))
    except (OSError, ValueError, IndexError, OverflowError, psutil.Error):
        return None
    return process if serves(process, programs, data) else None


def all_serving(programs: Iterable[str], data: Path) -> list[psutil.Process]:
    """Every process of these programs at work in this data folder, helpers and orphans included."""
    return [process for process in psutil.process_iter() if serves(process, programs, data)]


def end(processes: Sequence[psutil.Process], with_signal: signal.Signals, seconds: float) -> bool:
    """Send a signal to each and wait until all are gone; False if one is still there after these seconds."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(with_signal)
    return wait_until(lambda: all(is_gone(process) for process in processes), seconds)


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log (at most 16 KiB of it), for an error message."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - 16_384))
            lines = handle.read().decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(lines[-count:]) or "(the log is empty)"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep other processes that start a server on the same folder waiting; the lock ends with its holder."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
