"""G05: Flower listens on loopback alone and answers nobody without the password."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import Process, spawn
from tests.support.waiting import eventually
from workers.bootstrap import Services

FLOWER = [sys.executable, "-W", "ignore", "-c", "from cli.main import main; main()", "flower"]
PAGES = ["/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/api/queues/length"]
CONTROLS = ["/api/worker/shutdown/any", "/api/task/revoke/any", "/api/task/apply/reaper.sweep"]
PASSWORD = "open sesame"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def flower(services: Services, environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[Process, str]]:
    port = _free_port()
    extra = {"REPRIEVE_FLOWER_PASSWORD": PASSWORD, "FLOWER_PORT": str(port)}
    process = spawn("flower", FLOWER, {**environment, **extra}, tmp_path)
    try:
        eventually(lambda: _status(f"http://127.0.0.1:{port}/healthcheck") == 200, timeout=60, what="Flower")
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.stop()


def _status(url: str, user: str | None = None, method: str = "GET") -> int:
    request = urllib.request.Request(url, method=method, data=b"{}" if method == "POST" else None)
    if user is not None:
        request.add_header("Authorization", "Basic " + b64encode(user.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return 0


def test_g05_an_anonymous_request_is_refused_and_the_password_opens(flower: tuple[Process, str]) -> None:
    process, url = flower
    assert {page: _status(url + page) for page in PAGES} == dict.fromkeys(PAGES, 401)
    assert {page: _status(url + page, "reprieve:wrong") for page in PAGES} == dict.fromkeys(PAGES, 401)
    assert _status(f"{url}/workers", f"reprieve:{PASSWORD}") == 200
    assert {page: _status(url + page, method="POST") for page in CONTROLS} == dict.fromkeys(CONTROLS, 401)
    controlled = {page: _status(url + page, f"reprieve:{PASSWORD}", "POST") for page in CONTROLS}
    assert controlled == dict.fromkeys(CONTROLS, 403)
    listening = {c.laddr.ip for c in psutil.Process(process.pid).net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    assert PASSWORD not in " ".join(psutil.Process(process.pid).cmdline())


def test_g05_without_a_password_flower_does_not_start(environment: dict[str, str]) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")}
    done = subprocess.run(FLOWER, env={**inherited, **environment}, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"REPRIEVE_FLOWER_PASSWORD" in done.stderr
