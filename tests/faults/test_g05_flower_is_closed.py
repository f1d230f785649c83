"""G05: Flower listens on loopback alone and answers nobody without the password."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reprieve.workers.bootstrap import Services
from tests.support.flower import COMMAND, PASSWORD, Flower, running_flower
from tests.support.processes import run_command

pytestmark = pytest.mark.row("G05")

PAGES = ["/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/api/queues/length"]
CONTROLS = ["/api/worker/shutdown/any", "/api/task/revoke/any", "/api/task/apply/reaper.sweep"]


@pytest.fixture
def flower(services: Services, environment: dict[str, str], tmp_path: Path) -> Iterator[Flower]:
    with running_flower(environment, tmp_path, forked=False) as started:
        yield started


def test_an_anonymous_request_is_refused_and_the_password_opens(flower: Flower) -> None:
    pid = flower.process.pid
    assert {page: flower.status(page) for page in PAGES} == dict.fromkeys(PAGES, 401)
    assert {page: flower.status(page, "reprieve:wrong") for page in PAGES} == dict.fromkeys(PAGES, 401)
    assert flower.status("/workers", f"reprieve:{PASSWORD}") == 200
    assert {page: flower.status(page, method="POST") for page in CONTROLS} == dict.fromkeys(CONTROLS, 401)
    controlled = {page: flower.status(page, f"reprieve:{PASSWORD}", "POST") for page in CONTROLS}
    assert controlled == dict.fromkeys(CONTROLS, 403)
    listening = {c.laddr.ip for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    assert PASSWORD not in " ".join(psutil.Process(pid).cmdline())


def test_without_a_password_flower_does_not_start(environment: dict[str, str]) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")}
    done = run_command(COMMAND, env={**inherited, **environment})
    assert done.returncode == 2
    assert b"REPRIEVE_FLOWER_PASSWORD" in done.stderr
