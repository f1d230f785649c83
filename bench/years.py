"""Ten million ended runs, 10,000 a day: what migrations, and the retention of runs, cost a fleet that works beside.

The rows are made inside PostgreSQL. Keys to `runs` are dropped meanwhile, and made again: checking each takes long.
"""

import time
from collections.abc import Callable

from sqlalchemy import text

from reprieve.stores.database import Database

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
