"""The `detached` adapter: a process of its own session that outlives the worker and writes to files of the data folder.

It is the out-of-process adapter that runs anywhere. Its output, and its follower's word that the process is there,
are its proof of life. A command that ends leaves a record of its exit (`exit.json`); one that vanishes without it,
killed together with its launcher, leaves silence, which is the reaper's to judge. The files hold what the command
wrote; secrets are masked where they are read.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from adapters import host
from adapters.command import CannotStart, CommandConfig, Launched, launch
from adapters.masking import Masker
from adapters.protocol import ConfigModel, Context
from models.errors import OutsideRoot
from models.paths import inside
from models.process import ProcessIdentity
from models.status import Probe
from models.work import Outcome, Work

#: Seconds between two looks at the files.
LOOK_INTERVAL = 0.2
READ_SIZE = 64 * 1024
STREAMS = ("stdout", "stderr")


class DetachedAdapter:
    """Runs a command that does not depend on the worker, and follows its files."""

    type: ClassVar[str] = "detached"
    has_out_of_process_liveness: ClassVar[bool] = True
    config_model: ClassVar[ConfigModel] = CommandConfig

    def __init__(self, folder: Path, host_name: str) -> None:
        self._folder = folder
        self._host_name = host_name

    def execute(self, run: Work, context: Context) -> Outcome:
        name = f"{run.run_id}/{run.attempt}"
        folder = self._folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
                launched = launch(run, str(folder), stdout, stderr)
            with launched:
                handle = launched.identity.as_handle() | {"folder": name, "host": self._host_name}
                context.on_dispatch(handle, self._host_name)
                launched.go()
        except CannotStart as problem:
            return Outcome.failed(f"The command could not be started: {problem}.")
        return _follow(folder, launched, context)

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        return [self._probe(handle) for handle in handles]

    def _probe(self, handle: dict[str, Any]) -> Probe:
        try:
            if handle["host"] != self._host_name:
                return Probe.UNKNOWN
            ended = _exit_code(inside(self._folder, handle["folder"])) is not None
            alive = host.is_alive(ProcessIdentity.from_handle(handle))
        except (KeyError, TypeError, ValueError, OutsideRoot, OSError):
            return Probe.UNKNOWN
        return Probe.ALIVE if alive and not ended else Probe.DEAD

    def terminate(self, handle: dict[str, Any]) -> None:
        host.terminate_group(ProcessIdentity.from_handle(handle))


def _follow(folder: Path, launched: Launched, context: Context) -> Outcome:
    """Hand over what the files gain until the exit is recorded, or until told to stop."""
    sources = [_Source(stream, launched.masker()) for stream in STREAMS]
    while True:
        # Look for the end before reading: what was written before it is then read too.
        returncode = _exit_code(folder)
        grown = _read_new(folder, sources, context)
        if returncode is not None and not grown:
            _flush(sources, context)
            launched.popen.wait()
            return Outcome.of_exit(returncode)
        launched.popen.poll()  # The launcher is our child while we live: collect it when it ends.
        if host.is_alive(launched.identity):
            context.heartbeat()
        if context.stopping:
            host.terminate_group(launched.identity)
            launched.popen.wait()
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
    def cursor(self) -> str:
        """Where to read on: after what was handed over. What is held back is still to be read by whoever attaches."""
        return str(self.offset - self.masker.held)


def _read_new(folder: Path, sources: Sequence[_Source], context: Context) -> bool:
    """Hand over the next piece of each file, with the place after it as the cursor; whether there was any."""
    grown = False
    for source in sources:
        with (folder / source.stream).open("rb") as file:
            file.seek(source.offset)
            data = os.read(file.fileno(), READ_SIZE)
        if data:
            source.offset += len(data)
            _hand_over(source, source.masker.feed(data), context)
            grown = True
    return grown


def _flush(sources: Sequence[_Source], context: Context) -> None:
    """The files have ended: hand over what was held back."""
    for source in sources:
        _hand_over(source, source.masker.flush(), context)


def _hand_over(source: _Source, output: bytes, context: Context) -> None:
    if output:
        context.on_log(source.stream, output, source.cursor)


def _exit_code(folder: Path) -> int | None:
    """The recorded return code, as `subprocess` gives it; None while there is none."""
    try:
        return int(json.loads((folder / "exit.json").read_text())["returncode"])
    except FileNotFoundError:
        return None
