"""The adapters that are installed, found by their entry points."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapters.protocol import Adapter, Attaching
from models.errors import InvalidRequest, UnknownAdapter

ENTRY_POINT_GROUP = "reprieve.adapters"


@cache
def adapter_classes() -> Mapping[str, type[Adapter]]:
    """Every installed adapter class by its type. A broken plug-in fails here, by name."""
    classes: dict[str, type[Adapter]] = {}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        adapter_class = entry_point.load()
        for member in ("type", "has_out_of_process_liveness", "config_model", "execute", "terminate"):
            if not hasattr(adapter_class, member):
                raise UnknownAdapter(f"The adapter {entry_point.value!r} declares no {member!r}.")
        classes[adapter_class.type] = adapter_class
    return classes


def find_adapter(adapter_type: str) -> type[Adapter]:
    """The class of an adapter; raises `UnknownAdapter` with those that are installed."""
    classes = adapter_classes()
    if adapter_type not in classes:
        installed = ", ".join(sorted(classes)) or "none"
        raise UnknownAdapter(f"There is no adapter {adapter_type!r} here; installed: {installed}.")
    return classes[adapter_type]


def validate_config(adapter_class: type[Adapter], config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in its stored form; raises `InvalidRequest` naming each field that is wrong and what would do."""
    if not isinstance(config, Mapping):
        raise InvalidRequest(f"config is of type {type(config).__name__}; give a mapping of fields to values.")
    try:
        model = adapter_class.config_model.model_validate(dict(config))
    except ValidationError as error:
        problems = "; ".join(_problem(details, adapter_class) for details in error.errors())
        raise InvalidRequest(f"Adapter {adapter_class.type!r}: {problems}.") from None
    stored: dict[str, Any] = model.model_dump(mode="json", exclude_unset=True)
    return stored


def _problem(details: Any, adapter_class: type[Adapter]) -> str:
    field = ".".join(["config", *(str(part) for part in details["loc"])])
    if details["type"] == "extra_forbidden":
        known = ", ".join(adapter_class.config_model.model_fields)
        return f"{field} is not a field; known are {known}"
    told = details["msg"].removeprefix("Value error, ")
    return f"{field}: {told[:1].lower()}{told[1:]}"


def attaching() -> list[str]:
    """The adapters whose work another worker can follow."""
    return [name for name, adapter_class in adapter_classes().items() if issubclass(adapter_class, Attaching)]


class Adapters:
    """The adapters of one process, each built when it is first needed."""

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self._host = host
        self._built: dict[str, Adapter] = {}

    def get(self, adapter_type: str) -> Adapter:
        """Raises `UnknownAdapter`."""
        if adapter_type not in self._built:
            adapter_class = find_adapter(adapter_type)
            self._built[adapter_type] = adapter_class(self._folder / adapter_type, self._host)
        return self._built[adapter_type]
