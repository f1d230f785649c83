"""What the config of a run that is a Kubernetes Job may say. Needs no Kubernetes client: it is checked anywhere."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapters.command import Name, Plain

#: A name as Kubernetes wants it of namespaces: the label of RFC 1123.
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
#: A name as Kubernetes wants it of most objects: the subdomain of RFC 1123.
DnsName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]

#: Seconds that a finished Job is kept: long enough for a worker that was away to read how it ended.
DEFAULT_TTL_SECONDS = 24 * 60 * 60


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SecretKey(_Strict):
    """One value in a Secret of the cluster. It goes from there to the container; Reprieve never sees it."""

    name: DnsName = Field(description="The Secret, in the namespace of the Job.")
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")] = Field(description="The key in it.")


class Resources(_Strict):
    """What the container asks for and may use at most, in the quantities of Kubernetes (`500m`, `2Gi`)."""

    requests: dict[str, Plain] = Field(default_factory=dict, description="What a node must have free.")
    limits: dict[str, Plain] = Field(default_factory=dict, description="What the container may use at most.")


class KubernetesConfig(_Strict):
    """The config of a run that is a Job of a Kubernetes cluster."""

    image: Annotated[Plain, Field(min_length=1)] = Field(description="The image to run.")
    command: list[Plain] | None = Field(default=None, description="Replaces the image's entry point.")
    args: list[Plain] | None = Field(default=None, description="Replaces the image's arguments.")
    env: dict[Name, Plain] = Field(default_factory=dict, description="Variables of the container.")
    secret_env: dict[Name, SecretKey] = Field(
        default_factory=dict,
        description="Variables of the container whose values are in Secrets of the cluster, as {name, key}. "
        "Reprieve never has the values, so it cannot mask them in the output.",
    )
    resources: Resources = Field(default_factory=Resources, description="Requests and limits of the container.")
    namespace: DnsLabel = Field(default="default", description="The namespace to run in.")
    service_account: DnsName | None = Field(default=None, description="The service account of the Pod.")
    volumes: list[dict[str, Any]] = Field(
        default_factory=list, description="The Pod's volumes, as Kubernetes has them."
    )
    volume_mounts: list[dict[str, Any]] = Field(
        default_factory=list, description="Where the container has them, as Kubernetes writes it."
    )
    image_pull_secrets: list[DnsName] = Field(default_factory=list, description="Secrets to pull the image with.")
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] = Field(
        default=DEFAULT_TTL_SECONDS,
        description="Seconds that the finished Job is kept. A worker that comes later finds neither log nor result.",
    )
    patch: dict[str, Any] = Field(
        default_factory=dict,
        description="Merged over the Job's manifest: objects key by key, lists of named objects by name, any other "
        "value as a whole; null takes a key out. The name, the namespace, Reprieve's labels, and that the Job has one "
        "Pod and one try, stay.",
    )

    @model_validator(mode="after")
    def _each_variable_once(self) -> Self:
        if both := sorted(self.env.keys() & self.secret_env.keys()):
            raise ValueError(f"env and secret_env both name {', '.join(both)}; give each variable in one of them")
        return self

    @model_validator(mode="after")
    def _patch_is_of_the_manifests_shape(self) -> Self:
        level: Any = self.patch
        for part in ("spec", "template", "spec"):
            _mapping_or_absent(self.patch.get("metadata", {}), "patch.metadata")
            level = _mapping_or_absent(level.get(part, {}), f"patch…{part}")
            _mapping_or_absent(level.get("metadata", {}), f"patch…{part}.metadata")
        containers = level.get("containers", [])
        if not isinstance(containers, list) or not all(isinstance(one, dict) and "name" in one for one in containers):
            raise ValueError("patch…containers must be a list of objects with names; the main container is named 'run'")
        return self


def _mapping_or_absent(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, since Reprieve has fields of its own in it")  # noqa: TRY004
    return value
