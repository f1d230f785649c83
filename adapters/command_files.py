"""How a command's output reaches its files, and the record of how it ended. Standard library only: the launcher's.

The files of a command that outlives its worker are in one folder. The lock on `running.lock` is held for as long as
anything runs; `exit.json` says how the command ended, and `unstarted` that it never began.
"""

import errno
import fcntl
import os
import termios
import time

#: What a command sees of its terminal; programs fold their lines at it.
ROWS, COLUMNS = 40, 120
READ_SIZE = 64 * 1024
#: Reads that empty any pipe or terminal, and after which whoever goes on writing for ever is not listened to any more.
LAST_READS = 64
#: Seconds between two looks at a disk that is full.
DISK_INTERVAL = 0.5
#: Bytes that are reserved for the record of the exit.
RESERVED = 512
#: What a disk says that takes nothing just now.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
RUNNING = "running.lock"
EXIT = "exit.json"
UNSTARTED = "unstarted"


def open_terminal() -> tuple[int, int]:
    """A pseudo-terminal: the end to read from, and the end for the command; neither is inherited.

    Bytes pass as they are written (no `\\r` before a `\\n`). It is nobody's controlling terminal, so that there is no
    `/dev/tty` at which a program could ask a question that nobody answers. Raises `OSError`, whose text says that it
    is about the terminal, when there is none left.
    """
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
    """What a pipe or terminal has, waiting for it; empty at the end, which Linux reports as an error for a terminal."""
    try:
        return os.read(fd, READ_SIZE)
    except OSError as problem:
        if problem.errno == errno.EIO:
            return b""
        raise


def write_output(fd: int, data: bytes) -> None:
    """Write all of it. A full disk is waited for, so that the command waits too."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError as problem:
            if problem.errno not in NO_ROOM:
                raise
            time.sleep(DISK_INTERVAL)


class Output:
    """How a command's output reaches the files that its launcher was given: what to read, and where to write it."""

    def __init__(self, kind: str, given: list[int]) -> None:
        """`given` are standard output, standard error and, unless it is empty, standard input.

        Raises `OSError` when no terminal, or no pipe, can be had.
        """
        stdout, stderr, *stdin = given
        self.sources: dict[int, int] = {}
        self._for_the_command = dict(enumerate(stdin)) | {1: stdout, 2: stderr}
        if kind == "terminal":
            reading, writing = open_terminal()
            self.sources = {reading: stdout}
            self._for_the_command |= {1: writing, 2: writing}
        elif kind == "pipes":
            out, err = os.pipe(), os.pipe()
            self.sources = {out[0]: stdout, err[0]: stderr}
            self._for_the_command |= {1: out[1], 2: err[1]}

    def give(self) -> None:
        """In the command's process: make these its standard output, standard error and standard input."""
        for fd, one in self._for_the_command.items():
            os.dup2(one, fd)

    def keep(self) -> None:
        """In this process: hold nothing that the command has, or the end of its output would never be seen."""
        for fd in set(self._for_the_command.values()):
            os.close(fd)

    def copy(self, reading: int) -> None:
        data = read_output(reading)
        if data:
            write_output(self.sources[reading], data)
        else:
            os.close(reading)
            del self.sources[reading]


# -- the folder of a command that outlives its worker


def hold(folder: str) -> None:
    """Hold the lock that says that something runs, and reserve room for the record of the exit. Raises `OSError`."""
    lock = os.open(os.path.join(folder, RUNNING), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    record = os.open(os.path.join(folder, EXIT + ".part"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(record, b" " * RESERVED)
    os.fsync(record)
    os.close(record)
    try:
        os.unlink(os.path.join(folder, UNSTARTED))
    except FileNotFoundError:
        pass


def give_up(folder: str) -> None:
    """The command was never started: say so in place of its exit."""
    os.rename(os.path.join(folder, EXIT + ".part"), os.path.join(folder, UNSTARTED))


def write_exit(folder: str, returncode: int, used: str) -> None:
    """The record is whole or absent: written into its room, synced, renamed. A disk without any is waited for.

    `used` is what else it says, as `measured.measured` gives it.
    """
    path = os.path.join(folder, EXIT)
    while True:
        try:
            record = os.open(path + ".part", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                written = os.write(record, b'{"returncode": %d, %b}\n' % (returncode, used.encode()))
                os.ftruncate(record, written)
                os.fsync(record)
            finally:
                os.close(record)
            os.rename(path + ".part", path)
            return
        except OSError as problem:
            if problem.errno not in (*NO_ROOM, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            time.sleep(DISK_INTERVAL)
