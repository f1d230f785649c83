"""The `kubernetes` adapter: starts, follows and ends the one Job of an attempt.

Whether the work is alive is for the API server to say, every few seconds: the log may be silent, cut or away, and the
run lives on. While the API server does not answer there is no proof of life, and no end either: it is asked again for
as long as it takes. A Job that has vanished is the reaper's to judge, unless its end was seen before.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reprieve.adapters.kubernetes import job as jobs
from reprieve.adapters.kubernetes.api import Api, ApiError, Json, NotConnected, path_of
from reprieve.adapters.kubernetes.config import KubernetesKind, accepted
from reprieve.adapters.kubernetes.creating import Creation
from reprieve.adapters.kubernetes.ending import end
from reprieve.adapters.kubernetes.following import follow
from reprieve.adapters.kubernetes.handle import Handle
from reprieve.adapters.kubernetes.state import is_terminal
from reprieve.adapters.kubernetes.timings import Timings
from reprieve.adapters.protocol import Context
from reprieve.models.status import Probe
from reprieve.models.work import Outcome, Work

logger = logging.getLogger(__name__)

#: Handles up to which they are asked for by name; for more, all Jobs of Reprieve in the namespace are listed.
MAX_SELECTED = 50


class KubernetesAdapter(KubernetesKind):
    """Runs one Job per attempt on the cluster that the worker's service account or kubeconfig leads to."""

    def __init__(self, folder: Path, host_name: str, timings: Timings | None = None) -> None:  # noqa: ARG002
        """Needs neither folder nor host: any worker that reaches the cluster can act on any handle."""
        self._timings = timings or Timings()
        self._api = Api(self._timings.connect_timeout, self._timings.read_timeout)

    def execute(self, run: Work, context: Context) -> Outcome:
        config = accepted(run.config)
        try:
            self._api.connect()
        except NotConnected as problem:
            return Outcome.failed(f"The Job could not be created: {problem}.")
        body = jobs.manifest(run, config)
        handle = Handle(config.namespace, body["metadata"]["name"], is_pending=True)
        return self._create_and_follow(handle, body, context, may_be_there=False)

    def attach(self, run: Work, handle: dict[str, Any], context: Context) -> Outcome:
        """The cluster has the rest; a Job whose creation nobody has recorded is created if it is not there."""
        known = Handle.of_json(handle)
        if known.is_pending:
            body = jobs.manifest(run, accepted(run.config))
            return self._create_and_follow(known, body, context, may_be_there=True)
        return follow(self._api, self._timings, context, known, recorded=known)

    def _create_and_follow(self, handle: Handle, body: Json, context: Context, *, may_be_there: bool) -> Outcome:
        created = Creation(self._api, self._timings, context, handle, body).until_there(may_be_there=may_be_there)
        if isinstance(created, Outcome):
            return created
        # Told to stop, it may be there all the same; its next follower ends it.
        return follow(self._api, self._timings, context, created or handle, recorded=handle)

    def terminate(self, handle: dict[str, Any]) -> None:
        """Raises `NotGone`, `ApiError`, `NotConnected`; `ValueError` for a handle that is not of this adapter."""
        end(self._api, self._timings, Handle.of_json(handle))

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        known = [_handle_of(handle) for handle in handles]
        jobs_of = {
            namespace: self._jobs([one for one in known if one is not None and one.namespace == namespace])
            for namespace in dict.fromkeys(one.namespace for one in known if one is not None)
        }
        return [Probe.UNKNOWN if one is None else _probe(one, jobs_of[one.namespace]) for one in known]

    def _jobs(self, handles: Sequence[Handle]) -> dict[str, Json] | None:
        """The Jobs of these handles, which are of one namespace, by name; None when that is not known."""
        namespace = handles[0].namespace
        try:
            found = self._api.list(path_of(namespace, "jobs"), {"labelSelector": _selector(handles)})
        except (ApiError, NotConnected) as error:
            logger.info("The Jobs of the namespace %s could not be listed: %s.", namespace, error)
            return None
        return {job["metadata"]["name"]: job for job in found}


def _handle_of(handle: dict[str, Any]) -> Handle | None:
    """None when the handle is not one of ours: nothing is known about it."""
    try:
        return Handle.of_json(handle)
    except (KeyError, TypeError, ValueError):
        return None


def _selector(handles: Iterable[Handle]) -> str:
    run_ids = sorted({handle.labels[jobs.RUN_ID] for handle in handles})
    ours = jobs.selector(dict([jobs.MANAGED_BY]))
    # Longer than that, and a proxy may refuse the address of the request.
    return f"{ours},{jobs.RUN_ID} in ({','.join(run_ids)})" if len(run_ids) <= MAX_SELECTED else ours


def _probe(handle: Handle, found: dict[str, Json] | None) -> Probe:
    """What a list of Jobs says of one; None is no list."""
    if found is None:
        return Probe.UNKNOWN
    job = found.get(handle.name)
    if job is not None and handle.is_of(job):
        return Probe.ENDED if is_terminal(job) else Probe.ALIVE
    if handle.is_pending:
        # Not created yet is not gone.
        return Probe.UNKNOWN
    # Its end was seen; a follower has to record it.
    return Probe.ENDED if handle.seen is not None and handle.seen.tells_an_end else Probe.DEAD
