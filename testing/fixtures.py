"""The fixtures, as a plugin of pytest: `pytest_plugins = ["reprieve.testing.fixtures"]`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reprieve.testing.fleet import Fleet


@pytest.fixture(scope="session")
def _reprieve_servers(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Fleet]":
    """PostgreSQL and Redis for the whole session, and a worker once a test wants one."""
    from reprieve.testing.fleet import Fleet

    with Fleet(tmp_path_factory.mktemp("reprieve")) as fleet:
        yield fleet


@pytest.fixture
def reprieve_fleet(_reprieve_servers: "Fleet", monkeypatch: pytest.MonkeyPatch) -> "Iterator[Fleet]":
    """A fleet without a run. What asks for runs in this test, in this process or in one it starts, asks here."""
    with _reprieve_servers.in_use(monkeypatch):
        yield _reprieve_servers
