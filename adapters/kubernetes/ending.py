"""End the work of one attempt: its Job and the Job's Pods, and nothing that somebody else has made."""

import asyncio
import time

from reprieve.adapters.kubernetes import job as jobs
from reprieve.adapters.kubernetes.answers import ApiError, path_of
from reprieve.adapters.kubernetes.api import Api
from reprieve.adapters.kubernetes.handle import Handle
from reprieve.adapters.kubernetes.job import Json
from reprieve.adapters.kubernetes.state import owned
from reprieve.adapters.kubernetes.timings import Timings


class NotGone(Exception):
    """Raised when a Job was asked to end and is, or may be, still there; it is to be asked again."""


async def end(api: Api, timings: Timings, handle: Handle) -> None:
    """Return when nothing is left. Raises `NotGone`, `ApiError`, `NotConnected`."""
    deadline = time.monotonic() + timings.termination_limit
    pause = timings.look_interval
    while left := await _delete(api, handle):
        if time.monotonic() > deadline:
            raise NotGone(
                f"{left} is still there {timings.termination_limit:g} s after it was deleted; a Pod on a node that "
                "does not answer stays until the node is back or removed from the cluster"
            )
        await asyncio.sleep(pause)
        pause = min(pause * 2, timings.status_interval)


async def _delete(api: Api, handle: Handle) -> str | None:
    """Delete what is left of an attempt; the name of something that is still there."""
    job = await api.find(handle.namespace, "jobs", handle.name)
    if job is not None and handle.is_of(job):
        await _delete_one(api, "jobs", job)
        return f"the Job {handle.name!r}"
    if job is not None and handle.uid is None:
        raise NotGone(f"the Job {handle.name!r} has not the labels of this run, so it is not ours to delete")
    listed = await api.list_all(path_of(handle.namespace, "pods"), {"labelSelector": jobs.selector(handle.labels)})
    pods = owned(listed, handle.uid)
    for pod in pods:
        # Those of a Job that is gone are deleted by the cluster, unless somebody asked that they be orphaned.
        await _delete_one(api, "pods", pod)
    return f"the Pod {pods[0]['metadata']['name']!r}" if pods else None


async def _delete_one(api: Api, kind: str, thing: Json) -> None:
    metadata = thing["metadata"]
    if metadata.get("deletionTimestamp"):
        return
    try:
        await api.delete(path_of(metadata["namespace"], kind, metadata["name"]), metadata["uid"])
    except ApiError as error:
        # Gone, or replaced by another of its name, in between: the next look will show.
        if not (error.is_absence_of(metadata["name"]) or error.status == 409):
            raise
