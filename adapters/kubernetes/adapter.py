"""The `kubernetes` adapter: starts, follows and ends the one Job of an attempt.

Whether the work is alive is for the API server to say, by a watch that proves itself each minute: the log may be
silent, cut or away, and the run lives on. While the API server does not answer there is no proof of life, and no end
either: it is asked again for as long as it takes. A Job that has vanished is the reaper's to judge, unless its end was
seen before.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from reprieve.adapters.kubernetes import job as jobs
from reprieve.adapters.kubernetes.answers import ApiError, Json, path_of
from reprieve.adapters.kubernetes.api import Api
from reprieve.adapters.kubernetes.config import KubernetesKind, accepted
from reprieve.adapters.kubernetes.connection import Connection, NotConnected
from reprieve.adapters.kubernetes.creating import Creation
from reprieve.adapters.kubernetes.ending import end
from reprieve.adapters.kubernetes.following import View, follow
from reprieve.adapters.kubernetes.handle import Handle
from reprieve.adapters.kubernetes.logs import Streams
from reprieve.adapters.kubernetes.sights import JOBS, PODS
from reprieve.adapters.kubernetes.state import is_terminal
from reprieve.adapters.kubernetes.timings import Timings
from reprieve.adapters.kubernetes.watching import Watches
from reprieve.adapters.protocol import AsyncContext
from reprieve.models.status import Probe
from reprieve.models.work import Outcome, Work

logger = logging.getLogger(__name__)

#: Handles up to which they are asked for by name; for more, all Jobs of Reprieve in the namespace are listed.
MAX_SELECTED = 50


class Lookout:
    """What followers on one event loop share. `when_idle` is called when nobody has followed anything for a while."""

    def __init__(self, connection: Connection, timings: Timings, when_idle: Callable[["Lookout"], None]) -> None:
        self.api = Api(connection, timings.connect_timeout, timings.read_timeout)
        self.watches = Watches(self.api, timings, lambda: when_idle(self))
        self.streams = Streams(timings.log)

    async def close(self) -> None:
        await self.watches.close()
        await self.api.close()


class KubernetesAdapter(KubernetesKind):
    """Runs one Job per attempt on the cluster that the worker's service account or kubeconfig leads to."""

    #: A Job takes nothing of this host but a connection for its log, some 60 KB, and a descriptor.
    own_limit: ClassVar[int | None] = 5_000

    def __init__(self, folder: Path, host_name: str, timings: Timings | None = None) -> None:  # noqa: ARG002
        """Needs neither folder nor host: any worker that reaches the cluster can act on any handle."""
        self._timings = timings or Timings()
        self._connection = Connection()
        self._lookouts: dict[asyncio.AbstractEventLoop, Lookout] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is followed, and no connection is left open for it."""
        return not self._lookouts and not self._closing

    async def execute(self, run: Work, context: AsyncContext) -> Outcome:
        config = accepted(run.config)
        try:
            await self._connection.begin()
        except NotConnected as problem:
            return Outcome.failed(f"The Job could not be created: {problem}.")
        except ApiError as problem:
            # Waited for where the Job is created.
            logger.warning("The cluster cannot be reached yet: %s.", problem)
        body = jobs.manifest(run, config)
        handle = Handle(config.namespace, body["metadata"]["name"], is_pending=True)
        return await self._create_and_follow(handle, body, context, may_be_there=False)

    async def attach(self, run: Work, handle: dict[str, Any], context: AsyncContext) -> Outcome:
        """The cluster has the rest; a Job whose creation nobody has recorded is created if it is not there."""
        known = Handle.of_json(handle)
        if known.is_pending:
            body = jobs.manifest(run, accepted(run.config))
            return await self._create_and_follow(known, body, context, may_be_there=True)
        with self._view(known) as view:
            return await self._follow(context, view, known, recorded=known)

    async def _create_and_follow(
        self, handle: Handle, body: Json, context: AsyncContext, *, may_be_there: bool
    ) -> Outcome:
        # Watched before it is there, nothing of it can be missed.
        with self._view(handle) as view:
            creation = Creation(self._lookout.api, self._timings, context, handle, body)
            created = await creation.until_there(may_be_there=may_be_there)
            if isinstance(created, Outcome):
                return created
            if created is None:
                # Told to stop, it may be there all the same; its next follower ends it.
                return await self._follow(context, view, handle, recorded=handle)
            view.sight.is_of(created.job["metadata"]["uid"])
            # As an event, since what has come of it already may have been told by the watch before this answer came.
            view.sight.take(JOBS, created.job)
            if created.is_new:
                view.sight.known.add(PODS)
            return await self._follow(context, view, created.handle, recorded=handle)

    @contextmanager
    def _view(self, handle: Handle) -> Iterator[View]:
        awake = asyncio.Event()
        with self._lookout.watches.watching(handle.namespace, handle.name, awake.set) as (watched, sight):
            if handle.uid is not None:
                sight.is_of(handle.uid)
            yield View(watched, sight, awake)

    async def _follow(self, context: AsyncContext, view: View, handle: Handle, *, recorded: Handle) -> Outcome:
        api, streams = self._lookout.api, self._lookout.streams
        return await follow(api, streams, self._timings, context, view, handle, recorded=recorded)

    @property
    def _lookout(self) -> Lookout:
        """Of the event loop that this is called on: a worker has one for the adapter."""
        loop = asyncio.get_running_loop()
        if loop not in self._lookouts:
            self._lookouts[loop] = Lookout(self._connection, self._timings, self._leave)
        return self._lookouts[loop]

    def _leave(self, lookout: Lookout) -> None:
        closing = asyncio.create_task(lookout.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        del self._lookouts[asyncio.get_running_loop()]

    # -- on threads of their callers: a loop for each call, so that there is one way of asking

    def terminate(self, handle: dict[str, Any]) -> None:
        """Raises `NotGone`, `ApiError`, `NotConnected`; `ValueError` for a handle that is not of this adapter."""
        known = Handle.of_json(handle)
        asyncio.run(self._terminate(known))

    async def _terminate(self, handle: Handle) -> None:
        async with self._api() as api:
            await end(api, self._timings, handle)

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        known = [_handle_of(handle) for handle in handles]
        try:
            jobs_of = asyncio.run(self._jobs([one for one in known if one is not None]))
        except OSError as error:
            # No descriptors, say.
            logger.warning("No cluster could be asked: %s.", error)
            return [Probe.UNKNOWN for _ in known]
        return [Probe.UNKNOWN if one is None else _probe(one, jobs_of[one.namespace]) for one in known]

    async def _jobs(self, handles: Sequence[Handle]) -> dict[str, dict[str, Json] | None]:
        """Of each namespace the Jobs of these handles, by name; None where that is not known."""
        async with self._api() as api:
            namespaces = dict.fromkeys(handle.namespace for handle in handles)
            return {
                namespace: await _jobs_in(api, [one for one in handles if one.namespace == namespace])
                for namespace in namespaces
            }

    def _api(self) -> Api:
        return Api(self._connection, self._timings.connect_timeout, self._timings.read_timeout)


async def _jobs_in(api: Api, handles: Sequence[Handle]) -> dict[str, Json] | None:
    """The Jobs of these handles, which are of one namespace, by name; None when that is not known."""
    namespace = handles[0].namespace
    try:
        found = await api.list_all(path_of(namespace, "jobs"), {"labelSelector": _selector(handles)})
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
