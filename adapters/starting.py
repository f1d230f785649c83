"""Why a command could not be started, in a sentence that names it. Standard library only: the launcher asks.

`execve` says ENOENT of a program that is missing and of a script whose interpreter is; a person needs to know which.
"""

import errno
import os

_HEAD = 256


def execute(command: list[bytes], variables: dict[bytes, bytes]) -> None:
    """Become the program. As `os.execvpe`, whose imports alone take a third of a millisecond. Raises `OSError`."""
    problem: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in _paths_of(command[0], variables):
        if os.access(path, os.F_OK):  # An error costs more than a look.
            try:
                os.execve(path, command, variables)
            except OSError as error:
                problem = error if problem.errno == errno.ENOENT else problem
    raise problem


def _paths_of(program: bytes, variables: dict[bytes, bytes]) -> list[bytes]:
    """Where a program may be."""
    if b"/" in program or not program:
        return [program]
    folders = variables.get(b"PATH", os.defpath.encode()).split(b":")
    return [(folder or b".") + b"/" + program for folder in folders]


def why_no_folder(folder: str, problem: OSError | ValueError) -> str:
    """Why a command cannot run in a folder."""
    number = getattr(problem, "errno", None)
    if number == errno.ENOENT:
        return f"there is no folder {folder} to run it in"
    if number == errno.ENOTDIR:
        return f"{folder}, in which it is to run, is not a folder"
    return f"it cannot run in the folder {folder} ({getattr(problem, 'strerror', problem)})"


def why_not(command: list[bytes], variables: dict[bytes, bytes], problem: OSError | ValueError) -> str:
    """Why `execute` did not start a program."""
    number = getattr(problem, "errno", None)
    program, path = os.fsdecode(command[0]), _path_of(command[0], variables)
    if path is None:
        return (
            f"there is no program {program!r} on the PATH" if "/" not in program else f"there is no program {program}"
        )
    if os.path.isdir(path):
        return f"{path} is a folder, not a program"
    if number == errno.ENOENT:
        return _why_it_needs_what_is_missing(path)
    if number == errno.ENOEXEC:
        return _why_it_is_no_program(path)
    if number in (errno.EACCES, errno.EPERM):
        return _why_it_is_denied(path)
    if number == errno.E2BIG:
        return f"the arguments and the environment of {path} are longer than the system allows"
    return f"{path} could not be run ({getattr(problem, 'strerror', problem)})"


def _path_of(program: bytes, variables: dict[bytes, bytes]) -> str | None:
    """Which of these is meant: what is there but cannot be run counts, where nothing better is."""
    found = [path for path in _paths_of(program, variables) if os.path.lexists(path)]
    best = next((path for path in found if os.access(path, os.X_OK)), found[0] if found else None)
    return None if best is None else os.fsdecode(best)


def _why_it_needs_what_is_missing(path: str) -> str:
    head = _head_of(path)
    if head.startswith(b"#!"):
        line = head[2:].split(b"\n")[0].strip(b" \t")
        interpreter = line.split()[0].decode("utf-8", "replace") if line.split() else ""
        if line.endswith(b"\r"):
            return (
                f"the first line of {path} ends with a carriage return (CRLF), so that its interpreter "
                f"{interpreter} is not found; save it with Unix line ends"
            )
        return f"{path} needs the interpreter {interpreter}, which is not there"
    if head.startswith(b"\x7fELF"):
        return f"{path} needs a loader that is not there: it was built for another system"
    if not os.path.exists(path):
        return f"{path} points to a file that is not there"
    return f"{path} needs a file that is not there"


def _why_it_is_no_program(path: str) -> str:
    head = _head_of(path)
    if head.startswith(b"\x7fELF"):
        return f"{path} was built for another kind of machine"
    if not head:
        return f"{path} is empty"
    return f"{path} is no program, and no script whose first line says what runs it (#!/bin/sh, for example)"


def _why_it_is_denied(path: str) -> str:
    if os.path.isfile(path) and not os.access(path, os.X_OK):
        return f"{path} is not executable, or not for the user that runs it"
    return f"{path} may not be run (permission denied for it, its interpreter, or a folder above it)"


def _head_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
