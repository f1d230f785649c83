"""Servers and log workers of the bench's own, on a temporary folder."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import text
from uuid_utils.compat import uuid7

from reprieve.cli.roles import ROLES
from reprieve.models.places import Room
from reprieve.models.requests import NewRun
from reprieve.models.rows import Row
from reprieve.models.work import Work
from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.migrate import migrate
from reprieve.stores.runs.insertion import insert
from reprieve.workers import bootstrap
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import load_settings

TABLES = ", ".join(Row.metadata.tables)


class Stack:
    """PostgreSQL, Redis, and services over them."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self.folder = folder
        self.postgres, self.redis = EmbeddedPostgres(folder / "postgres"), EmbeddedRedis(folder / "redis")
        for server in (self.postgres, self.redis):
            ending.callback(server.remove)
            server.start()
        os.environ["REPRIEVE_DATABASE_URL"] = self.postgres.url
        os.environ["REPRIEVE_REDIS_URL"] = self.redis.url
        os.environ["REPRIEVE_DATA_DIR"] = str(folder / "data")
        os.environ["REPRIEVE_NODE_NAME"] = "bench"
        self.services: Services = bootstrap.build(load_settings())
        migrate(self.services.database)
        bootstrap.use(self.services)

    @property
    def dsn(self) -> str:
        """For psycopg2 itself."""
        return self.postgres.url.replace("postgresql+psycopg2://", "postgresql://")

    def empty(self) -> None:
        with self.services.database.begin() as connection:
            connection.execute(text(f"TRUNCATE {TABLES}"))

    def statistics(self, query: str) -> dict[str, float]:
        """A row of PostgreSQL's statistics, complete: a session tells of its last statements when it ends."""
        database = self.services.database
        database.dispose()
        others = text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        while True:
            with database.begin() as connection:
                if connection.execute(others).scalar_one() == 1:
                    return {
                        name: float(value) for name, value in connection.execute(text(query)).one()._mapping.items()
                    }
            time.sleep(0.05)

    def runs(self, count: int) -> list[Work]:
        """So many running out-of-process runs, followed by nobody."""
        insert(self.services.database, [NewRun(uuid7(), "detached", True, {"command": ["true"]}) for _ in range(count)])
        return self.services.claims.claim([Room(("detached",), count)], "bench").works

    @contextmanager
    def log_workers(self, count: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
        """So many workers of the logs, as `reprieve up` starts them."""
        command = ROLES["worker-logs"]
        with ExitStack() as ending:
            started = [
                ending.enter_context(worker([*command, f"--hostname=logs{number}@bench"], self.folder))
                for number in range(count)
            ]
            wait_for_workers(count)
            yield started


def wait_for_workers(count: int) -> None:
    while len(app.control.ping(timeout=1.0)) < count:
        pass


@contextmanager
def worker(command: Sequence[str], folder: Path, log_name: str = "workers.log") -> Iterator["subprocess.Popen[bytes]"]:
    """A process of a fleet, which is asked to stop at the end of the block; its log is in the folder."""
    with (folder / log_name).open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="reprieve-bench-") as folder, ExitStack() as ending:
        yield Stack(Path(folder), ending)
        app.pool.force_close_all()
        bootstrap.use(None)
