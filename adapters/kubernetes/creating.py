"""Create the Job of an attempt exactly once, by its name, whichever worker does it.

An API server that is down, and a quota that is full, say nothing about the work: they are waited for, and a waiting
follower is the attempt's proof of life, since nothing else could be. What the API server refuses in its own words ends
the run.
"""

import time
from typing import NamedTuple

from reprieve.adapters.kubernetes.answers import ApiError, path_of
from reprieve.adapters.kubernetes.api import Api
from reprieve.adapters.kubernetes.connection import NotConnected
from reprieve.adapters.kubernetes.handle import Handle
from reprieve.adapters.kubernetes.job import Json
from reprieve.adapters.kubernetes.timings import Backoff, Timings
from reprieve.adapters.protocol import AsyncContext
from reprieve.models.faults import is_unfit
from reprieve.models.work import Outcome


class Created(NamedTuple):
    """A Job that is there."""

    handle: Handle
    job: Json
    is_new: bool
    """Whether this is the moment of its creation, and nothing has come of it yet."""


class Creation:
    """Of one Job. `may_be_there`: an earlier request was not answered, or somebody else may have made one."""

    def __init__(self, api: Api, timings: Timings, context: AsyncContext, handle: Handle, body: Json) -> None:
        self._api = api
        self._timings = timings
        self._context = context
        self._handle = handle
        self._body = body
        self._told: set[str] = set()

    async def until_there(self, *, may_be_there: bool) -> Created | Outcome | None:
        """The Job; how the run ends that cannot have one; None when told to stop."""
        backoff = Backoff(self._timings)
        while await self._is_wanted():
            try:
                created = await self._api.create(path_of(self._handle.namespace, "jobs"), self._body)
                return Created(self._handle.created_as(created), created, is_new=True)
            except (ApiError, NotConnected) as error:
                settled = await self._after_failure(error, may_be_there)
                if settled is not None:
                    return settled
                may_be_there = True
                await self._wait(backoff.next(error))
        return None

    async def _is_wanted(self) -> bool:
        """Record that the Job is asked for, before each time: an attempt that has ended meanwhile is not begun.

        False when told to stop. Raises `Superseded`, `Released`.
        """
        if not self._context.stopping:
            try:
                await self._context.on_dispatch(self._handle.as_json(), None)
            except Exception as error:
                # The database is down, and the wait is over: this worker is to stop, or to leave the work.
                if not is_unfit(error) or not await self._context.wait(0):
                    raise
        return not self._context.stopping

    async def _wait(self, seconds: float) -> None:
        """The work is not there yet, and this worker will create it: that is its proof of life."""
        until = time.monotonic() + seconds
        while not self._context.stopping and (left := until - time.monotonic()) > 0:
            self._context.heartbeat()
            await self._context.wait(min(left, self._timings.pulse))

    async def _after_failure(self, error: ApiError | NotConnected, may_be_there: bool) -> Created | Outcome | None:
        """The Job when it is there, in spite of what was answered; an outcome when it cannot be; or None."""
        if isinstance(error, ApiError):
            if error.status == 409 and error.reason == "AlreadyExists":
                return await self._already_there(self._taken())
            refused = _refused(error) if error.is_refusal else None
            if may_be_there and (refused is not None or error.is_full_quota):
                # What fills the quota may be our own Job.
                return await self._already_there(refused)
            if refused is not None:
                return refused
        await self._note(error, f"The Job could not be created yet ({_plainly(error)}); it is tried again.")
        return None

    async def _already_there(self, otherwise: Outcome | None) -> Created | Outcome | None:
        """For a Job of our name with our labels: somebody was cut off after creating it."""
        try:
            found = await self._api.find(self._handle.namespace, "jobs", self._handle.name)
        except (ApiError, NotConnected) as error:
            await self._note(
                error, f"Whether the Job is there could not be read ({_plainly(error)}); it is tried again."
            )
            return None
        if found is not None and self._handle.is_of(found):
            return Created(self._handle.created_as(found), found, is_new=False)
        return otherwise

    def _taken(self) -> Outcome:
        return Outcome.failed(
            f"The Job could not be created: {self._handle.name!r} in the namespace {self._handle.namespace!r} is there "
            "already and has not the labels of this run; find out whose it is, and delete it if it may go.",
            reason="AlreadyExists",
        )

    async def _note(self, error: ApiError | NotConnected, sentence: str) -> None:
        """Once for each kind: a quota's figures, say, are others each time."""
        kind = f"{error.status} {error.reason}" if isinstance(error, ApiError) else "client"
        if kind not in self._told:
            self._told.add(kind)
            await self._context.note(sentence)


def _refused(error: ApiError) -> Outcome:
    message = (
        f"The Job could not be created: the API server refused it ({error.status} {error.reason}): {error.message}"
    )
    return Outcome.failed(f"{message.rstrip('.')}.", reason=error.reason, http_status=error.status)


def _plainly(error: Exception) -> str:
    return str(error).strip().rstrip(".")
