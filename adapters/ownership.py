"""Which processes belong to an attempt, and how all of them are ended. Linux; elsewhere, as far as psutil knows.

A process group, a process number, a session are numbers that work may leave (`setsid`, `timeout`, job control, any
daemon) or that somebody else may have a moment later. What belongs to an attempt is known by what it *inherited*:

- the **marker**, a variable of its environment that is unique to the attempt, as Jenkins (`BUILD_ID`) and the GitHub
  runner (`RUNNER_TRACKING_ID`) have it;
- its **descent**: whatever descends from a process with the marker, even when it has emptied its environment. The
  launcher is a child subreaper (prctl(2)), so that a process whose parents have ended stays below it;
- a **cgroup** of its own, where the worker's cgroup is delegated to it (`adapters.cgroup`).

The way out is theirs, too: a process that sets the marker to another value, even an empty one, is not ours any more,
nor is what it starts. What is not promised: a process that has emptied its environment, whose ancestors have all ended
and whose launcher was killed, is found by its cgroup alone.

Standard library only: the launcher's.
"""

import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

#: The variable that bears the marker.
MARKER = "REPRIEVE_NONCE"
#: Seconds between two looks whether everything has ended.
LOOK_INTERVAL = 0.02
#: Seconds in which new processes are stopped before all that were found are killed.
FREEZE_SECONDS = 0.5

_PREFIX = MARKER.encode() + b"="
_READ_SIZE = 64 * 1024
_IS_LINUX = os.path.isdir("/proc/self/task")


class Found(NamedTuple):
    """One live process: its number, and when it started, in the system's own unit: no other of its number did then."""

    pid: int
    started: float


#: Lists live processes, each as soon as it is found.
Find = Callable[[], Iterable[Found]]


def look(pid: int) -> Found | None:
    """The process of this number; None when there is none, or only its zombie. Raises `OSError` when that is unknown.

    A host without a free descriptor cannot know, for example; that does not mean that the process is dead.
    """
    stat = _stat(pid)
    return None if stat is None else Found(pid, stat[1])


def descendants(root: int, marker: str) -> Iterator[Found]:
    """The live descendants of a process, parents first; without those that have another marker, and theirs."""
    waiting = children_of(root)
    while waiting:
        pid = waiting.pop()
        found = look(pid)
        if found is not None:
            if let_go(pid, marker):
                continue
            yield found
        waiting += children_of(pid)


def let_go(pid: int, marker: str) -> bool:
    """Whether a process has said that it is not this attempt's any more."""
    return marker_of(pid) not in (None, marker)


def marked(marker: str) -> Iterator[Found]:
    """The live processes of this machine with a marker, and their descendants; each once."""
    seen: set[int] = set()
    for pid in everybody():
        if pid not in seen and marker_of(pid) == marker:
            bearer = look(pid)
            for found in (*([bearer] if bearer else []), *descendants(pid, marker)):
                if found.pid not in seen:
                    seen.add(found.pid)
                    yield found


def ending(
    find: Find, grace: float, kill_grace: float, kill_at_once: Callable[[], None] = lambda: None
) -> Generator[float, None, bool]:
    """Ask all of these to end; kill what is left after `grace` seconds, and what those started meanwhile.

    The steps of it: each acts, and says for how many seconds nothing is to be done then. `kill_at_once` is a way of the
    system's to kill them all, if there is one. False when something survives even that for `kill_grace` seconds: a
    process that is stuck in the kernel.
    """
    if grace > 0:
        # Once: what they start in order to clean up is to be left at it.
        for found in list(find()):
            send(found, signal.SIGTERM)
            send(found, signal.SIGCONT)
        if (yield from _waiting_for_none(find, grace)):
            return True
    deadline = time.monotonic() + kill_grace
    while True:
        kill_at_once()
        for found in list(_freeze(find)):
            send(found, signal.SIGKILL)
        if (yield from _waiting_for_none(find, LOOK_INTERVAL)):
            return True
        if time.monotonic() > deadline:
            return False


def _freeze(find: Find) -> Iterator[Found]:
    """Stop them until nothing new is found, so that whatever forks for ever is caught between two forks."""
    deadline = time.monotonic() + FREEZE_SECONDS
    stopped: set[Found] = set()
    found_new = True
    while found_new and time.monotonic() < deadline:
        found_new = False
        for found in find():
            if found not in stopped:
                send(found, signal.SIGSTOP)
                stopped.add(found)
                found_new = True
                yield found


def _waiting_for_none(find: Find, seconds: float) -> Generator[float, None, bool]:
    first = time.monotonic()
    deadline = first + seconds
    while True:
        began = time.monotonic()
        # Twice: what the system lists of children may be short while they come and go.
        if next(iter(find()), None) is None and next(iter(find()), None) is None:
            return True
        looked = time.monotonic()
        if looked >= deadline:
            return False
        # Where a look is expensive, since all processes of a large machine are looked at, it is taken less often; and
        # so it is the longer it takes them to end: many may be waited for at once.
        yield min(max(LOOK_INTERVAL, 4 * (looked - began), (looked - first) / 10), deadline - looked)


def send(found: Found, number: signal.Signals) -> None:
    """Send a signal to this very process: never to another that has its number now."""
    try:
        handle = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return
    except (OSError, AttributeError):  # No descriptor is left, or no such call: as near to it as can be.
        if look(found.pid) == found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(found.pid, number)
        return
    try:
        if look(found.pid) == found:
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(handle)


# -- what the system says of processes. Each raises `OSError` where it says nothing, for want of a descriptor say: what
# cannot be seen is not gone.


def everybody() -> list[int]:
    """The numbers of all processes that can be seen from here, newest first."""
    if _IS_LINUX:
        return sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)
    psutil = _psutil()
    return list(psutil.pids()) if psutil else []


def marker_of(pid: int) -> str | None:
    """The marker of a process; None when it has none, or does not show its environment."""
    if not _IS_LINUX:
        return _marker_by_psutil(pid)
    environment = _read(f"/proc/{pid}/environ") or b""
    # Not by splitting it: that of a launcher ends with thousands of NULs.
    _, found, rest = (b"\0" + environment).partition(b"\0" + _PREFIX)
    return rest.partition(b"\0")[0].decode("utf-8", "replace") if found else None


def children_of(pid: int) -> list[int]:
    """The numbers of a process's children. May be short while they come and go: look again."""
    if not _IS_LINUX:
        return _children_by_psutil(pid)
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    lists = [_read(f"/proc/{pid}/task/{task}/children") for task in tasks]
    if None in lists and _read(f"/proc/self/task/{os.getpid()}/children") is None:
        # A kernel without CONFIG_PROC_CHILDREN.
        return [other for other in everybody() if (stat := _stat(other)) and stat[0] == pid]
    return [int(child) for one in lists if one for child in one.split()]


def _stat(pid: int) -> tuple[int, float] | None:
    """Parent and start of a live process; None where there is none."""
    if not _IS_LINUX:
        return _stat_by_psutil(pid)
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return None
    # After the name, which may hold anything: state, parent, …, and the start as the 22nd of all.
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 20 or (fields[0] in b"ZXx" and not _has_threads(pid)):
        return None
    return int(fields[1]), float(int(fields[19]))


def _has_threads(pid: int) -> bool:
    """Whether other threads of a process go on whose first one has ended: it then looks like a zombie."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    return False


def _read(path: str) -> bytes | None:
    """A file of `/proc`; None where its process is gone, or does not show it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    try:
        pieces = []
        while piece := os.read(fd, _READ_SIZE):
            pieces.append(piece)
        return b"".join(pieces)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    finally:
        os.close(fd)


def _psutil() -> Any:
    """Where there is no `/proc`; None for the launcher, which has the standard library only."""
    try:
        import psutil
    except ImportError:
        return None
    return psutil


def _marker_by_psutil(pid: int) -> str | None:
    psutil = _psutil()
    try:
        marker: str | None = psutil.Process(pid).environ().get(MARKER) if psutil else None
    except psutil.Error:
        return None
    return marker


def _children_by_psutil(pid: int) -> list[int]:
    psutil = _psutil()
    try:
        return [child.pid for child in psutil.Process(pid).children()] if psutil else []
    except psutil.Error:
        return []


def _stat_by_psutil(pid: int) -> tuple[int, float] | None:
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.ppid(), process.create_time()
    except psutil.NoSuchProcess:
        return None
