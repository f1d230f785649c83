"""A sweep over a large running fleet with none, some or many of its runs dead."""

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from sqlalchemy import text

from bench.fleet import make_fleet, tidy
from bench.measure import Figures, Result, play
from bench.stack import Stack
from reprieve.stores.sweeps import SUSPECT_IDS
from reprieve.workers.sweep import sweep as sweep_once

WATCH = text("""
INSERT INTO reaper_watch (id, watching_since, last_sweep_at, window_length, hearing_since, heard_at)
VALUES (1, clock_timestamp() - interval '1 hour', clock_timestamp() - interval '60 s', :window,
        clock_timestamp() - interval '1 hour', clock_timestamp())
ON CONFLICT (id) DO UPDATE SET watching_since = EXCLUDED.watching_since, last_sweep_at = EXCLUDED.last_sweep_at,
                               hearing_since = EXCLUDED.hearing_since, heard_at = EXCLUDED.heard_at
""")
LIVE = text("UPDATE runs SET updated_at = clock_timestamp() WHERE status = 'running'")
KILL = text("""
UPDATE runs SET updated_at = clock_timestamp() - interval '400 s'
WHERE id IN (SELECT id FROM runs WHERE status = 'running' LIMIT :dead)
""")
ENDED = text("""
SELECT count(*) FROM runs r JOIN run_attempts a ON a.run_id = r.id JOIN run_events e ON e.run_id = r.id
WHERE r.status = 'failed' AND r.error_code = 'adapter_liveness_lost' AND a.termination = 'owed' AND e.kind = 'reaped'
""")


def sweep(stack: Stack, dead: int) -> Figures:
    """Seconds of one sweep; every dead run must have been ended as it should be, and no other."""
    services = stack.services
    with services.database.begin() as connection:
        connection.execute(WATCH, {"window": services.timing.window})
        connection.execute(KILL, {"dead": dead})
        before = connection.execute(ENDED).scalar_one()
    read_before = _rows_read(stack)
    began = time.perf_counter()
    report = sweep_once(services, by_hand=True)
    taken = time.perf_counter() - began
    with services.database.begin() as connection:
        ended = connection.execute(ENDED).scalar_one() - before
    if report["reaped"] != dead or ended != dead:
        raise AssertionError(f"{dead} dead, {report['reaped']} reaped, {ended} ended as they should be.")
    return {"seconds": taken, "rows_read": _rows_read(stack) - read_before}


def _rows_read(stack: Stack) -> float:
    query = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) AS rows FROM pg_stat_user_tables WHERE relname = 'runs'"
    return stack.statistics(query)["rows"]


def plan(stack: Stack) -> list[str]:
    """How PostgreSQL looks for suspects."""
    now = stack.services.database.now()
    parameters = {"cutoff": now - timedelta(seconds=300), "now": now}
    with stack.services.database.begin() as connection:
        explained = text(f"EXPLAIN (ANALYZE, BUFFERS) {SUSPECT_IDS.text}")
        return list(connection.execute(explained, parameters).scalars())


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("sweep")
    size = 10_000 if quick else 1_000_000
    make_fleet(stack, size)
    with stack.services.database.engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(LIVE)
    tidy(stack, "runs")
    result.notes["fleet"] = size
    cases: dict[str, Callable[[], Figures]] = {
        f"{dead:,} dead": partial(sweep, stack, dead) for dead in (0, 100, size // 100)
    }
    play(result, rounds, cases, say)
    result.notes["plan"] = plan(stack)
    return result
