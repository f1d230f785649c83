"""A Job: how it is written down, and what its state says. Pure: plain JSON in, decisions out; no I/O, no clock.

What tells one end from another is in more than one place: the Job's conditions (deadline), the Pod's reason and its
condition `DisruptionTarget` (eviction, preemption, a lost node), and the container's state (memory, exit code, signal).
They are looked at in that order, from what ended the Pod to what its container then reported.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from uuid import UUID

from adapters.kubernetes.config import KubernetesConfig
from models.status import ErrorCode
from models.work import Outcome, Work

CONTAINER = "run"
MANAGED_BY = ("app.kubernetes.io/managed-by", "reprieve")
RUN_ID = "reprieve/run-id"
ATTEMPT = "reprieve/attempt"

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

Json = dict[str, Any]
_NAME = re.compile(r"reprieve-([0-9a-f]{32})-([1-9][0-9]*)")
#: Reasons of a Pod, or of its condition `DisruptionTarget`, by what they mean.
_NODE_LOST = frozenset(
    {"NodeLost", "DeletionByPodGC", "DeletionByTaintManager", "NodeShutdown", "Terminated", "Shutdown"}
)
_EVICTED = frozenset({"Evicted", "EvictionByEvictionAPI", "TerminationByKubelet"})
_PREEMPTED = frozenset({"PreemptionByScheduler", "Preempting"})


# -- what a Job is called, and how it is written down


def job_name(run_id: UUID, attempt: int) -> str:
    """The same for the same attempt, so that it cannot have two Jobs; a valid label of DNS."""
    return f"reprieve-{run_id.hex}-{attempt}"


def labels_of(run_id: UUID, attempt: int) -> dict[str, str]:
    return {MANAGED_BY[0]: MANAGED_BY[1], RUN_ID: str(run_id), ATTEMPT: str(attempt)}


def labels_of_name(name: str) -> dict[str, str]:
    """The labels of the Job of this name; raises `ValueError` when it is no name of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a Job of Reprieve; the handle is not one of this adapter")
    return labels_of(UUID(match[1]), int(match[2]))


def selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def is_labelled(thing: Json, labels: Mapping[str, str]) -> bool:
    given = thing.get("metadata", {}).get("labels") or {}
    return all(given.get(name) == value for name, value in labels.items())


def manifest(run: Work, config: KubernetesConfig) -> Json:
    """The Job of an attempt. The patch comes last but for what holds Reprieve and the Job together."""
    name, labels = job_name(run.run_id, run.attempt), labels_of(run.run_id, run.attempt)
    base: Json = {
        "metadata": {},
        "spec": {
            "ttlSecondsAfterFinished": config.ttl_seconds_after_finished,
            "template": {"metadata": {}, "spec": _pod_spec(run, config)},
        },
    }
    job: Json = merged(base, config.patch)
    job |= {"apiVersion": "batch/v1", "kind": "Job"}
    job["metadata"] |= {"name": name, "namespace": config.namespace}
    job["spec"] |= {"backoffLimit": 0, "completions": 1, "parallelism": 1}
    template = job["spec"]["template"]
    template["spec"]["restartPolicy"] = "Never"
    for metadata in (job["metadata"], template["metadata"]):
        metadata["labels"] = (metadata.get("labels") or {}) | labels
    return job


def _pod_spec(run: Work, config: KubernetesConfig) -> Json:
    optional = {
        "serviceAccountName": config.service_account,
        "volumes": config.volumes,
        "imagePullSecrets": [{"name": name} for name in config.image_pull_secrets],
    }
    return {"containers": [_container(run, config)]} | {name: value for name, value in optional.items() if value}


def _container(run: Work, config: KubernetesConfig) -> Json:
    env: list[Json] = [{"name": name, "value": value} for name, value in (run.environment | config.env).items()]
    env += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
        for name, secret in config.secret_env.items()
    ]
    resources = {
        name: value
        for name, value in (("requests", config.resources.requests), ("limits", config.resources.limits))
        if value
    }
    optional = {
        "command": config.command,
        "args": config.args,
        "resources": resources,
        "volumeMounts": config.volume_mounts,
    }
    given = {name: value for name, value in optional.items() if value}
    return {"name": CONTAINER, "image": config.image, "env": env} | given


def merged(base: Any, patch: Any) -> Any:
    """`patch` over `base`: objects key by key, lists of named objects by name, anything else replaced; null removes."""
    if isinstance(base, dict) and isinstance(patch, dict):
        both = {key: merged(base.get(key), value) for key, value in patch.items() if value is not None}
        return {key: value for key, value in base.items() if key not in patch} | both
    if isinstance(patch, dict):
        return merged({}, patch)
    if _is_named(base) and _is_named(patch):
        by_name = {one["name"]: one for one in base}
        return list((by_name | {one["name"]: merged(by_name.get(one["name"]), one) for one in patch}).values())
    return patch


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "name" in one for one in value)


# -- what its state says


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


def logs_of(pods: Iterable[Json]) -> list[PodLog]:
    """The Pods whose main container has begun, oldest first: a replaced Pod is read before the one that replaced it."""
    begun = [pod for pod in _in_order(pods) if _state(pod).keys() & {"running", "terminated"}]
    return [PodLog(pod["metadata"]["name"], pod["metadata"]["uid"], "terminated" in _state(pod)) for pod in begun]


def blocked(job: Json, pods: Sequence[Json], events: Iterable[Json]) -> Blocked | None:
    """Why the attempt cannot begin; None when it has begun, has ended, or is merely on its way."""
    if is_terminal(job):
        return None
    if not pods:
        return _not_created(events)
    pod = _in_order(pods)[-1]
    return _unschedulable(pod) or _not_startable(pod)


def outcome_of(job: Json, pods: Sequence[Json]) -> Outcome:
    """How a Job that `is_terminal` has ended."""
    pod = _in_order(pods)[-1] if pods else {}
    detail = _where(pod)
    if _condition(job, "Complete") is not None:
        return Outcome(detail={"exit_status": 0} | detail)
    failed = _condition(job, "Failed") or {}
    ended = _by_deadline(failed) or _by_disruption(pod) or _by_container(pod) or _by_job(failed)
    return replace(ended, detail=ended.detail | detail)


def _by_deadline(failed: Json) -> Outcome | None:
    if failed.get("reason") != "DeadlineExceeded":
        return None
    return _failed("DeadlineExceeded", "The Job was active for longer than its activeDeadlineSeconds.", failed)


def _by_disruption(pod: Json) -> Outcome | None:
    status = pod.get("status", {})
    disrupted = _condition(pod, "DisruptionTarget") or {}
    for said in (status, disrupted):
        reason = said.get("reason")
        if reason == "DeadlineExceeded":
            return _failed(reason, "The Pod was active for longer than its activeDeadlineSeconds.", said)
        if reason in _EVICTED:
            return _failed("Evicted", f"The Pod was evicted from its node{_quoted(said)}.", said)
        if reason in _PREEMPTED:
            return _failed("Preempted", f"The Pod had to make room for one of higher priority{_quoted(said)}.", said)
        if reason in _NODE_LOST:
            return _failed("NodeLost", f"The Pod's node was lost, drained or shut down{_quoted(said)}.", said)
    return None


def _by_container(pod: Json) -> Outcome | None:
    ended = _state(pod).get("terminated")
    if ended is None:
        return None
    code, reason = int(ended.get("exitCode", 0)), ended.get("reason")
    if reason == "OOMKilled":
        limit = _memory_limit(pod)
        told = f"The container used more memory than it may{f' ({limit})' if limit else ''} and was killed (OOMKilled)."
        return Outcome(ErrorCode.EXIT_STATUS, told, {"reason": reason, "exit_status": code})
    if reason in ("StartError", "ContainerCannotRun"):
        return _failed(reason, f"The container could not be started{_quoted(ended)}.", ended)
    if reason == "ContainerStatusUnknown":
        return _failed(reason, f"How the container ended is not known to its node{_quoted(ended)}.", ended)
    return _of_exit(code, reason) if code else None


def _of_exit(code: int, reason: str | None) -> Outcome:
    is_signal = SIGNAL_BASE < code <= SIGNAL_BASE + MAX_SIGNAL
    told = Outcome.of_exit(SIGNAL_BASE - code if is_signal else code)
    return replace(told, detail=told.detail | {"exit_status": code} | ({"reason": reason} if reason else {}))


def _by_job(failed: Json) -> Outcome:
    reason = failed.get("reason") or "Failed"
    return _failed(
        reason, f"The Job failed, and nothing is left of its Pod to say why ({reason}){_quoted(failed)}.", failed
    )


def _failed(reason: str, sentence: str, said: Json) -> Outcome:
    message = said.get("message")
    quoted = {"message": str(message)[:MAX_QUOTE]} if message else {}
    return Outcome(ErrorCode.ADAPTER_ERROR, sentence, {"reason": reason} | quoted)


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
