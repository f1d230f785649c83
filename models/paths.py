"""Paths that come from outside, or out of a row, stay inside the folder they belong to."""

from contextlib import suppress
from pathlib import Path

from reprieve.models.errors import OutsideRoot


def inside(root: Path, relative: str) -> Path:
    """`relative` below `root`, symbolic links followed; raises `OutsideRoot` when that leaves `root`."""
    base = root.resolve()
    try:
        path = (base / relative).resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # From Python 3.13 on, a loop of links comes back as it is; the system refuses it.
    except (OSError, RuntimeError, TypeError, ValueError):  # a loop of links, a NUL, no text at all
        path = base
    if path == base or not path.is_relative_to(base):
        raise OutsideRoot(f"{relative!r} does not name anything inside its folder.")
    return path
