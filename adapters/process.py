"""The `process` adapter: a child of the worker, alive for as long as its process is.

The child dies with the worker (on Linux at once; elsewhere when its termination is asked for), and its run is then
found by the reaper as `process_lost`.
"""

import logging
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ, BaseSelector, DefaultSelector
from typing import Any, ClassVar

from adapters import host
from adapters.command import OWN, CannotStart, CommandConfig, Launched, launch
from adapters.launcher import read_output
from adapters.protocol import ConfigModel, Context
from models.process import ProcessIdentity
from models.work import Outcome, Work

logger = logging.getLogger(__name__)

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
            # All descriptors that following needs are there before the command begins: a lack of them ends no child.
            with DefaultSelector() as selector, launch(run, OWN, subprocess.PIPE, subprocess.PIPE) as launched:
                identity = launched.identity
                context.on_spawn(identity.pid, identity.process_group_id, identity.started_at)
                launched.go()
                return Outcome.of_exit(_follow(launched, selector, context))
        except CannotStart as problem:
            return Outcome.failed(f"The command could not be started: {problem}.")

    def terminate(self, handle: dict[str, Any]) -> None:
        host.terminate_group(ProcessIdentity.from_handle(handle))


def _follow(launched: Launched, selector: BaseSelector, context: Context) -> int:
    """Hand over what the group prints until its leader has exited; then end what is left of it. The return code."""
    with launched.popen as popen:
        for stream, fd in launched.outputs.items():
            selector.register(fd, EVENT_READ, (stream, launched.masker()))
        try:
            _read_to_the_end(launched, selector, context)
        finally:
            _end_what_is_left(launched.identity)
        return popen.wait()


def _end_what_is_left(identity: ProcessIdentity) -> None:
    """End the group. Trouble in that outranks neither how the command ended nor why it could not be followed."""
    try:
        host.terminate_group(identity)
    except Exception:
        logger.exception("What process group %d has left behind could not be ended.", identity.process_group_id)


def _read_to_the_end(launched: Launched, selector: BaseSelector, context: Context) -> None:
    """Until the leader has exited and its output is closed; told to stop, or drained for long enough, see to it."""
    popen, drained_by = launched.popen, float("inf")
    ending: threading.Thread | None = None
    while selector.get_map() or popen.poll() is None:
        _read_ready(selector, context)
        if popen.poll() is not None and drained_by == float("inf"):
            drained_by = time.monotonic() + DRAIN_SECONDS
        if ending is None and (context.stopping or time.monotonic() > drained_by):
            # On a thread, since a group that is asked to end may still have something to say.
            thread = threading.Thread(target=host.terminate_group, args=(launched.identity,), daemon=True)
            with suppress(RuntimeError):  # There is no thread just now: the next turn tries again.
                thread.start()
                ending = thread


def _read_ready(selector: BaseSelector, context: Context) -> None:
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
