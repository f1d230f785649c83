"""The kinds of runs: what is known of an adapter where a run is asked for, without the adapter."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from reprieve.adapters import kinds, registry
from reprieve.adapters.kinds import find_kind, validate_config
from reprieve.models.errors import InvalidRequest, UnknownAdapter


class Wanted(BaseModel):
    gpu: int


class TrainingKind:
    """What a third party says of its adapter."""

    type: ClassVar[str] = "training"
    has_out_of_process_liveness: ClassVar[bool] = True
    config_model: ClassVar[kinds.ConfigModel] = Wanted


class HalfAKind:
    type: ClassVar[str] = "half"


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Has a package say so of its adapters."""
    said: list[EntryPoint] = []

    def found(group: str, name: str | None = None) -> list[EntryPoint]:
        return [one for one in said if name in (None, one.name)]

    monkeypatch.setattr(kinds, "entry_points", found)
    kinds._found.cache_clear()
    yield lambda name, value: said.append(EntryPoint(name, value, kinds.ENTRY_POINT_GROUP))
    kinds._found.cache_clear()


def test_our_own_kinds_are_what_our_adapters_say_of_themselves() -> None:
    for name, adapter in registry.adapter_classes().items():
        kind = find_kind(name)
        assert issubclass(adapter, kind)
        assert kind.type == name


def test_a_config_is_checked_without_what_the_adapter_needs() -> None:
    code = (
        "import sys; from reprieve.adapters.kinds import find_kind, validate_config\n"
        "for name, config in (('process', {'command': ['a']}), ('kubernetes', {'image': 'a'}), ('remote', {})):\n"
        "    validate_config(find_kind(name), config)\n"
        "print(*({'psutil', 'kubernetes', 'tenacity', 'prometheus_client', 'msgpack', 'celery'} & {*sys.modules}))\n"
    )
    assert subprocess.check_output([sys.executable, "-P", "-c", code], text=True) == "\n"


def test_a_third_party_says_what_its_runs_are_where_its_adapter_is_not(register: Callable[[str, str], None]) -> None:
    register("training", f"{__name__}:TrainingKind")
    assert find_kind("training") is TrainingKind
    with pytest.raises(InvalidRequest, match=r"Adapter 'training': config\.gpu: "):
        validate_config(find_kind("training"), {"gpu": "many"})


@pytest.mark.parametrize(
    ("value", "why"),
    [("no.such.module:Kind", "ModuleNotFoundError"), (f"{__name__}:HalfAKind", "AttributeError")],
)
def test_a_kind_that_cannot_be_used_says_why(register: Callable[[str, str], None], value: str, why: str) -> None:
    register("half", value)
    with pytest.raises(UnknownAdapter, match=f"says of the adapter 'half' cannot be used: {why}: "):
        find_kind("half")


def test_an_unknown_adapter_is_refused_with_those_that_can_be_asked_for_and_none_is_loaded(
    register: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register("training", "no.such.module:Kind")
    monkeypatch.setattr(registry, "adapter_classes", lambda: pytest.fail("adapters are loaded"))
    with pytest.raises(UnknownAdapter, match=r"no adapter 'proces' here; installed: detached, .*, remote, training"):
        find_kind("proces")


@pytest.mark.parametrize("name", [None, 1, ["process"], b"process"])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"adapter is of type {type(name).__name__}; give its name"):
        find_kind(name)
