"""What wakes the launcher: a child that ends, a signal, or a descriptor that can be read. Standard library only."""

import os
import resource  # noqa: F401 - `os.wait4` answers in its terms, and would load it in each fork anew.
import select

TYPE_CHECKING = False  # As `typing` has it.
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # The other looks each handler up among its enumerations, which costs ten times as much.

#: In what the system counts `ru_maxrss`.
MAXRSS_UNIT = 1 if os.uname().sysname == "Darwin" else 1024


class Waker:
    """Wakes this process when a child ends or a signal comes, and knows what has ended."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.alone = False
        self.child = 0
        #: Of all that was collected, and of what that had waited for: seconds of processor, and the most that one
        #: process had in memory, in bytes.
        self.cpu_seconds, self.peak_memory = 0.0, 0
        self.wakes, self._wake = os.pipe()
        for fd in (self.wakes, self._wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # A person who ends this process means the command. It stays, to say how that ended.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, *_: object) -> None:
        if self.child and self.status is None:
            os.kill(self.child, number)

    def wait(self, others: list[int], seconds: float | None = None) -> list[int]:
        """Those of these descriptors that can be read, as soon as any can, or a child has ended, or time is up."""
        # Not `select`, which takes no descriptor above 1023: a worker of many runs passes higher descriptors on.
        poll = select.poll()
        for fd in (self.wakes, *others):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if seconds is None else seconds * 1000)]
        if self.wakes in ready:
            ready.remove(self.wakes)
            while _has_more(self.wakes):
                pass
        self._collect()
        return ready

    def _collect(self) -> None:
        """Collect all that has ended below this process. Without a child, nothing that descends from it is left."""
        try:
            while (ended := os.wait4(-1, os.WNOHANG))[0]:
                pid, status, used = ended
                self.cpu_seconds += used.ru_utime + used.ru_stime
                self.peak_memory = max(self.peak_memory, used.ru_maxrss * MAXRSS_UNIT)
                if pid == self.child:
                    self.status = status
        except ChildProcessError:
            self.alone = True


def _has_more(fd: int) -> bool:
    try:
        return bool(os.read(fd, 4096))
    except BlockingIOError:
        return False
