"""Starts a command only after its process has been recorded, owns all that descends from it, and says how it ended.

    python -I -S launcher.py CHANNEL MODE OUTPUT CGROUP CWD COMMAND…

It is a script, and must start fast: standard library only, and of that little. Beside it stand `command_files.py` (what
the command prints, and how it ended) and `waker.py`; they are loaded compiled, which a script never is.

MODE is `own`, for a command that lives and dies with its worker, or a folder, for one that outlives it. OUTPUT is
`inherited`, `pipes` or `terminal`: with the latter two, which need a folder, the command writes to pipes or to a
pseudo-terminal, and this process copies them into the files that are its own standard output and standard error. No
command ever has the file: `tee /dev/stdout` and `> /dev/stderr` would cut it. CGROUP is the folder of a cgroup for the
command, CWD the folder to run in; either may be empty.

CHANNEL is a socket to the worker. The worker writes one byte when this process has been recorded. If it dies before,
the socket is closed without that byte and nothing is started: no work exists that nobody knows of. With a folder, a
file `unstarted` says so to the next follower. This process writes a line for each of what happened: `r` (ready to
start), `s` (started), `e ERRNO SENTENCE` (not started), `x STATUS LEFT` (the command has ended with this wait status,
and LEFT says whether something that descends from it is still there).

As a child subreaper this process stays above whatever the command starts, however often that forks and whatever session
or group it moves to. With `own`, all of it is killed when the worker is gone. With a folder, what is left when the
command has ended is asked to end, and killed; then `exit.json` is written, in room that was reserved at the start. The
lock on `running.lock` is held until then: who can take it knows that nothing runs any more, from any PID namespace.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

TYPE_CHECKING = False  # As `typing` has it, which takes longer to import than all of this.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Thread
    from types import ModuleType
    from typing import Any

#: As a script this has no package, and what stands beside it is found by path: last, so that it hides no module of the
#: standard library.
PACKAGE = "" if __name__ == "__main__" else "reprieve.adapters."
if not PACKAGE:
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))


def sibling(name: str) -> ModuleType:
    """A module that stands beside this one, loaded where it is needed: most commands start without."""
    __import__(PACKAGE + name)
    return sys.modules[PACKAGE + name]


if TYPE_CHECKING:
    from reprieve.adapters import command_files as files
    from reprieve.adapters import waker as waking
else:
    files, waking = sibling("command_files"), sibling("waker")

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
#: Seconds that whatever the command has left behind may go on printing.
DRAIN_SECONDS = 2.0
#: Seconds that it then has to end when it is asked to …
LEFT_GRACE = 2.0
#: … and to be gone when it is killed.
KILL_GRACE = 5.0


# -- the command


def prctl(option: int, value: int) -> None:
    """Ask Linux for something that a process can have; elsewhere `terminate` has to do alone."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (OSError, AttributeError):
        pass


def become(command: list[str], cwd: str, cgroup: str, launcher: int, problem_fd: int) -> None:
    """In a process of its own, whose parent is the launcher: become the command. Where it cannot, say why and end."""
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # It was killed before that was said.
        os._exit(127)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these; a command expects them to act.
        signal.signal(number, signal.SIG_DFL)
    if cgroup:
        enter(cgroup)
    subject = cwd
    try:
        if cwd:
            os.chdir(cwd)
        subject = ""
        os.execvp(command[0], command)
    except (OSError, ValueError) as problem:
        starting = sibling("starting")
        sentence = starting.why_no_folder(cwd, problem) if subject else starting.why_not(command[0], problem)
        code = getattr(problem, "errno", errno.EINVAL)
        os.write(problem_fd, f"{code} {sentence}".encode("utf-8", "surrogateescape"))
    finally:
        os._exit(127)


def enter(cgroup: str) -> None:
    """Best effort: descent and marker stand behind it."""
    try:
        with open(os.path.join(cgroup, "cgroup.procs"), "w") as file:
            file.write("0")
    except OSError:
        pass


def leave(cgroup: str) -> None:
    """Remove it. A process that is still in it was let go, and goes on outside."""
    try:
        with open(os.path.join(cgroup, "cgroup.procs")) as file:
            left = file.read().split()
        for pid in left:
            with open(os.path.join(os.path.dirname(cgroup), "cgroup.procs"), "w") as file:
                file.write(pid)
        os.rmdir(cgroup)
    except OSError:
        pass


def start(command: list[str], cwd: str, cgroup: str, output: files.Output) -> tuple[int, bytes]:
    """The command's process, and why it could not be started: empty when it was. Raises `OSError` without a process."""
    reading, writing = os.pipe()
    launcher = os.getpid()
    child = os.fork()
    if child == 0:
        output.give()
        become(command, cwd, cgroup, launcher, writing)
    os.close(writing)
    output.keep()
    problem = b""
    while piece := os.read(reading, files.READ_SIZE):
        problem += piece
    os.close(reading)
    return child, problem


def descendants() -> Iterator[Any]:
    """Whatever descends from this process, and was not let go."""
    ownership = sibling("ownership")
    found: Iterator[Any] = ownership.descendants(os.getpid(), os.environ.get(ownership.MARKER, ""))
    return found


def nothing_is_left() -> bool:
    """Looked at twice: what the system lists of children may be short while they come and go."""
    return next(descendants(), None) is None and next(descendants(), None) is None


def end_the_rest(grace: float) -> None:
    sibling("ownership").end(descendants, grace, KILL_GRACE)


# -- a command of the worker's own


def serve(waker: waking.Waker, channel: int) -> None:
    """Stay above the command until it has ended, and what it left, or until the worker is gone, and kill all then."""
    told = False
    while not (told and (waker.alone or nothing_is_left())):
        ready = waker.wait([channel])
        if waker.worker_is_gone or (channel in ready and not read_word(channel)):
            if waker.status is None:  # It was not collected, so its number and its group are its own.
                os.killpg(waker.child, signal.SIGKILL)
            end_the_rest(0)
            return
        if waker.status is not None and not told:
            tell(channel, f"x {waker.status} {int(not waker.alone)}")
            told = True


# -- a command that outlives the worker


def copy_to_the_end(waker: waking.Waker, output: files.Output) -> None:
    """Copy what the command prints until it has ended and all have closed its output, or DRAIN_SECONDS later.

    What is left then is ended, and its last words are copied too.
    """
    ending: Thread | None = None
    drained_by = float("inf")
    while True:
        for reading in waker.wait(list(output.sources), None if waker.status is None else 0.05):
            output.copy(reading)
        if waker.status is None:
            continue
        drained_by = min(drained_by, time.monotonic() + DRAIN_SECONDS)
        if waker.alone and (not output.sources or ending or time.monotonic() >= drained_by):
            break
        if ending is None and (not output.sources or time.monotonic() >= drained_by):
            ending = on_a_thread(end_the_rest, LEFT_GRACE)
        elif ending is not None and not ending.is_alive():
            break
    copy_what_is_there(waker, output)


def on_a_thread(function: Callable[[float], None], grace: float) -> Thread:
    """On a thread, so that what is asked to end may still print something."""
    import threading

    thread = threading.Thread(target=function, args=(grace,), daemon=True)
    thread.start()
    return thread


def copy_what_is_there(waker: waking.Waker, output: files.Output) -> None:
    """The rest of what was written. A process that was let go may hold a pipe open for ever, and is not waited for."""
    while ready := waker.wait(list(output.sources), 0):
        for reading in ready:
            output.copy(reading)


# -- the protocol


def tell(channel: int, line: str) -> None:
    try:
        os.write(channel, line.encode("utf-8", "surrogateescape") + b"\n")
    except OSError:
        pass  # The worker is gone.


def begin(channel: int, folder: str, kind: str) -> files.Output:
    """What is needed before the command may start, then the word to start it. Ends this process without it."""
    try:
        if folder:
            files.hold(folder)
        output = files.Output(kind)
    except OSError as problem:
        tell(channel, f"e {problem.errno} {problem.strerror}")
        os._exit(127)
    tell(channel, "r")
    if read_word(channel) != b"g":
        if folder:
            files.give_up(folder)
        os._exit(126)
    return output


def read_word(channel: int) -> bytes:
    try:
        return os.read(channel, 1)
    except OSError:
        return b""  # A worker that was killed with something unread.


def main() -> None:
    channel, mode, kind, cgroup, cwd = int(sys.argv[1]), *sys.argv[2:6]
    folder = "" if mode == "own" else mode
    os.set_inheritable(channel, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if not folder:
        prctl(PR_SET_PDEATHSIG, waking.WORKER_IS_GONE)
    waker = waking.Waker()
    output = begin(channel, folder, kind)
    try:
        waker.child, problem = start(sys.argv[6:], cwd, cgroup, output)
    except OSError as error:
        waker.child, problem = 0, f"{error.errno} {error.strerror}".encode()
    if problem:
        tell(channel, "e " + problem.decode("utf-8", "surrogateescape"))
        os._exit(127)
    tell(channel, "s")
    if folder:
        os.close(channel)
        copy_to_the_end(waker, output)
        files.write_exit(folder, os.waitstatus_to_exitcode(waker.status or 0))
    else:
        serve(waker, channel)
    if cgroup:
        leave(cgroup)


if __name__ == "__main__":
    main()
