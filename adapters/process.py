"""The `process` adapter: a child of the worker, alive for as long as its process is.

The child dies with the worker (on Linux at once; elsewhere when its termination is asked for), and its run is then
found by the reaper as `process_lost`.
"""

import selectors
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from adapters import host
from adapters.command import OWN, CannotStart, CommandConfig, Launched, launch
from adapters.launcher import read_output
from adapters.protocol import ConfigModel, Context
from models.process import ProcessIdentity
from models.work import Outcome, Work

#: Seconds between two looks at a child that prints nothing.
LOOK_INTERVAL = 0.5
#: Seconds that the rest of a group may go on printing after its leader has exited.
DRAIN_SECONDS = 2.0


class ProcessAdapter:
    """Runs a command as a child in its own session and group; reads its output unbuffered, as bytes."""

    type: ClassVar[str] = "process"
    has_out_of_process_liveness: ClassVar[bool] = False
    config_model: ClassVar[ConfigModel] = CommandConfig

    def __init__(self, folder: Path, host_name: str) -> None:
        """Needs neither: a child is recorded by its context, and leaves nothing behind."""

    def execute(self, run: Work, context: Context) -> Outcome:
        try:
            with launch(run, OWN, subprocess.PIPE, subprocess.PIPE) as launched:
                identity = launched.identity
                context.on_spawn(identity.pid, identity.process_group_id, identity.started_at)
                launched.go()
                return Outcome.of_exit(_follow(launched, context))
        except CannotStart as problem:
            return Outcome.failed(f"The command could not be started: {problem}.")

    def terminate(self, handle: dict[str, Any]) -> None:
        host.terminate_group(ProcessIdentity.from_handle(handle))


def _follow(launched: Launched, context: Context) -> int:
    """Hand over what the group prints until its leader has exited; then end what is left of it. The return code."""
    with launched.popen as popen, selectors.DefaultSelector() as selector:
        for stream, fd in launched.outputs.items():
            selector.register(fd, selectors.EVENT_READ, (stream, launched.masker()))
        try:
            _read_to_the_end(launched, selector, context)
        finally:
            host.terminate_group(launched.identity)
        return popen.wait()


def _read_to_the_end(launched: Launched, selector: selectors.BaseSelector, context: Context) -> None:
    """Until the leader has exited and its output is closed; told to stop, or drained for long enough, see to it."""
    popen, drained_by = launched.popen, float("inf")
    ending: threading.Thread | None = None
    while selector.get_map() or popen.poll() is None:
        _read_ready(selector, context)
        if popen.poll() is not None and drained_by == float("inf"):
            drained_by = time.monotonic() + DRAIN_SECONDS
        if ending is None and (context.stopping or time.monotonic() > drained_by):
            # On a thread, since a group that is asked to end may still have something to say.
            ending = threading.Thread(target=host.terminate_group, args=(launched.identity,), daemon=True)
            ending.start()


def _read_ready(selector: selectors.BaseSelector, context: Context) -> None:
    if not selector.get_map():
        context.wait(LOOK_INTERVAL / 5)
        return
    for key, _ in selector.select(LOOK_INTERVAL):
        stream, masker = key.data
        data = read_output(key.fd)
        if not data:
            selector.unregister(key.fd)
        _hand_over(stream, masker.feed(data) if data else masker.flush(), context)


def _hand_over(stream: str, output: bytes, context: Context) -> None:
    if output:
        context.on_log(stream, output)
