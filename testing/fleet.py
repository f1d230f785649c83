"""A fleet for tests: PostgreSQL, Redis and a worker on this machine, in a folder of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self
from uuid import UUID

import pytest

from reprieve.models.chunks import Chunk
from reprieve.models.records import Run
from reprieve.stores.database import Database
from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.migrate import migrate
from reprieve.testing.waiting import eventually
from reprieve.workers import bootstrap, environment
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_run
from reprieve.workers.environment import PREFIX
from reprieve.workers.settings import Settings, load_settings

#: All timings are divided by this: what a worker looks for every 20 s, it looks for every second.
TIME_SCALE = 20
#: Runs that its worker has under way at once.
CONCURRENCY = 8
#: Seconds for what a test has left running to end, and for the worker to.
PATIENCE = 30

WORKER = (
    *(sys.executable, "-P", "-m", "reprieve.workers", "worker", "--queues=runs,logs,control,archive", "--pool=threads"),
    *(f"--concurrency={CONCURRENCY}", "--without-gossip", "--without-mingle", "--hostname=test@%h", "--loglevel=INFO"),
)


class Fleet:
    """A context manager that ends what it started.

    There is no beat, so nothing is reaped. What a pytest that is killed (`kill -9`) has started stays: PostgreSQL,
    Redis and the worker, in its temporary folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ending = ExitStack()
        self._worker: subprocess.Popen[bytes] | None = None
        self._services: Services | None = None
        self._urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            postgres = EmbeddedPostgres(self._folder / "postgres")
            ending.callback(postgres.remove)
            redis = ending.enter_context(EmbeddedRedis(self._folder / "redis"))
            postgres.start()
            database = Database(postgres.url)
            migrate(database)
            database.dispose()
            self._urls = {"database_url": postgres.url, "redis_url": redis.url}
            ending.callback(self._end_worker)
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings of this fleet as variables, for a process of yours. Any other setting is empty."""
        ours = {
            **self._urls,
            "data_dir": str(self._folder / "data"),
            "node_name": "test",
            "time_scale": str(TIME_SCALE),
            "drain_seconds": "1",
        }
        return {f"{PREFIX}{name.upper()}": ours.get(name, "") for name in Settings.model_fields}

    @property
    def services(self) -> Services:
        """What the fleet works with. None of it is a public interface."""
        assert self._services is not None, "the fleet is not in use"
        return self._services

    @contextmanager
    def in_use(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """While the block lasts, this process asks for its runs here. There is none at the beginning, none goes on at
        the end.
        """
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            patch.delenv(name)
        for name, value in self.environment.items():
            patch.setenv(name, value)
        patch.setattr(environment, "ENV_FILE", self._folder / "no.env")  # Yours names the servers that you work on.
        self._services = bootstrap.build(load_settings())
        bootstrap.use(self._services)
        try:
            with self.services.database.begin() as connection:
                connection.exec_driver_sql("TRUNCATE runs CASCADE")
            yield
            self._end_runs()
        finally:
            bootstrap.use(None)
            self._services = None

    def finish(self, run: Run | UUID | str, *, timeout: float = 60.0) -> Run:
        """Have a worker do the run, and return it as it has ended; fails the test after `timeout` seconds."""
        self._start_worker()
        run_id = self._id(run)

        def has_ended() -> bool:
            self._check_worker()
            return self.services.records.get(run_id).status.is_final

        eventually(has_ended, timeout=timeout, what=lambda: f"the end of {self.services.records.get(run_id)!r}")
        return self.services.records.get(run_id)

    def output(self, run: Run | UUID | str, stream: str | None = None) -> bytes:
        """All that a run has printed, or one of its streams, once it has ended."""
        items = self.services.log_of(self._id(run)).follow()
        return b"".join(item.data for item in items if isinstance(item, Chunk) and stream in (None, item.stream))

    def _id(self, run: Run | UUID | str) -> UUID:
        if isinstance(run, Run):
            return run.id
        return run if isinstance(run, UUID) else self.services.records.resolve(run)

    def _start_worker(self) -> None:
        if self._worker is None:
            with (self._folder / "worker.log").open("wb") as log:
                self._worker = subprocess.Popen(
                    WORKER,
                    cwd=self._folder,
                    env=os.environ | self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def _check_worker(self) -> None:
        if self._worker is not None and self._worker.poll() is not None:
            said = (self._folder / "worker.log").read_text(errors="replace")[-2000:]
            self._worker = None
            raise AssertionError(f"the worker has ended:\n{said}")

    def _end_runs(self) -> None:
        """Cancel what the test has left, and wait until nothing of it runs."""
        with self.services.database.begin() as connection:
            left = connection.exec_driver_sql("SELECT id FROM runs WHERE finished_at IS NULL").scalars().all()
        for run_id in left:
            cancel_run(run_id)
        if self._worker is not None and self._worker.poll() is None:
            eventually(lambda: not self._owed(), timeout=PATIENCE, what="the end of what the test has left running")

    def _owed(self) -> int:
        with self.services.database.begin() as connection:
            owed = connection.exec_driver_sql("SELECT count(*) FROM run_attempts WHERE termination = 'owed'")
            return int(owed.scalar_one())

    def _end_worker(self) -> None:
        if self._worker is None:
            return
        self._worker.terminate()
        try:
            self._worker.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.wait()
