"""What the state of a Job and its Pods says. Pure: plain JSON in, decisions out; no I/O, no clock.

The reason for an end stands in more than one place: the Job's conditions (deadline), the Pod's reason and its
condition `DisruptionTarget` (eviction, preemption, a lost node), and the container's state (memory, exit code, signal).
They are looked at in that order, from what ended the Pod to what its container then reported. What was seen last of a
Pod that is gone by now (`seen.py`) counts as if the Pod were there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from reprieve.adapters.kubernetes.job import CONTAINER, Json
from reprieve.adapters.kubernetes.quantities import bytes_of_quantity
from reprieve.adapters.kubernetes.seen import Seen, Weight, later
from reprieve.models.status import ErrorCode
from reprieve.models.used import Used
from reprieve.models.work import Outcome

#: Why a container is not started that will not be without a change from outside.
BLOCKING = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "ImageInspectError",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
#: Exit codes above this one are 128 and the number of a signal, by the convention of shells and container runtimes.
SIGNAL_BASE = 128
#: The largest number of a signal.
MAX_SIGNAL = 64
#: How long a message of the platform may be within a sentence.
MAX_QUOTE = 500

#: Reasons of a Pod, or of its condition `DisruptionTarget`, by what they mean: the word for it, and a sentence.
_DISRUPTIONS = {
    **dict.fromkeys(
        ("Evicted", "EvictionByEvictionAPI", "TerminationByKubelet"), ("Evicted", "Its Pod was evicted from {node}")
    ),
    **dict.fromkeys(
        ("PreemptionByScheduler", "Preempting"),
        ("Preempted", "Its Pod had to make room on {node} for one of higher priority"),
    ),
    **dict.fromkeys(
        ("NodeLost", "DeletionByPodGC", "DeletionByTaintManager", "NodeShutdown", "Terminated", "Shutdown"),
        ("NodeLost", "Its Pod was lost with {node}, which went away, was drained or shut down"),
    ),
    "DeadlineExceeded": ("DeadlineExceeded", "Its Pod was active for longer than its activeDeadlineSeconds"),
}


class PodLog(NamedTuple):
    """A Pod whose log is to be read."""

    name: str
    uid: str
    ended: bool
    """Whether its main container has ended: nothing will be added to the log."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why an attempt cannot begin: the platform's word for it, and a sentence."""

    reason: str
    sentence: str


def is_terminal(job: Json) -> bool:
    return any(_condition(job, kind) is not None for kind in ("Complete", "Failed"))


def is_given_up(job: Json, pods: Sequence[Json]) -> bool:
    """Whether the Job is to fail as soon as its Pods are gone, and each of them is to go.

    Since Kubernetes 1.31 it is `Failed` then only (`enactJobFinished` of its Job controller); on a node that is away no
    Pod ever goes.
    """
    return (
        not is_terminal(job)
        and _condition(job, "FailureTarget") is not None
        and bool(pods)
        and all("deletionTimestamp" in pod["metadata"] for pod in pods)
    )


def grace_of(pods: Iterable[Json]) -> float:
    """Seconds that the Pods which are being deleted may still run: the longest of them."""
    return max((float(pod["metadata"].get("deletionGracePeriodSeconds") or 0) for pod in pods), default=0.0)


def logs_of(pods: Iterable[Json]) -> list[PodLog]:
    """The Pods whose main container has begun, oldest first: a replaced Pod is read before the one that replaced it."""
    begun = [pod for pod in _in_order(pods) if _state(pod).keys() & {"running", "terminated"}]
    return [PodLog(pod["metadata"]["name"], pod["metadata"]["uid"], "terminated" in _state(pod)) for pod in begun]


def owned(pods: Iterable[Json], uid: str | None) -> list[Json]:
    """Those of the Job with this uid, and those that are nobody's; all of them while the uid is not known."""
    return [pod for pod in pods if uid is None or _owner(pod) in (None, uid)]


def _owner(pod: Json) -> str | None:
    for owner in pod["metadata"].get("ownerReferences") or []:
        if owner.get("kind") == "Job":
            return str(owner.get("uid"))
    return None


# -- what cannot begin


def blocked(job: Json, pods: Sequence[Json], events: Iterable[Json]) -> Blocked | None:
    """Why the attempt cannot begin; None when it has begun, has ended, or is merely on its way."""
    if is_terminal(job):
        return None
    if not pods:
        return _not_created(events)
    pod = _in_order(pods)[-1]
    if "running" in _state(pod):
        # Whatever a container beside it lacks: who waits for its start does not end a command that runs.
        return None
    return _unschedulable(pod) or _not_startable(pod)


def _not_created(events: Iterable[Json]) -> Blocked | None:
    refused = [event for event in events if event.get("reason") == "FailedCreate"]
    if not refused:
        return None
    return Blocked("FailedCreate", f"The Job's Pod cannot be created{_quoted(refused[-1])}.")


def _unschedulable(pod: Json) -> Blocked | None:
    for condition in pod.get("status", {}).get("conditions") or []:
        said = (condition.get("type"), condition.get("status"), condition.get("reason"))
        if said == ("PodScheduled", "False", "Unschedulable"):
            return Blocked("Unschedulable", f"No node can take the Pod{_quoted(condition)}.")
    return None


def _not_startable(pod: Json) -> Blocked | None:
    status = pod.get("status", {})
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in BLOCKING:
            told = f"The container {container['name']!r} cannot be started: {waiting['reason']}{_quoted(waiting)}."
            return Blocked(waiting["reason"], told)
    return None


# -- what is about to end


def notices(job: Json, pods: Sequence[Json]) -> list[tuple[str, str]]:
    """What must be reported at once, since it may be gone at the next look: a subject and a sentence."""
    told = [] if is_terminal(job) else _notices_of_job(job)
    for pod in pods:
        leaving = _by_disruption(pod) or _by_deletion(pod)
        if leaving is not None:
            about = f"{pod['metadata']['name']} {leaving.detail.get('reason')}"
            told.append((about, leaving.error_message or ""))
    return told


def _notices_of_job(job: Json) -> list[tuple[str, str]]:
    told = []
    failing, succeeding = _condition(job, "FailureTarget"), _condition(job, "SuccessCriteriaMet")
    if failing is not None:
        told.append(("FailureTarget", f"The Job is about to fail{_bracketed(failing, failing.get('reason'))}"))
    if succeeding is not None:
        sentence = f"The Job is about to be complete{_bracketed(succeeding, succeeding.get('reason'))}"
        told.append(("SuccessCriteriaMet", sentence))
    if "deletionTimestamp" in job.get("metadata", {}):
        told.append(("deletion", "The Job is being deleted."))
    return told


def seen_of(job: Json, pods: Sequence[Json]) -> Seen | None:
    """What is to be kept of this state, in case that it is the last one seen; None while nothing has begun."""
    pod = _in_order(pods)[-1] if pods else {}
    of_pod, of_job = _seen_of_pod(pod), _seen_of_job(job)
    return of_job if of_pod is None or (of_job is not None and of_job.weight > of_pod.weight) else of_pod


def _seen_of_pod(pod: Json) -> Seen | None:
    if not pod:
        return None
    name, where = pod["metadata"]["name"], _where(pod)
    for weight, judged in (
        (Weight.CAUSE, _by_disruption(pod)),
        (Weight.ENDED, _by_helper(pod) or _by_container(pod) or _by_phase(pod)),
        (Weight.LEAVING, _by_deletion(pod)),
        (Weight.UNDER_WAY, _by_running(pod)),
    ):
        if judged is not None:
            return Seen(name, weight, replace(judged, detail=judged.detail | where), calls_off=_is_called_off(pod))
    return None


def _seen_of_job(job: Json) -> Seen | None:
    failing = _condition(job, "FailureTarget")
    if failing is not None and not is_terminal(job):
        reason = failing.get("reason") or "FailureTarget"
        return Seen("", Weight.LEAVING, _failed(reason, f"The Job was failing{_bracketed(failing, reason)}", failing))
    deleted = job.get("metadata", {}).get("deletionTimestamp")
    if deleted is not None and not is_terminal(job):
        return Seen("", Weight.LEAVING, _failed("Deleted", "The Job was deleted.", {}, deleted))
    return None


# -- how it ended


def outcome_of(job: Json, pods: Sequence[Json], before: Seen | None = None) -> Outcome:
    """How a Job that `is_terminal`, or `is_given_up`, has ended; `before` is what was seen of its Pods until now."""
    seen = later(before, seen_of(job, pods))
    where = {name: seen.end.detail[name] for name in ("pod", "node") if name in seen.end.detail} if seen else {}
    if _condition(job, "Complete") is not None:
        return Outcome(detail={"exit_status": 0} | where)
    failed = _condition(job, "Failed") or _condition(job, "FailureTarget") or {}
    ended = _by_deadline(failed) or _by_seen(seen) or _by_job(failed, seen)
    return replace(ended, detail=ended.detail | where)


def outcome_of_gone(name: str, seen: Seen | None) -> Outcome:
    """How an attempt has ended whose Job is gone, from what was seen of it; it is no success, for nobody read it."""
    lost = f"The Job {name} is gone; its log may lack its end."
    ended = _by_seen(seen)
    if ended is None:
        told = "Its command ended with exit status 0, but its Job was gone, and its log with it, before all was read."
        ended = Outcome.failed(told, reason="Gone")
    known = seen.end.detail if seen is not None else {}
    return replace(ended, detail=known | ended.detail | {"log": lost})


def _by_seen(seen: Seen | None) -> Outcome | None:
    """None when what was seen shows no end, or no failure."""
    if seen is None or not seen.tells_an_end or seen.end.error_code is None:
        return None
    return seen.end


def _by_deadline(failed: Json) -> Outcome | None:
    if failed.get("reason") != "DeadlineExceeded":
        return None
    return _failed("DeadlineExceeded", "The Job was active for longer than its activeDeadlineSeconds.", failed)


def _by_disruption(pod: Json) -> Outcome | None:
    disrupted = _condition(pod, "DisruptionTarget") or {}
    for said in (pod.get("status", {}), disrupted):
        meant = _DISRUPTIONS.get(said.get("reason") or "")
        if meant is not None:
            reason, sentence = meant
            told = f"{sentence.format(node=_node(pod))}{_bracketed(said)}"
            return _failed(reason, told, said, disrupted.get("lastTransitionTime"))
    if not disrupted:
        return None
    # For a reason that is newer than this program.
    reason = disrupted.get("reason") or "DisruptionTarget"
    told = f"Its Pod was taken from {_node(pod)}{_bracketed(disrupted, reason)}"
    return _failed(reason, told, disrupted, disrupted.get("lastTransitionTime"))


def _is_called_off(pod: Json) -> bool:
    """Whether the Pod was to be disrupted and then was not, for two minutes: `syncStalePodDisruption` of Kubernetes."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any((one.get("type"), one.get("status")) == ("DisruptionTarget", "False") for one in conditions)


def _by_container(pod: Json) -> Outcome | None:
    """None as well when it was ended because its Pod was deleted."""
    ended = _state(pod).get("terminated")
    if ended is None:
        return None
    code, reason, at = int(ended.get("exitCode", 0)), ended.get("reason"), _at(ended.get("finishedAt"))
    limit = _memory_limit(pod)
    used = Used(memory_limit_bytes=bytes_of_quantity(limit))
    if reason == "OOMKilled":
        told = f"The container used more memory than it may{f' ({limit})' if limit else ''} and was killed (OOMKilled)."
        return Outcome(ErrorCode.OOM_KILLED, told, {"reason": reason, "exit_status": code} | at, used=used)
    if reason in ("StartError", "ContainerCannotRun"):
        return _failed(reason, f"The container could not be started{_quoted(ended)}.", ended)
    if reason == "ContainerStatusUnknown":
        return _failed(reason, f"How the container ended is not known to its node{_quoted(ended)}.", ended)
    if code and _ended_by_deletion(pod, ended):
        return None
    told_by_code = _of_exit(code, reason) if code else Outcome.of_exit(0)
    return replace(told_by_code, detail=told_by_code.detail | at, used=used)


def _by_helper(pod: Json) -> Outcome | None:
    """A Pod that failed by another of its containers: one that is run before the main one, or beside it."""
    status = pod.get("status", {})
    ended = _state(pod).get("terminated")
    if status.get("phase") != "Failed" or "running" in _state(pod) or (ended and ended.get("exitCode")):
        return None
    # Those beside the command that are among the init containers end with their Pod, and fail none.
    beside = {one["name"] for one in pod["spec"].get("initContainers") or [] if one.get("restartPolicy") == "Always"}
    for helper in status.get("initContainerStatuses" if ended is None else "containerStatuses") or []:
        its_end = (helper.get("state") or {}).get("terminated") or {}
        if its_end.get("exitCode") and helper["name"] not in beside:
            how = "The command was not begun, since" if ended is None else "The command ended with exit status 0, but"
            told = f"{how} the container {helper['name']!r} of its Pod failed with exit status {its_end['exitCode']}."
            outcome = _failed(its_end.get("reason") or "Error", told, its_end, its_end.get("finishedAt"))
            return replace(outcome, detail=outcome.detail | {"container": helper["name"]})
    return None


def _of_exit(code: int, reason: str | None) -> Outcome:
    told = Outcome.of_exit(SIGNAL_BASE - code if _is_signal(code) else code)
    return replace(told, detail=told.detail | {"exit_status": code} | ({"reason": reason} if reason else {}))


def _is_signal(code: int) -> bool:
    return SIGNAL_BASE < code <= SIGNAL_BASE + MAX_SIGNAL


def _by_phase(pod: Json) -> Outcome | None:
    """A Pod that its node did not take, or gave up, before its container had a state."""
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason") or "terminated" in _state(pod):
        return None
    reason = status["reason"]
    return _failed(reason, f"Its Pod failed on {_node(pod)}{_bracketed(status, reason)}", status)


def _ended_by_deletion(pod: Json, ended: Json) -> bool:
    """Whether its container ended after its Pod was to be deleted; a deletion is dated at the end of its grace."""
    deleted, finished = (_time(text) for text in (pod["metadata"].get("deletionTimestamp"), ended.get("finishedAt")))
    if deleted is None or finished is None:
        return deleted is not None
    return finished >= deleted - timedelta(seconds=pod["metadata"].get("deletionGracePeriodSeconds") or 0)


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


def _by_deletion(pod: Json) -> Outcome | None:
    if pod.get("metadata", {}).get("deletionTimestamp") is None:
        return None
    code = (_state(pod).get("terminated") or {}).get("exitCode")
    exited = {} if code is None else {"exit_status": code}
    told = _failed("Deleted", f"Its Pod was deleted from {_node(pod)}.", {}, pod["metadata"]["deletionTimestamp"])
    return replace(told, detail=told.detail | exited)


def _by_running(pod: Json) -> Outcome | None:
    if "running" not in _state(pod):
        return None
    return Outcome.failed(f"Its Pod was last seen running on {_node(pod)}.")


def _by_job(failed: Json, seen: Seen | None) -> Outcome:
    reason = failed.get("reason") or "Failed"
    why = f"The Job failed, and nothing is left of its Pod to say why{_bracketed(failed, reason)}"
    last = f" {seen.end.error_message}" if seen is not None and seen.end.error_message else ""
    return _failed(reason, why + last, failed)


def _failed(reason: str, sentence: str, said: Json, at: str | None = None) -> Outcome:
    message = said.get("message")
    quoted = {"message": str(message)[:MAX_QUOTE]} if message else {}
    return Outcome(ErrorCode.ADAPTER_ERROR, sentence, {"reason": reason} | quoted | _at(at))


def _at(time: str | None) -> Json:
    """When it was, as the platform has it."""
    return {"at": time} if time else {}


# -- what JSON holds


def _condition(thing: Json, kind: str) -> Json | None:
    """The condition of this type, if it is true."""
    for condition in thing.get("status", {}).get("conditions") or []:
        if condition.get("type") == kind and condition.get("status") == "True":
            return dict(condition)
    return None


def _in_order(pods: Iterable[Json]) -> list[Json]:
    return sorted(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))


def _state(pod: Json) -> Json:
    """The state of the main container; empty while it has none."""
    for container in pod.get("status", {}).get("containerStatuses") or []:
        if container.get("name") == CONTAINER:
            return dict(container.get("state") or {})
    return {}


def _where(pod: Json) -> Json:
    said = {"pod": pod.get("metadata", {}).get("name"), "node": pod.get("spec", {}).get("nodeName")}
    return {name: value for name, value in said.items() if value}


def _node(pod: Json) -> str:
    name = pod.get("spec", {}).get("nodeName")
    return f"node {name}" if name else "its node"


def _memory_limit(pod: Json) -> str | None:
    for container in pod.get("spec", {}).get("containers") or []:
        if container.get("name") == CONTAINER:
            limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
            return None if limit is None else str(limit)
    return None


def _quoted(said: Json) -> str:
    """What the platform says, to go before the full stop of a sentence."""
    message = str(said.get("message") or "").strip().rstrip(".")
    return f": {message[:MAX_QUOTE]}" if message else ""


def _bracketed(said: Json, reason: str | None = None) -> str:
    """What the platform says, in brackets, and the full stop of the sentence unless it is within them."""
    message = str(said.get("message") or "").strip()[:MAX_QUOTE]
    within = ": ".join(part for part in (reason, message) if part)
    if not within:
        return "."
    return f" ({within})" if within.endswith(".") else f" ({within})."
