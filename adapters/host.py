"""Processes of this host: which one is meant, whether it lives, and how to end it with its whole group.

A number alone names nothing, since the system gives it to another process as soon as it is free. A process is known
by its number and its start time, within one boot and one PID namespace. Linux and macOS; not Windows.
"""

import os
import signal
import time
from functools import cache
from pathlib import Path

import psutil

from models.process import ProcessIdentity

#: Seconds between asking a group to end (SIGTERM) and ending it (SIGKILL).
TERMINATE_GRACE = 10.0
#: Seconds that a killed process may take to be gone before we say that it is not.
KILL_GRACE = 5.0
#: Start times are counted in clock ticks of 10 ms; closer than this, two readings are the same process.
SAME_START = 0.05


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

    psutil adds the boot time, which moves when a clock is set; taking it away again leaves what the kernel counts.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.NoSuchProcess:
        return None


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a live process that leads its own group."""
    start = started_at(pid)
    if start is None:
        return None
    return ProcessIdentity(pid, pid, start, namespace())


def is_alive(process: ProcessIdentity) -> bool:
    """Whether this very process, and not another of its number, is running here."""
    if process.namespace != namespace():
        return False
    start = started_at(process.pid)
    return start is not None and abs(start - process.started_at) <= SAME_START


def environment(process: ProcessIdentity) -> dict[str, str] | None:
    """What this very process was given when it started; None when it is not here."""
    if not is_alive(process):
        return None
    try:
        given: dict[str, str] = psutil.Process(process.pid).environ()
    except psutil.Error:
        return None
    return given if is_alive(process) else None


def terminate_group(process: ProcessIdentity, grace: float = TERMINATE_GRACE) -> None:
    """End the group that `process` leads: SIGTERM, after `grace` seconds SIGKILL; returns when all are gone.

    Another boot or PID namespace under the same host name means that ours ended with everything in it. Raises
    `StillAlive` when something survives SIGKILL (a process stuck in the kernel).
    """
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_GRACE)):
        if not _signal_group(process, number) or _wait_until_gone(process, seconds):
            return
    raise StillAlive(f"Process group {process.process_group_id} did not end.")


def _group_members(process: ProcessIdentity) -> list[int]:
    """Numbers of the live processes in the group. Empty also when the number now belongs to another process: the
    kernel gives a number away only when no group bears it any more."""
    if process.namespace != namespace():
        return []
    leader = started_at(process.pid)
    if leader is not None and abs(leader - process.started_at) > SAME_START:
        return []
    return [pid for pid in psutil.pids() if _in_group(pid, process.process_group_id)]


def _in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        return False


def _signal_group(process: ProcessIdentity, number: signal.Signals) -> bool:
    """Send a signal to the group; False when nobody is left in it."""
    if not _group_members(process):
        return False
    try:
        os.killpg(process.process_group_id, number)
    except ProcessLookupError:
        return False
    return True


def _wait_until_gone(process: ProcessIdentity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while _group_members(process):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True
