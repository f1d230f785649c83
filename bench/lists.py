"""Lists, filters, an id's end and the picture of the last hour, over ten million runs that have ended.

They were asked for one after the other over fifteen hours, so that two million events are in the last one. What most
runs have in common (an adapter, a lane, a label), what one in a hundred has, what a hundred of them have, and what only
the oldest have are asked for, a page at a time: the newest, and pages in the middle and near the end.
"""

import random
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import text

from bench.fleet import tidy
from bench.measure import Result, quantile
from bench.stack import Stack
from reprieve.models.filters import RunChoice, RunFilter

SIZE, QUICK_SIZE = 10_000_000, 10_000
HOURS = 15
#: Runs that are written by one statement.
AT_ONCE = 500_000
#: Times that each page is asked for in a round.
TIMES = 20
STEP = timedelta(minutes=1)

# numbers: each run's number, the newest being 1, with its moment and an id that begins with that.
NUMBERS = """
SELECT n, moment, CAST(lpad(to_hex(CAST(1000 * extract(epoch FROM moment) AS bigint)), 12, '0') || '7'
    || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 14) AS uuid) AS id
FROM (SELECT n, CAST(:until AS timestamptz) - (n + 0.5) * CAST(:step AS interval) AS moment
      FROM generate_series(CAST(:most AS int), CAST(:least AS int), -1) AS n) numbered
"""
RUNS = f"""
WITH numbers AS MATERIALIZED ({NUMBERS}), written AS (
    INSERT INTO runs (id, adapter, out_of_process_liveness, status, attempt, epoch, max_attempts, error_code,
                      error_message, created_at, started_at, updated_at, last_proof, finished_at, lane)
    SELECT id, CASE WHEN n % 10000 = 0 THEN 'rare' WHEN n % 3 = 0 THEN 'detached' ELSE 'process' END, false,
           CASE WHEN n % 50 = 0 THEN 'failed' WHEN n % 333 = 0 THEN 'cancelled' ELSE 'succeeded' END, 1, 1, 1,
           CASE WHEN n % 100000 = 0 THEN 'stalled' WHEN n % 50 = 0 THEN 'exit_status' END,
           CASE WHEN n % 50 = 0 THEN 'The command ended with exit status ' || n % 255 END,
           moment, moment, moment, 'claim', moment, CASE WHEN n % 5000 = 0 THEN 'night' ELSE 'default' END
    FROM numbers
), specified AS (
    INSERT INTO run_specs (run_id, config, labels)
    SELECT id, jsonb_build_object('command', jsonb_build_array('report', n)), jsonb_build_object(
        'team', CASE WHEN n % 100 = 1 THEN 'hundredth' WHEN n > :size * 0.95 THEN 'past' ELSE 'data' END,
        'job', 'job-' || n / 100)
    FROM numbers
), attempted AS (
    INSERT INTO run_attempts (run_id, attempt, epoch, worker_node, started_at, finished_at, outcome, last_seq,
                              log_closed_at)
    SELECT id, 1, 1, 'runs@bench', moment, moment, '{{"exit_status": 0}}', 3, moment FROM numbers
)
INSERT INTO run_events (run_id, attempt, at, kind)
SELECT id, 1, moment + number * interval '1 ms', kind FROM numbers,
    unnest(ARRAY['enqueued', 'claimed', 'succeeded']) WITH ORDINALITY AS kinds (kind, number)
"""  # noqa: S608 - our own text

#: Of our tables: what is checked, and found by, while they are filled. It is put back as it was.
CHECKED = text("""
SELECT conrelid::regclass::text AS name, conname AS part, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE contype = 'f' AND connamespace = current_schema()::regnamespace
""")
FOUND_BY = text("""
SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relname IN ('runs', 'run_specs', 'run_attempts', 'run_events') AND c.relkind = 'r'
  AND c.relnamespace = current_schema()::regnamespace
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
""")


def fill(stack: Stack, size: int, say: Callable[[str], None]) -> None:
    """So many ended runs in place of whatever was there, analysed and vacuumed."""
    stack.empty()
    with stack.services.database.at_once() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("SET maintenance_work_mem = '512MB'"))
        checked, found_by = connection.execute(CHECKED).all(), connection.execute(FOUND_BY).all()
        for one in checked:
            connection.execute(text(f"ALTER TABLE {one.name} DROP CONSTRAINT {one.part}"))
        for one in found_by:
            connection.execute(text(f"DROP INDEX {one.name}"))
        until, step = stack.services.database.now(), timedelta(hours=HOURS) / size
        for most in range(size, 0, -AT_ONCE):
            least = max(1, most - AT_ONCE + 1)
            values = {"until": until, "step": step, "most": most, "least": least, "size": size}
            connection.execute(text(RUNS), values)
            say(f"  {size - least + 1:,} of {size:,} runs")
        for one in found_by:
            connection.execute(text(one.definition))
        for one in checked:
            connection.execute(text(f"ALTER TABLE {one.name} ADD CONSTRAINT {one.part} {one.definition} NOT VALID"))
        connection.execute(text("RESET maintenance_work_mem"))
        connection.execute(text("RESET statement_timeout"))
    tidy(stack, "runs", "run_specs", "run_attempts", "run_events")


HOUR = timedelta(hours=1)
#: What is asked for; where most runs fit, where few do, and where none does.
FILTERS: dict[str, RunChoice] = {
    "all": {},
    "status=succeeded": {"statuses": ["succeeded"]},
    "status=failed": {"statuses": ["failed"]},
    "status=running, none": {"statuses": ["running"]},
    "status=failed or cancelled": {"statuses": ["failed", "cancelled"]},
    "adapter=process, two thirds": {"adapter": "process"},
    "adapter=rare, 1 in 10,000": {"adapter": "rare"},
    "lane=night, 1 in 5,000": {"lane": "night"},
    "error=exit_status": {"error": "exit_status"},
    "error=stalled, 1 in 100,000": {"error": "stalled"},
    "label that most have": {"labels": {"team": "data"}},
    "label of 1 in 100": {"labels": {"team": "hundredth"}},
    "label of the oldest 5 % alone": {"labels": {"team": "past"}},
    "label of 100 runs": {"labels": {"job": "job-70"}},
    "label that none has": {"labels": {"job": "none"}},
    "text in labels, 1,000 runs": {"text": "JOB-70"},
    "text that is nowhere": {"text": "nowhere"},
    "failed, process, most common label": {"statuses": ["failed"], "adapter": "process", "labels": {"team": "data"}},
    "failed, rare adapter": {"statuses": ["failed"], "adapter": "rare"},
}


def places(stack: Stack) -> list[UUID | None]:
    """Where pages begin: at the newest run, and at moments anywhere."""
    now = stack.services.database.now().timestamp()
    moments = [now - HOURS * 3600 * share for share in (0.001, 0.02, 0.2, 0.5, 0.8, 0.97)]
    return [None, *(UUID(int=int(1000 * moment) << 80) for moment in moments)]


def taken(act: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def add(result: Result, case: str, times: list[float], say: Callable[[str], None]) -> None:
    ordered = sorted(times)
    figures = {"p50_ms": quantile(ordered, 0.5), "p99_ms": quantile(ordered, 0.99), "max_ms": ordered[-1]}
    result.add(case, figures)
    say(f"  {case}: {', '.join(f'{name} {value:,.1f}' for name, value in figures.items())}")


def measure(stack: Stack, result: Result, rounds: int, say: Callable[[str], None]) -> None:
    """Each page `TIMES` times in a round, all of them in another order each time."""
    records, fleet, database = stack.services.records, stack.services.fleet, stack.services.database
    since: RunChoice = {"since": database.now() - HOUR}
    asked: dict[str, list[Callable[[], object]]] = {
        name: [partial(records.page, RunFilter.of(**choice), before=before) for before in places(stack)]
        for name, choice in (FILTERS | {"since an hour ago": since}).items()
    }
    known = [str(run.id) for run in records.newest(limit=200)]
    asked["an id's end"] = [partial(records.resolve, one[-12:]) for one in known[::10]]
    asked["an id's beginning"] = [partial(records.resolve, one[:18]) for one in known[::10]]
    asked["the last hour, as a sweep left it"] = [partial(fleet.history, STEP)]
    say(
        f"  a sweep counts the last hour: {taken(partial(fleet.count, STEP)):,.0f} ms; "
        f"again: {taken(partial(fleet.count, STEP)):,.1f} ms"
    )
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(rounds * TIMES):
        turns = [(name, act) for name, acts in asked.items() for act in acts]
        random.shuffle(turns)
        for name, act in turns:
            times[name].append(taken(act))
    for name, some in times.items():
        add(result, name, some, say)


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result, size = Result("lists"), QUICK_SIZE if quick else SIZE
    fill(stack, size, say)
    result.notes["runs"] = size
    measure(stack, result, rounds, say)
    return result
