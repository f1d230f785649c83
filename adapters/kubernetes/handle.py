"""The handle of an attempt's Job: where it is, whether its creation is recorded, and what was seen of it last.

`{"namespace", "name", "uid": None}` is recorded before the Job is created: it may be there or not, and that it is not
there says nothing. Once the API server has taken the Job, the handle is recorded again with the uid that it gave: from
then on a Job that is not there is gone, and one of that name with another uid is somebody else's. A handle without a
`uid` is of the release before this one, which recorded it once; its Job counts as created.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Any, Self

from reprieve.adapters.kubernetes.job import Json, is_labelled, labels_of_name
from reprieve.adapters.kubernetes.seen import Seen
from reprieve.adapters.protocol import AsyncContext
from reprieve.models.errors import Released, Superseded

logger = logging.getLogger(__name__)

#: Seconds that a follower which ends waits for what it has to record.
LAST_RECORD_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Handle:
    """As an adapter gets it. `labels` are those that the Job must have."""

    namespace: str
    name: str
    uid: str | None = None
    is_pending: bool = False
    """Whether the Job was asked for and its creation is not recorded: that it is not there does not mean it is gone."""
    seen: Seen | None = None

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> Self:
        """Raises `KeyError`, `TypeError`, `ValueError` when it is no handle of this adapter."""
        labels_of_name(said["name"])
        uid = said.get("uid")
        return cls(
            str(said["namespace"]),
            said["name"],
            None if uid is None else str(uid),
            is_pending="uid" in said and uid is None,
            seen=Seen.of_json(said["seen"]) if "seen" in said else None,
        )

    def as_json(self) -> Json:
        said: Json = {"namespace": self.namespace, "name": self.name}
        if self.is_pending or self.uid is not None:
            said["uid"] = self.uid
        if self.seen is not None:
            said["seen"] = self.seen.as_json()
        return said

    @property
    def labels(self) -> dict[str, str]:
        return labels_of_name(self.name)

    def is_of(self, job: Json) -> bool:
        """Whether a Job of this name is the attempt's."""
        if self.uid is not None:
            return bool(job["metadata"]["uid"] == self.uid)
        return is_labelled(job, self.labels)

    def created_as(self, job: Json) -> "Handle":
        return replace(self, uid=job["metadata"]["uid"], is_pending=False)


class Keeper:
    """Records the handle again when more is known than it says.

    In a task, while there is something to record: a database that is down is waited for, and the work must be looked at
    meanwhile, for what is missed then is not seen again.
    """

    def __init__(self, context: AsyncContext, recorded: Handle) -> None:
        self._context = context
        self._recorded = self._wanted = recorded.as_json()
        self._task: asyncio.Task[None] | None = None
        self._refused = False

    def keep(self, handle: Handle) -> None:
        """Call it as often as you look: what could not be recorded is tried again."""
        self._wanted = handle.as_json()
        if self._task is None and not self._refused and self._wanted != self._recorded:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Give what is being recorded a moment."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=LAST_RECORD_TIMEOUT)

    async def _run(self) -> None:
        while self._wanted != self._recorded:
            handle = self._wanted
            if not await self._record(handle):
                break
            self._recorded = handle
        self._task = None

    async def _record(self, handle: Json) -> bool:
        try:
            await self._context.on_dispatch(handle, None)
        except (Superseded, Released):
            # The run has ended, or another worker follows it: its context tells the follower which.
            self._refused = True
        except Exception:
            logger.exception("The handle of run %s could not be recorded again.", self._context.run_id)
        else:
            return True
        return False
