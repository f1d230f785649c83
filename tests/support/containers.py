"""Workers as containers have them: each in a PID namespace and under a host name of its own, as its first process."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil
import pytest

from tests.support.processes import READY, Process, celery, spawn
from tests.support.waiting import eventually

UNSHARE = ("unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")


@cache
def permitted() -> bool:
    """Whether namespaces may be made here."""
    with suppress(OSError):
        return subprocess.run([*UNSHARE, "hostname", "a"], capture_output=True, check=False).returncode == 0
    return False


needs_namespaces = pytest.mark.skipif(not permitted(), reason="PID namespaces may not be made here")


class Containers:
    """Starts workers of runs in containers; all of them, and all that is in them, end with the block."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**environment, "REPRIEVE_NODE_NAME": ""}
        self._started: list[tuple[Process, str]] = []

    def start(
        self, host_name: str, data: Path, *, queues: str = "runs,logs", wait: bool = True, **more: str
    ) -> Process:
        """A worker in a container of this host name on this data folder."""
        name = f"{host_name}-{len(self._started)}"
        options = ("-Q", queues, "-P", "threads", "-c", "8", "-n", f"{name}@container", "-l", "INFO")
        worker = celery("worker", "--without-gossip", "--without-mingle", *options)
        command = [*UNSHARE, "sh", "-c", f'hostname {host_name} && exec "$@"', "sh", *worker]
        environment = {**self._environment, "REPRIEVE_DATA_DIR": str(data), **more}
        process = spawn(name, command, environment, self._folder)
        self._started.append((process, _namespace_of(process)))
        if wait:
            process.wait_for(READY)
        return process

    def ask_to_stop(self, container: Process) -> None:
        """SIGTERM to its first process, as an engine sends it."""
        psutil.Process(container.pid).children()[0].terminate()

    def kill(self, container: Process) -> None:
        """End it with all that is in it, and wait until nothing is."""
        container.kill()
        [namespace] = [namespace for process, namespace in self._started if process is container]
        eventually(lambda: not _inhabitants(namespace), what=lambda: f"the end of {_inhabitants(namespace)}")

    def end(self) -> None:
        for process, _ in self._started:
            process.stop(timeout=0.1)
        for _, namespace in self._started:
            eventually(lambda namespace=namespace: not _inhabitants(namespace), what="nothing of a container")


@contextmanager
def containers(folder: Path, environment: Mapping[str, str]) -> Iterator[Containers]:
    started = Containers(folder, environment)
    try:
        yield started
    finally:
        started.end()


def _namespace_of(container: Process) -> str:
    """The PID namespace of what runs in it; that of `unshare` for its children, which it is not in itself."""
    link = Path(f"/proc/{container.pid}/ns/pid_for_children")

    def made() -> str | None:
        with suppress(OSError):
            namespace = str(link.readlink())
            return namespace if namespace != str(Path("/proc/self/ns/pid").readlink()) else None
        return None

    return eventually(made, what="a PID namespace") or ""


def _inhabitants(namespace: str) -> list[int]:
    """The processes in a PID namespace, as they are seen from outside."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):  # noqa: PTH208
        with suppress(OSError):
            if str(Path(f"/proc/{pid}/ns/pid").readlink()) == namespace:
                found.append(pid)
    return found
