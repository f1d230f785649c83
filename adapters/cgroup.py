"""A cgroup (version 2) of an attempt's own, where the worker's cgroup is delegated to it.

Nothing leaves a cgroup by forking, by a session of its own or by emptying its environment, and the kernel ends all of
it at once (`cgroup.kill`, Linux 5.14). It is used only where the deployment delegates one: systemd with
`Delegate=yes`, or a container whose cgroup namespace is its own and can be written to. Everywhere else there is none,
and descent and marker have to do (`adapters.ownership`). The launcher moves the command into it, and stays outside.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

#: What the folders of our cgroups begin with.
PREFIX = "reprieve-"
#: How delegation is marked (systemd.io/CGROUP_DELEGATION).
DELEGATED = ("user.delegate", "trusted.delegate")


def create(marker: str) -> Path | None:
    """A new cgroup for the attempt with this marker; None where none can be had."""
    base = _own()
    if base is None or not _is_delegated(base):
        return None
    folder = base / (PREFIX + marker)
    try:
        folder.mkdir()
    except OSError:
        return None
    return folder


def find(marker: str) -> Path | None:
    """The cgroup of the attempt with this marker: below the one of this process, or beside it."""
    own = _own()
    places = [] if own is None else [own / (PREFIX + marker), own.parent / (PREFIX + marker)]
    return next((folder for folder in places if folder.is_dir()), None)


def members(folder: Path) -> list[int]:
    """The numbers of the processes in a cgroup and below it. In one that somebody has removed, there are none."""
    while True:
        found: list[int] = []
        try:
            for path in folder.rglob("cgroup.procs"):
                with suppress(OSError):
                    found += map(int, path.read_text().split())
        except FileNotFoundError:  # One below it may be gone, and others there.
            if folder.is_dir():
                continue
        return found


def release(folder: Path, pids: Iterable[int]) -> None:
    """Have these processes leave a cgroup. Best effort."""
    for pid in pids:
        _write(folder.parent / "cgroup.procs", str(pid))


def kill(folder: Path) -> None:
    """End everything in a cgroup at once. Best effort."""
    _write(folder / "cgroup.kill", "1")


def remove(folder: Path) -> None:
    """Remove a cgroup in which nothing is left, with those below it. Best effort."""
    below = (path for path in folder.rglob("*") if path.is_dir())
    for path in (*sorted(below, reverse=True), folder):
        with suppress(OSError):
            path.rmdir()


def _write(path: Path, value: str) -> None:
    with suppress(OSError):
        path.write_text(value)


def _own() -> Path | None:
    """The folder of this process's cgroup."""
    mount = _mount_point()
    path = None if mount is None else _own_path()
    return mount / path.lstrip("/") if path is not None and mount is not None else None


def _own_path() -> str | None:
    """This process's place in the hierarchy, as it sees it itself."""
    with suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        return next((line[3:] for line in lines if line.startswith("0::")), None)
    return None


def _mount_point() -> Path | None:
    with suppress(OSError):
        return _mounted()
    return None


@cache
def _mounted() -> Path | None:
    """Looked up once: it is asked for each command. Raises `OSError`, and then it is looked up again."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)


def _is_delegated(base: Path) -> bool:
    """Whether a cgroup is ours to divide. The machine's root, which alone has no type, never is."""
    if not (base / "cgroup.type").exists() or not os.access(base / "cgroup.procs", os.W_OK):
        return False
    return _own_path() == "/" or any(_attribute(base, name) == b"1" for name in DELEGATED)


def _attribute(path: Path, name: str) -> bytes:
    with suppress(OSError, AttributeError):
        return os.getxattr(path, name)
    return b""
