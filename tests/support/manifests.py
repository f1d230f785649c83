"""What a cluster would say of manifests, without one: the schemas, `restricted`, and what an upgrade may not change.

Not what admission plugins, a quota or a controller would say.
"""

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate

Json = dict[str, Any]

#: The version of Kubernetes whose schemas count.
VERSION = "1.37"

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION = {"type": "string", "pattern": "^(0|(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$"}


def _object(required: list[str], **properties: Any) -> Json:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


_SELECTOR = _object(
    [],
    matchLabels=_TEXTS,
    matchExpressions={
        "type": "array",
        "items": _object(
            ["key", "operator"],
            key={"type": "string"},
            operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            values={"type": "array", "items": {"type": "string"}},
        ),
    },
)
_KEY_OF_A_SECRET = _object(["key"], name={"type": "string"}, key={"type": "string"}, optional={"type": "boolean"})
_ENDPOINT = _object(
    [],
    port={"type": "string"},
    path={"type": "string"},
    interval=_DURATION,
    authorization=_object([], type={"type": "string"}, credentials=_KEY_OF_A_SECRET),
)


def _monitor(endpoints: str) -> Json:
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"type": "string"},
        metadata={"type": "object"},
        spec=_object(["selector", endpoints], selector=_SELECTOR, **{endpoints: {"type": "array", "items": _ENDPOINT}}),
    )


#: Of the definitions of Prometheus' operator, the part that we use, by hand: no package has them.
_CUSTOM = {"ServiceMonitor": _monitor("endpoints"), "PodMonitor": _monitor("podMetricsEndpoints")}


def check(manifest: Json) -> None:
    """Raises a `ValidationError` for what is not of the form, an unknown field among it."""
    schema = _CUSTOM.get(manifest["kind"])
    if schema is not None:
        jsonschema.validate(manifest, schema)
    else:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def pods_of(manifest: Json) -> Iterator[Json]:
    """The specs of the Pods that come of it."""
    if manifest["kind"] == "Pod":
        yield manifest["spec"]
    elif manifest["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        yield manifest["spec"]["template"]["spec"]


#: Kinds of volumes that a Pod may have under `restricted`.
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def breaches(pod: Json) -> list[str]:
    """What in the spec of a Pod the Pod Security Standard `restricted` forbids; empty if a namespace would take it.

    By its page in Kubernetes' documentation, `baseline` included.
    """
    found = [f"{name} is true" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    for volume in pod.get("volumes", []):
        found += [f"the volume {volume['name']} is a {kind}" for kind in volume.keys() - {"name"} - _VOLUMES]
    whole = pod.get("securityContext", {})
    if whole.get("sysctls"):
        found.append("sysctls are set")
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += [f"{container['name']}: {what}" for what in _breaches_of(container, whole)]
    return found


def _breaches_of(container: Json, whole: Json) -> list[str]:
    own = container.get("securityContext", {})
    both = whole | own
    capabilities = own.get("capabilities", {})
    rules = {
        "runAsNonRoot is not true": both.get("runAsNonRoot") is True,
        "runAsUser is 0": both.get("runAsUser") != 0,
        "seccompProfile is not RuntimeDefault": (both.get("seccompProfile") or {}).get("type")
        in ("RuntimeDefault", "Localhost"),
        "allowPrivilegeEscalation is not false": own.get("allowPrivilegeEscalation") is False,
        "privileged is true": not own.get("privileged"),
        "procMount is not Default": own.get("procMount", "Default") == "Default",
        "capabilities are not dropped": "ALL" in capabilities.get("drop", []),
        "capabilities are added": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
        "a port of the host is used": not any(port.get("hostPort") for port in container.get("ports", [])),
    }
    return [what for what, is_kept in rules.items() if not is_kept]


#: What of a StatefulSet's spec may be changed; all else is refused. (`ValidateStatefulSetUpdate` of Kubernetes.)
_MUTABLE = {
    "replicas",
    "template",
    "updateStrategy",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
}


def unchangeable(manifest: Json) -> Any:
    """The part of it that the API server refuses to change; None where all may be."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "StatefulSet":
        return {name: value for name, value in spec.items() if name not in _MUTABLE}
    if manifest["kind"] == "Deployment":
        return spec["selector"]
    if manifest["kind"] == "Service":
        return spec.get("clusterIP")
    if manifest["kind"] == "RoleBinding":
        return manifest["roleRef"]
    return None
