"""A cgroup (version 2) of an attempt's own, where the worker's cgroup is delegated to it.

Nothing leaves a cgroup by forking, by a session of its own or by emptying its environment, and the kernel ends all of
it at once (`cgroup.kill`, Linux 5.14). It is used only where the deployment delegates one: systemd with
`Delegate=yes`, or a container whose cgroup namespace is its own and can be written to. Everywhere else there is none,
and descent and marker have to do (`adapters.ownership`). The launcher moves the command into it, and stays outside.

Only a cgroup without any process of its own divides memory among those below it. So where an attempt is to have a
limit, the worker has to be in one beside it: systemd puts it there (`DelegateSubgroup=`, systemd 254), and in a
container whose own cgroup it is, the worker moves there itself, with all that is in it. It never does so in a service:
systemd could not start that again beside work which is still there.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock

#: What the folders of our cgroups begin with.
PREFIX = "reprieve-"
#: What the worker and all that is no attempt's is in, where attempts have limits.
WORKERS = "reprieve-worker"
#: How often those that come meanwhile are moved there, too.
MOVES = 20
#: What divides memory.
CONTROLLER = "memory"
#: How delegation is marked (systemd.io/CGROUP_DELEGATION).
DELEGATED = ("user.delegate", "trusted.delegate")


def create(marker: str) -> Path | None:
    """A new cgroup for the attempt with this marker; None where none can be had."""
    base = _base()
    if base is None:
        return None
    folder = base / (PREFIX + marker)
    try:
        folder.mkdir()
    except OSError:
        return None
    return folder


class NoLimit(Exception):
    """Raised where memory cannot be limited; the text says why, and what would do."""


def limit(folder: Path | None, size: int) -> None:
    """Limit what all that is in an attempt's cgroup may have in memory together; beyond it, the kernel ends all of it.

    Raises `NoLimit`: where there is none, or it has no limits.
    """
    if folder is None:
        raise NoLimit(
            "its memory cannot be limited here, since this worker has no cgroup (version 2) to divide; run it in a "
            "systemd service with Delegate=yes and DelegateSubgroup=reprieve-worker (systemd 254 or later), or in a "
            "container of its own cgroup namespace that may write to /sys/fs/cgroup, or ask without max_memory"
        )
    with _dividing:
        _divide(folder.parent)
    try:
        (folder / "memory.max").write_text(str(size))
        for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            if (folder / name).exists():
                (folder / name).write_text(value)
    except OSError as problem:
        raise NoLimit(f"its memory could not be limited in {folder} ({problem.strerror})") from None


_dividing = Lock()


def _divide(base: Path) -> None:
    """Have those below a cgroup have limits of their own. Raises `NoLimit`."""
    try:
        if CONTROLLER in (base / "cgroup.subtree_control").read_text().split():
            return
        if CONTROLLER not in (base / "cgroup.controllers").read_text().split():
            raise NoLimit(
                f"its memory cannot be limited here, since {base} was given no control of memory; have it delegated "
                "(Delegate=yes, or Delegate=memory), or ask without max_memory"
            )
        if base == _own():
            _move_out_of(base)
        (base / "cgroup.subtree_control").write_text(f"+{CONTROLLER}")
    except OSError as problem:
        raise NoLimit(f"its memory cannot be limited here: {base} cannot be divided ({problem.strerror})") from None


def _move_out_of(base: Path) -> None:
    """Have all of a container that is in its own cgroup be in one below it. Raises `NoLimit` and `OSError`."""
    if _own_path() != "/":
        raise NoLimit(
            f"its memory cannot be limited here, since this worker is itself in the cgroup {base} that is to be "
            "divided; give its systemd service DelegateSubgroup=reprieve-worker beside Delegate=yes (systemd 254 or "
            "later), or ask without max_memory"
        )
    beside = base / WORKERS
    beside.mkdir(exist_ok=True)
    for _ in range(MOVES):
        pids = (base / "cgroup.procs").read_text().split()
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                (beside / "cgroup.procs").write_text(pid)
    raise NoLimit(f"its memory cannot be limited here, since new processes come into {base} all the time")


def counters() -> list[Path]:
    """Files of the cgroup that commands here are in, or below which they are, that may say what was ended in it."""
    base = _base() or _own()
    found = [] if base is None else [base / "memory.events"]
    with suppress(OSError):
        found += [folder / "memory.oom_control" for folder in _own_of_version_1()]
    return found


def _own_of_version_1() -> list[Path]:
    """The folder of this process's cgroup that counts memory in version 1, if there is one. Raises `OSError`."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    points = [fields[1] for fields in mounts if fields[2] == "cgroup" and CONTROLLER in fields[3].split(",")]
    paths = [path for line in lines for _, names, path in [line.split(":", 2)] if CONTROLLER in names.split(",")]
    return [Path(points[0]) / paths[0].lstrip("/")] if points and paths else []


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
    """Have these processes leave a cgroup: for ours, if that is above it or beside it. Best effort."""
    own = _own()
    outside = own if own is not None and own.parent == folder.parent else folder.parent
    for pid in pids:
        _write(outside / "cgroup.procs", str(pid))


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


def _base() -> Path | None:
    """The cgroup that is ours to divide: that of this process, or the one above it where this is in a part of it."""
    own, path = _own(), _own_path()
    if own is None or path is None:
        return None
    if own.name == WORKERS and _is_delegated(own.parent, path.removesuffix(f"/{WORKERS}") or "/"):
        return own.parent
    return own if _is_delegated(own, path) else None


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


def _is_delegated(base: Path, path: str) -> bool:
    """Whether a cgroup is ours to divide. The machine's root, which alone has no type, never is."""
    if not (base / "cgroup.type").exists() or not os.access(base / "cgroup.procs", os.W_OK):
        return False
    return path == "/" or any(_attribute(base, name) == b"1" for name in DELEGATED)


def _attribute(path: Path, name: str) -> bytes:
    with suppress(OSError, AttributeError):
        return os.getxattr(path, name)
    return b""
