"""What a launcher says of what its command used: by its own children, and by the cgroup of the attempt if it has one.

Standard library only: the launcher's. It is JSON: the inside of an object. What is not known is left out.
"""

import os


def measured(cpu_seconds: float, peak_memory: int, cgroup: str) -> str:
    """What was used, from what the launcher has collected; the word of its `cgroup` counts before that."""
    said = {"cpu_seconds": f"{cpu_seconds:.6f}", "peak_memory_bytes": str(peak_memory)}
    if cgroup:
        microseconds = _named(cgroup, "cpu.stat", "usage_usec")
        if microseconds is not None:
            said["cpu_seconds"] = f"{microseconds / 1e6:.6f}"
        peak = _number(cgroup, "memory.peak")
        if peak is not None:
            said["peak_memory_bytes"] = str(peak)
        kills = _named(cgroup, "memory.events", "oom_kill")
        if kills is not None:
            said["oom_kills"] = str(kills)
    return ", ".join([f'"{name}": {value}' for name, value in said.items()])


def _number(cgroup: str, file: str) -> int | None:
    said = _read(cgroup, file).strip()
    return int(said) if said.isdigit() else None


def _named(cgroup: str, file: str, name: str) -> int | None:
    """One of the numbers of a file that has a name and a number on each line."""
    for line in _read(cgroup, file).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def _read(cgroup: str, file: str) -> str:
    try:
        with open(os.path.join(cgroup, file)) as opened:
            return opened.read()
    except OSError:
        return ""
