"""An adapter for a job server that speaks HTTP: the whole of what it takes.

The server, which stands here for yours, knows `PUT /jobs/NAME` (again, it changes nothing), `GET /jobs/NAME` (`state`:
running or ended, `exit_status`), `GET /jobs/NAME/output?from=BYTE`, and `DELETE /jobs/NAME`, which waits for its end.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, HttpUrl

from reprieve.adapters.protocol import ConfigModel, Context, Outcome, Probe, Work

#: Seconds between two looks at a job, and to wait for an answer.
LOOK_EVERY = 2.0
TIMEOUT = 10.0


class JobServerConfig(BaseModel):
    """What a run's config must look like; what is wrong in it is refused when the run is asked for."""

    model_config = ConfigDict(extra="forbid")

    server: HttpUrl
    command: list[str]


class Away(Exception):
    """Raised when the server did not answer, or answered something else than what was asked: nothing is known."""


class JobServerAdapter:
    """Runs each attempt as one job, whose name is the attempt's."""

    type: ClassVar[str] = "jobserver"
    # The job lives on without the worker: its output, or the server's word, is the proof of life.
    has_out_of_process_liveness: ClassVar[bool] = True
    config_model: ClassVar[ConfigModel] = JobServerConfig

    def __init__(self, folder: Path, host: str) -> None:
        """A folder of its own on this host, and the host's name; it needs neither."""

    def execute(self, run: Work, context: Context) -> Outcome:
        handle = {"job": f"{run.config['server']}jobs/reprieve-{run.run_id}-{run.attempt}", "created": False}
        # Recorded before the work may begin: there is no job that no row knows of.
        context.on_dispatch(handle, host=None)
        return self.attach(run, handle, context)

    def attach(self, run: Work, handle: dict[str, Any], context: Context) -> Outcome:
        if not handle["created"] and _create(run, handle["job"], context):
            # Recorded again: from now on, a job that is not there is gone.
            context.on_dispatch(handle | {"created": True}, host=None)
        place = int(context.cursor or 0)  # The bytes of its output that the store has.
        while not context.stopping:
            try:
                job = _ask("GET", handle["job"])
                output = _read(f"{handle['job']}/output?from={place}")
            except Away as away:
                context.note(f"The job server does not answer: {away}.")  # No heartbeat, and no end: nothing is known.
            else:
                if job is not None:
                    context.heartbeat()
                if output:
                    place += len(output)
                    context.on_log("stdout", output, cursor=str(place))
                if job is not None and job["state"] == "ended" and not output:
                    return Outcome.of_exit(job["exit_status"])
                # A job that is gone without a result is not ours to bury: without heartbeats, the reaper decides.
            context.wait(LOOK_EVERY)
        return Outcome.failed("Stopped.")

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        return [_probe(**handle) for handle in handles]

    def terminate(self, handle: dict[str, Any]) -> None:
        _ask("DELETE", handle["job"])  # A job that is not there is ended. `Away` is raised on: it is tried again.


def _create(run: Work, job: str, context: Context) -> bool:
    """Until the server has taken it, whoever asks; False when told to stop."""
    while not context.stopping:
        try:
            _ask("PUT", job, {"command": run.config["command"], "env": run.environment})
            return True
        except Away as away:
            context.note(f"The job could not be created yet: {away}.")
        context.heartbeat()  # That somebody waits to create it is its proof of life.
        context.wait(LOOK_EVERY)
    return False


def _probe(job: str, created: bool) -> Probe:
    try:
        found = _ask("GET", job)
    except Away:
        return Probe.UNKNOWN
    if found is None:
        return Probe.DEAD if created else Probe.UNKNOWN  # Not created yet is not gone.
    return Probe.ALIVE if found["state"] == "running" else Probe.ENDED


def _ask(method: str, url: str, body: object = None) -> dict[str, Any] | None:
    """What the server says; None where it says that there is no such job. Any other answer is none: raises `Away`."""
    try:
        answer: dict[str, Any] = json.loads(_send(method, url, body) or b"{}")
    except urllib.error.HTTPError as refused:
        if refused.code == 404:
            return None
        raise Away(f"{refused.code} {refused.reason}") from refused
    except (OSError, ValueError) as error:
        raise Away(str(error)) from error
    return answer


def _read(url: str) -> bytes:
    try:
        return _send("GET", url)
    except OSError as error:
        raise Away(str(error)) from error


def _send(method: str, url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        content: bytes = answer.read()
    return content
