"""The usual way: a Celery task for each chunk, which inserts a row and updates the run's heartbeat. A rival.

Run as the application of a worker: `celery -A bench.usual worker`.
"""

import os
from typing import Any

import psycopg2
from celery import Celery

app = Celery("usual", broker=os.environ.get("REPRIEVE_REDIS_URL", ""))
app.conf.task_default_queue = "usual"
app.conf.task_ignore_result = True

SCHEMA = """
CREATE TABLE IF NOT EXISTS usual_runs (id text PRIMARY KEY, updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS usual_chunks (run_id text, seq bigint, text text, PRIMARY KEY (run_id, seq));
"""

_connection: Any = None


def _connect() -> Any:
    global _connection
    if _connection is None:
        _connection = psycopg2.connect(os.environ["REPRIEVE_DATABASE_URL"].replace("+psycopg2", ""))
    return _connection


@app.task(name="usual.store")  # type: ignore[untyped-decorator]
def store(run_id: str, seq: int, text: str) -> None:
    with _connect() as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO usual_chunks VALUES (%s, %s, %s)", (run_id, seq, text))
        cursor.execute("UPDATE usual_runs SET updated_at = now() WHERE id = %s", (run_id,))
