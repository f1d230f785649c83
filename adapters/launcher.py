"""Starts a command only after its process has been recorded. Run as a script; standard library only.

    python -I -S launcher.py GO ERROR own     COMMAND…    become the command, and die with the worker's thread
    python -I -S launcher.py GO ERROR FOLDER  COMMAND…    run it as a child and write `exit.json` into FOLDER

It waits for one byte on the file descriptor GO. When the worker dies before it has recorded this process, GO is
closed without that byte and nothing is started: no work exists that nobody knows of. A command that cannot be
started is told on the file descriptor ERROR, which otherwise closes silently.
"""

import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to end this process with the thread that started it; elsewhere `terminate` has to do it alone."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        pass


def restore_signals() -> None:
    """Python ignores these; a command expects them to act."""
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def tell(error_fd: int, problem: OSError) -> None:
    os.write(error_fd, (problem.strerror or str(problem)).encode())
    os._exit(127)


def become(command: list[str], error_fd: int) -> None:
    restore_signals()
    try:
        os.execvp(command[0], command)
    except OSError as problem:
        tell(error_fd, problem)


def write_exit(folder: str, returncode: int) -> None:
    """The record is whole or absent: written beside, synced, renamed."""
    path = os.path.join(folder, "exit.json")
    with open(path + ".part", "w") as file:
        json.dump({"returncode": returncode}, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".part", path)


def supervise(command: list[str], error_fd: int, folder: str) -> None:
    child = os.fork()
    if child == 0:
        die_with_parent()
        become(command, error_fd)
    os.close(error_fd)
    # A polite SIGTERM to the group is the command's to answer; this process stays to record how it did.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    write_exit(folder, os.waitstatus_to_exitcode(status))


def main() -> None:
    go_fd, error_fd, mode, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    os.set_inheritable(error_fd, False)
    if mode == "own":
        die_with_parent()
    if os.read(go_fd, 1) != b"g":
        os._exit(126)
    os.close(go_fd)
    if mode == "own":
        become(command, error_fd)
    else:
        supervise(command, error_fd, mode)


if __name__ == "__main__":
    main()
