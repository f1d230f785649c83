"""Starts a command only after its process has been recorded. Run as a script; standard library only.

    python -I -S launcher.py GO ERROR OUTPUT own     COMMAND…    become the command, and die with the worker's thread
    python -I -S launcher.py GO ERROR OUTPUT FOLDER  COMMAND…    run it as a child and write `exit.json` into FOLDER

OUTPUT is `inherited`, or `terminal`: then the child's output goes to a pseudo-terminal, and from there to the standard
output of this process. Only with FOLDER, since whoever becomes the command can copy nothing.

It waits for one byte on the file descriptor GO. When the worker dies before it has recorded this process, GO is
closed without that byte and nothing is started: no work exists that nobody knows of. A command that cannot be
started is told on the file descriptor ERROR, which otherwise closes silently.
"""

import errno
import json
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
#: What a command sees of its terminal; programs fold their lines at it.
ROWS, COLUMNS = 40, 120
READ_SIZE = 64 * 1024
#: Seconds between two looks at a command whose terminal is silent, and at a disk that is full.
LOOK_INTERVAL = 0.5
#: Seconds that whoever the command left behind may go on printing to its terminal.
DRAIN_SECONDS = 2.0


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


def open_terminal() -> tuple[int, int]:
    """A pseudo-terminal: the end to read from, and the end for the command; neither is inherited.

    Bytes pass as they are written (no `\\r` before a `\\n`). It is nobody's controlling terminal, so that there is no
    `/dev/tty` at which a program could ask a question that nobody answers. Raises `OSError`, whose text says that it
    is about the terminal, when there is none left.
    """
    import termios

    try:
        reading, writing = os.openpty()
    except OSError as problem:
        raise OSError(problem.errno, f"there is no terminal for it ({problem.strerror})") from None
    modes = termios.tcgetattr(writing)
    modes[1] &= ~termios.OPOST
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(writing, termios.TCSANOW, modes)
    termios.tcsetwinsize(writing, (ROWS, COLUMNS))
    return reading, writing


def read_output(fd: int) -> bytes:
    """What a pipe or terminal has now, or waits for; empty at its end, which Linux tells of a terminal as an error."""
    try:
        return os.read(fd, READ_SIZE)
    except OSError as problem:
        if problem.errno == errno.EIO:
            return b""
        raise


def write_output(fd: int, data: bytes) -> None:
    """Write all of it; a disk that is full is waited for, so that the command waits, too."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError as problem:
            if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(LOOK_INTERVAL)


def copy_output(reading: int, writing: int, child: int) -> int:
    """Until all have closed the terminal, or the child has ended and a little longer; the child's wait status."""
    import select

    status, drained_by = None, float("inf")
    while time.monotonic() < drained_by:
        if select.select([reading], [], [], LOOK_INTERVAL)[0]:
            data = read_output(reading)
            if not data:
                break
            write_output(writing, data)
        if status is None:
            ended, found = os.waitpid(child, os.WNOHANG)
            if ended:
                status, drained_by = found, time.monotonic() + DRAIN_SECONDS
    return os.waitpid(child, 0)[1] if status is None else status


def write_exit(folder: str, returncode: int) -> None:
    """The record is whole or absent: written beside, synced, renamed."""
    path = os.path.join(folder, "exit.json")
    with open(path + ".part", "w") as file:
        json.dump({"returncode": returncode}, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".part", path)


def supervise(command: list[str], error_fd: int, folder: str, on_terminal: bool) -> None:
    try:
        reading, writing = open_terminal() if on_terminal else (-1, -1)
    except OSError as problem:
        tell(error_fd, problem)
    child = os.fork()
    if child == 0:
        die_with_parent()
        if on_terminal:
            os.dup2(writing, 1)
            os.dup2(writing, 2)
        become(command, error_fd)
    os.close(error_fd)
    # A polite SIGTERM to the group is the command's to answer; this process stays to record how it did.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if on_terminal:
        os.close(writing)
        status = copy_output(reading, 1, child)
    else:
        status = os.waitpid(child, 0)[1]
    write_exit(folder, os.waitstatus_to_exitcode(status))


def main() -> None:
    go_fd, error_fd, output, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    command = sys.argv[5:]
    os.set_inheritable(error_fd, False)
    if mode == "own":
        die_with_parent()
    if os.read(go_fd, 1) != b"g":
        os._exit(126)
    os.close(go_fd)
    if mode == "own":
        become(command, error_fd)
    else:
        supervise(command, error_fd, mode, output == "terminal")


if __name__ == "__main__":
    main()
