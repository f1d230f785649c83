"""Finding adapters, and what is said of a config that cannot work."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reprieve.adapters import registry
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.kinds import validate_config
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.registry import Adapters, adapter_classes, find_adapter
from reprieve.adapters.remote import RemoteAdapter
from reprieve.models.errors import InvalidRequest, UnknownAdapter


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts other adapters in place of those that are installed."""

    def put(*classes: Any) -> None:
        points = [
            SimpleNamespace(name=one.__name__, value=f"plugin:{one.__name__}", load=lambda one=one: one)
            for one in classes
        ]
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        adapter_classes.cache_clear()

    yield put
    adapter_classes.cache_clear()


class Complete:
    type, has_out_of_process_liveness, config_model = "complete", False, object
    execute = terminate = None


def test_the_built_in_adapters_are_found_by_their_types() -> None:
    assert find_adapter("process") is ProcessAdapter
    assert find_adapter("detached") is DetachedAdapter
    assert find_adapter("remote") is RemoteAdapter


def test_a_third_partys_adapter_is_found_by_its_type(install: Callable[..., None]) -> None:
    install(Complete)
    assert find_adapter("complete") is Complete


def test_an_unknown_adapter_is_refused_with_those_that_are_installed() -> None:
    installed = ", ".join(sorted(adapter_classes()))
    with pytest.raises(UnknownAdapter, match=f"no adapter 'kubernets' here; installed: {installed}"):
        find_adapter("kubernets")


def test_where_no_adapter_is_installed_the_refusal_says_so(install: Callable[..., None]) -> None:
    install()
    with pytest.raises(UnknownAdapter, match="installed: none"):
        find_adapter("process")


@pytest.mark.parametrize("member", ["has_out_of_process_liveness", "config_model", "execute", "terminate"])
def test_an_adapter_that_lacks_a_member_is_told_by_name_and_member_and_left_out(
    install: Callable[..., None], caplog: pytest.LogCaptureFixture, member: str
) -> None:
    members = {name: value for name, value in vars(Complete).items() if name != member and not name.startswith("__")}
    install(type("Partial", (), members | {"type": "partial"}), Complete)
    assert list(adapter_classes()) == ["complete"]
    assert f"'plugin:Partial' declares no '{member}'" in caplog.text


def test_a_plugin_that_cannot_be_imported_is_told_and_ends_no_other_adapters_runs(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(Complete)
    points = registry.entry_points(group=registry.ENTRY_POINT_GROUP)
    broken = EntryPoint("broken", "no_such_plugin:Adapter", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken, *points])
    assert find_adapter("complete") is Complete
    assert "'no_such_plugin:Adapter' cannot be loaded (ModuleNotFoundError)" in caplog.text
    with pytest.raises(UnknownAdapter, match=r"no adapter 'broken' here; installed: complete; it is installed, but"):
        find_adapter("broken")


@pytest.mark.parametrize(
    "config",
    [{"command": ["true"]}, {"command": ["a", "b"], "env": {"A": "1"}, "cwd": "/", "stdin": "Grüße"}],
)
def test_a_good_config_is_stored_as_it_was_given_without_defaults(config: dict[str, Any]) -> None:
    assert validate_config(ProcessAdapter, config) == config


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "config.command: field required"),
        ({"command": []}, "config.command: list should have at least 1 item"),
        ({"command": "ls -l"}, "config.command: input should be a valid list"),
        ({"command": ["ls", 1]}, "config.command.1: input should be a valid string"),
        ({"command": ["a\0b"]}, "config.command.0: must not hold a NUL"),
        ({"command": ["a"], "env": {"A": 1}}, "config.env.A: input should be a valid string"),
        ({"command": ["a"], "env": {"A": "\0"}}, "config.env.A: must not hold a NUL"),
        ({"command": ["a"], "cwd": 1}, "config.cwd: input should be a valid string"),
        ({"command": ["a"], "stdin": "\0"}, "config.stdin: must not hold a NUL"),
        ({"command": ["a"], "comand": 1}, "config.comand is not a field; known are command, env, cwd, stdin"),
    ],
)
def test_a_bad_config_is_refused_with_its_field_and_what_would_do(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validate_config(ProcessAdapter, config)
    assert str(refused.value).startswith("Adapter 'process': ")
    assert sentence in str(refused.value)


def test_every_mistake_of_a_config_is_told_at_once() -> None:
    with pytest.raises(InvalidRequest, match=r"config\.command.*; config\.cwd"):
        validate_config(DetachedAdapter, {"cwd": 1})


@pytest.mark.parametrize("name", ["", "A=B"])
def test_an_environment_name_that_no_process_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.env"):
        validate_config(ProcessAdapter, {"command": ["a"], "env": {name: "1"}})


def test_a_refusal_does_not_quote_the_value() -> None:
    with pytest.raises(InvalidRequest) as refused:
        validate_config(ProcessAdapter, {"command": "hunter2", "env": {"A": ["hunter2"]}, "stdin": "hunter2\0"})
    assert "hunter2" not in str(refused.value)


def test_each_adapter_is_built_once_in_a_folder_of_its_own(install: Callable[..., None], tmp_path: Path) -> None:
    built = []
    install(type("Noted", (Complete,), {"__init__": lambda self, folder, host: built.append((folder, host))}))
    adapters = Adapters(tmp_path, lambda: "a-host")
    assert adapters.get("complete") is adapters.get("complete")
    assert built == [(tmp_path / "complete", "a-host")]


def test_an_unknown_adapter_is_refused_by_a_worker_too(tmp_path: Path) -> None:
    with pytest.raises(UnknownAdapter, match="'nothing'"):
        Adapters(tmp_path, lambda: "a-host").get("nothing")


def test_threads_that_want_an_adapter_at_once_build_it_once_and_say_once_that_it_is_broken(
    install: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(4)
    built = list[str]()

    class Slow(Complete):
        type = "slow"

        def __init__(self, folder: Path, host: str) -> None:
            built.append(host)
            time.sleep(0.05)

    class Broken(Slow):
        type = "broken"

        def __init__(self, folder: Path, host: str) -> None:
            time.sleep(0.05)
            raise RuntimeError("no licence")

    install(Slow, Broken)
    adapters = Adapters(tmp_path, lambda: "here")

    def use(_: int) -> list[str]:
        together.wait()
        return adapters.usable()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(use, range(4))) == [["slow"]] * 4
    assert built == ["here"]
    assert len([one for one in caplog.messages if "cannot be used here" in one]) == 1


@pytest.mark.row("A05")
def test_an_adapter_whose_building_hangs_keeps_no_other_from_its_work(
    install: Callable[..., None], tmp_path: Path
) -> None:
    is_building, goes_on = threading.Event(), threading.Event()

    class Hanging(Complete):
        type = "hanging"

        def __init__(self, folder: Path, host: str) -> None:
            is_building.set()
            goes_on.wait(60)

    class Other(Complete):
        type = "other"

        def __init__(self, folder: Path, host: str) -> None: ...

    install(Hanging, Other)
    adapters = Adapters(tmp_path, lambda: "here")
    with ThreadPoolExecutor(2) as threads:
        hangs = threads.submit(adapters.get, "hanging")
        try:
            assert is_building.wait(10)
            assert isinstance(threads.submit(adapters.get, "other").result(10), Other)
        finally:
            goes_on.set()
        assert isinstance(hangs.result(10), Hanging)
