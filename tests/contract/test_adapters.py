"""Our own adapters pass what every adapter has to pass."""

from pathlib import Path

import pytest

from reprieve.adapters import host
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.protocol import Adapter
from reprieve.testing.contract import AdapterContract, Config, Printing


class OfCommands(AdapterContract):
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host, "TERMINATE_GRACE", 0.3)

    @pytest.fixture
    def printing(self) -> Printing:
        return Printing({"command": ["sh", "-c", "echo to stderr >&2; printf 'to stdout'"]}, b"to stderr\nto stdout")

    @pytest.fixture
    def failing(self) -> Config:
        return {"command": ["sh", "-c", "exit 3"]}

    @pytest.fixture
    def lasting(self) -> Config:
        return {"command": ["sh", "-c", "echo up; exec sleep 600"]}


class TestProcess(OfCommands):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Adapter:
        return ProcessAdapter(tmp_path / "adapter", "here")


class TestDetached(OfCommands):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Adapter:
        return DetachedAdapter(tmp_path / "adapter", "here")
