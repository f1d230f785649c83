"""The `kubernetes` adapter: starts, follows and ends the one Job of an attempt.

Whether the work is alive is for the API server to say, every few seconds: the log may be silent, cut or away, and the
run lives on. While the API server does not answer there is no proof of life, and no end either: it is asked again for
as long as it takes. A Job that has vanished is the reaper's to judge.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from adapters.kubernetes import job as jobs
from adapters.kubernetes.api import CONNECT_TIMEOUT, READ_TIMEOUT, Api, ApiError, Json, NotConnected, path_of
from adapters.kubernetes.config import KubernetesConfig
from adapters.kubernetes.logs import LogFollower, LogTimings
from adapters.protocol import ConfigModel, Context
from models.status import Probe
from models.work import Outcome, Work

logger = logging.getLogger(__name__)

#: Seconds between two questions to the API server about one Job.
STATUS_INTERVAL = 5.0
#: Seconds between two looks whether the log, or an error in it, is there.
LOOK_INTERVAL = 0.25
#: The longest pause, in seconds, between two questions to an API server that does not answer.
MAX_BACKOFF = 60.0
#: Seconds that an attempt may be kept from beginning (no image, no node, no quota) before its run fails.
BLOCKED_LIMIT = 10 * 60.0
#: Seconds that a Job that has ended may still have a container that runs, before it is no longer waited for.
END_GRACE = 60.0
#: Seconds within which a deleted Job and its Pods must be gone; Pods have 30 to end by themselves, by default.
TERMINATION_LIMIT = 90.0
#: Handles up to which they are asked for by name; for more, all Jobs of Reprieve in the namespace are listed.
MAX_SELECTED = 50


@dataclass(frozen=True, slots=True)
class Timings:
    """In seconds."""

    status_interval: float = STATUS_INTERVAL
    look_interval: float = LOOK_INTERVAL
    max_backoff: float = MAX_BACKOFF
    blocked_limit: float = BLOCKED_LIMIT
    end_grace: float = END_GRACE
    termination_limit: float = TERMINATION_LIMIT
    connect_timeout: float = CONNECT_TIMEOUT
    read_timeout: float = READ_TIMEOUT
    log: LogTimings = field(default_factory=LogTimings)


class NotGone(Exception):
    """Raised when a Job was asked to end and is, or may be, still there; it is to be asked again."""


class KubernetesAdapter:
    """Runs one Job per attempt on the cluster that the worker's service account or kubeconfig leads to."""

    type: ClassVar[str] = "kubernetes"
    has_out_of_process_liveness: ClassVar[bool] = True
    config_model: ClassVar[ConfigModel] = KubernetesConfig

    def __init__(self, folder: Path, host_name: str, timings: Timings | None = None) -> None:  # noqa: ARG002
        """Needs neither folder nor host: any worker that reaches the cluster can act on any handle."""
        self._timings = timings or Timings()
        self._api = Api(self._timings.connect_timeout, self._timings.read_timeout)

    def execute(self, run: Work, context: Context) -> Outcome:
        config = KubernetesConfig.model_validate(run.config)
        try:
            self._api.connect()
        except NotConnected as problem:
            return Outcome.failed(f"The Job could not be created: {problem}.")
        body = jobs.manifest(run, config)
        handle = {"namespace": config.namespace, "name": body["metadata"]["name"]}
        context.on_dispatch(handle, None)
        refused = self._create(handle, body, context)
        return refused if refused is not None else self._follow(handle, context)

    def attach(self, run: Work, handle: dict[str, Any], context: Context) -> Outcome:  # noqa: ARG002
        """The handle says all: the cluster has the rest."""
        return self._follow(handle, context)

    def terminate(self, handle: dict[str, Any]) -> None:
        """Raises `NotGone`, `ApiError`, `NotConnected`; `ValueError` for a handle that is not of this adapter."""
        labels = jobs.labels_of_name(handle["name"])
        deadline = time.monotonic() + self._timings.termination_limit
        pause = self._timings.look_interval
        while left := self._delete(handle, labels):
            if time.monotonic() > deadline:
                raise NotGone(
                    f"{left} is still there {self._timings.termination_limit:g} s after it was deleted; a Pod on a "
                    "node that does not answer stays until the node is back or removed from the cluster"
                )
            time.sleep(pause)
            pause = min(pause * 2, self._timings.status_interval)

    def probe(self, handles: Sequence[dict[str, Any]]) -> list[Probe]:
        places = [_place_of(handle) for handle in handles]
        said: dict[_JobPlace, Probe] = {}
        for namespace in dict.fromkeys(place.namespace for place in places if place is not None):
            asked = {place for place in places if place is not None and place.namespace == namespace}
            said |= self._probe(namespace, asked)
        return [Probe.UNKNOWN if place is None else said[place] for place in places]

    # -- creating

    def _create(self, handle: Json, body: Json, context: Context) -> Outcome | None:
        """Until the Job is there; how the run ends when it cannot be. None as well when told to stop."""
        backoff, may_be_there = _Backoff(self._timings), False
        while not context.stopping:
            try:
                self._api.create(path_of(handle["namespace"], "jobs"), body)
            except (ApiError, NotConnected) as error:
                settled = self._after_failure(error, handle, context, may_be_there)
                if settled is not _ASK_AGAIN:
                    return settled
                may_be_there = True
                context.wait(backoff.next(error))
            else:
                return None
        return None

    def _after_failure(
        self, error: ApiError | NotConnected, handle: Json, context: Context, may_be_there: bool
    ) -> "Outcome | None":
        """None when the Job is there, in spite of what was answered; an outcome when it cannot be; or ask again.

        `may_be_there`: an earlier request was not answered, and may have created what fills the quota now.
        """
        if isinstance(error, ApiError) and error.status == 409 and error.reason == "AlreadyExists":
            return self._already_there(handle, context, _taken(handle))
        if isinstance(error, ApiError) and error.is_refusal:
            return self._already_there(handle, context, _refused(error)) if may_be_there else _refused(error)
        context.note(f"The Job could not be created yet ({_plainly(error)}); it is tried again.")
        return _ASK_AGAIN

    def _already_there(self, handle: Json, context: Context, otherwise: Outcome) -> "Outcome | None":
        """None for a Job of our name with our labels: we were cut off after creating it."""
        try:
            found = self._present(handle["namespace"], handle["name"])
        except (ApiError, NotConnected) as error:
            context.note(f"Whether the Job is there could not be read ({_plainly(error)}); it is tried again.")
            return _ASK_AGAIN
        if found is not None and jobs.is_labelled(found, jobs.labels_of_name(handle["name"])):
            return None
        return otherwise

    # -- following

    def _follow(self, handle: Json, context: Context) -> Outcome:
        with LogFollower(self._api, handle["namespace"], context, self._timings.log) as log:
            following = _Following(self._api, handle, context, log, self._timings)
            while not context.stopping:
                outcome = following.look()
                if outcome is not None and self._is_settled(outcome, handle):
                    return outcome.outcome
                following.rest()
            self._end(handle)
            return Outcome.failed("Stopped.")

    def _is_settled(self, end: "_End", handle: Json) -> bool:
        """Whether nothing is left to be done: work that is given up must be gone before its run ends."""
        return end.has_ended or self._end(handle)

    def _end(self, handle: Json) -> bool:
        try:
            self.terminate(handle)
        except (ApiError, NotConnected, NotGone) as error:
            # It is owed its end, and is asked again.
            logger.warning("The Job %s could not be ended: %s.", handle["name"], error)
            return False
        return True

    # -- ending

    def _delete(self, handle: Json, labels: Json) -> str | None:
        """Delete what is left of an attempt; the name of something that is still there."""
        namespace, name = handle["namespace"], handle["name"]
        job = self._present(namespace, name)
        if job is not None:
            if not jobs.is_labelled(job, labels):
                raise NotGone(f"the Job {name!r} has not the labels of this run, so it is not ours to delete")
            self._delete_one("jobs", job)
            return f"the Job {name!r}"
        pods = self._api.list(path_of(namespace, "pods"), {"labelSelector": jobs.selector(labels)})
        for pod in pods:
            # Those of a Job that is gone are deleted by the cluster, unless somebody asked that they be orphaned.
            self._delete_one("pods", pod)
        return f"the Pod {pods[0]['metadata']['name']!r}" if pods else None

    def _present(self, namespace: str, name: str) -> Json | None:
        try:
            return self._api.get_one(namespace, "jobs", name)
        except ApiError as error:
            if error.is_absence_of(name):
                return None
            raise

    def _delete_one(self, kind: str, thing: Json) -> None:
        metadata = thing["metadata"]
        if metadata.get("deletionTimestamp"):
            return
        try:
            self._api.delete(path_of(metadata["namespace"], kind, metadata["name"]), metadata["uid"])
        except ApiError as error:
            # Gone, or replaced by another of its name, in between: the next look tells.
            if not (error.is_absence_of(metadata["name"]) or error.status == 409):
                raise

    # -- probing

    def _probe(self, namespace: str, places: "set[_JobPlace]") -> "dict[_JobPlace, Probe]":
        try:
            found = self._api.list(path_of(namespace, "jobs"), {"labelSelector": _selector(places)})
            by_name = {job["metadata"]["name"]: _probe_of(job) for job in found}
        except (ApiError, NotConnected) as error:
            logger.info("The Jobs of the namespace %s could not be listed: %s.", namespace, error)
            return dict.fromkeys(places, Probe.UNKNOWN)
        return {place: by_name.get(place.name, Probe.DEAD) for place in places}


#: In place of an outcome: nothing is known yet.
_ASK_AGAIN = Outcome.failed("")


class _JobPlace(NamedTuple):
    namespace: str
    name: str


def _place_of(handle: dict[str, Any]) -> _JobPlace | None:
    """None when it is no handle of ours, of which nothing can be said."""
    try:
        jobs.labels_of_name(handle["name"])
        return _JobPlace(str(handle["namespace"]), handle["name"])
    except (KeyError, TypeError, ValueError):
        return None


def _selector(places: Iterable[_JobPlace]) -> str:
    run_ids = sorted({jobs.labels_of_name(place.name)[jobs.RUN_ID] for place in places})
    ours = jobs.selector(dict([jobs.MANAGED_BY]))
    # Longer than that, and a proxy may refuse the address of the request.
    return f"{ours},{jobs.RUN_ID} in ({','.join(run_ids)})" if len(run_ids) <= MAX_SELECTED else ours


def _probe_of(job: Json) -> Probe:
    return Probe.ENDED if jobs.is_terminal(job) else Probe.ALIVE


def _taken(handle: Json) -> Outcome:
    return Outcome.failed(
        f"The Job could not be created: {handle['name']!r} in the namespace {handle['namespace']!r} is there "
        "already and has not the labels of this run; find out whose it is, and delete it if it may go.",
        reason="AlreadyExists",
    )


def _refused(error: ApiError) -> Outcome:
    told = f"The Job could not be created: the API server refused it ({error.status} {error.reason}): {error.message}"
    return Outcome.failed(f"{told.rstrip('.')}.", reason=error.reason, http_status=error.status)


def _plainly(error: Exception) -> str:
    return str(error).strip().rstrip(".")


class _Backoff:
    """Pauses, in seconds, before an API server that does not answer is asked again."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._pause = 0.0

    def next(self, error: Exception) -> float:
        """Twice as long each time; as long as the API server asks for, within limits."""
        self._pause = min(self._pause * 2 or self._timings.status_interval, self._timings.max_backoff)
        asked = (error.retry_after if isinstance(error, ApiError) else None) or 0.0
        return min(max(self._pause, asked), self._timings.max_backoff)

    def reset(self) -> None:
        self._pause = 0.0


class _End(NamedTuple):
    outcome: Outcome
    has_ended: bool
    """False when the work is given up and has to be ended."""


class _Following:
    """One Job, looked at again and again."""

    def __init__(self, api: Api, handle: Json, context: Context, log: LogFollower, timings: Timings) -> None:
        self._api = api
        self._namespace: str = handle["namespace"]
        self._name: str = handle["name"]
        self._labels = jobs.labels_of_name(self._name)
        self._context = context
        self._log = log
        self._timings = timings
        self._backoff = _Backoff(timings)
        self._pause = timings.status_interval
        self._told: set[str] = set()
        #: Since when, on the monotonic clock, the attempt is kept from beginning; and how long a Job that has ended
        #: is waited for.
        self._blocked_since: float | None = None
        self._grace_until: float | None = None
        self._outcome: Outcome | None = None

    def look(self) -> _End | None:
        """Ask once, and say what is to be said; how the run ends, if it does."""
        self._log.check()
        if self._outcome is not None:
            return self._after_the_log()
        try:
            return self._judge()
        except (ApiError, NotConnected) as error:
            self._pause = self._backoff.next(error)
            self._note_failure(error)
            return None

    def rest(self) -> None:
        """Until it is time to look again, or the log has been read to its end, or told to stop."""
        until = time.monotonic() + self._pause
        while not self._context.stopping and (left := until - time.monotonic()) > 0:
            self._log.check()
            if self._log.is_done:
                return
            self._context.wait(min(left, self._timings.look_interval))

    def _judge(self) -> _End | None:
        job = self._api.get_one(self._namespace, "jobs", self._name)
        is_terminal = jobs.is_terminal(job)
        if not is_terminal:
            self._context.heartbeat()
        pods = self._api.list(path_of(self._namespace, "pods"), {"labelSelector": jobs.selector(self._labels)})
        self._backoff.reset()
        self._pause = self._timings.status_interval
        logs = jobs.logs_of(pods)
        if is_terminal and self._is_over(all(log.ended for log in logs)):
            self._outcome = jobs.outcome_of(job, pods)
            self._log.finish(logs)
            return None
        self._log.see(logs)
        return self._judge_blocked(jobs.blocked(job, pods, [] if pods or is_terminal else self._events(job)))

    def _is_over(self, have_ended: bool) -> bool:
        """Whether what its Pods print has ended too; a lost node never says so."""
        self._grace_until = self._grace_until or time.monotonic() + self._timings.end_grace
        return have_ended or time.monotonic() > self._grace_until

    def _after_the_log(self) -> _End | None:
        if self._outcome is None or not self._log.is_done:
            return None
        if self._log.lost is None:
            return _End(self._outcome, True)
        self._context.note(self._log.lost)
        return _End(replace(self._outcome, detail=self._outcome.detail | {"log": self._log.lost}), True)

    def _judge_blocked(self, blocked: jobs.Blocked | None) -> _End | None:
        if blocked is None:
            self._blocked_since = None
            return None
        self._note_once(blocked.reason, blocked.sentence)
        self._blocked_since = self._blocked_since or time.monotonic()
        if time.monotonic() - self._blocked_since < self._timings.blocked_limit:
            return None
        waited = f"It could not begin within {self._timings.blocked_limit:g} s"
        return _End(Outcome.failed(f"{waited}. {blocked.sentence}", reason=blocked.reason), False)

    def _events(self, job: Json) -> list[Json]:
        """What the cluster says of a Job that has no Pod; nothing when it does not say: that is no reason to end."""
        query = {"fieldSelector": f"involvedObject.uid={job['metadata']['uid']}"}
        try:
            return self._api.list(path_of(self._namespace, "events"), query)
        except ApiError as error:
            logger.info("The events of the Job %s could not be read: %s.", self._name, error)
            return []

    def _note_failure(self, error: ApiError | NotConnected) -> None:
        if isinstance(error, ApiError) and error.is_absence_of(self._name):
            self._note_once("gone", f"The Job {self._name} is not there any more; somebody has deleted it.")
        else:
            said = f"{error.status}" if isinstance(error, ApiError) else "client"
            self._note_once(
                said, f"The API server does not answer as it should ({_plainly(error)}); it is asked again."
            )

    def _note_once(self, about: str, sentence: str) -> None:
        """Sentences of the platform vary in what does not matter, such as a back-off: one of a kind is enough."""
        if about not in self._told:
            self._told.add(about)
            self._context.note(sentence)
