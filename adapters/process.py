"""The `process` adapter: a child of the worker, alive for as long as its process is.

The child dies with the worker, and all that descends from it (on Linux at once; elsewhere when its termination is asked
for), and its run is then found by the reaper as `process_lost`.
"""

import logging
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from selectors import EVENT_READ, BaseSelector, DefaultSelector
from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from reprieve.adapters import host
from reprieve.adapters.command import OWN, CannotStart, Exited, Launched, launch, started
from reprieve.adapters.command_files import read_output
from reprieve.adapters.kinds import ProcessKind
from reprieve.adapters.launcher import DRAIN_SECONDS
from reprieve.adapters.protocol import Context
from reprieve.models.faults import is_unfit
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Outcome, Work

logger = logging.getLogger(__name__)

#: Seconds between two looks whether the child is to be stopped.
LOOK_INTERVAL = 0.5
#: Seconds between two tries to end what is left, on a host that cannot even look …
END_INTERVAL = 0.5
#: … and for how long it is tried, before that is owed.
END_FOR = 60.0


class ProcessAdapter(ProcessKind):
    """Runs a command as a child in its own session; reads its output unbuffered, as bytes."""

    def __init__(self, folder: Path, host_name: str) -> None:
        """Needs neither: a child is recorded by its context, and leaves nothing behind."""

    def execute(self, run: Work, context: Context) -> Outcome:
        launching = partial(launch, run, OWN, subprocess.PIPE, subprocess.PIPE)

        def record(launched: Launched) -> None:
            one = launched.identity
            context.on_spawn(one.pid, one.process_group_id, one.started_at, one.marker)

        try:
            # All descriptors that following needs are there before the command begins: a lack of them ends no child.
            with DefaultSelector() as selector, started(launching, record, context) as launched:
                return _Following(launched, selector, context).to_the_end()
        except CannotStart as problem:
            return Outcome.failed(f"The command could not be started: {problem}.")

    def terminate(self, handle: dict[str, Any]) -> None:
        host.terminate(ProcessIdentity.from_handle(handle))


class _Following:
    """Hands over what the command prints until it has ended; then ends what is left of it."""

    def __init__(self, launched: Launched, selector: BaseSelector, context: Context) -> None:
        self._launched = launched
        self._selector = selector
        self._context = context
        self._maskers = {stream: launched.masker() for stream in launched.outputs}
        self._exited: Exited | None = None
        self._drained_by = float("inf")
        self._ending: threading.Thread | None = None
        self._all_ended = True

    def to_the_end(self) -> Outcome:
        with self._launched.popen as popen:
            self._selector.register(self._launched.channel, EVENT_READ, self._note_exit)
            for stream, fd in self._launched.outputs.items():
                self._selector.register(fd, EVENT_READ, partial(self._read, fd, stream))
            try:
                self._follow()
                self._flush()
            finally:
                self._end_what_is_left()
                self._launched.channel.close()  # Processes that were let go stay; the launcher ends.
                popen.wait()
        outcome = Outcome.of_exit(self._exited.returncode if self._exited else popen.returncode)
        return replace(outcome, work_ended=self._all_ended)

    def _follow(self) -> None:
        """Until the command has ended and its output is closed; told to stop, or drained for long enough, see to it."""
        while self._exited is None or len(self._selector.get_map()) > 0:
            for key, _ in self._selector.select(LOOK_INTERVAL if self._exited is None else LOOK_INTERVAL / 5):
                key.data()
            if self._ending is None and (self._context.stopping or time.monotonic() > self._drained_by):
                self._begin_to_end(host.TERMINATE_GRACE if self._exited is None else host.LEFT_GRACE)
            elif self._ending is not None and not self._ending.is_alive():
                self._read_what_is_there()
                return

    def _note_exit(self) -> None:
        self._exited = self._launched.exited()
        self._selector.unregister(self._launched.channel)
        self._drained_by = time.monotonic() + DRAIN_SECONDS

    def _read(self, fd: int, stream: str) -> None:
        data = read_output(fd)
        if not data:
            self._selector.unregister(fd)
        self._hand_over(stream, self._maskers[stream].feed(data))

    def _read_what_is_there(self) -> None:
        """The rest of what was written; who was let go may hold a pipe open for ever, and is not waited for."""
        while ready := self._selector.select(0):
            for key, _ in ready:
                key.data()

    def _flush(self) -> None:
        for stream, masker in self._maskers.items():
            self._hand_over(stream, masker.flush())

    def _hand_over(self, stream: str, output: bytes) -> None:
        if output:
            self._context.on_log(stream, output)

    def _begin_to_end(self, grace: float) -> None:
        """On a thread, since what is asked to end may still have something to say."""
        thread = threading.Thread(target=self._end, args=(grace,), daemon=True)
        with suppress(RuntimeError):  # There is no thread just now: the next turn tries again.
            thread.start()
            self._ending = thread

    def _end(self, grace: float) -> None:
        """End all of it. Trouble in that outranks neither how the command ended nor why it could not be followed."""
        retrying = Retrying(
            retry=retry_if_exception(is_unfit),
            wait=wait_fixed(END_INTERVAL),
            stop=stop_after_delay(END_FOR),
            reraise=True,
        )
        try:
            retrying(host.terminate, self._launched.identity, grace)
        except Exception as error:
            self._all_ended = False
            logger.error("Run %s attempt %d: %s", self._context.run_id, self._context.attempt, error)

    def _end_what_is_left(self) -> None:
        if self._ending is not None:
            self._ending.join()
        elif self._exited is None or self._exited.left:
            self._end(host.TERMINATE_GRACE if self._exited is None else host.LEFT_GRACE)
