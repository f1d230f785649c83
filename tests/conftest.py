"""Real PostgreSQL and real Redis for the whole session, emptied before each test that uses them."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import text

from reprieve.models import closing
from reprieve.models.rows import Row
from reprieve.stores.cache import connect
from reprieve.stores.database import Database
from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.embedded import postgres as embedded_postgres
from reprieve.stores.embedded.accounts import Account
from reprieve.stores.migrate import migrate
from reprieve.workers import bootstrap, lifecycle
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import load_settings
from tests.support.processes import READY, Process, beat, celery, spawn
from tests.support.shipping import end_shippers

#: The browser's tests need what only `make test-browser` installs.
collect_ignore = [] if all(map(find_spec, ("playwright", "axe_playwright_python", "pyte"))) else ["browser"]

TABLES = ", ".join(Row.metadata.tables)
END_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


#: What takes longest comes first, so that no process is left alone with it at the end: modules, then folders.
LONGEST_FIRST = (
    *("integration/test_embedded_servers", "e2e/test_the_command_line", "faults/test_a24", "unit/test_simulation"),
    *("e2e", "docs", "faults", "integration", "servers", "systemd", "containers"),
    *("chart", "browser", "api", "contract", "unit"),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order modules and folders, and leave what is in each in the random order in which it comes."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return next(number for number, start in enumerate(LONGEST_FIRST) if path.startswith(start))

    items.sort(key=place)


def pytest_itemcollected(item: pytest.Item) -> None:
    """`-k A06` chooses the tests that are marked with that row."""
    item.extra_keyword_matches.update(row for mark in item.iter_markers("row") for row in mark.args)


@dataclass(frozen=True)
class Servers:
    postgres: EmbeddedPostgres
    redis: EmbeddedRedis

    @property
    def environment(self) -> dict[str, str]:
        return {"REPRIEVE_DATABASE_URL": self.postgres.url, "REPRIEVE_REDIS_URL": self.redis.url}


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> None:
    """What the developer's shell and `.env` say is not this test's business."""
    for name in [name for name in os.environ if name.startswith("REPRIEVE_")]:
        del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _one_initdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`initdb` runs once: each server that this process makes later begins with a copy of what came of that."""
    made: dict[int, Path] = {}
    initdb = embedded_postgres._run_initdb

    def copy_or_run(programs: Path, data: Path, account: Account) -> None:
        if account.uid not in made:
            initdb(programs, data, account)
            made[account.uid] = tmp_path_factory.mktemp("initdb")
            subprocess.run(["cp", "-a", f"{data}/.", made[account.uid]], check=True)
        else:
            subprocess.run(["cp", "-a", f"{made[account.uid]}/.", data], check=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded_postgres, "_run_initdb", copy_or_run)
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, _clean_environment: None, _one_initdb: None) -> Iterator[Servers]:
    """Migrated PostgreSQL, and Redis; the app of this process is set up for them."""
    folder = tmp_path_factory.mktemp("servers")
    with ExitStack() as ending:
        postgres = EmbeddedPostgres(folder / "postgres")
        ending.callback(postgres.remove)
        redis = ending.enter_context(EmbeddedRedis(folder / "redis"))
        postgres.start()
        database = Database(postgres.url)
        migrate(database)
        database.dispose()
        running = Servers(postgres, redis)
        patch = ending.enter_context(pytest.MonkeyPatch.context())
        for name, value in running.environment.items():
            patch.setenv(name, value)
        ending.callback(app.pool.force_close_all)
        yield running


@pytest.fixture
def services(servers: Servers, tmp_path: Path) -> Iterator[Services]:
    """Services at the real timings over empty tables and an empty Redis; `enqueue_run` uses them too."""
    with fresh_services(servers, tmp_path) as wired:
        yield wired


@contextmanager
def fresh_services(servers: Servers, folder: Path) -> Iterator[Services]:
    """The same for as long as the block lasts, for tests that share them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRIEVE_DATA_DIR", str(folder / "data"))
        patch.setenv("REPRIEVE_NODE_NAME", "test-host")
        yield from _wired(servers)


def _wired(servers: Servers) -> Iterator[Services]:
    wired = bootstrap.build(load_settings())
    with wired.database.begin() as connection:
        # What a killed process of the test before had begun may go on for a moment, and must not meet this.
        connection.execute(text(END_OTHERS))
        connection.execute(text(f"TRUNCATE {TABLES}"))
    with connect(servers.redis.url) as redis:
        redis.flushall()
    bootstrap.use(wired)
    wired.identity.held()
    yield wired
    # A task that a test ran in this process has started a crew, which would adopt and bury for the tests that follow.
    lifecycle.end()
    end_shippers()
    bootstrap.use(None)


@pytest.fixture
def every_log_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, every log that is closed becomes an object of the archive, as a log of megabytes does."""
    monkeypatch.setattr(closing, "SMALL_BYTES", -1)


@pytest.fixture
def redis(services: Services, servers: Servers) -> Iterator[Redis]:
    """A connection of the test's own."""
    with connect(servers.redis.url) as client:
        yield client


@pytest.fixture
def environment(services: Services) -> dict[str, str]:
    """What a worker of this test gets: the servers, this test's folder, and timings divided by 30 (window 10 s)."""
    return {
        "REPRIEVE_DATA_DIR": str(services.settings.data_dir),
        "REPRIEVE_NODE_NAME": services.settings.node_name,
        "REPRIEVE_TIME_SCALE": "30",
    }


StartWorker = Callable[..., Process]


@pytest.fixture
def start_worker(environment: dict[str, str], tmp_path: Path) -> Iterator[StartWorker]:
    """Starts real workers, ready when it returns, and ends them all after the test."""
    started: list[Process] = []

    def start(
        queues: str = "runs,logs,control",
        *,
        name: str = "worker",
        concurrency: int = 20,
        application: str = "reprieve.workers.app",
        extra: Mapping[str, str] = {},
        wait: bool = True,
        forked: bool = True,
        level: str = "INFO",
    ) -> Process:
        options = ("-Q", queues, "-P", "threads", "-c", str(concurrency), "-n", f"{name}@test", "-l", level)
        command = celery("worker", "--without-gossip", "--without-mingle", *options, application=application)
        process = spawn(f"{name}-{len(started)}", command, {**environment, **extra}, tmp_path, forked=forked)
        started.append(process)
        if wait:
            process.wait_for(READY)
        return process

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def start_beat(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Starts real beats and ends them after the test."""
    started: list[Process] = []

    def start() -> Process:
        command = beat()
        process = spawn(f"beat-{len(started)}", command, environment, tmp_path)
        started.append(process)
        process.wait_for("beat: Starting")
        return process

    yield start
    for process in started:
        process.stop()
