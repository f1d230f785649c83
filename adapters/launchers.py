"""Where this process gets its launchers from: it keeps one small process that forks them (`adapters.fork_server`)."""

import errno
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from reprieve.adapters.secrets import is_withheld
from reprieve.models.faults import is_unfit

FORK_SERVER = Path(__file__).with_name("fork_server.py")
#: Bytes more of an environment than the first command needs, before there has to be another server.
SPARE_ROOM = 8 * 1024
#: Room is made of variables of this name and a number, none longer than the system allows any (128 KiB).
ROOM, ROOM_BYTES = "REPRIEVE_ROOM", 64 * 1024

#: What a command has of the worker by way of the server: the current folder, and the limits of open files.
Inherited = tuple[int, int, tuple[int, int]]


class Server:
    """One process that forks launchers. It ends by itself when its socket is closed, or this process ends."""

    def __init__(self, room: int, inherited: Inherited) -> None:
        """`room` is how many bytes of an environment its launchers can show as their own. Raises `OSError`."""
        self.inherited = inherited
        environment = inherited_environment()
        self.room = sum(len(os.fsencode(name)) + len(os.fsencode(value)) + 2 for name, value in environment.items())
        for number, length in enumerate(_parts(room + SPARE_ROOM - self.room)):
            environment[f"{ROOM}_{number}"] = "-" * length
            self.room += length
        with ExitStack() as lent, ExitStack() as kept:
            requests, theirs = socket.socketpair()
            kept.enter_context(requests)
            files = [lent.enter_context(theirs).fileno()]
            worker = _this_process()
            if worker >= 0:
                lent.callback(os.close, worker)
                files.append(worker)
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(FORK_SERVER), str(theirs.fileno()), str(worker)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=files,
                start_new_session=True,
            )
            kept.pop_all()
        self._requests = requests
        requests.setblocking(False)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ask(self, files: Sequence[int]) -> None:
        """Ask for a launcher that has these. Raises `OSError`: `BlockingIOError` where it takes none just now."""
        try:
            socket.send_fds(self._requests, [b"a"], files)
        except OSError as problem:
            if problem.errno == errno.ETOOMANYREFS:  # Of descriptors that are on their way, or of memory for them.
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            raise

    def kill(self) -> None:
        """End it at once. What it has forked goes on."""
        self._popen.kill()

    def leave(self) -> None:
        """Let it answer what it was asked, and end."""
        self._requests.close()

    def is_gone(self) -> bool:
        return self._popen.poll() is not None

    def forget(self) -> None:
        """In a fork of this process, whose child it is not."""
        self._requests.close()
        self._popen.returncode = 0


class Launchers:
    """The server that is asked for launchers: begun when the first is wanted, and anew where it does not do.

    Thread-safe.

    Of what a command has of its worker, the server's start decides the limits, the niceness and the cgroup; another
    server is begun where the worker has changed its folder or how many files it may open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._left: list[Server] = []

    def ask(self, files: Sequence[int], room: int) -> Server:
        """Ask for a launcher that has these files, its channel first, and may show an environment of `room` bytes.

        Raises `OSError`: `BlockingIOError` where too many are asked for at once. That it is asked for does not mean
        that there will be one: the channel ends where there is none.
        """
        with self._lock:
            self._left = [one for one in self._left if not one.is_gone()]
            inherited = _inherited()
            server = self._server
            if server is not None and (server.inherited != inherited or server.room < room):
                self._leave(server)
                server = None
            if server is not None:
                try:
                    server.ask(files)
                except (BrokenPipeError, ConnectionResetError):  # Somebody has ended it.
                    self._leave(server)
                else:
                    return server
            self._server = server = Server(max(room, server.room if server else 0), inherited)
            try:
                server.ask(files)
            except (BrokenPipeError, ConnectionResetError):  # It has ended at once, and forks none.
                self._leave(server)
            return server

    def _leave(self, server: Server) -> None:
        server.leave()
        self._left.append(server)
        self._server = None

    def forget(self) -> None:
        """In a fork of this process: what this has belongs to the parent."""
        self._lock = threading.Lock()
        for server in (*self._left, *([self._server] if self._server else [])):
            server.forget()
        self._server, self._left = None, []


LAUNCHERS = Launchers()
os.register_at_fork(after_in_child=LAUNCHERS.forget)


def inherited_environment() -> dict[str, str]:
    """What every command of this process inherits of its environment."""
    return {name: value for name, value in os.environ.items() if not is_withheld(name)}


def is_too_long(command: Sequence[bytes], environment: Mapping[bytes, bytes]) -> bool:
    """Whether the system refuses to start any program with these, as execve(2) says."""
    whole, one = os.sysconf("SC_ARG_MAX"), 32 * resource.getpagesize()
    sizes = [len(word) + 1 for word in command]
    sizes += [len(name) + len(value) + 2 for name, value in environment.items()]
    return sum(sizes) + 8 * len(sizes) >= whole or (sys.platform == "linux" and max(sizes) > one)


def _parts(length: int) -> Iterator[int]:
    """The lengths of the variables that make so much room."""
    while length > 0:
        yield min(length, ROOM_BYTES)
        length -= ROOM_BYTES


def _inherited() -> Inherited:
    folder = Path().stat()
    return folder.st_dev, folder.st_ino, resource.getrlimit(resource.RLIMIT_NOFILE)


def _this_process() -> int:
    """A descriptor of this process, which says to whoever has it when it has ended; -1 where there is none."""
    try:
        return os.pidfd_open(os.getpid())
    except AttributeError:
        return -1
    except OSError as problem:
        if is_unfit(problem):
            raise
        return -1
