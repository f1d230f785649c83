"""What other queues in PostgreSQL take to insert jobs, each in its fastest documented way. Run in an environment of its
own, with their packages and without ours: `python bench/rivals.py RIVAL DSN COUNT single|batch`.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable

PAYLOAD = {"command": ["true"]}
#: Calls that a batch is written by.
BATCHES = 5


def procrastinate(dsn: str, count: int, batch: bool) -> float:
    """https://procrastinate.readthedocs.io: `batch_defer` over a synchronous connector."""
    from procrastinate import App, SyncPsycopgConnector

    app = App(connector=SyncPsycopgConnector(conninfo=dsn))

    @app.task(name="bench")  # type: ignore[untyped-decorator]
    def bench(command: list[str]) -> None:
        pass

    with app.open():
        connector = app.connector
        if not connector.execute_query_one("SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS there")["there"]:
            app.schema_manager.apply_schema()
        connector.execute_query("TRUNCATE procrastinate_jobs CASCADE")
        bench.defer(**PAYLOAD)
        began = time.perf_counter()
        if batch:
            for _ in range(BATCHES):
                bench.batch_defer(*[PAYLOAD] * (count // BATCHES))
        else:
            for _ in range(count):
                bench.defer(**PAYLOAD)
        return time.perf_counter() - began


def pgqueuer(dsn: str, count: int, batch: bool) -> float:
    """https://pgqueuer.readthedocs.io: `Queries.enqueue` over asyncpg, with lists for a batch."""

    async def measured() -> float:
        import asyncpg
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        connection = await asyncpg.connect(dsn)
        queries, payload = Queries(AsyncpgDriver(connection)), json.dumps(PAYLOAD).encode()
        if not await connection.fetchval("SELECT to_regclass('pgqueuer') IS NOT NULL"):
            await queries.install()
        await connection.execute("TRUNCATE pgqueuer")
        await queries.enqueue("bench", payload)
        began = time.perf_counter()
        if batch:
            for _ in range(BATCHES):
                part = count // BATCHES
                await queries.enqueue(["bench"] * part, [payload] * part, [0] * part)
        else:
            for _ in range(count):
                await queries.enqueue("bench", payload)
        taken = time.perf_counter() - began
        await connection.close()
        return taken

    return asyncio.run(measured())


RIVALS: dict[str, Callable[[str, int, bool], float]] = {"procrastinate": procrastinate, "pgqueuer": pgqueuer}

if __name__ == "__main__":
    name, address, number, way = sys.argv[1:]
    seconds = RIVALS[name](address, int(number), way == "batch")
    sys.stdout.write(json.dumps({"per_second": int(number) / seconds}))
