"""Processes of this host: which one is meant, whether it lives, and how to end it with all that descends from it.

A number alone names nothing, since the system gives it to another process as soon as it is free. A process is known
by its number and its start time, within one boot and one PID namespace; what descends from it, by what it inherited
(`adapters.ownership`). Linux and macOS; not Windows.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import psutil

from reprieve.adapters import cgroup, ownership
from reprieve.adapters.ownership import Found
from reprieve.models.process import ProcessIdentity

#: Seconds between asking work to end (SIGTERM) and ending it (SIGKILL).
TERMINATE_GRACE = 10.0
#: The same for what a command that has ended by itself left behind.
LEFT_GRACE = 2.0
#: Seconds that a killed process may take to be gone before we say that it is not.
KILL_GRACE = 5.0
#: Seconds that a launcher may take to write down how its command ended, when all else of the attempt is gone.
RECORD_GRACE = 5.0
#: Seconds between two looks.
LOOK_INTERVAL = 0.05
#: Start times are counted in clock ticks of 10 ms; closer than this, two readings are the same process.
SAME_START = 0.05

_TICKS = os.sysconf("SC_CLK_TCK")
_COUNTS_TICKS = Path("/proc/self/stat").exists()


class StillAlive(Exception):
    """Raised when work did not end although it was killed."""


@cache
def namespace() -> str:
    """Names this boot and this PID namespace: the scope in which a process number means something."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    pid_namespace = Path("/proc/self/ns/pid")
    if boot.exists() and pid_namespace.exists():
        return f"{boot.read_text().strip()}/{pid_namespace.readlink()}"
    return "no-boot-id"


def started_at(pid: int) -> float | None:
    """Seconds after boot at which a process started; None when there is none, or only its zombie.

    Raises `OSError` when that cannot be determined, for want of a descriptor for example.
    """
    found = ownership.look(pid)
    return None if found is None else _seconds(found)


def _seconds(found: Found) -> float:
    """The kernel counts ticks since the boot; psutil adds the boot time, which moves when a clock is set."""
    if _COUNTS_TICKS:
        return round(found.started / _TICKS, 2)
    return round(found.started - psutil.boot_time(), 2)


def identify(pid: int, marker: str = "") -> ProcessIdentity | None:
    """The identity of a live process that leads its own group."""
    start = started_at(pid)
    if start is None:
        return None
    return ProcessIdentity(pid, pid, start, namespace(), marker)


def is_alive(process: ProcessIdentity) -> bool:
    """Whether this very process, and not another of its number, is running here.

    Without a descriptor to look with, a process of its number counts: doubt is no death.
    """
    if process.namespace != namespace():
        return False
    try:
        return _itself(process) is not None
    except OSError:
        return _exists(process.pid)


def _exists(pid: int) -> bool:
    """The same, as far as it is known without a descriptor: exact for our own unreaped children."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _itself(process: ProcessIdentity) -> Found | None:
    found = ownership.look(process.pid)
    if found is None or abs(_seconds(found) - process.started_at) > SAME_START:
        return None
    return found


def environment(process: ProcessIdentity) -> dict[str, str] | None:
    """What this very process was given when it started; None when it is not here."""
    if not is_alive(process):
        return None
    try:
        given: dict[str, str] = psutil.Process(process.pid).environ()
    except psutil.Error:
        return None
    return given if is_alive(process) else None


def terminate(process: ProcessIdentity, grace: float | None = None) -> None:
    """End what the process started, and then itself: SIGTERM, after `grace` seconds SIGKILL; returns when all is gone.

    Without `grace`, after TERMINATE_GRACE. The process itself is a launcher: it ends last, for it is to write down how
    its command ended. Raises `StillAlive` when something survives SIGKILL (a process stuck in the kernel), and for a
    process of another boot or PID namespace, whose number means nothing here: whether that is gone, others must know.
    """
    for seconds in terminating(process, grace):
        time.sleep(seconds)


def terminating(process: ProcessIdentity, grace: float | None = None) -> Iterator[float]:
    """The steps of the same, for who must not be blocked: each acts, and says for how many seconds to wait then."""
    if process.namespace != namespace():
        raise StillAlive(f"Process {process.pid} was started in another PID namespace, which cannot be seen from here.")
    grace = TERMINATE_GRACE if grace is None else grace
    place = cgroup.find(process.marker) if process.marker else None
    find = partial(_members, process, place)
    if not (yield from ownership.ending(find, grace, KILL_GRACE, partial(_kill_cgroup, process, place))):
        raise StillAlive(f"Something of the work of process {process.pid} did not end.")
    yield from _ending_itself(process)
    if place:
        _release(process, place)
        cgroup.remove(place)


def _members(process: ProcessIdentity, place: Path | None) -> Iterator[Found]:
    """What belongs to the process, without itself; the quick ways first, and all processes only where they say none."""
    if not process.marker:
        yield from _group(process)
        return
    seen = {process.pid}
    for found in (*_in_cgroup(process, place), *_below(process)):
        if found.pid not in seen:
            seen.add(found.pid)
            yield found
    if len(seen) == 1:
        itself = _itself(process)
        yield from (found for found in ownership.marked(process.marker) if found != itself)


def _below(process: ProcessIdentity) -> Iterator[Found]:
    if _itself(process) is not None:
        yield from ownership.descendants(process.pid, process.marker)


def _in_cgroup(process: ProcessIdentity, place: Path | None) -> Iterator[Found]:
    for pid in cgroup.members(place) if place else ():
        if not ownership.let_go(pid, process.marker) and (found := ownership.look(pid)):
            yield found


def _kill_cgroup(process: ProcessIdentity, place: Path | None) -> None:
    if place:
        _release(process, place)
        cgroup.kill(place)


def _release(process: ProcessIdentity, place: Path) -> None:
    """Have those leave the cgroup that have said that they are not ours any more."""
    cgroup.release(place, [pid for pid in cgroup.members(place) if ownership.let_go(pid, process.marker)])


def _group(process: ProcessIdentity) -> Iterator[Found]:
    """Work that was started without a marker: the process, and its group as far as it is known to be of a run."""
    leader, itself = ownership.look(process.pid), _itself(process)
    if itself is not None:
        yield itself
    elif leader is not None:  # The number is another's now, and so is that of the group.
        return
    for pid in ownership.everybody():
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getpgid(pid) == process.process_group_id and "REPRIEVE_RUN_ID" in psutil.Process(pid).environ():
                found = ownership.look(pid)
                if found is not None and found != itself:
                    yield found


def _ending_itself(process: ProcessIdentity) -> Iterator[float]:
    """Let the launcher end by itself, for it may still write; a launcher that does not is killed."""
    for number in (None, signal.SIGKILL):
        deadline = time.monotonic() + RECORD_GRACE
        itself = _itself(process)
        if number is not None and itself is not None:
            ownership.send(itself, number)
        while _itself(process) is not None:
            if time.monotonic() >= deadline:
                break
            yield LOOK_INTERVAL
        else:
            return
    raise StillAlive(f"Process {process.pid} did not end.")
