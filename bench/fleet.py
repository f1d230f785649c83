"""A fleet of running runs, written in one statement."""

from sqlalchemy import text

from bench.stack import Stack

FLEET = """
INSERT INTO runs (id, adapter, out_of_process_liveness, status, attempt, epoch, max_attempts, started_at, updated_at,
                  last_proof)
SELECT gen_random_uuid(), 'detached', true, 'running', 1, 1, 1, clock_timestamp(), clock_timestamp(), 'claim'
FROM generate_series(1, :size)
"""
REST = (
    "INSERT INTO run_attempts (run_id, attempt, epoch, worker_node) SELECT id, 1, 1, 'bench' FROM runs",
    "INSERT INTO run_specs (run_id, config, labels) SELECT id, '{}', '{}' FROM runs",
)


def make_fleet(stack: Stack, size: int) -> None:
    """`size` running runs in place of whatever was there; analysed and vacuumed, as it would be by then."""
    stack.empty()
    engine = stack.services.database.engine
    with engine.connect() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text(FLEET), {"size": size})
        for statement in REST:
            connection.execute(text(statement))
        connection.execute(text("RESET statement_timeout"))
        connection.commit()
    tidy(stack, "runs", "run_attempts", "run_specs")


def tidy(stack: Stack, *tables: str) -> None:
    with stack.services.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        for table in tables:
            connection.execute(text(f"VACUUM ANALYZE {table}"))
        connection.execute(text("RESET statement_timeout"))
