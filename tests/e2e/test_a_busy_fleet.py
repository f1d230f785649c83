"""Fifty out-of-process runs that each print ten lines a second for two minutes, at the real timings.

Takes about three minutes: `make test-slow`.
"""

import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from reprieve import enqueue_run
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.support.waiting import eventually

RUNS = 50
LINES = 1_200
PRINTER = f"""
import time
began = time.monotonic()
for number in range({LINES}):
    print(f"line {{number:06}} of a run that is busy printing", flush=True)
    time.sleep(max(0.0, began + (number + 1) / 10 - time.monotonic()))
"""
EXPECTED = b"".join(b"line %06d of a run that is busy printing\n" % number for number in range(LINES))


@pytest.fixture
def refreshes(services: Services) -> Iterator[None]:
    """Counts every UPDATE of a proof of life, as the database sees it."""
    with services.database.begin() as connection:
        connection.execute(text("CREATE TABLE refreshes (run_id uuid)"))
        connection.execute(
            text(
                "CREATE FUNCTION count_refresh() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN INSERT INTO refreshes VALUES (NEW.id); RETURN NULL; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER count_refresh AFTER UPDATE OF updated_at ON runs FOR EACH ROW "
                "WHEN (OLD.status = 'running' AND NEW.status = 'running') EXECUTE FUNCTION count_refresh()"
            )
        )
    yield
    with services.database.begin() as connection:
        connection.execute(text("DROP TRIGGER count_refresh ON runs"))
        connection.execute(text("DROP FUNCTION count_refresh"))
        connection.execute(text("DROP TABLE refreshes"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_busy_fleet_is_stored_once_and_in_order_with_three_refreshes_a_run(
    services: Services, start_worker: StartWorker, refreshes: None
) -> None:
    real_time = {"REPRIEVE_TIME_SCALE": "1"}
    start_worker("runs", name="runs", concurrency=RUNS + 10, extra=real_time)
    start_worker("logs", name="logs", concurrency=2, extra=real_time)
    config = {"command": [sys.executable, "-I", "-S", "-c", PRINTER]}
    runs = [enqueue_run("detached", config) for _ in range(RUNS)]

    def ended() -> bool:
        return all(services.runs.get(run.id).status == "succeeded" for run in runs)

    eventually(ended, timeout=400, interval=2)
    for run in runs:
        last_seq = services.runs.get(run.id).attempts[0].last_seq or 0
        eventually(lambda run=run, last=last_seq: services.logs.last_seq(run.id, 1) == last)
        chunks = services.logs.read(run.id, 1, limit=100_000)
        assert [chunk.seq for chunk in chunks] == list(range(1, last_seq + 1))
        assert b"".join(chunk.data for chunk in chunks) == EXPECTED
    with services.database.begin() as connection:
        counts = connection.execute(text("SELECT count(*) FROM refreshes GROUP BY run_id")).scalars().all()
    print(f"\nrefreshes per run: least {min(counts)}, most {max(counts)}")
    assert len(counts) == RUNS
    assert max(counts) <= 3
