"""How many processes the kernel has ended here for want of memory, lately.

Counted for the cgroup that this worker is in, with all below it, where the kernel does that (`memory.events`, version
2; `memory.oom_control`, version 1); else for the whole machine (`/proc/vmstat`, since Linux 4.13). That is read every
20 seconds, and when a command was ended by SIGKILL: what it has grown by since is what was ended a moment before.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from reprieve.adapters import cgroup
from reprieve.models.killed import Kills

#: Seconds between two readings.
INTERVAL = 20.0
#: A reading that is younger may be of after the end that is asked about.
TOO_YOUNG = 2.0


class _Reading(NamedTuple):
    at: float
    counts: dict[str, int]


#: The last two, the older first. Two who read at once, or a fork, do no harm: either reading will do.
_readings: list[_Reading] = []


def look() -> None:
    """Read the counters, unless they were read lately. To be called at least every `INTERVAL` seconds."""
    now = time.monotonic()
    if not _readings or now >= _readings[-1].at + INTERVAL:
        _readings.append(_Reading(now, _counts()))
        del _readings[:-2]


def nearby() -> Kills | None:
    """What was ended lately; None where that is not known, or was nothing."""
    now = time.monotonic()
    readings = _readings[:]
    if not readings:
        return None
    before = next((one for one in reversed(readings) if one.at <= now - TOO_YOUNG), readings[0])
    for where, count in _counts().items():
        if (number := count - before.counts.get(where, count)) > 0:
            return Kills(number, now - before.at, where)
    return None


def _counts() -> dict[str, int]:
    """The counter that is nearest to our commands, by its place in words; none on another system."""
    for where, path in (*(("in its worker's cgroup", path) for path in cgroup.counters()), _MACHINE):
        with suppress(OSError):
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill" and count.strip().isdigit():
                    return {where: int(count)}
    return {}


_MACHINE = ("on its host", Path("/proc/vmstat"))
