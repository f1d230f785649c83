"""Slots: a node's name, leased with a lock from its data folder.

Below the data folder is a folder of slots, numbered from 1. A slot has

- `slot.json`: its id, its name, and the name that was asked for by hand, if one was. Written once.
- `lock`: every process of the node holds it shared. The kernel lets go of it when the last of them ends, however.
- `holder`: the boot and the PID namespace of those who hold it, or did last.

Who takes a slot holds `lock` of the folder of slots meanwhile, so that one process looks and takes at a time. A new
slot is made aside and renamed: a process that is killed as it makes one leaves no half of one.

Needs a file system with locks. Locks on a folder of NFS hold between hosts only with its lock service; where they do
not, two holders of one slot are found through the database (`stores.nodes`), not here.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import time
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

from reprieve.models.errors import NoIdentity
from reprieve.models.nodes import Node, free_name, is_name, may_inherit

logger = logging.getLogger(__name__)

#: Seconds to wait for another process that takes a slot just now. It needs some milliseconds.
LONGEST_WAIT = 15.0

#: What a file system without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as its files have it. `record` is None where they are damaged."""

    folder: Path
    id: str | None
    name: str | None
    wanted: str | None
    holder: str | None

    def suits(self, wanted: str | None) -> bool:
        """Whether somebody who asked for this name by hand, or for none, may have it."""
        return wanted is None or self.id is None or wanted in (self.name, self.wanted)


class Lease:
    """A slot that this process holds until `let_go`, or until nobody refers to this; a forked child has none."""

    def __init__(self, node: Node, lock: IO[bytes], *, is_first: bool) -> None:
        self.node = node
        self.is_first = is_first
        # Closed, never LOCK_UN, which would release it for every process that shares the descriptor.
        self._close = weakref.finalize(self, lock.close)
        _leases.add(self)

    @property
    def is_held(self) -> bool:
        return self._close.alive

    def let_go(self) -> None:
        self._close()


_leases: "weakref.WeakSet[Lease]" = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child that outlives the worker would hold its name; one that needs it takes it itself."""
    for lease in list(_leases):
        lease.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)


class Slots:
    """The slots of one data folder, seen from one PID namespace."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self._folder = folder
        self._namespace = namespace

    def look(self, wanted: str | None) -> Node | None:
        """The node that this PID namespace is, or was last, on this folder; takes and makes nothing."""
        for slot in self._all():
            if slot.id and slot.name and slot.holder == self._namespace and slot.suits(wanted):
                return Node(slot.name, slot.id, self._namespace)
        return None

    def hold(self, wanted: str | None, host_name: str, without: Collection[str] = ()) -> Lease:
        """Hold the slot that this PID namespace has, else the first that is free, else a new one.

        `wanted` is the name asked for by hand, `without` names not to take. Raises `NoIdentity`.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone():
                slots = self._all()
                suited = [slot for slot in slots if slot.suits(wanted) and slot.name not in without]
                slot = self._ours(suited) or self._free(suited)
                if slot is None:
                    slot = self._make(wanted, free_name(wanted or host_name, _names(slots, without)))
                return self._begin(*slot, wanted, host_name, _names(slots, without))
        except OSError as error:
            raise NoIdentity(self._why(error)) from error

    def _why(self, error: OSError) -> str:
        message = f"No name can be leased from the data folder {self._folder.parent} ({error.strerror}): "
        if error.errno in _NO_LOCKS:
            return (
                message
                + "its file system has no locks. Set REPRIEVE_DATA_DIR to a disk of this host, or mount with locks."
            )
        return message + "a worker of runs needs a folder that it may write to. Set REPRIEVE_DATA_DIR to one."

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time looks and takes; a killed holder loses the lock."""
        deadline = time.monotonic() + LONGEST_WAIT
        with (self._folder / "lock").open("a+b") as lock:
            while not _try_lock(lock, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise NoIdentity(
                        f"Another process has been taking a name from {self._folder} for {LONGEST_WAIT:.0f} s: "
                        f"`fuser {self._folder / 'lock'}` says which. Is it stopped?"
                    )
                time.sleep(0.02)
            yield

    # -- which one

    def _all(self) -> list[Slot]:
        """The slots in their order; none where there is no folder, or it cannot be read."""
        try:
            folders = [path for path in self._folder.iterdir() if path.name.isdecimal()]
        except OSError:
            return []
        return [_read(folder) for folder in sorted(folders, key=lambda path: int(path.name))]

    def _ours(self, slots: Sequence[Slot]) -> tuple[Slot, IO[bytes], bool] | None:
        """What other processes of this PID namespace hold, else what the last of them has let go of."""
        taken = [(slot, *_take(slot.folder)) for slot in slots if slot.holder == self._namespace]
        # Those that others hold as well come first. One that is damaged cannot be shared: they know another id.
        taken.sort(key=lambda one: one[2])
        chosen = next((one for one in taken if one[0].id or one[2]), None)
        for one in taken:
            if one is not chosen:
                one[1].close()
        return chosen

    def _free(self, slots: Sequence[Slot]) -> tuple[Slot, IO[bytes], bool] | None:
        """The first that nobody holds and that we may inherit."""
        for slot in slots:
            if slot.holder == self._namespace or not may_inherit(slot.holder, self._namespace):
                continue
            lock, is_first = _take(slot.folder)
            if is_first:
                return slot, lock, True
            lock.close()
        return None

    # -- making, and beginning to hold

    def _make(self, wanted: str | None, name: str) -> tuple[Slot, IO[bytes], bool]:
        for half in self._folder.glob("new-*"):
            shutil.rmtree(half, ignore_errors=True)
        aside = self._folder / f"new-{uuid4().hex}"
        aside.mkdir(mode=0o700)
        _write(aside / "slot.json", _record(name, wanted))
        (aside / "lock").touch()
        number = max((int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()), default=0) + 1
        folder = aside.rename(self._folder / str(number))
        _sync(self._folder)
        return _read(folder), *_take(folder)

    def _begin(
        self, slot: Slot, lock: IO[bytes], is_first: bool, wanted: str | None, host_name: str, names: Collection[str]
    ) -> Lease:
        """Say who holds it from now on, and share it with the others of this PID namespace."""
        try:
            if slot.id is None or slot.name is None:
                slot = self._mend(slot, wanted, free_name(wanted or host_name, names))
            if slot.holder != self._namespace:
                _write(slot.folder / "holder", self._namespace)
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise
        return Lease(Node(str(slot.name), str(slot.id), self._namespace), lock, is_first=is_first)

    def _mend(self, slot: Slot, wanted: str | None, name: str) -> Slot:
        logger.error("The slot %s was damaged: it is a new one now, of the name %s.", slot.folder, name)
        _write(slot.folder / "slot.json", _record(name, wanted))
        return _read(slot.folder)


def _names(slots: Sequence[Slot], without: Collection[str]) -> set[str]:
    return {slot.name for slot in slots if slot.name} | set(without)


def _record(name: str, wanted: str | None) -> str:
    return json.dumps({"id": uuid4().hex, "name": name, "wanted": wanted})


def _read(folder: Path) -> Slot:
    """A slot as it is; without an id where what stands there is none."""
    holder = None
    with suppress(OSError, ValueError):
        holder = (folder / "holder").read_text() or None
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((folder / "slot.json").read_text())
        slot, name, wanted = found["id"], found["name"], found["wanted"]
        if is_name(slot) and is_name(name) and (wanted is None or is_name(wanted)):
            return Slot(folder, slot, name, wanted, holder)
    return Slot(folder, None, None, None, holder)


def _take(folder: Path) -> tuple[IO[bytes], bool]:
    """The open lock of a slot, and whether it is ours alone. Where it is not, we share it with those who hold it."""
    lock = (folder / "lock").open("a+b")  # NFS shares a lock only with those who may read.
    try:
        is_first = _try_lock(lock, fcntl.LOCK_EX)
        if not is_first:
            _try_lock(lock, fcntl.LOCK_SH)
    except OSError:
        lock.close()
        raise
    return lock, is_first


def _try_lock(lock: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(path: Path, text: str) -> None:
    """The whole file or the one before it, after a power cut too."""
    aside = path.with_name(f"{path.name}.new")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
