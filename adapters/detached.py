"""The `detached` adapter: a process of its own session that outlives the worker and writes to files of the data folder.

It is the out-of-process adapter that runs anywhere. Its output, and its follower's word that the process is there,
are its proof of life. Its launcher copies the output into the files, holds a lock for as long as anything of the
attempt runs, and then leaves a record of the exit (`exit.json`); a command that vanishes without one, killed together
with its launcher, leaves silence, which is the reaper's to judge. Any worker of the host can go on
where another one stopped reading: the files are all there is to read. They hold what the command wrote; secrets are
masked where they are read.
"""

import asyncio
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from reprieve.adapters import host
from reprieve.adapters.command import CannotStart, Launched, judged, launch, resolved_secrets, started
from reprieve.adapters.command_config import CommandConfig
from reprieve.adapters.command_files import EXIT, RUNNING, UNSTARTED
from reprieve.adapters.ending import end
from reprieve.adapters.kinds import DetachedKind
from reprieve.adapters.masking import Masker
from reprieve.adapters.protocol import AsyncContext, Attempt
from reprieve.adapters.report_files import ReportFile, ReportFiles
from reprieve.adapters.secrets import patterns_of_all
from reprieve.models.errors import OutsideRoot
from reprieve.models.paths import inside
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import Probe
from reprieve.models.used import NOTHING_KNOWN, Used
from reprieve.models.work import Outcome, Work

#: Seconds between two looks at the files. The first are closer together: a short command has ended by then.
LOOK_INTERVAL = 0.2
FIRST_LOOK = 0.01
#: Seconds between two looks whether the work is alive, which cost more.
ALIVE_INTERVAL = 1.0
#: Seconds between two looks whether the values of secrets are there, of work that another worker has started.
SECRETS_INTERVAL = 5.0
READ_SIZE = 64 * 1024
STREAMS = ("stdout", "stderr")
#: The stream that reports a gap.
GAPS = "reprieve"


class DetachedAdapter(DetachedKind):
    """Runs a command that does not depend on the worker, and follows its files."""

    own_limit: ClassVar[int | None] = None

    def __init__(self, folder: Path, host_name: str) -> None:
        self._folder = folder
        self._reports = ReportFiles(folder / "reports")
        self._host_name = host_name

    async def execute(self, run: Work, context: AsyncContext) -> Outcome:
        name = f"{run.run_id}/{run.attempt}"
        folder = self._folder / name
        report = self._reports.ready((run.run_id, run.attempt))

        async def launch_here() -> Launched:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with ExitStack() as lent:
                files = [lent.enter_context((folder / stream).open("ab")).fileno() for stream in STREAMS]
                launched = await launch(run, str(folder), files, report)
            try:
                await launched.ready()
            except BaseException:
                await launched.close()
                raise
            return launched

        async def record(launched: Launched) -> None:
            handle = launched.identity.as_handle() | {"folder": name, "host": self._host_name}
            await context.on_dispatch(handle, self._host_name)

        try:
            async with started(launch_here, record, context) as launched:
                pass
        except CannotStart as problem:
            return Outcome.failed(f"The command could not be started: {problem}.")
        return await self._follow(run, folder, launched.identity, launched.masker, context)

    async def attach(self, run: Work, handle: dict[str, Any], context: AsyncContext) -> Outcome:
        folder, launcher = inside(self._folder, handle["folder"]), ProcessIdentity.from_handle(handle)
        if _is_unstarted(folder):
            return await self.execute(run, context)
        config = CommandConfig.model_validate(run.config)
        while (patterns := await _secrets_of(launcher, config, context)) is None:
            if context.stopping:
                await _end(folder, launcher)
                return Outcome.failed("Stopped.")
            await context.wait(SECRETS_INTERVAL)
        return await self._follow(run, folder, launcher, partial(Masker, patterns), context)

    async def _follow(
        self,
        run: Work,
        folder: Path,
        launcher: ProcessIdentity,
        masker: Callable[[], Masker],
        context: AsyncContext,
    ) -> Outcome:
        with self._reports.followed(context, masker) as said:
            return judged(*await _Following(folder, launcher, masker, context, said).to_the_end(), run)

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        return [self._probe(handle) for handle in handles]

    def _probe(self, handle: dict[str, Any]) -> Probe:
        try:
            if handle["host"] != self._host_name:
                return Probe.UNKNOWN
            folder, launcher = inside(self._folder, handle["folder"]), ProcessIdentity.from_handle(handle)
            ended = _exit(str(folder / EXIT)) is not None or _is_unstarted(folder)
            alive = _is_running(folder, launcher)
        except (KeyError, TypeError, ValueError, OutsideRoot, OSError):
            return Probe.UNKNOWN
        if ended:
            return Probe.ENDED
        return Probe.ALIVE if alive else Probe.DEAD

    def terminate(self, handle: dict[str, Any]) -> None:
        launcher = ProcessIdentity.from_handle(handle)
        if _is_here_or_runs(lambda: inside(self._folder, handle["folder"]), launcher):
            host.terminate(launcher)

    def kept(self) -> list[Attempt]:
        folders = (found for path in self._folder.glob("*/*") if (found := _attempt_of(path)) is not None)
        return list(dict.fromkeys([*folders, *self._reports.kept()]))

    def forget(self, attempt: Attempt) -> None:
        run_id, number = attempt
        folder = self._folder / str(run_id)
        shutil.rmtree(folder / str(number), ignore_errors=True)
        with suppress(OSError):  # Another attempt is kept there, or it is gone.
            folder.rmdir()
        self._reports.forget(attempt)


def _is_unstarted(folder: Path) -> bool:
    """Whether the worker was gone before it let the command begin: the next follower starts it."""
    return (folder / UNSTARTED).exists()


def _is_running(folder: Path, launcher: ProcessIdentity) -> bool:
    """Whether the launcher of an attempt is there, and so its command or what that left.

    The lock that it holds says so from any PID namespace. Where no lock was made, the process does. Raises `OSError`
    when it cannot be told.
    """
    try:
        lock = (folder / RUNNING).open("rb")
    except FileNotFoundError:
        return host.is_alive(launcher)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_here_or_runs(folder: Callable[[], Path], launcher: ProcessIdentity) -> bool:
    """Whether there is an attempt to end. One of a PID namespace that is gone has ended with it; its lock says so."""
    return launcher.namespace == host.namespace() or _is_running(folder(), launcher)


async def _end(folder: Path, launcher: ProcessIdentity) -> None:
    if _is_here_or_runs(lambda: folder, launcher):
        await end(launcher, host.TERMINATE_GRACE)


def _attempt_of(folder: Path) -> Attempt | None:
    """Whose folder this is; None for what is not ours."""
    try:
        return UUID(folder.parent.name), int(folder.name)
    except ValueError:
        return None


async def _secrets_of(
    launcher: ProcessIdentity, config: CommandConfig, context: AsyncContext
) -> frozenset[bytes] | None:
    """What to mask of work that another worker has started; None while nobody knows, so that nothing is handed over.

    A value may have been changed since: what the launcher was given counts as well, for as long as it is there.
    """
    if not config.secrets:
        return frozenset()
    given = await asyncio.to_thread(host.environment, launcher)
    if given is not None:
        context.heartbeat()
    known = {name: value for name, value in (given or {}).items() if name in config.secrets}
    try:
        return patterns_of_all(known) | patterns_of_all(await asyncio.to_thread(resolved_secrets, config))
    except CannotStart as problem:
        if known.keys() == config.secrets.keys():
            return patterns_of_all(known)
        await context.note(f"The output is not read on, since it could not be masked: {problem}.")
        return None


class _Source:
    """A file that is followed: what has been read of it, and what of that was handed over."""

    def __init__(self, path: Path, masker: Masker, offset: int) -> None:
        self.stream = path.name
        self.masker = masker
        self.offset = offset
        #: As text, which the system is asked with five times a second.
        self._path = str(path)

    @property
    def place(self) -> int:
        """Where to read on: after what was handed over. The next follower still has to read what is held back."""
        return self.offset - self.masker.held

    def size(self) -> int:
        return os.stat(self._path).st_size  # noqa: PTH116 - this is most of what a silent run costs

    def read(self) -> bytes:
        """The next piece. No descriptor is kept: there may be as many runs as a worker may open files."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, READ_SIZE, self.offset)
        finally:
            os.close(fd)


class _Following:
    """Hands over what the files gain from the context's cursor on, until the exit is recorded, or until told to stop.

    The launcher records the exit when all that descends from the command has ended, or was killed.
    """

    def __init__(
        self,
        folder: Path,
        launcher: ProcessIdentity,
        masker: Callable[[], Masker],
        context: AsyncContext,
        said: ReportFile,
    ) -> None:
        self._folder = folder
        self._said = said
        self._launcher = launcher
        self._context = context
        cursor = context.cursor
        places = [int(place) for place in cursor.split(":")] if cursor else [0] * len(STREAMS)
        self._sources = [
            _Source(folder / stream, masker(), place) for stream, place in zip(STREAMS, places, strict=True)
        ]
        self._exit = str(folder / EXIT)
        self._alive_at = float("-inf")
        self._pause = FIRST_LOOK

    async def to_the_end(self) -> tuple[Outcome, Used]:
        """How it ended, and what it used."""
        while True:
            # Look for the end before reading: what was written before it is then read too.
            ended = _exit(self._exit)
            grown = await self._read_new()
            await self._said.take()
            if ended is not None and not grown:
                await self._flush()
                await self._said.take_rest()
                return Outcome.of_exit(ended.returncode), ended.used
            self._look_whether_it_is_alive()
            if self._context.stopping:
                await _end(self._folder, self._launcher)
                while await self._read_new():
                    pass
                await self._flush()
                await self._said.take_rest()
                ended = _exit(self._exit)
                return Outcome.failed("Stopped."), NOTHING_KNOWN if ended is None else ended.used
            # Where there is more to read, it only waits for its turn.
            await self._context.wait(0 if grown else self._pause)
            self._pause = min(2 * self._pause, LOOK_INTERVAL)

    def _look_whether_it_is_alive(self) -> None:
        now = time.monotonic()
        if now >= self._alive_at + ALIVE_INTERVAL:
            self._alive_at = now
            if _is_running(self._folder, self._launcher):
                self._context.heartbeat()

    async def _read_new(self) -> bool:
        """Hand over the next piece of each file, with the place after it as the cursor; whether there was any."""
        grown = False
        for source in self._sources:
            size = source.size()
            if size < source.offset:
                await self._tell_gap(source, size)
            if size > source.offset and (data := source.read()):
                source.offset += len(data)
                await self._hand_over(source, source.masker.feed(data))
                grown = True
        return grown

    async def _tell_gap(self, source: _Source, size: int) -> None:
        """Somebody has cut the file: say so where its readers look, and read on at its end."""
        await self._hand_over(source, source.masker.flush())
        sentence = (
            f"The file of {source.stream} was cut from {source.offset} to {size} bytes; output may be missing here."
        )
        source.offset = size
        await self._context.on_log(GAPS, f"{sentence}\n", self._cursor())
        await self._context.note(sentence)

    async def _flush(self) -> None:
        """The files have ended: hand over what was held back."""
        for source in self._sources:
            await self._hand_over(source, source.masker.flush())

    async def _hand_over(self, source: _Source, output: bytes) -> None:
        if output:
            await self._context.on_log(source.stream, output, self._cursor())

    def _cursor(self) -> str:
        return ":".join(str(one.place) for one in self._sources)


class _Exit(NamedTuple):
    """The record of an exit."""

    returncode: int
    """As `subprocess` gives it."""
    used: Used


def _exit(record: str) -> _Exit | None:
    """The record of the exit; None while there is none."""
    try:
        with open(record, encoding="utf-8") as file:  # noqa: PTH123 - asked five times a second
            said = json.load(file)
    except FileNotFoundError:
        return None
    return _Exit(int(said["returncode"]), Used.of(said))
