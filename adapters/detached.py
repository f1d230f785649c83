"""The `detached` adapter: a process of its own session that outlives the worker and writes to files of the data folder.

It is the out-of-process adapter that runs anywhere. Its output, and its follower's word that the process is there,
are its proof of life. Its launcher copies the output into the files, holds a lock for as long as anything of the
attempt runs, and then leaves a record of the exit (`exit.json`); a command that vanishes without one, killed together
with its launcher, leaves silence, which is the reaper's to judge. Any worker of the host can go on
where another one stopped reading: the files are all there is to read. They hold what the command wrote; secrets are
masked where they are read.
"""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from reprieve.adapters import host
from reprieve.adapters.command import CannotStart, Launched, launch, resolved_secrets, started
from reprieve.adapters.command_config import CommandConfig
from reprieve.adapters.command_files import EXIT, RUNNING, UNSTARTED
from reprieve.adapters.kinds import DetachedKind
from reprieve.adapters.masking import Masker
from reprieve.adapters.protocol import Attempt, Context
from reprieve.adapters.secrets import patterns_of_all
from reprieve.models.errors import OutsideRoot
from reprieve.models.paths import inside
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import Probe
from reprieve.models.work import Outcome, Work

#: Seconds between two looks at the files.
LOOK_INTERVAL = 0.2
#: Seconds between two looks whether the values of secrets are there, of work that another worker has started.
SECRETS_INTERVAL = 5.0
READ_SIZE = 64 * 1024
STREAMS = ("stdout", "stderr")
#: The stream that reports a gap.
GAPS = "reprieve"


class DetachedAdapter(DetachedKind):
    """Runs a command that does not depend on the worker, and follows its files."""

    def __init__(self, folder: Path, host_name: str) -> None:
        self._folder = folder
        self._host_name = host_name

    def execute(self, run: Work, context: Context) -> Outcome:
        name = f"{run.run_id}/{run.attempt}"
        folder = self._folder / name

        def launch_here() -> Launched:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
                launched = launch(run, str(folder), stdout, stderr)
            try:
                launched.ready()
            except BaseException as error:
                launched.__exit__(type(error), error, None)
                raise
            return launched

        def record(launched: Launched) -> None:
            handle = launched.identity.as_handle() | {"folder": name, "host": self._host_name}
            context.on_dispatch(handle, self._host_name)

        try:
            with started(launch_here, record, context) as launched:
                pass
        except CannotStart as problem:
            return Outcome.failed(f"The command could not be started: {problem}.")
        try:
            return _follow(folder, launched.identity, launched.masker, context, launched.popen.poll)
        finally:
            # The launcher is our child while we live: it is reaped when it ends, no matter who follows it then.
            threading.Thread(target=launched.popen.wait, daemon=True).start()

    def attach(self, run: Work, handle: dict[str, Any], context: Context) -> Outcome:
        folder, launcher = inside(self._folder, handle["folder"]), ProcessIdentity.from_handle(handle)
        if _is_unstarted(folder):
            return self.execute(run, context)
        config = CommandConfig.model_validate(run.config)
        while (patterns := _secrets_of(launcher, config, context)) is None:
            if context.stopping:
                _terminate(folder, launcher)
                return Outcome.failed("Stopped.")
            context.wait(SECRETS_INTERVAL)
        return _follow(folder, launcher, partial(Masker, patterns), context)

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        return [self._probe(handle) for handle in handles]

    def _probe(self, handle: dict[str, Any]) -> Probe:
        try:
            if handle["host"] != self._host_name:
                return Probe.UNKNOWN
            folder, launcher = inside(self._folder, handle["folder"]), ProcessIdentity.from_handle(handle)
            ended = _exit_code(folder) is not None or _is_unstarted(folder)
            alive = _is_running(folder, launcher)
        except (KeyError, TypeError, ValueError, OutsideRoot, OSError):
            return Probe.UNKNOWN
        if ended:
            return Probe.ENDED
        return Probe.ALIVE if alive else Probe.DEAD

    def terminate(self, handle: dict[str, Any]) -> None:
        launcher = ProcessIdentity.from_handle(handle)
        if launcher.namespace == host.namespace():
            host.terminate(launcher)
        else:
            _terminate(inside(self._folder, handle["folder"]), launcher)

    def kept(self) -> list[Attempt]:
        return [found for path in self._folder.glob("*/*") if (found := _attempt_of(path)) is not None]

    def forget(self, attempt: Attempt) -> None:
        run_id, number = attempt
        folder = self._folder / str(run_id)
        shutil.rmtree(folder / str(number), ignore_errors=True)
        with suppress(OSError):  # Another attempt is kept there, or it is gone.
            folder.rmdir()


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


def _terminate(folder: Path, launcher: ProcessIdentity) -> None:
    """End an attempt. One of a PID namespace that is gone has ended with it; its lock says whether it is."""
    if launcher.namespace == host.namespace() or _is_running(folder, launcher):
        host.terminate(launcher)


def _attempt_of(folder: Path) -> Attempt | None:
    """Whose folder this is; None for what is not ours."""
    try:
        return UUID(folder.parent.name), int(folder.name)
    except ValueError:
        return None


def _secrets_of(launcher: ProcessIdentity, config: CommandConfig, context: Context) -> frozenset[bytes] | None:
    """What to mask of work that another worker has started; None while nobody knows, so that nothing is handed over.

    A value may have been changed since: what the launcher was given counts as well, for as long as it is there.
    """
    given = host.environment(launcher)
    if given is not None:
        context.heartbeat()
    known = {name: value for name, value in (given or {}).items() if name in config.secrets}
    try:
        return patterns_of_all(known) | patterns_of_all(resolved_secrets(config))
    except CannotStart as problem:
        if known.keys() == config.secrets.keys():
            return patterns_of_all(known)
        context.note(f"The output is not read on, since it could not be masked: {problem}.")
        return None


def _follow(
    folder: Path,
    launcher: ProcessIdentity,
    masker: Callable[[], Masker],
    context: Context,
    collect: Callable[[], object] = lambda: None,
) -> Outcome:
    """Hand over what the files gain from the context's cursor on, until the exit is recorded, or until told to stop.

    The launcher records the exit when all that descends from the command has ended, or was killed.
    """
    sources = _sources(context.cursor, masker)
    while True:
        # Look for the end before reading: what was written before it is then read too.
        returncode = _exit_code(folder)
        grown = _read_new(folder, sources, context)
        if returncode is not None and not grown:
            _flush(sources, context)
            return Outcome.of_exit(returncode)
        collect()
        if _is_running(folder, launcher):
            context.heartbeat()
        if context.stopping:
            _terminate(folder, launcher)
            while _read_new(folder, sources, context):
                pass
            _flush(sources, context)
            return Outcome.failed("Stopped.")
        if not grown:
            context.wait(LOOK_INTERVAL)


@dataclass
class _Source:
    """A file that is followed: what has been read of it, and what of that was handed over."""

    stream: str
    masker: Masker
    offset: int = 0

    @property
    def place(self) -> int:
        """Where to read on: after what was handed over. The next follower still has to read what is held back."""
        return self.offset - self.masker.held


def _sources(cursor: str | None, masker: Callable[[], Masker]) -> list[_Source]:
    """Both files, from a cursor on: the places in them, in their order."""
    places = [int(place) for place in cursor.split(":")] if cursor else [0] * len(STREAMS)
    return [_Source(stream, masker(), place) for stream, place in zip(STREAMS, places, strict=True)]


def _read_new(folder: Path, sources: Sequence[_Source], context: Context) -> bool:
    """Hand over the next piece of each file, with the place after it as the cursor; whether there was any."""
    grown = False
    for source in sources:
        with (folder / source.stream).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < source.offset:
                _tell_gap(source, size, sources, context)
            file.seek(source.offset)
            data = os.read(file.fileno(), READ_SIZE)
        if data:
            source.offset += len(data)
            _hand_over(source, source.masker.feed(data), sources, context)
            grown = True
    return grown


def _tell_gap(source: _Source, size: int, sources: Sequence[_Source], context: Context) -> None:
    """Somebody has cut the file: say so where its readers look, and read on at its end."""
    _hand_over(source, source.masker.flush(), sources, context)
    sentence = f"The file of {source.stream} was cut from {source.offset} to {size} bytes; output may be missing here."
    source.offset = size
    context.on_log(GAPS, f"{sentence}\n", _cursor(sources))
    context.note(sentence)


def _flush(sources: Sequence[_Source], context: Context) -> None:
    """The files have ended: hand over what was held back."""
    for source in sources:
        _hand_over(source, source.masker.flush(), sources, context)


def _hand_over(source: _Source, output: bytes, sources: Sequence[_Source], context: Context) -> None:
    if output:
        context.on_log(source.stream, output, _cursor(sources))


def _cursor(sources: Sequence[_Source]) -> str:
    return ":".join(str(one.place) for one in sources)


def _exit_code(folder: Path) -> int | None:
    """The recorded return code, as `subprocess` gives it; None while there is none."""
    try:
        return int(json.loads((folder / EXIT).read_text())["returncode"])
    except FileNotFoundError:
        return None
