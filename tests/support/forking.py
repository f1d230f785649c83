"""Programs of ours as forks of one process that has imported them already.

To import Celery and the product takes a second of CPU for each process, and to take them down again half of one; the
tests start hundreds. A fork is as real a process: it has its own PID, session, environment and descriptors, runs the
program's `__main__` and ends as any Python does. What differs is what `exec` alone sets: its command line, and the
environment that `/proc/PID/environ` shows, are those of the parent. A test whose subject that is asks for the real
start (`forked=False`), and what starts under another interpreter's settings is never a fork.
"""

import atexit
import gc
import importlib.util
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

CELERY = [sys.executable, "-W", "ignore", "-m", "celery"]
#: An application of a test's own may change what is imported after it, and begins from nothing.
APPLICATION = "reprieve.workers.app"
REPRIEVE = str(Path(sys.executable).parent / "reprieve")
PRELOADED = (
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.apps.beat",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "reprieve.workers.app",
    "reprieve.workers.execute",
    "reprieve.workers.ingest",
    "reprieve.workers.closing",
    "reprieve.workers.sweep",
    "reprieve.workers.lifecycle",
    "reprieve.workers.consumer",
    "reprieve.cli.main",
    "reprieve.cli.doctor",
    "reprieve.cli.exec",
    "reprieve.cli.output",
    *(["reprieve.cli.serve"] if importlib.util.find_spec("fastapi") else []),
    "reprieve.cli.up",
    "reprieve.workers.explaining",
    "reprieve.workers.health",
)
#: What an interpreter, or a module while it is imported, reads of its environment; a fork comes too late for another.
READ_EARLY = ("PYTHON", "LD_", "LANG", "LC_", "TZ", "OTEL_", "CELERY_")
NOT_READ = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
ROOT = Path(__file__).parents[2]


class Forked:
    """What tests use of `subprocess.Popen`, for a child of the parent of forks."""

    def __init__(self, args: Sequence[str], pid: int, status: int) -> None:
        self.args = args
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._reading = threading.Lock()

    def poll(self) -> int | None:
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._read(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self, timeout: float | None) -> int | None:
        ended = select.poll()  # Not `select`, which takes no descriptor above 1023.
        ended.register(self._status, select.POLLIN)
        if ended.poll(None if timeout is None else timeout * 1000):
            with self._reading:
                if self.returncode is None:
                    self.returncode = os.waitstatus_to_exitcode(int(os.read(self._status, 16)))
        return self.returncode

    def __del__(self) -> None:
        os.close(self._status)


class Parent:
    """This process's parent of forks, started when the first is wanted, and ended with this process."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._given: dict[str, str] = {}

    def may_fork(self, command: Sequence[str], env: Mapping[str, str]) -> bool:
        self._begin()
        ours = command[:1] == [REPRIEVE] or command[: len(CELERY) + 2] == [*CELERY, "-A", APPLICATION]
        early = {name: value for name, value in env.items() if name.startswith(READ_EARLY) and name not in NOT_READ}
        return ours and all(self._given.get(name) == value for name, value in early.items())

    def fork(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str, files: tuple[int, int, int], *, session: bool
    ) -> Forked:
        status, ours = os.pipe()
        request = json.dumps({"command": command, "env": dict(env), "cwd": cwd, "session": session}).encode()
        try:
            with self._asking:
                assert self._socket is not None
                socket.send_fds(self._socket, [len(request).to_bytes(4, "big")], [*files, ours])
                self._socket.sendall(request)
                return Forked(command, int.from_bytes(_receive(self._socket, 4), "big"), status)
        finally:
            os.close(ours)

    def _begin(self) -> None:
        with self._asking:
            if self._socket is None:
                self._socket, theirs = socket.socketpair()
                # Not the addresses of servers: what may be read of any process is not to have them.
                self._given = {name: value for name, value in os.environ.items() if not name.startswith("REPRIEVE_")}
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(theirs.fileno())],
                    cwd=ROOT,
                    env=self._given,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
                theirs.close()
                atexit.register(self._end)

    def _end(self) -> None:
        assert self._socket is not None
        assert self._process is not None
        self._socket.close()
        self._process.wait()


PARENT = Parent()


def _receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError("the parent of forks has ended")
        data += more
    return data


def _serve(connection: socket.socket) -> dict:
    """Fork for each request; returns in the child, with the request."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([wake, connection], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(children)
        if connection in ready:
            header, files, _, _ = socket.recv_fds(connection, 4, 4)
            if not header:
                os._exit(0)
            header += _receive(connection, 4 - len(header))
            request: dict = json.loads(_receive(connection, int.from_bytes(header, "big")))
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                connection.detach()
                return {**request, "files": files}
            children[pid] = files.pop()
            for file in files:
                os.close(file)
            connection.sendall(pid.to_bytes(4, "big"))


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        file = children.pop(pid)
        with suppress(BrokenPipeError):  # Nobody reads any more.
            os.write(file, str(status).encode())
        os.close(file)


def _become(request: dict) -> list[str]:
    """Make this fork what the request describes; returns its command."""
    for name in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["session"]:
        os.setsid()
    for number, file in enumerate(request["files"][:3]):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    tempfile.tempdir = None
    if os.environ.get("PYTHONUNBUFFERED"):
        raw = io.FileIO(1, "w", closefd=False)
        sys.stdout = sys.__stdout__ = io.TextIOWrapper(raw, sys.stdout.encoding, sys.stdout.errors, write_through=True)
    command: list[str] = request["command"]
    return command


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    for module in PRELOADED:
        importlib.import_module(module)
    assert threading.active_count() == 1, threading.enumerate()
    # What was imported is never collected: neither while a fork runs nor, which would take longest, at its end.
    gc.collect()
    gc.freeze()
    command = _become(_serve(connection))
    if command[0] == REPRIEVE:
        sys.argv = command
        sys.path[0] = str(Path(REPRIEVE).parent)
        runpy.run_path(REPRIEVE, run_name="__main__")
    else:
        sys.argv = ["celery", *command[len(CELERY) :]]
        sys.path[0] = str(Path.cwd())
        warnings.simplefilter("ignore")
        runpy.run_module("celery", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
