"""What Reprieve's processes hide from the runs beside them: their environment, memory and descriptors.

A run is a process of its worker's user, mostly. That user's processes may read each other's `/proc/PID/environ` and
memory, unless a process says otherwise. Ours do, as soon as they have begun:

- what they need of their environment is moved to memory of its own, and wiped from the area that `/proc/PID/environ`
  shows. Nobody reads it there any more, not even root;
- they are not *dumpable* (prctl(2)): only root may trace them, read their memory, or take their descriptors, and they
  leave no core. So a debugger or `py-spy` needs root.

What this cannot keep from a run of the same user: what it may read as a file (`.env`, a data folder), and the
environment in the moment between the start of a process and this call. Linux; elsewhere nothing is done.
"""

import ctypes
import os
from collections.abc import Iterator
from typing import Any

from reprieve.adapters.launcher import environment_area, prctl
from reprieve.adapters.ownership import MARKER
from reprieve.adapters.secrets import is_withheld

PR_SET_DUMPABLE = 4
#: What stays to be seen: by these, processes are known to belong to a run, or to a data folder.
_SHOWN = (MARKER, "REPRIEVE_RUN_ID", "REPRIEVE_DATA_DIR")


def conceal(*_: Any, **__: Any) -> None:
    """Keep this process's secrets from others of its user. May be repeated."""
    _wipe(*environment_area())
    prctl(PR_SET_DUMPABLE, 0)


def _wipe(start: int, end: int) -> None:
    if not 0 < start < end:
        return
    for address, name, length in list(_withheld(ctypes.string_at(start, end - start), start)):
        if name in os.environ:
            os.environ[name] = os.environ[name]  # The C library's copy moves to new memory.
        # Not with NULs: two in a row would end the environment for its readers.
        ctypes.memset(address, ord("*"), length)


def _withheld(area: bytes, start: int) -> Iterator[tuple[int, str, int]]:
    """Where each value that is to be wiped begins, of which variable it is, and its length."""
    place = start
    for entry in area.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if value and is_withheld(os.fsdecode(name)) and os.fsdecode(name) not in _SHOWN:
            yield place + len(name) + 1, os.fsdecode(name), len(value)
        place += len(entry) + 1
