"""Create the Job of an attempt exactly once, by its name, whichever worker does it.

An API server that is down, and a quota that is full, say nothing about the work: they are waited for, and a waiting
follower is the attempt's proof of life, since nothing else could be. What the API server refuses in its own words ends
the run.
"""

import time

from reprieve.adapters.kubernetes.api import Api, ApiError, NotConnected, path_of
from reprieve.adapters.kubernetes.handle import Handle
from reprieve.adapters.kubernetes.job import Json
from reprieve.adapters.kubernetes.timings import Backoff, Timings
from reprieve.adapters.protocol import Context
from reprieve.models.faults import is_unfit
from reprieve.models.work import Outcome

#: A created Job's handle; how the run ends that cannot have one; None when told to stop.
Created = Handle | Outcome | None


class Creation:
    """Of one Job. `may_be_there`: an earlier request was not answered, or somebody else may have made one."""

    def __init__(self, api: Api, timings: Timings, context: Context, handle: Handle, body: Json) -> None:
        self._api = api
        self._timings = timings
        self._context = context
        self._handle = handle
        self._body = body
        self._told: set[str] = set()

    def until_there(self, *, may_be_there: bool) -> Created:
        backoff = Backoff(self._timings)
        while self._is_wanted():
            try:
                return self._handle.created_as(self._api.create(path_of(self._handle.namespace, "jobs"), self._body))
            except (ApiError, NotConnected) as error:
                settled = self._after_failure(error, may_be_there)
                if settled is not None:
                    return settled
                may_be_there = True
                self._wait(backoff.next(error))
        return None

    def _is_wanted(self) -> bool:
        """Record that the Job is asked for, before each time: an attempt that has ended meanwhile is not begun.

        False when told to stop. Raises `Superseded`, `Released`.
        """
        if not self._context.stopping:
            try:
                self._context.on_dispatch(self._handle.as_json(), None)
            except Exception as error:
                # The database is down, and the wait is over: this worker is to stop, or to leave the work.
                if not is_unfit(error) or not self._context.wait(0):
                    raise
        return not self._context.stopping

    def _wait(self, seconds: float) -> None:
        """The work is not there yet, and this worker will create it: that is its proof of life."""
        until = time.monotonic() + seconds
        while not self._context.stopping and (left := until - time.monotonic()) > 0:
            self._context.heartbeat()
            self._context.wait(min(left, self._timings.look_interval))

    def _after_failure(self, error: ApiError | NotConnected, may_be_there: bool) -> Handle | Outcome | None:
        """The handle when the Job is there, in spite of what was answered; an outcome when it cannot be; or None."""
        if isinstance(error, ApiError):
            if error.status == 409 and error.reason == "AlreadyExists":
                return self._already_there(self._taken())
            refused = _refused(error) if error.is_refusal else None
            if may_be_there and (refused is not None or error.is_full_quota):
                # What fills the quota may be our own Job.
                return self._already_there(refused)
            if refused is not None:
                return refused
        self._note(error, f"The Job could not be created yet ({_plainly(error)}); it is tried again.")
        return None

    def _already_there(self, otherwise: Outcome | None) -> Handle | Outcome | None:
        """For a Job of our name with our labels: somebody was cut off after creating it."""
        try:
            found = self._api.find(self._handle.namespace, "jobs", self._handle.name)
        except (ApiError, NotConnected) as error:
            self._note(error, f"Whether the Job is there could not be read ({_plainly(error)}); it is tried again.")
            return None
        if found is not None and self._handle.is_of(found):
            return self._handle.created_as(found)
        return otherwise

    def _taken(self) -> Outcome:
        return Outcome.failed(
            f"The Job could not be created: {self._handle.name!r} in the namespace {self._handle.namespace!r} is there "
            "already and has not the labels of this run; find out whose it is, and delete it if it may go.",
            reason="AlreadyExists",
        )

    def _note(self, error: ApiError | NotConnected, sentence: str) -> None:
        """Once for each kind: a quota's figures, say, are others each time."""
        kind = f"{error.status} {error.reason}" if isinstance(error, ApiError) else "client"
        if kind not in self._told:
            self._told.add(kind)
            self._context.note(sentence)


def _refused(error: ApiError) -> Outcome:
    message = (
        f"The Job could not be created: the API server refused it ({error.status} {error.reason}): {error.message}"
    )
    return Outcome.failed(f"{message.rstrip('.')}.", reason=error.reason, http_status=error.status)


def _plainly(error: Exception) -> str:
    return str(error).strip().rstrip(".")
