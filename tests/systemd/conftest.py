"""One machine for all tests of the units, installed as docs/systemd.md says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.environments import build_wheel
from tests.systemd.host import SERVERS, Host
from tests.systemd.machine import machine
from tests.systemd.page import commands

#: Before the machine is on, since it has no network: what the page says of the first release, and of the next.
NEXT_RELEASE = "\n".join(commands("Upgrade").splitlines()[:2])
INSTALL = [commands("Install"), commands("Settings and secrets"), SERVERS, NEXT_RELEASE]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def _host(suite: str, wheel: Path, folder: Path) -> Iterator[Host]:
    with machine(suite, wheel, INSTALL, folder) as made:
        host = Host(made)
        host.begin()
        yield host


@pytest.fixture(scope="session")
def host(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Debian 13 on which all roles run."""
    yield from _host("trixie", wheel, tmp_path_factory.mktemp("trixie"))


@pytest.fixture(scope="module")
def older_host(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A Debian 12, whose systemd knows no DelegateSubgroup."""
    yield from _host("bookworm", wheel, tmp_path_factory.mktemp("bookworm"))
