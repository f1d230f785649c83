"""The kinds of runs: what has to be known of an adapter where a run is asked for, without the adapter itself.

A service that asks for a run needs neither what its adapter is made of nor the adapter's dependencies. Third parties
register such a class in the entry-point group `reprieve.kinds`; without one, the adapter must be installed there.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reprieve.adapters.command_config import CommandConfig
from reprieve.models.errors import InvalidRequest, UnknownAdapter
from reprieve.models.text import shown

ENTRY_POINT_GROUP = "reprieve.kinds"

#: A class member is called `type`, so the builtin is out of reach below it.
ConfigModel = type[BaseModel]


class Kind(Protocol):
    """What an adapter's class says of its runs."""

    type: ClassVar[str]
    """The name that runs are enqueued under."""

    has_out_of_process_liveness: ClassVar[bool]
    """True when the work outlives the worker, and its output or its platform's word is the proof of life."""

    config_model: ClassVar[ConfigModel]
    """What a run's config must look like; checked when it is enqueued."""


class RemoteConfig(BaseModel):
    """What can be said of work that Reprieve does not start: nothing that it needs to know."""

    model_config = ConfigDict(extra="forbid", strict=True)

    note: str | None = Field(default=None, max_length=1_000, description="For people: what does the work, and where.")


class ProcessKind:
    """Runs that are a command which lives and dies with its worker."""

    type: ClassVar[str] = "process"
    has_out_of_process_liveness: ClassVar[bool] = False
    keeps_max_memory: ClassVar[bool] = True
    config_model: ClassVar[ConfigModel] = CommandConfig


class DetachedKind:
    """Runs that are a command which goes on without its worker."""

    type: ClassVar[str] = "detached"
    has_out_of_process_liveness: ClassVar[bool] = True
    keeps_max_memory: ClassVar[bool] = True
    config_model: ClassVar[ConfigModel] = CommandConfig


class RemoteKind:
    """Runs whose work is started elsewhere, and reports by itself."""

    type: ClassVar[str] = "remote"
    starts_work: ClassVar[bool] = False
    has_out_of_process_liveness: ClassVar[bool] = True
    config_model: ClassVar[ConfigModel] = RemoteConfig


#: Those of this release: to look for them among all that is installed would be most of what a first run costs.
_OWN: Mapping[str, str] = {
    "process": "reprieve.adapters.kinds:ProcessKind",
    "detached": "reprieve.adapters.kinds:DetachedKind",
    "remote": "reprieve.adapters.kinds:RemoteKind",
    "kubernetes": "reprieve.adapters.kubernetes.config:KubernetesKind",
}


def find_kind(adapter_type: str) -> type[Kind]:
    """The kind of runs that an adapter does; raises `UnknownAdapter` with those that can be asked for here."""
    if not isinstance(adapter_type, str):
        raise InvalidRequest(f"adapter is of type {type(adapter_type).__name__}; give its name.")
    return _found(adapter_type)


@cache
def _found(adapter_type: str) -> type[Kind]:
    if adapter_type in _OWN:
        module, _, name = _OWN[adapter_type].partition(":")
        own: type[Kind] = getattr(import_module(module), name)
        return own
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=adapter_type):
        return _loaded(entry_point)
    from reprieve.adapters import registry  # An adapter itself, with all that it needs.

    if adapter_type in registry.names():
        return registry.find_adapter(adapter_type)
    known = sorted({*_OWN, *registry.names(), *(one.name for one in entry_points(group=ENTRY_POINT_GROUP))})
    raise UnknownAdapter(f"There is no adapter {shown(repr(adapter_type))} here; installed: {', '.join(known)}.")


def _loaded(entry_point: EntryPoint) -> type[Kind]:
    try:
        found: type[Kind] = entry_point.load()
        _ = found.type, found.has_out_of_process_liveness, found.config_model
    except Exception as error:
        raise UnknownAdapter(
            f"What {entry_point.value!r} says of the adapter {entry_point.name!r} cannot be used: "
            f"{type(error).__name__}: {shown(error)}."
        ) from error
    return found


def starts_work(kind: type[Kind]) -> bool:
    """Whether an attempt starts the work, so that another one could start it again; `remote` work starts elsewhere."""
    return getattr(kind, "starts_work", True)


def why_no_memory_limit(kind: type[Kind]) -> str | None:
    """Why runs of this kind take no `max_memory`; None where its adapter keeps one (`keeps_max_memory`)."""
    if getattr(kind, "keeps_max_memory", False):
        return None
    place = getattr(kind, "memory_limit_in_config", None)
    instead = f"give its {place} instead" if place else "ask without it"
    return f"the adapter {kind.type!r} does not limit the memory of its runs by it; {instead}."


def validate_config(kind: type[Kind], config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in its stored form; raises `InvalidRequest` naming each wrong field and what would work."""
    if not isinstance(config, Mapping):
        raise InvalidRequest(f"config is of type {type(config).__name__}; give a mapping of fields to values.")
    try:
        model = kind.config_model.model_validate(dict(config))
    except ValidationError as error:
        problems = "; ".join(_problem(details, kind) for details in error.errors())
        raise InvalidRequest(f"Adapter {kind.type!r}: {problems}.") from None
    try:
        stored: dict[str, Any] = model.model_dump(mode="json", exclude_unset=True)
    except ValueError as error:  # Where anything is taken: too deep, in a circle, of a type of the caller's own.
        raise InvalidRequest(f"Adapter {kind.type!r}: config cannot be kept as JSON: {shown(error)}.") from None
    return stored


def _problem(details: Any, kind: type[Kind]) -> str:
    field = ".".join(["config", *(str(part) for part in details["loc"])])
    if details["type"] == "extra_forbidden":
        known = ", ".join(kind.config_model.model_fields)
        return f"{field} is not a field; known are {known}"
    sentence = details["msg"].removeprefix("Value error, ")
    return f"{field}: {sentence[:1].lower()}{sentence[1:]}"
