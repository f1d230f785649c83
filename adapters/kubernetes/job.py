"""A Job: what it is called, whose it is, and how it is written down. Pure: no I/O, no clock."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from reprieve.adapters.kubernetes.config import KubernetesConfig
from reprieve.models.work import Work

CONTAINER = "run"
MANAGED_BY = ("app.kubernetes.io/managed-by", "reprieve")
RUN_ID = "reprieve/run-id"
ATTEMPT = "reprieve/attempt"

Json = dict[str, Any]
_NAME = re.compile(r"reprieve-([0-9a-f]{32})-([1-9][0-9]*)")


def job_name(run_id: UUID, attempt: int) -> str:
    """The same for the same attempt, so that it cannot have two Jobs; a valid label of DNS."""
    return f"reprieve-{run_id.hex}-{attempt}"


def labels_of(run_id: UUID, attempt: int) -> dict[str, str]:
    return {MANAGED_BY[0]: MANAGED_BY[1], RUN_ID: str(run_id), ATTEMPT: str(attempt)}


def labels_of_name(name: str) -> dict[str, str]:
    """The labels of the Job of this name; raises `ValueError` when the name is not one of ours."""
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
    for container in template["spec"]["containers"]:
        if container["name"] == CONTAINER:
            # Kubernetes 1.34 and later would start it again in its Pod: unseen, and without the log of before.
            container.pop("restartPolicy", None)
            container.pop("restartPolicyRules", None)
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
    env: list[Json] = [
        {"name": name, "value": as_written(value)} for name, value in (run.environment | config.env).items()
    ]
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
        "command": [as_written(word) for word in config.command or ()],
        "args": [as_written(word) for word in config.args or ()],
        "resources": resources,
        "volumeMounts": config.volume_mounts,
    }
    given = {name: value for name, value in optional.items() if value}
    return {"name": CONTAINER, "image": config.image, "env": env} | given


def as_written(text: str) -> str:
    """This text for a field in which a kubelet expands `$(NAME)` and `$$`, so that it reaches the command unchanged.

    Each dollar sign is doubled, also one that would seem to stay: before a character that is not ASCII, Kubernetes
    (`Expand` of its package third_party/forked/golang/expansion) breaks that character otherwise.
    """
    return text.replace("$", "$$")


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
