"""Starts a command only after its process has been recorded, owns all that descends from it, and says how it ended.

It is a fork of `fork_server.py`, and must start fast: standard library only, all of it imported there.

CHANNEL is a socket to the worker. It begins with what is asked for (`Asked`). The worker writes one byte when this
process has been recorded. If it dies before, the socket is closed without that byte and nothing is started: no work
exists that nobody knows of. With a folder, a file `unstarted` says so to the next follower. This process writes a line
for each of what happened: `i PID` (who it is), `r` (ready to start, with a folder), `s` (started), `e ERRNO SENTENCE`
(not started), `x STATUS LEFT` (the command has ended with this wait status, and LEFT says whether something that
descends from it is still there), and as its last word `u JSON` (what all of it used, `measured.py`).

As a child subreaper this process stays above whatever the command starts, however often that forks and whatever session
or group it moves to. With `own`, all of it is killed when the worker is gone. With a folder, what is left when the
command has ended is asked to end, and killed; then `exit.json` is written, in room that was reserved at the start. The
lock on `running.lock` is held until then: who can take it knows that nothing runs any more, from any PID namespace.
"""

import ctypes
import errno
import marshal
import os
import select
import time
from collections.abc import Iterator

TYPE_CHECKING = False  # As `typing` has it.
if TYPE_CHECKING:
    import signal
    from typing import NoReturn
else:
    import _signal as signal  # As in `waker`.
if TYPE_CHECKING or __name__ != "launcher":
    from reprieve.adapters import command_files as files
    from reprieve.adapters import measured, ownership, starting
    from reprieve.adapters import waker as waking
else:  # Beside the script that this is a fork of, which has no package.
    import command_files as files
    import measured
    import ownership
    import starting
    import waker as waking

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
#: The mode of a command that lives and dies with its worker.
OWN = "own"
#: The bytes before what is asked for that give its length.
HEAD = 8
#: Seconds that whatever the command has left behind may go on printing.
DRAIN_SECONDS = 2.0
#: Seconds that it then has to end when it is asked to …
LEFT_GRACE = 2.0
#: … and to be gone when it is killed.
KILL_GRACE = 5.0
#: By how much a command is more welcome than its worker where the kernel looks for something to end: as if it had half
#: of the memory there is in addition to its own. Not all of it, or it would go before whatever else has too much.
OOM_SCORE, MOST_OOM_SCORE = 500, 1000
CANNOT_LIMIT = "it could not be put into the cgroup that limits its memory"
#: The bounds of the area in `/proc/self/stat`, counted from the state behind the name (proc_pid_stat(5): 50, 51).
_ENV_START, _ENV_END = 47, 48


def prctl(option: int, value: int) -> None:
    """Ask Linux for something that a process can have; elsewhere `terminate` has to do alone."""
    try:
        _libc.prctl(option, value, 0, 0, 0)
    except AttributeError:
        pass


_libc = ctypes.CDLL(None)


def environment_area() -> tuple[int, int]:
    """From where to where the system shows memory of this process as its environment; nowhere where it does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[_ENV_START]), int(fields[_ENV_END])
    except (OSError, IndexError, ValueError):
        return 0, 0


_AREA = environment_area()


class Asked:
    """What a launcher is to start.

    `mode` is `own`, for a command that lives and dies with its worker, or a folder, for one that outlives it. `output`
    is `inherited`, `pipes` or `terminal`: with the latter two, which need a folder, the command writes to pipes or to a
    pseudo-terminal, and the launcher copies them into the files that it was given. No command ever has the file: `tee
    /dev/stdout` and `> /dev/stderr` would cut it. `cgroup` is the folder of a cgroup for the command, `cwd` the folder
    to run in; either may be empty. `variables` are all of its environment. A `limited` command is not to run outside of
    its cgroup, which limits its memory.
    """

    def __init__(
        self,
        mode: str,
        output: str,
        cgroup: str,
        cwd: bytes,
        command: list[bytes],
        variables: dict[bytes, bytes],
        environment: bytes = b"",
        limited: bool = False,
    ) -> None:
        """`environment` is the variables as the system shows them; made of them where it is not given."""
        self.mode, self.output, self.cgroup, self.cwd = mode, output, cgroup, cwd
        self.command, self.variables, self.limited = command, variables, limited
        self.environment = environment or b"".join([b"%b=%b\0" % variable for variable in variables.items()])

    def encoded(self) -> bytes:
        """As it is said on the channel, by an interpreter to its like. What a fork need not make costs it no memory."""
        said = (self.mode, self.output, self.cgroup, self.cwd, self.command, self.variables, self.environment)
        data = marshal.dumps((*said, True) if self.limited else said)
        return len(data).to_bytes(HEAD, "big") + data

    @property
    def folder(self) -> str:
        """That of a command that outlives its worker; else empty."""
        return "" if self.mode == OWN else self.mode


class Channel:
    """The socket to the worker. It has ended when the worker has: a fork of the worker may hold the other end."""

    def __init__(self, fd: int, worker: int) -> None:
        """`worker` is a descriptor of its process, or -1."""
        self.fd, self._worker = fd, worker
        self._ready = select.poll()
        for one in self.watched:
            self._ready.register(one, select.POLLIN)

    @property
    def watched(self) -> list[int]:
        """What can be read when there is something to read, or the worker is gone."""
        return [self.fd, self._worker] if self._worker >= 0 else [self.fd]

    def read(self, size: int) -> bytes:
        """What the worker says next; empty when it is gone."""
        if self.fd not in [fd for fd, _ in self._ready.poll()]:
            return b""
        try:
            return os.read(self.fd, size)
        except OSError:
            return b""  # A worker that was killed with something unread.

    def read_whole(self, size: int) -> bytes:
        """So many bytes; fewer when the worker is gone before."""
        pieces: list[bytes] = []
        while size and (piece := self.read(size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def tell(self, line: str) -> None:
        tell(self.fd, line)

    def close(self) -> None:
        for fd in self.watched:
            os.close(fd)


def tell(channel: int, line: str) -> None:
    try:
        os.write(channel, line.encode("utf-8", "surrogateescape") + b"\n")
    except OSError:
        pass  # The worker is gone.


# -- the command


def become(asked: Asked, launcher: int, problem_fd: int) -> None:
    """In a process of its own, whose parent is the launcher: become the command. Where it cannot, say why and end."""
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # It was killed before that was said.
        os._exit(127)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these; a command expects them to act.
        signal.signal(number, signal.SIG_DFL)
    die_first()
    subject = asked.cwd
    try:
        if asked.cgroup and (problem := enter(asked.cgroup)) and asked.limited:
            os.write(problem_fd, f"{errno.EINVAL} {CANNOT_LIMIT} ({problem.strerror})".encode())
            return
        if asked.cwd:
            os.chdir(asked.cwd)
        subject = b""
        starting.execute(asked.command, asked.variables)
    except (OSError, ValueError) as problem:
        code = getattr(problem, "errno", errno.EINVAL)
        if subject:
            sentence = starting.why_no_folder(os.fsdecode(asked.cwd), problem)
        else:
            sentence = starting.why_not(asked.command, asked.variables, problem)
        os.write(problem_fd, f"{code} {sentence}".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(127)


def die_first() -> None:
    """Have the kernel, where memory is short, end this and what descends from it before its launcher and its worker.

    Whoever raises this needs no right to.
    """
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            file.write(b"%d" % min(int(file.read()) + OOM_SCORE, MOST_OOM_SCORE))
    except (OSError, ValueError):
        pass


def enter(cgroup: str) -> OSError | None:
    """Why this process could not enter it; without a limit, descent and marker stand behind it."""
    try:
        with open(os.path.join(cgroup, "cgroup.procs"), "w") as file:
            file.write("0")
    except OSError as problem:
        return problem
    return None


def leave(cgroup: str) -> None:
    """Remove it. A process that is still in it was let go, and goes on outside."""
    try:
        with open(os.path.join(cgroup, "cgroup.procs")) as file:
            left = file.read().split()
        for pid in left:
            with open(os.path.join(outside(cgroup), "cgroup.procs"), "w") as file:
                file.write(pid)
        os.rmdir(cgroup)
    except OSError:
        pass


def outside(cgroup: str) -> str:
    """The cgroup that this process is in: the one above that of its command or, where that divides memory, beside it.

    No process may be in one that does. Raises `OSError`.
    """
    above = os.path.dirname(cgroup)
    with open("/proc/self/cgroup") as file:
        own = next((os.path.basename(line.strip()) for line in file if line.startswith("0::")), "")
    beside = os.path.join(above, own)
    return beside if own and beside != cgroup and os.path.isdir(beside) else above


class Launcher:
    """This process, above one command."""

    def __init__(self, channel: Channel, asked: Asked) -> None:
        self._channel, self._asked = channel, asked
        self._marker = os.fsdecode(asked.variables.get(ownership.MARKER.encode(), b""))
        self._waker = waking.Waker()

    def to_the_end(self, given: list[int]) -> None:
        """Start the command, with these as its output and its input, and stay above it to its end."""
        asked, folder = self._asked, self._asked.folder
        output = self._begin(given)
        try:
            self._waker.child, problem = self._start(output)
        except OSError as error:
            self._waker.child, problem = 0, f"{error.errno} {error.strerror}".encode()
        if problem:
            if self._waker.child:
                os.waitpid(self._waker.child, 0)
            self._end_unstarted(problem.decode("utf-8", "surrogateescape"))
        self._channel.tell("s")
        if folder:
            self._channel.close()
            self._copy_to_the_end(output)
            files.write_exit(folder, os.waitstatus_to_exitcode(self._waker.status or 0), self._used())
        else:
            self._serve()
            self._channel.tell("u {" + self._used() + "}")
        if asked.cgroup:
            leave(asked.cgroup)

    def _used(self) -> str:
        """What all of it used, with those that have just ended."""
        waker = self._waker
        waker.wait([], 0)
        return measured.measured(waker.cpu_seconds, waker.peak_memory, self._asked.cgroup)

    def _end_unstarted(self, problem: str = "") -> "NoReturn":
        """End this process, since there is no command: for this problem, or because the worker is gone."""
        if self._asked.cgroup:
            leave(self._asked.cgroup)
        if problem:
            self._channel.tell(f"e {problem}")
        os._exit(127 if problem else 126)

    def _begin(self, given: list[int]) -> files.Output:
        """What is needed before the command may start, then the word to start it. Ends this process without it."""
        folder = self._asked.folder
        try:
            if folder:
                files.hold(folder)
            output = files.Output(self._asked.output, given)
        except OSError as problem:
            self._end_unstarted(f"{problem.errno} {problem.strerror}")
        if folder:
            self._channel.tell("r")
        if self._channel.read(1) != b"g":
            if folder:
                files.give_up(folder)
            self._end_unstarted()
        return output

    def _start(self, output: files.Output) -> tuple[int, bytes]:
        """The command's process, and why it could not be started: empty when it was. `OSError` without a process."""
        reading, writing = os.pipe()
        launcher = os.getpid()
        child = os.fork()
        if child == 0:
            output.give()
            become(self._asked, launcher, writing)
        os.close(writing)
        output.keep()
        problem = b""
        while piece := os.read(reading, files.READ_SIZE):
            problem += piece
        os.close(reading)
        return child, problem

    def _descendants(self) -> Iterator[ownership.Found]:
        """Whatever descends from this process, and was not let go."""
        return ownership.descendants(os.getpid(), self._marker)

    def _nothing_is_left(self) -> bool:
        """Looked at twice: what the system lists of children may be short while they come and go."""
        return next(self._descendants(), None) is None and next(self._descendants(), None) is None

    # -- a command of the worker's own

    def _serve(self) -> None:
        """Stay above the command until it has ended, and what it left, or until the worker is gone: kill all then."""
        told, waker = False, self._waker
        while not (told and (waker.alone or self._nothing_is_left())):
            if waker.wait(self._channel.watched) and not self._channel.read(1):
                if waker.status is None:  # It was not collected, so its number and its group are its own.
                    os.killpg(waker.child, signal.SIGKILL)
                for seconds in ownership.ending(self._descendants, 0, KILL_GRACE):
                    time.sleep(seconds)
                return
            if waker.status is not None and not told:
                self._channel.tell(f"x {waker.status} {int(not waker.alone)}")
                told = True

    # -- a command that outlives the worker

    def _copy_to_the_end(self, output: files.Output) -> None:
        """Copy what the command prints until it has ended and all have closed its output, or DRAIN_SECONDS later.

        What is left then is ended, step by step, since what is asked to end may still print something.
        """
        ending: Iterator[float] | None = None
        drained_by, due_at, waker = float("inf"), 0.0, self._waker
        while True:
            for reading in waker.wait(list(output.sources), None if waker.status is None else 0.05):
                output.copy(reading)
            if waker.status is None:
                continue
            now = time.monotonic()
            drained_by = min(drained_by, now + DRAIN_SECONDS)
            if waker.alone and (not output.sources or ending or now >= drained_by):
                break
            if ending is None and (not output.sources or now >= drained_by):
                ending = ownership.ending(self._descendants, LEFT_GRACE, KILL_GRACE)
            if ending is not None and now >= due_at:
                seconds = next(ending, None)
                if seconds is None:
                    break
                due_at = now + seconds
        self._copy_what_is_there(output)

    def _copy_what_is_there(self, output: files.Output) -> None:
        """The rest of what was written. Who was let go may hold a pipe open, and print, for ever: no more than that."""
        for _ in range(files.LAST_READS):
            for reading in (ready := self._waker.wait(list(output.sources), 0)):
                output.copy(reading)
            if not ready:
                return


# -- a fork that becomes a launcher


def run(channel: int, given: list[int], worker: int) -> None:
    """Be the launcher of the one command that is asked for on the channel. Never returns.

    `given` are the command's standard output, standard error and, unless that is to be empty, standard input.
    """
    try:
        os.setsid()
        said = Channel(channel, worker)
        length = int.from_bytes(said.read_whole(HEAD), "big")
        data = said.read_whole(length)
        if not data or len(data) < length:  # The worker is gone, before it had said all.
            os._exit(126)
        asked = Asked(*marshal.loads(data))  # noqa: S302 - said by the worker
        show(asked.environment)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            launcher = Launcher(said, asked)
        except OSError as problem:  # It has no descriptor to be woken by.
            said.tell(f"e {problem.errno} {problem.strerror}")
            os._exit(127)
        said.tell(f"i {os.getpid()}")
        launcher.to_the_end(given)
        os._exit(0)
    finally:
        os._exit(1)


def show(environment: bytes) -> None:
    """Have the system show this as the environment of this process, as of any that was started with it.

    By its marker a launcher is known to be of its attempt; by the rest, the next follower knows what to mask.
    """
    start, end = _AREA
    if len(environment) <= end - start:
        ctypes.memmove(start, environment, len(environment))
        ctypes.memset(start + len(environment), 0, end - start - len(environment))
