"""The `process` adapter: a child of the worker's, alive for as long as its process is.

The child dies with the worker, and all that descends from it (on Linux at once; elsewhere when its termination is asked
for), and its run is then found by the reaper as `process_lost`.
"""

import asyncio
import logging
import select
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Any, ClassVar

from reprieve.adapters import host
from reprieve.adapters.command import CannotStart, Exited, Launched, judged, launch, started
from reprieve.adapters.command_files import LAST_READS, read_output
from reprieve.adapters.ending import end
from reprieve.adapters.kinds import ProcessKind
from reprieve.adapters.launcher import DRAIN_SECONDS, OWN
from reprieve.adapters.protocol import AsyncContext, Attempt
from reprieve.adapters.readers import Readers
from reprieve.adapters.report_files import ReportFile, ReportFiles
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Outcome, Work

logger = logging.getLogger(__name__)

#: Seconds of one wait to be told to stop, which ends it at once.
WAIT_SECONDS = 3_600.0


class ProcessAdapter(ProcessKind):
    """Runs a command in its own session; reads its output unbuffered, as bytes."""

    own_limit: ClassVar[int | None] = None

    def __init__(self, folder: Path, host_name: str) -> None:  # noqa: ARG002 - none needs it
        """A child is recorded by its context, and leaves nothing behind but what it said of itself."""
        self._reports = ReportFiles(folder)

    async def execute(self, run: Work, context: AsyncContext) -> Outcome:
        async def record(launched: Launched) -> None:
            one = launched.identity
            await context.on_spawn(one.pid, one.process_group_id, one.started_at, one.marker)

        report = self._reports.ready((context.run_id, context.attempt))
        try:
            async with started(partial(launch, run, OWN, report=report), record, context) as launched:
                outcome = await _Following(launched, context, self._reports).to_the_end()
        except CannotStart as problem:
            return Outcome.failed(f"The command could not be started: {problem}.")
        return judged(outcome, launched.used, run)

    def terminate(self, handle: dict[str, Any]) -> None:
        host.terminate(ProcessIdentity.from_handle(handle))

    def kept(self) -> list[Attempt]:
        return self._reports.kept()

    def forget(self, attempt: Attempt) -> None:
        self._reports.forget(attempt)


class _Following:
    """Hands over what the command prints until it has ended; then ends what is left of it."""

    def __init__(self, launched: Launched, context: AsyncContext, reports: ReportFiles) -> None:
        self._launched = launched
        self._reports = reports
        self._context = context
        self._readers = Readers()
        self._streams = {fd: stream for stream, fd in launched.outputs.items()}
        self._maskers = {stream: launched.masker() for stream in launched.outputs}
        self._exited: Exited | None = None
        self._drained_by: float | None = None
        self._ending: asyncio.Task[None] | None = None
        self._all_ended = True

    async def to_the_end(self) -> Outcome:
        told = asyncio.create_task(self._told())
        told.add_done_callback(self._note_that_it_is_told)
        try:
            self._readers.watch(self._streams)
            if self._launched.channel.has_more:  # A command that ended as soon as it had begun.
                self._hear()
            else:
                self._readers.watch([self._launched.channel.fileno()])
            with self._reports.followed(self._context, self._launched.masker, self._readers.wake) as said:
                exited = await self._follow(told, said)
                await said.take_rest()
            for stream, masker in self._maskers.items():
                await self._hand_over(stream, masker.flush())
        finally:
            self._readers.close()
            told.cancel()
            await self._end_what_is_left()
        return replace(Outcome.of_exit(exited.returncode), work_ended=self._all_ended)

    async def _told(self) -> None:
        """Returns when this follower is told to stop, and raises where it is to leave."""
        while not await self._context.wait(WAIT_SECONDS):
            pass

    def _note_that_it_is_told(self, told: asyncio.Task[None]) -> None:
        if not told.cancelled():
            told.exception()  # Raised again where it is followed, if it still is.
        self._readers.wake()

    async def _follow(self, told: asyncio.Task[None], said: ReportFile) -> Exited:
        """Until the command has ended and its output is closed; told to stop, or drained for long enough, see to it."""
        while self._exited is None or self._streams:
            for fd in await self._readers.next(self._seconds_to_drain()):
                if fd in self._streams:
                    await self._read(fd)
                else:
                    self._hear()
            await said.take()
            if self._ending is not None:
                # Of a launcher that has just ended, the last word may not be heard yet.
                if self._ending.done() and (self._exited is not None or not self._all_ended):
                    await self._read_what_is_there()
                    break
            elif told.done():
                told.result()
                self._begin_to_end()
            elif self._drained_by is not None and time.monotonic() >= self._drained_by:
                self._begin_to_end()
        return self._exited or Exited(-SIGKILL, left=True)

    def _seconds_to_drain(self) -> float | None:
        if self._drained_by is None or self._ending is not None:
            return None
        return max(0.0, self._drained_by - time.monotonic())

    def _hear(self) -> None:
        self._exited = self._launched.exited()
        if self._exited is None:
            self._readers.watch([self._launched.channel.fileno()])
        else:
            self._drained_by = time.monotonic() + DRAIN_SECONDS

    async def _read(self, fd: int) -> None:
        """One piece, so that the other runs of this loop have their turn."""
        data = read_output(fd)
        stream = self._streams[fd]
        if data:
            await self._hand_over(stream, self._maskers[stream].feed(data))
            self._readers.watch([fd])
        else:
            del self._streams[fd]

    async def _read_what_is_there(self) -> None:
        """The rest of what was written. Who was let go may hold a pipe open, and print, for ever: no more than that."""
        self._readers.close()
        open_ones = select.poll()
        for fd in self._streams:
            open_ones.register(fd, select.POLLIN)
        for _ in range(LAST_READS):
            ready = [fd for fd, _ in open_ones.poll(0)]
            for fd in ready:
                if data := read_output(fd):
                    await self._hand_over(self._streams[fd], self._maskers[self._streams[fd]].feed(data))
                else:
                    open_ones.unregister(fd)
            if not ready:
                return

    async def _hand_over(self, stream: str, output: bytes) -> None:
        if output:
            await self._context.on_log(stream, output)

    def _begin_to_end(self) -> None:
        """Meanwhile it is followed, since what is asked to end may still have something to say."""
        self._ending = asyncio.create_task(self._end())
        self._ending.add_done_callback(self._readers.wake)

    async def _end(self) -> None:
        """End all of it. Trouble in that outranks neither how the command ended nor why it could not be followed."""
        try:
            await end(self._launched.identity, host.TERMINATE_GRACE if self._exited is None else host.LEFT_GRACE)
        except Exception as error:
            self._all_ended = False
            logger.error("Run %s attempt %d: %s", self._context.run_id, self._context.attempt, error)

    async def _end_what_is_left(self) -> None:
        if self._ending is not None:
            await self._ending
        elif self._exited is None or self._exited.left:
            await self._end()
