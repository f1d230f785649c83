"""`kill -9` for everything in turn, log workers, run workers, Redis and PostgreSQL, while fifty runs print lines.

Takes about three minutes: `make test-slow`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.exc import DBAPIError

from reprieve import enqueue_run
from reprieve.models.status import Status
from reprieve.stores.migrate import migrate
from reprieve.workers import bootstrap
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import load_settings
from tests.e2e import noting_worker
from tests.support.fleet import Fleet
from tests.support.waiting import eventually

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
TIME_SCALE = 10


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with ExitStack() as ending:
        notes = {noting_worker.NOTES: str(tmp_path / "notes")}
        made = Fleet(tmp_path, ending, time_scale=TIME_SCALE, application=noting_worker.__name__, extra=notes)
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
    beat = fleet.start_beat()
    try:
        config = {"command": [sys.executable, "-I", "-S", "-c", PRINTER]}
        adapters = ["process", "detached"] * (RUNS // 2)
        started = [enqueue_run(adapter, config, max_attempts=4).id for adapter in adapters]
        elsewhere = set(started[1::2])
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
        handed_over = noting_worker.read_notes(_notes(fleet))
        assert sum(handed_over.values()) > 100 * RUNS
        eventually(lambda: _missing(services, handed_over, elsewhere) == [], timeout=180, interval=2)
        for run_id, attempt in handed_over:
            chunks = services.logs.read(run_id, attempt, limit=100_000)
            assert [chunk.seq for chunk in chunks] == list(range(1, len(chunks) + 1))
            printed = b"".join(chunk.data for chunk in chunks if chunk.stream == "stdout")
            assert printed == EXPECTED if run_id in elsewhere else EXPECTED.startswith(printed)
        assert {services.runs.get(run_id).status for run_id in elsewhere} == {"succeeded"}
        print(f"\n{len(handed_over)} attempts, {sum(handed_over.values())} chunks handed over, none lost")
    finally:
        for process in (beat, control, logs, other_logs, runs):
            process.stop()


def _notes(fleet: Fleet) -> Path:
    return Path(fleet.environment[noting_worker.NOTES])


def _printed(fleet: Fleet) -> Callable[[int], Callable[[], bool]]:
    """Conditions on how many more chunks are handed over, from the time of asking on."""

    def so_many_more(chunks: int) -> Callable[[], bool]:
        before = sum(noting_worker.read_notes(_notes(fleet)).values()) if _notes(fleet).exists() else 0

        def condition() -> bool:
            return _notes(fleet).exists() and sum(noting_worker.read_notes(_notes(fleet)).values()) >= before + chunks

        return condition

    return so_many_more


def _all_ended(services: Services, runs: list[UUID]) -> bool:
    try:
        return all(Status(services.runs.get(run_id).status).is_final for run_id in runs)
    except DBAPIError:  # connections of before the server was killed
        return False


def _missing(
    services: Services, handed_over: dict[tuple[UUID, int], int], elsewhere: set[UUID]
) -> list[tuple[UUID, int]]:
    """The attempts of which a chunk is not stored yet. What was read again elsewhere was cut anew: its end names it."""
    missing = []
    for run_id, attempt in handed_over:
        log = services.closings.state(run_id, attempt)
        last = log.log.last_seq if run_id in elsewhere else handed_over[run_id, attempt]
        if last is None or not log.stored.covers(1, last):
            missing.append((run_id, attempt))
    return missing


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_detached_runs_outlive_every_worker_and_their_logs_are_whole(
    fleet: Fleet, services: Services
) -> None:
    kinds = {"control": 1, "logs": 2, "runs": 2}
    workers = [fleet.start(queue, 60) for queue, count in kinds.items() for _ in range(count)]
    fleet.start_beat()
    runs = [enqueue_run("detached", {"command": [sys.executable, "-I", "-S", "-c", PRINTER]}).id for _ in range(100)]
    eventually(lambda: all(services.logs.last_seq(run_id, 1) > 20 for run_id in runs), timeout=180, interval=2)
    for worker in workers:
        worker.kill()
    print(f"\nevery worker killed, {sum(services.logs.last_seq(run_id, 1) for run_id in runs)} chunks stored")
    for queue, count in kinds.items():
        for _ in range(count):
            fleet.start(queue, 60)
    eventually(lambda: _all_ended(services, runs), timeout=300, interval=2)
    assert {services.runs.get(run_id).status for run_id in runs} == {"succeeded"}
    named = {(run_id, 1): 0 for run_id in runs}
    eventually(lambda: _missing(services, named, set(runs)) == [], timeout=120, interval=2)
    for run_id in runs:
        chunks = services.logs.read(run_id, 1, limit=100_000)
        assert b"".join(chunk.data for chunk in chunks) == EXPECTED
