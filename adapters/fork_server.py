"""The process that the launchers of a worker are forks of: it has imported what a launcher needs, and has nothing else.

    python -I -S fork_server.py REQUESTS WORKER

It is a script: standard library only. To start an interpreter for each command took ten times what a fork takes.
Beside it stand `launcher.py` (what a fork goes on as), `command_files.py`, `measured.py`, `waker.py`,
`ownership.py` and `starting.py`; they are loaded compiled, which a script never is.

REQUESTS is a socket to the worker. For each command, one byte comes with the descriptors that the command's launcher
is to have: its channel first. What is to be started is said on that channel, to the fork alone, so that neither this
process nor any other launcher ever has a command's environment, or a part of it. WORKER is a descriptor of the worker's
process (pidfd_open(2)), or -1 where the system has none: both end with the worker, and this process with them. A fork
of the worker may hold the socket; it does not hold the worker.

A launcher does not need this process once it has begun: whoever kills it harms no command, and the worker starts
another one.
"""

import array
import errno
import gc
import os
import select
import signal
import socket
import sys

#: As a script this has no package, and what stands beside it is found by path: last, so that it hides no module of the
#: standard library.
if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))

TYPE_CHECKING = False  # As `typing` has it.
if TYPE_CHECKING:
    from reprieve.adapters import launcher
elif __name__ == "__main__":
    import launcher
else:
    from reprieve.adapters import launcher

#: The most descriptors that come with a request: channel, standard output, standard error and standard input.
MOST_FILES = 4


def serve(requests: socket.socket, worker: int) -> None:
    """Fork for each request, until the worker is gone. Never returns."""
    # The system collects the launchers that end: nobody asks how they did, for each tells its worker.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM):  # Python would end with a traceback.
        signal.signal(number, signal.SIG_DFL)
    # What was imported is never collected, which would copy its pages into each fork.
    gc.collect()
    gc.freeze()
    ready = select.poll()
    for fd in (requests.fileno(), worker):
        if fd >= 0:
            ready.register(fd, select.POLLIN)
    while True:
        if any(fd == worker for fd, _ in ready.poll()):
            os._exit(0)
        files = receive(requests)
        if files:
            fork(requests, worker, files)


def receive(requests: socket.socket) -> list[int]:
    """The descriptors of the next request. Ends this process when there are no more."""
    room = socket.CMSG_SPACE(MOST_FILES * array.array("i").itemsize)
    try:
        asked, control, flags, _ = requests.recvmsg(1, room)
    except ConnectionResetError:
        asked, control, flags = b"", [], 0
    if not asked:
        os._exit(0)
    files = array.array("i")
    for _, _, data in control:
        files.frombytes(data[: len(data) - len(data) % files.itemsize])
    for fd in files:
        os.set_inheritable(fd, False)
    if flags & socket.MSG_CTRUNC:  # Too few descriptors are left here for all of them.
        refuse(list(files), errno.EMFILE)
        return []
    return list(files)


def fork(requests: socket.socket, worker: int, files: list[int]) -> None:
    try:
        child = os.fork()
    except OSError as problem:
        refuse(files, problem.errno or errno.EAGAIN)
        return
    if child:
        for fd in files:
            os.close(fd)
        return
    try:
        requests.close()
        launcher.run(files[0], files[1:], worker)
    finally:
        os._exit(1)


def refuse(files: list[int], number: int) -> None:
    """Say on the channel, if that has come, that there can be no launcher just now."""
    if files:
        launcher.tell(files[0], f"e {number} {os.strerror(number)}")
    for fd in files:
        os.close(fd)


def main() -> None:
    requests, worker = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    for fd in (requests.fileno(), worker):
        if fd >= 0:
            os.set_inheritable(fd, False)
    serve(requests, worker)


if __name__ == "__main__":
    main()
