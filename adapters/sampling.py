"""What live processes and all that descends from them use just now, by one look at all processes of this host.

Linux only: elsewhere nothing is seen. Processor time is that of the live ones and of what they have waited for; memory
is what is resident, so that what processes share counts for each. What a process has let go of (`adapters.ownership`)
is counted with the rest here: to tell, the environment of each would have to be read.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeVar

from reprieve.adapters import host
from reprieve.models.process import ProcessIdentity

K = TypeVar("K")

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_READ_SIZE = 4096


class InUse(NamedTuple):
    """What one process and its descendants use, or have used so far."""

    cpu_seconds: float
    memory_bytes: int


class _Process(NamedTuple):
    started_at: float
    own_ticks: int
    waited_ticks: int
    memory_bytes: int


def look(roots: Mapping[K, ProcessIdentity]) -> dict[K, InUse]:
    """What each of these that is here uses. One with a marker is a launcher: it is itself no part of the work."""
    here = {key: root for key, root in roots.items() if root.namespace == host.namespace()}
    if not here:
        return {}
    processes: dict[int, _Process] = {}
    children: dict[int, list[int]] = {}
    for pid, parent, process in _all():
        processes[pid] = process
        children.setdefault(parent, []).append(pid)
    return {
        key: _of_tree(root, processes, children)
        for key, root in here.items()
        if (found := processes.get(root.pid)) and abs(found.started_at - root.started_at) <= host.SAME_START
    }


def _of_tree(root: ProcessIdentity, processes: Mapping[int, _Process], children: Mapping[int, list[int]]) -> InUse:
    first = processes[root.pid]
    ticks = first.waited_ticks if root.marker else first.waited_ticks + first.own_ticks
    memory = 0 if root.marker else first.memory_bytes
    waiting, seen = list(children.get(root.pid, ())), {root.pid}
    while waiting:
        pid = waiting.pop()
        if pid in seen:  # Numbers may be used again while they are read.
            continue
        seen.add(pid)
        one = processes[pid]
        ticks += one.own_ticks + one.waited_ticks
        memory += one.memory_bytes
        waiting += children.get(pid, ())
    return InUse(ticks / _TICKS, memory)


def _all() -> Iterator[tuple[int, int, _Process]]:
    """All processes: the number of each, its parent's, and what it uses."""
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc"):  # noqa: PTH208 - thousands of names, looked at every 20 seconds
            if name.isdigit() and (stat := _stat(name)):
                # After the name, which may hold anything: proc_pid_stat(5) from its third field on.
                fields = stat.rpartition(b")")[2].split()
                user, system, waited_user, waited_system = map(int, fields[11:15])
                started_at = round(int(fields[19]) / _TICKS, 2)
                memory = max(int(fields[21]), 0) * _PAGE
                process = _Process(started_at, user + system, waited_user + waited_system, memory)
                yield int(name), int(fields[1]), process


def _stat(pid: str) -> bytes:
    """What the system says of a process; empty where that is gone. Raises `OSError` for want of a descriptor."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, _READ_SIZE)
        finally:
            os.close(fd)
    return b""
