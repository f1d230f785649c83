"""`kill -9` for everything in turn, log workers, run workers, Redis and PostgreSQL, while fifty runs print lines.

Takes about three minutes: `make test-slow`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.exc import DBAPIError

from models.status import Status
from stores.embedded import EmbeddedPostgres, EmbeddedRedis
from stores.migrate import migrate
from tests.e2e import noting_worker
from tests.support.processes import READY, Process, celery, spawn
from tests.support.waiting import eventually
from workers import bootstrap, enqueue_run
from workers.app import app
from workers.bootstrap import Services
from workers.settings import load_settings

RUNS = 50
LINES = 500
PRINTER = f"""
import time
began = time.monotonic()
for number in range({LINES}):
    print(f"line {{number:06}} of a run that is printing", flush=True)
    time.sleep(max(0.0, began + (number + 1) / 10 - time.monotonic()))
"""
EXPECTED = b"".join(b"line %06d of a run that is printing\n" % number for number in range(LINES))
#: Timings divided by 10: a window of 30 s, so that a server may be away for some seconds.
TIME_SCALE = "10"


class Fleet:
    """Servers and workers of this test's own, each of which can be killed and started again."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self._folder = folder
        self._ending = ending
        self.postgres = EmbeddedPostgres(folder / "postgres")
        self.redis = EmbeddedRedis(folder / "redis")
        for server in (self.postgres, self.redis):
            ending.callback(server.remove)
            server.start()
        self.notes = folder / "notes"
        self.environment = {
            "REPRIEVE_DATABASE_URL": self.postgres.url,
            "REPRIEVE_REDIS_URL": self.redis.url,
            "REPRIEVE_DATA_DIR": str(folder / "data"),
            "REPRIEVE_NODE_NAME": "tour",
            "REPRIEVE_TIME_SCALE": TIME_SCALE,
            noting_worker.NOTES: str(self.notes),
        }
        self._started = 0

    def start(self, queue: str, concurrency: int = 4) -> Process:
        self._started += 1
        options = ("-Q", queue, "-P", "threads", "-c", str(concurrency), "-n", f"{queue}-{self._started}@tour")
        command = celery(
            "-A", noting_worker.__name__, "worker", "--without-gossip", "--without-mingle", *options, "-l", "INFO"
        )
        process = spawn(f"{queue}-{self._started}", command, self.environment, self._folder)
        self._ending.callback(process.stop)
        process.wait_for(READY)
        return process

    def restart(self, server: EmbeddedPostgres | EmbeddedRedis, away: float) -> None:
        server.kill()
        time.sleep(away)
        server.start()


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with ExitStack() as ending:
        made = Fleet(tmp_path, ending)
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        ending.callback(app.pool.force_close_all)
        yield made


@pytest.fixture
def services(fleet: Fleet) -> Iterator[Services]:
    wired = bootstrap.build(load_settings())
    migrate(wired.database)
    bootstrap.use(wired)
    yield wired
    bootstrap.use(None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_line_that_was_handed_over_is_there_once_and_in_order_whatever_is_killed(
    fleet: Fleet, services: Services
) -> None:
    control = fleet.start("control")
    logs, other_logs, runs = fleet.start("logs", 2), fleet.start("logs", 2), fleet.start("runs", RUNS + 10)
    beat = spawn("beat", celery("-A", "workers", "beat", "-S", "celery.beat:Scheduler", "--pidfile="), *_of(fleet))
    try:
        config = {"command": [sys.executable, "-I", "-S", "-c", PRINTER]}
        adapters = ["process", "detached"] * (RUNS // 2)
        started = [enqueue_run(adapter, config, max_attempts=4).id for adapter in adapters]
        printed_so_far = _printed(fleet)
        for _ in range(2):
            eventually(printed_so_far(50 * RUNS), timeout=120)
            logs.kill()
            logs = fleet.start("logs", 2)
            fleet.restart(fleet.redis, away=2)
            other_logs.kill()
            other_logs = fleet.start("logs", 2)
            fleet.restart(fleet.postgres, away=2)
            runs.kill()
            runs = fleet.start("runs", RUNS + 10)
        eventually(lambda: _all_ended(services, started), timeout=400, interval=2)
        handed_over = noting_worker.read_notes(fleet.notes)
        assert sum(handed_over.values()) > 100 * RUNS
        eventually(lambda: _missing(services, handed_over) == [], timeout=180, interval=2)
        for run_id, attempt in handed_over:
            chunks = services.logs.read(run_id, attempt, limit=100_000)
            assert [chunk.seq for chunk in chunks] == list(range(1, len(chunks) + 1))
            assert EXPECTED.startswith(b"".join(chunk.data for chunk in chunks if chunk.stream == "stdout"))
        print(f"\n{len(handed_over)} attempts, {sum(handed_over.values())} chunks handed over, none lost")
    finally:
        for process in (beat, control, logs, other_logs, runs):
            process.stop()


def _of(fleet: Fleet) -> tuple[dict[str, str], Path]:
    return fleet.environment, fleet.notes.parent


def _printed(fleet: Fleet) -> Callable[[int], Callable[[], bool]]:
    """Conditions on how many more chunks are handed over, from the time of asking on."""

    def so_many_more(chunks: int) -> Callable[[], bool]:
        before = sum(noting_worker.read_notes(fleet.notes).values()) if fleet.notes.exists() else 0

        def condition() -> bool:
            return fleet.notes.exists() and sum(noting_worker.read_notes(fleet.notes).values()) >= before + chunks

        return condition

    return so_many_more


def _all_ended(services: Services, runs: list[UUID]) -> bool:
    try:
        return all(Status(services.runs.get(run_id).status).is_final for run_id in runs)
    except DBAPIError:  # connections of before the server was killed
        return False


def _missing(services: Services, handed_over: dict[tuple[UUID, int], int]) -> list[tuple[UUID, int]]:
    stored = services.logs.stored(handed_over)
    return [key for key, seq in handed_over.items() if key not in stored or not stored[key].covers(1, seq)]
