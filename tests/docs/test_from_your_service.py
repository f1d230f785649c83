"""The code of docs/from_your_service.md, as it stands there, in the frameworks that it is for."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import RequestFactory
from fastapi.testclient import TestClient
from redis import Redis
from sqlalchemy import text

from reprieve.stores.database import Database
from reprieve.stores.migrate import migrate
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import load_settings
from reprieve.workers.sweep import sweep
from tests.conftest import Servers
from tests.support.callers import set_up_django
from tests.support.killing import killed_before_the_message
from tests.support.rows import age, status_of, watch_for
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "from_your_service.md").read_text()
DJANGO, FASTAPI = "Django", "FastAPI and SQLAlchemy"


def code(section: str) -> dict[str, Any]:
    """What the code of a section defines."""
    found = re.search(rf"^## {section}\n.*?^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert found is not None
    # A module's own: what it declares, SQLAlchemy looks up by that name.
    defined: dict[str, Any] = {"__name__": "from_your_service"}
    exec(compile(found[1], f"from_your_service.md, {section}", "exec"), defined)
    return defined


@pytest.fixture(scope="module")
def _migrated(servers: Servers) -> Iterator[None]:
    """Reprieve's tables in a schema of the service's database, as the page has it."""
    (schema,) = re.findall(r"REPRIEVE_DATABASE_SCHEMA=(\w+) reprieve migrate", PAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRIEVE_DATABASE_SCHEMA", schema)
        database = Database(load_settings().require_database_url())
        migrate(database)
        yield
        database.run(text(f"DROP SCHEMA {schema} CASCADE"))
        database.dispose()


@pytest.fixture(autouse=True)
def _service(_migrated: None, services: Services, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The service's own table, and where its frameworks find it."""
    create = text("CREATE TABLE public.reports (id int PRIMARY KEY)")
    services.database.run(create)
    monkeypatch.setenv("DATABASE_URL", servers.postgres.url.replace("+psycopg2", "+asyncpg"))
    set_up_django(servers.postgres.url)
    yield
    connection.close()
    services.database.run(text("DROP TABLE public.reports"))


def reports(services: Services) -> list[int]:
    return [row.id for row in services.database.run(text("SELECT id FROM public.reports ORDER BY id"))]


def runs(services: Services) -> set[str]:
    return {str(run.id) for run in services.records.newest(limit=10)}


def assert_the_sweep_announces_what_the_dead_could_not(services: Services, redis: Redis) -> None:
    (run,) = services.records.newest(limit=10)
    assert (len(reports(services)), redis.llen("runs")) == (1, 0)
    watch_for(services, 600)
    age(services, run.id, 61)
    sweep(services)
    assert redis.llen("runs") == 1


class Report:
    """What the page's Django does with a model, without an app of its own."""

    def __init__(self, pk: int, told: str = "") -> None:
        self.pk = pk
        self._told = told

    def save(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO reports VALUES (%s)", [self.pk])
        if self._told:
            raise ValueError(self._told)


def test_a_view_of_django_starts_a_run_once_and_says_what_is_wrong() -> None:
    view = code(DJANGO)["start_report"]
    first, again = (view(RequestFactory().post("/reports/7"), 7) for _ in range(2))
    told = json.loads(first.content)
    assert (first.status_code, told["status"]) == (202, "queued")
    assert json.loads(again.content) == told
    refused = view(RequestFactory().post("/reports/x"), "x" * 200)
    assert refused.status_code == 422
    assert "labels" in json.loads(refused.content)["detail"]


def test_in_django_a_report_and_its_run_are_both_there_or_neither_is(services: Services, redis: Redis) -> None:
    save_and_start = code(DJANGO)["save_and_start"]
    run = save_and_start(Report(1))
    assert (reports(services), runs(services), redis.llen("runs")) == ([1], {str(run.id)}, 1)
    with pytest.raises(ValueError, match="no room"):
        save_and_start(Report(2, "no room"))
    assert (reports(services), runs(services), redis.llen("runs")) == ([1], {str(run.id)}, 1)


def test_in_django_a_savepoint_is_rolled_back_alone(services: Services, redis: Redis) -> None:
    started = code(DJANGO)["save_and_start_all"]([Report(1), Report(2, "no room"), Report(3)])
    assert (reports(services), redis.llen("runs")) == ([1, 3], 2)
    assert runs(services) == {str(run.id) for run in started}


def test_a_django_that_is_killed_between_commit_and_message_has_its_run(
    services: Services, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_and_start = code(DJANGO)["save_and_start"]
    killed_before_the_message(lambda: save_and_start(Report(1)), monkeypatch)
    assert_the_sweep_announces_what_the_dead_could_not(services, redis)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(code(FASTAPI)["app"]) as client:
        yield client


def test_in_fastapi_a_report_and_its_run_are_both_there_or_neither_is(
    client: TestClient, services: Services, redis: Redis
) -> None:
    first, again = (client.post("/reports/7") for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 409)
    assert (reports(services), runs(services)) == ([7], {first.json()["run"]})
    eventually(lambda: redis.llen("runs") == 1)
    ended = client.delete(f"/reports/runs/{first.json()['run']}")
    assert ended.json() == {"status": "cancelled"}
    assert status_of(services, first.json()["run"]) == "cancelled"


def test_in_fastapi_a_savepoint_is_rolled_back_alone(client: TestClient, services: Services, redis: Redis) -> None:
    started = client.post("/reports", json={1: ["true"], 2: [], 3: ["true"]}).json()
    assert (reports(services), list(started)) == ([1, 3], ["1", "3"])
    assert runs(services) == set(started.values())
    eventually(lambda: redis.llen("runs") == 2)


def test_a_fastapi_that_is_killed_between_commit_and_message_has_its_run(
    services: Services, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_before_the_message(lambda: asyncio.run(code(FASTAPI)["start"](7)), monkeypatch)
    assert_the_sweep_announces_what_the_dead_could_not(services, redis)


PAGES_WITH_CODE = (
    "README.md",
    *("docs/from_your_service.md", "docs/clients.md", "docs/install.md", "docs/write_an_adapter.md"),
)


def test_the_code_of_the_docs_and_the_example_adapter_pass_a_strict_type_checker(tmp_path: Path) -> None:
    blocks = [
        block
        for page in PAGES_WITH_CODE
        for block in re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    ]
    assert len(blocks) == 10
    for number, block in enumerate(blocks):
        (tmp_path / f"block_{number}.py").write_text(block)
    # Django has no types of its own.
    options = ["--strict", "--ignore-missing-imports", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}"]
    files = [*sorted(tmp_path.glob("*.py")), ROOT / "docs" / "examples" / "adapter" / "reprieve_jobserver.py"]
    command = [sys.executable, "-m", "mypy", *options, *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert done.stdout == "Success: no issues found in 11 source files\n", done.stdout + done.stderr
