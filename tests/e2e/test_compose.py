"""docker-compose.yml without a Docker engine: its commands are those of `reprieve up`, and each starts as written."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.roles import ROLES
from stores.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.support.processes import spawn
from tests.support.waiting import eventually
from workers.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if service.get("image") == "reprieve"}

#: What each role says when it is at work.
AT_WORK = {
    "migrate": "The database is at revision",
    "worker-runs": " ready.",
    "worker-logs": " ready.",
    "worker-archive": " ready.",
    "worker-control": " ready.",
    "beat": "beat: Starting",
    "flower": "Visit me at http://127.0.0.1:",
    "api": "Uvicorn running on http://127.0.0.1:",
}


def test_every_role_is_a_service_with_the_same_command() -> None:
    assert {name: tuple(service["command"]) for name, service in OURS.items() if name != "migrate"} == ROLES


def test_every_service_waits_for_the_migration() -> None:
    waiting = {name for name, service in OURS.items() if "migrate" in service["depends_on"]}
    assert waiting == set(ROLES)


def test_every_variable_is_a_setting_and_no_password_has_a_default() -> None:
    known = {f"REPRIEVE_{name.upper()}" for name in Settings.model_fields}
    for service in OURS.values():
        assert {name for name in service["environment"] if name.startswith("REPRIEVE_")} <= known
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"\$\{(\w*(?:PASSWORD|TOKENS))(?!:\?)", text) == []


def test_what_is_published_is_published_on_loopback() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_command_starts_as_written(name: str, servers: Any, tmp_path: Path) -> None:
    postgres: EmbeddedPostgres = servers.postgres
    redis: EmbeddedRedis = servers.redis
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "ignore",
        "REPRIEVE_DATABASE_URL": postgres.url,
        "REPRIEVE_REDIS_URL": redis.url,
        "REPRIEVE_DATA_DIR": str(tmp_path),
        "REPRIEVE_FLOWER_PASSWORD": "for-this-test",
        "FLOWER_PORT": "0",
        "REPRIEVE_API_ADDRESS": "127.0.0.1:0",
    }
    process = spawn(name, COMPOSE["services"][name]["command"], environment, tmp_path)
    try:
        eventually(lambda: AT_WORK[name] in process.output, timeout=60, what=lambda: f"{name}:\n{process.output}")
        if name == "migrate":
            assert process.popen.wait(20) == 0
    finally:
        process.stop()
