"""What the config of a run that is a Kubernetes Job may say. Needs no Kubernetes client: it is checked anywhere."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reprieve.adapters.command_config import Name, Plain
from reprieve.adapters.kinds import ConfigModel
from reprieve.models.liveness import DOUBT_LIMIT

#: A name as Kubernetes wants it of namespaces: the label of RFC 1123.
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
#: A name as Kubernetes wants it of most objects: the subdomain of RFC 1123.
DnsName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]

#: Seconds that a finished Job is kept: long enough for a worker that was down to read how it ended.
DEFAULT_TTL_SECONDS = 24 * 60 * 60
#: The least of it: for as long as work that has ended is spared until somebody reads how (30 minutes). That is more
#: than the window and two sweeps (7 minutes), by which the last follower is known to be gone, and leaves time for an
#: outage or a rollout of ours. A Job that is deleted sooner can only be reported as lost, without its result and log.
MIN_TTL_SECONDS = int(DOUBT_LIMIT.total_seconds())


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
    ttl_seconds_after_finished: int = Field(
        default=DEFAULT_TTL_SECONDS,
        json_schema_extra={"minimum": MIN_TTL_SECONDS},
        description="Seconds that the finished Job is kept, 1800 at the least. A worker that comes later finds neither "
        "log nor result.",
    )
    patch: dict[str, Any] = Field(
        default_factory=dict,
        description="Merged over the Job's manifest: objects key by key, lists of named objects by name, any other "
        "value as a whole; null takes a key out. The name, the namespace, Reprieve's labels, and that the Job has one "
        "Pod and one try, stay.",
    )

    @field_validator("ttl_seconds_after_finished")
    @classmethod
    def _is_kept_until_it_is_read(cls, seconds: int) -> int:
        _check_long_enough(seconds, "ttl_seconds_after_finished")
        return seconds

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
        _check_long_enough(
            self.patch.get("spec", {}).get("ttlSecondsAfterFinished"), "patch.spec.ttlSecondsAfterFinished"
        )
        containers = level.get("containers", [])
        if not isinstance(containers, list) or not all(isinstance(one, dict) and "name" in one for one in containers):
            raise ValueError("patch…containers must be a list of objects with names; the main container is named 'run'")
        return self


class KubernetesKind:
    """Runs that are a Job each."""

    type: ClassVar[str] = "kubernetes"
    has_out_of_process_liveness: ClassVar[bool] = True
    memory_limit_in_config: ClassVar[str] = "config.resources.limits.memory"
    config_model: ClassVar[ConfigModel] = KubernetesConfig


def accepted(config: dict[str, Any]) -> KubernetesConfig:
    """The config of a run that was accepted, by this release or by one that took any time for a finished Job."""
    ttl = config.get("ttl_seconds_after_finished", DEFAULT_TTL_SECONDS)
    patch = config.get("patch", {})
    if (patch.get("spec") or {}).get("ttlSecondsAfterFinished", MIN_TTL_SECONDS) in range(MIN_TTL_SECONDS):
        patch = patch | {"spec": patch["spec"] | {"ttlSecondsAfterFinished": MIN_TTL_SECONDS}}
    kept = {"ttl_seconds_after_finished": max(ttl, MIN_TTL_SECONDS)}
    return KubernetesConfig.model_validate(config | kept | ({"patch": patch} if patch else {}))


def _check_long_enough(seconds: Any, field: str) -> None:
    """None, in a patch, has the Job kept for ever."""
    if isinstance(seconds, int) and seconds < MIN_TTL_SECONDS:
        raise ValueError(
            f"{field} must be at least {MIN_TTL_SECONDS} (30 minutes), since a finished Job that is deleted before a "
            f"worker has read it takes its result and its log with it; give {MIN_TTL_SECONDS} or more, or leave it out "
            "for a day"
        )


def _mapping_or_absent(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, since Reprieve has fields of its own in it")  # noqa: TRY004
    return value
