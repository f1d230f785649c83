"""Ten million ended runs, 10,000 a day: what migrations, and the retention of runs, cost a fleet that works beside.

The rows are made inside PostgreSQL. Keys to `runs` are dropped meanwhile, and made again: checking each takes long.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, text
from uuid_utils.compat import uuid7

from bench.fleet import tidy
from bench.measure import Result, quantile
from bench.stack import Stack
from bench.sweep import WATCH
from reprieve.models.requests import NewRun
from reprieve.models.retention import RunRetention
from reprieve.models.status import Proof
from reprieve.models.work import Fence
from reprieve.stores import migrate as migrations
from reprieve.stores.database import Database
from reprieve.stores.migrations.online import create_index_online, drop_index_online, replace_check_online
from reprieve.stores.runs.insertion import insert
from reprieve.stores.runs.refresh import write_proof
from reprieve.workers.retention import GOES_ON, expire_runs
from reprieve.workers.sweep import sweep as sweep_once

#: Runs of a day.
A_DAY = 10_000
#: Runs that are written in one transaction.
CHUNK = 500_000

KEYS = ("run_specs", "run_attempts", "run_events", "sparings", "run_tokens")

# ended: the ids (of UUID version 7) and times of some ended runs; the last one ended an hour ago.
ENDED = """
CREATE TEMP TABLE ended ON COMMIT DROP AS
SELECT CAST(lpad(to_hex(CAST(floor(extract(epoch FROM at) * 1000) AS bigint)), 12, '0') || '7' || substr(mark, 1, 3)
            || '8' || substr(mark, 4, 15) AS uuid) AS id, at
FROM (SELECT now() - interval '1 hour' - (:size - n) * interval '1 day' / :a_day AS at, md5(CAST(n AS text)) AS mark
      FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) n) t
"""
ROWS = (
    """
INSERT INTO runs (id, adapter, out_of_process_liveness, status, attempt, epoch, created_at, started_at, updated_at,
                  last_proof, finished_at)
SELECT id, 'process', false, 'succeeded', 1, 1, at, at, at, 'keepalive', at + interval '20 s' FROM ended
""",
    """
INSERT INTO run_specs (run_id, config, labels)
SELECT id, '{"command": ["echo", "hello"], "env": {}}', '{"team": "years"}' FROM ended
""",
    """
INSERT INTO run_attempts (run_id, attempt, epoch, worker_node, worker_id, host, started_at, finished_at, outcome,
                          last_seq, log_closed_at)
SELECT id, 1, 1, 'runs@host', id, 'host', at, at + interval '20 s', '{"exit_status": 0}', 0, at + interval '30 s'
FROM ended
""",
    """
INSERT INTO run_events (run_id, attempt, at, kind, detail)
SELECT id, 1, at, kind, '{"worker": "runs@host"}' FROM ended, unnest(ARRAY['enqueued', 'claimed', 'succeeded']) kind
""",
)


def fill(database: Database, size: int, say: Callable[[str], None]) -> None:
    """So many ended runs, each with a spec, an attempt and three events."""
    with database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for table in KEYS:
            connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {table}_run_id_fkey"))
    began = time.monotonic()
    for first in range(1, size + 1, CHUNK):
        last = min(size, first + CHUNK - 1)
        with database.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            values = {"size": size, "a_day": A_DAY, "first": first, "last": last}
            connection.execute(text(ENDED), values)
            for rows in ROWS:
                connection.execute(text(rows))
        say(f"{last:,} runs after {time.monotonic() - began:.0f} s")
    with database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for table in KEYS:
            key = "FOREIGN KEY (run_id) REFERENCES runs (id) ON DELETE CASCADE"
            connection.execute(text(f"ALTER TABLE {table} ADD CONSTRAINT {table}_run_id_fkey {key}"))


@dataclass
class Beside:
    """What a fleet asks meanwhile, each ten times a second and a sweep every few seconds: how long each took."""

    stack: Stack
    fences: Sequence[Fence]
    taken: dict[str, list[float]] = field(default_factory=dict)

    def refresh(self) -> None:
        with self.stack.services.database.begin() as connection:
            write_proof(connection, random.sample(self.fences, min(100, len(self.fences))), Proof.KEEPALIVE)

    def insert(self) -> None:
        insert(self.stack.services.database, [NewRun(uuid7(), "nobody", True, {})])

    def sweep(self) -> None:
        with self.stack.services.database.begin() as connection:
            connection.execute(WATCH, {"window": self.stack.services.timing.window})
        sweep_once(self.stack.services, by_hand=True)

    def figures(self, act: Callable[[], object]) -> dict[str, float]:
        """Milliseconds of each, at the median and at the worst, while something else is done."""
        self.taken = {"refresh": [], "insert": [], "sweep": []}
        over = threading.Event()

        def ask(what: str, pause: float) -> None:
            while True:
                began = time.perf_counter()
                getattr(self, what)()
                self.taken[what].append(1000 * (time.perf_counter() - began))
                if over.wait(pause):
                    return

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask, *one) for one in (("refresh", 0.1), ("insert", 0.1), ("sweep", 5.0))]
            try:
                act()
            finally:
                over.set()
            for one in asking:
                one.result()
        found = {}
        for what, taken in self.taken.items():
            found[f"{what}_ms"] = quantile(sorted(taken), 0.5)
            found[f"{what}_worst_ms"] = max(taken)
        return found


def bytes_of_tables(stack: Stack) -> float:
    return float(sum(one.bytes for one in stack.services.sizes.tables()))


def retain(stack: Stack, days: float, seconds: float, figures: dict[str, float]) -> None:
    """Turns of the retention for so long, or to the end of a pass; runs a second, and its longest statement."""
    settings = stack.services.settings.model_copy(update={"run_retention_days": RunRetention(days)})
    wired = replace(stack.services, settings=settings)
    longest, began, removed, ours = 0.0, time.monotonic(), 0, threading.get_ident()

    def before(*call: Any) -> None:
        call[4].began = time.perf_counter()

    def after(*call: Any) -> None:
        nonlocal longest
        if threading.get_ident() == ours:
            longest = max(longest, time.perf_counter() - call[4].began)

    engine = stack.services.database.engine
    listening = (("before_cursor_execute", before), ("after_cursor_execute", after))
    for name, listener in listening:
        event.listen(engine, name, listener)
    while time.monotonic() < began + seconds:
        report = expire_runs(wired)
        removed += report["removed"]
        if not report.get(GOES_ON):
            break
    for name, listener in listening:
        event.remove(engine, name, listener)
    figures |= {
        "removed": removed,
        "removed_per_second": removed / (time.monotonic() - began),
        "longest_statement_ms": 1000 * longest,
    }


def one_more_migration(stack: Stack) -> None:
    """An index over ten million rows, and a check of thirty million, as a migration makes them."""
    config = migrations._config()
    with stack.services.database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, environment_context=EnvironmentContext(config, migrations._scripts())
        )
        config.attributes.update(connection=connection, database=stack.services.database, say=lambda _: None)
        with context.begin_transaction(), Operations.context(context):
            create_index_online("years_lane", "runs", ["lane", "id"])
            drop_index_online("years_lane")
            replace_check_online("run_events", "years_known", "kind <> ''")
            connection.execute(text("ALTER TABLE run_events DROP CONSTRAINT years_known"))


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:  # noqa: ARG001
    size = 20_000 if quick else 10_000_000
    fill(stack.services.database, size, say)
    tidy(stack, *("runs", "run_specs", "run_attempts", "run_events"))
    return measure(stack, size, 2.0 if quick else 600.0, say)


def measure(stack: Stack, size: int, seconds: float, say: Callable[[str], None]) -> Result:
    """Of this database, which has so many ended runs."""
    result = Result("years")
    live = stack.runs(min(10_000, size // 10))
    beside = Beside(stack, [work.fence for work in live])
    result.notes |= {"runs": size, "bytes": bytes_of_tables(stack)}
    figures: dict[str, float] = {}
    cases: dict[str, Callable[[], object]] = {
        "nothing else": lambda: time.sleep(min(30.0, seconds)),
        "an index, and a check": lambda: one_more_migration(stack),
        "the retention": lambda: retain(stack, 30.0 if seconds > 60 else 0.5, seconds, figures),
    }
    for case, act in cases.items():
        began = time.monotonic()
        found = beside.figures(act)
        result.add(case, {"seconds": time.monotonic() - began} | found)
        say(f"  {case}: " + ", ".join(f"{name} {value:,.4g}" for name, value in result.rounds[case][0].items()))
    result.notes |= figures
    tidy(stack, *("runs", "run_specs", "run_attempts", "run_events"))
    result.notes["bytes_afterwards"] = bytes_of_tables(stack)
    return result
